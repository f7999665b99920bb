//! Three NATS servers that are one.

use std::{net::TcpListener, process::Command, time::Duration};

use async_nats::{ConnectOptions, jetstream};
use carebell::dev::{
    guard::{self, PrivateDir},
    nats::NatsServer,
};
use tokio::time::{Instant, sleep};

use super::{LIMIT, programs, servers::fast_place};

/// Streams of which a storm or test kills the leader.
pub const STREAMS: [&str; 4] = ["JOBS", "WORK", "DELIVERIES", "HOLD"];

pub struct Cluster {
    nodes: Vec<NatsServer>,
    /// Of each node's monitoring.
    monitors: Vec<u16>,
    /// Dropped last: the servers' files are in it.
    _directory: PrivateDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more configuration lines for each node. They must let the test in without credentials.
    pub async fn start_with(more: &str) -> Self {
        let since = Instant::now();
        loop {
            match Self::try_start(more).await {
                Ok(cluster) => return cluster,
                // Somebody else was faster on a free port.
                Err(why) if why.contains("address already in use") && since.elapsed() < LIMIT => {}
                Err(why) => panic!("{why}"),
            }
        }
    }

    async fn try_start(more: &str) -> Result<Self, String> {
        let directory = guard::private_dir_in(fast_place().await).unwrap();
        let program = &programs().await.nats_server;
        // Each must know the others' before they are there.
        let free: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut ports: Vec<u16> = free.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(free);
        let monitors = ports.split_off(3);
        let routes: Vec<String> = ports.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let routes = routes.join(", ");
        let mut nodes = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let place = directory.path().join(format!("node-{number}"));
            std::fs::create_dir(&place).unwrap();
            let monitor = monitors[number];
            let config = format!(
                "server_name: node-{number}\nhttp: \"127.0.0.1:{monitor}\"\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n{more}"
            );
            nodes.push(NatsServer::start_with(program, &place, &config).await.map_err(|why| why.to_string())?);
        }
        Ok(Self { nodes, monitors, _directory: directory })
    }

    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// As in `NATS_URL`.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// Of this node alone.
    pub fn url(&self, node: usize) -> String {
        self.nodes[node].url()
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

    /// Through any node that works, found anew within seconds.
    pub async fn any_context(&self) -> jetstream::Context {
        let options = ConnectOptions::new()
            .ignore_discovered_servers()
            .ping_interval(Duration::from_secs(1))
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        let urls: Vec<String> = self.nodes.iter().map(NatsServer::url).collect();
        carebell::nats::jetstream(&options.connect(urls).await.unwrap())
    }

    /// The node that leads all, as one of them sees it.
    pub async fn meta_leader(&self) -> Option<usize> {
        for monitor in &self.monitors {
            let Ok(answer) = reqwest::get(format!("http://127.0.0.1:{monitor}/jsz")).await else { continue };
            let Ok(text) = answer.text().await else { continue };
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(leader) = json["meta_cluster"]["leader"].as_str().and_then(number) {
                return Some(leader);
            }
        }
        None
    }

    /// The node that leads a stream.
    pub async fn leader_of(&self, context: &jetstream::Context, stream: &str) -> Option<usize> {
        let stream = context.get_stream(stream).await.ok()?;
        number(stream.cached_info().cluster.as_ref()?.leader.as_deref()?)
    }

    /// Waits until each of these streams has a leader and its replicas are up to date.
    pub async fn is_whole(&self, context: &jetstream::Context) {
        let since = Instant::now();
        while !self.are_current(context).await {
            assert!(since.elapsed() < 3 * LIMIT, "the cluster does not recover");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn are_current(&self, context: &jetstream::Context) -> bool {
        for name in STREAMS {
            let Ok(stream) = context.get_stream(name).await else { return false };
            let Some(cluster) = &stream.cached_info().cluster else { return false };
            let current = cluster.replicas.iter().filter(|peer| peer.current && !peer.offline).count();
            if cluster.leader.is_none() || current + 1 < self.size() {
                return false;
            }
        }
        true
    }

    /// Waits until each of these streams has a leader.
    pub async fn has_leaders(&self, context: &jetstream::Context) {
        let since = Instant::now();
        for name in STREAMS {
            while self.leader_of(context, name).await.is_none() {
                assert!(since.elapsed() < 3 * LIMIT, "{name} has no leader");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub async fn kill(&mut self, node: usize) {
        self.nodes[node].kill().await;
    }

    /// In good order.
    pub async fn stop(&mut self, node: usize) {
        self.nodes[node].stop().await;
    }

    pub async fn start_again(&mut self, node: usize) {
        self.nodes[node].start_again().await.unwrap();
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
        // Its threads stop one by one.
        while !self.is_stopped(node) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self, node: usize) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.nodes[node].pid())).unwrap();
        let status = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
        status.into_iter().all(|status| status.contains("State:\tT"))
    }

    pub fn thaw(&self, node: usize) {
        self.signal(node, "-CONT");
    }

    fn signal(&self, node: usize, name: &str) {
        let pid = self.nodes[node].pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

/// `node-1`
fn number(name: &str) -> Option<usize> {
    name.strip_prefix("node-")?.parse().ok()
}
