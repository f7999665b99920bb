//! Three NATS servers that are one.

use std::{net::TcpListener, process::Command, time::Duration};

use async_nats::{ConnectOptions, jetstream};
use carebell::dev::{
    guard::{self, PrivateDir},
    nats::NatsServer,
};
use tokio::time::{Instant, sleep};

use super::{LIMIT, programs, servers::fast_place};

pub struct Cluster {
    nodes: Vec<NatsServer>,
    /// Dropped last: the servers' files are in it.
    _directory: PrivateDir,
}

impl Cluster {
    pub async fn start() -> Self {
        let since = Instant::now();
        loop {
            match Self::try_start().await {
                Ok(cluster) => return cluster,
                // Somebody else was faster on a free port.
                Err(why) if why.contains("address already in use") && since.elapsed() < LIMIT => {}
                Err(why) => panic!("{why}"),
            }
        }
    }

    async fn try_start() -> Result<Self, String> {
        let directory = guard::private_dir_in(fast_place().await).unwrap();
        let program = &programs().await.nats_server;
        // Each must know the others' before they are there.
        let free: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = free.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(free);
        let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let routes = routes.join(", ");
        let mut nodes = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let place = directory.path().join(format!("node-{number}"));
            std::fs::create_dir(&place).unwrap();
            let config = format!(
                "server_name: node-{number}\ncluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n"
            );
            nodes.push(NatsServer::start_with(program, &place, &config).await.map_err(|why| why.to_string())?);
        }
        Ok(Self { nodes, _directory: directory })
    }

    /// As in `NATS_URL`.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// Through this node alone.
    pub async fn context(&self, node: usize) -> jetstream::Context {
        let options = ConnectOptions::new().ignore_discovered_servers();
        carebell::nats::jetstream(&options.connect(self.nodes[node].url()).await.unwrap())
    }

    pub async fn has_a_leader(&self, context: &jetstream::Context) {
        let since = Instant::now();
        while let Err(why) = context.query_account().await {
            assert!(since.elapsed() < LIMIT, "no leader: {why}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Open ones of its clients, in this network namespace.
    pub fn connections(&self, node: usize) -> usize {
        let remote = format!(":{:04X}", self.nodes[node].port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|fields| fields[2].ends_with(&remote) && fields[3] == "01").count()
    }

    /// It keeps its connections and answers nothing.
    pub fn freeze(&self, node: usize) {
        self.signal(node, "-STOP");
    }

    pub fn thaw(&self, node: usize) {
        self.signal(node, "-CONT");
    }

    fn signal(&self, node: usize, name: &str) {
        let pid = self.nodes[node].pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}
