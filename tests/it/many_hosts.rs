//! Webhooks and push services of thousands of hosts at once.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Process, World};

/// For three thousand TLS handshakes, of which both ends are on this machine, beside other tests.
const HANDSHAKES: Duration = Duration::from_mins(3);

const HOSTS: u16 = 3000;

const KIB: u64 = 1024;

/// All addresses of 127/8 are this machine.
fn address(host: u16) -> Ipv4Addr {
    let [high, low] = host.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// Accepts whatever is posted, at each of these addresses, with a certificate for it.
struct Endpoints {
    port: u16,
    root: String,
    connections: Arc<AtomicUsize>,
}

impl Endpoints {
    async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = root.self_signed(&key).unwrap().pem();
        let issuer = Arc::new(Issuer::new(root, key));
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&issuer)));
            }
        });
        Self { port, root: pem, connections }
    }

    fn urls(&self) -> Vec<String> {
        (0..HOSTS).map(|host| format!("https://{}:{}/{host}", address(host), self.port)).collect()
    }

    fn allowed(&self) -> String {
        (0..HOSTS).map(|host| format!("{}:{}", address(host), self.port)).collect::<Vec<_>>().join(",")
    }
}

async fn serve(stream: TcpStream, issuer: Arc<Issuer<'static, KeyPair>>) {
    let IpAddr::V4(address) = stream.local_addr().unwrap().ip() else { unreachable!("the listener has IPv4 only") };
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([address.to_string()]).unwrap();
    let certificate = params.signed_by(&key, &*issuer).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else { return };
    let router = Router::new().fallback(|| async { StatusCode::CREATED });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

/// The most of each while this was going on.
#[derive(Debug, Default)]
struct Peak {
    descriptors: usize,
    memory: u64,
}

impl Peak {
    fn see(&mut self, worker: &Process) {
        self.descriptors = self.descriptors.max(worker.descriptors());
        self.memory = self.memory.max(worker.memory());
    }
}

async fn three_thousand(channel: &str) {
    let world = World::new().await;
    let endpoints = Endpoints::start().await;
    let file = world.directory.path().join("endpoints.pem");
    std::fs::write(&file, &endpoints.root).unwrap();
    world
        .sql(&format!("INSERT INTO users (id, name) SELECT 'u' || n, 'U' FROM generate_series(0, {}) n", HOSTS - 1))
        .await;
    let insert = match channel {
        "webhook" => {
            "INSERT INTO user_addresses (user_id, channel, address, secrets) \
             SELECT 'u' || (n - 1), 'webhook', url, 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' \
             FROM unnest($1::text[]) WITH ORDINALITY AS u(url, n)"
        }
        _ => {
            "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) \
             SELECT 's' || n, 'u' || (n - 1), url, p256dh, auth \
             FROM unnest($1::text[]) WITH ORDINALITY AS u(url, n), push_subscriptions AS ana WHERE ana.id = 'ana'"
        }
    };
    sqlx::query(insert).bind(endpoints.urls()).execute(&world.db).await.unwrap();
    world
        .sql(&format!(
            "INSERT INTO preferences (user_id, channels) SELECT id, '{{{channel}}}' FROM users WHERE id LIKE 'u%'"
        ))
        .await;
    let file = file.display().to_string();
    let allowed = endpoints.allowed();
    let variables = match channel {
        "webhook" => [("WEBHOOK_ALLOWED_HOSTS", allowed.as_str()), ("WEBHOOK_CA_FILE", &file)],
        _ => [("WEB_PUSH_ALLOWED_HOSTS", allowed.as_str()), ("WEB_PUSH_CA_FILE", &file)],
    };
    let mut worker = Process::worker(&world, &variables);
    worker.ready().await;
    let before = worker.memory();
    let recipients: Vec<_> = (0..HOSTS).map(|host| json!({ "userId": format!("u{host}") })).collect();
    let body = json!({ "recipients": recipients, "title": "To all" });
    world.publish_json("jobs.notification.critical", "all", &body).await;
    let mut peak = Peak::default();
    let accepted = tokio::time::timeout(HANDSHAKES, async {
        while world.count("SELECT count(*) FROM deliveries WHERE state = 'sent'").await < HOSTS.into() {
            peak.see(&worker);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if accepted.await.is_err() {
        let left: Vec<(String, Option<String>, i64)> =
            sqlx::query_as("SELECT state, reason, count(*) FROM deliveries GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5")
                .fetch_all(&world.db)
                .await
                .unwrap();
        panic!("{left:?}");
    }
    peak.see(&worker);
    let grown = (peak.memory - before) / KIB;
    eprintln!("{channel}: {} descriptors, {grown} MiB more", peak.descriptors);
    assert!(peak.descriptors < 1000, "{peak:?}");
    assert!(grown < 100, "{grown} MiB more than {before} KiB");
    assert!(endpoints.connections.load(Relaxed) >= usize::from(HOSTS), "each host was asked");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
#[ignore = "soak: 3,000 hosts"]
async fn webhooks_to_three_thousand_hosts_keep_few_connections() {
    three_thousand("webhook").await;
}

#[tokio::test]
#[ignore = "soak: 3,000 hosts"]
async fn pushes_to_three_thousand_hosts_keep_few_connections() {
    three_thousand("push").await;
}
