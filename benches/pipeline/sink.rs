//! An HTTPS push service that answers 201 to every push and remembers when each came. Runs as a process of its own, so
//! that its work is not counted as the worker's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as Named, State},
    http::StatusCode,
    routing::{get, post},
};
use carebell::{
    clock::Clock,
    dev::{
        certificates,
        guard::{Guarded, Program, StopSignal},
    },
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};

const CERTIFICATE: &str = "sink.pem";
const PORT: &str = "sink.port";

/// When pushes came, in microseconds since 1970, by the number in their path.
#[derive(Clone)]
struct Arrivals {
    clock: Clock,
    came: Arc<Mutex<Vec<(u32, i64)>>>,
}

/// Serves until it is ended; writes its certificate and its port into the directory.
pub async fn serve(directory: &Path) -> io::Result<()> {
    let (acceptor, pem) = certificates::localhost(certificates::HTTPS)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    fs::write(directory.join(CERTIFICATE), pem)?;
    let arrivals = Arrivals { clock: Clock::system(), came: Arc::default() };
    let router = Router::new()
        .route("/push/{number}", post(take))
        .route("/count", get(async |State(arrivals): State<Arrivals>| arrivals.came.lock().unwrap().len().to_string()))
        .route("/arrivals", get(hand_out))
        .with_state(arrivals);
    // The port last, and whole: whoever waits for it may connect.
    fs::write(directory.join("sink.port.part"), listener.local_addr()?.port().to_string())?;
    fs::rename(directory.join("sink.port.part"), directory.join(PORT))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(1000);
            let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
        });
    }
}

async fn take(State(arrivals): State<Arrivals>, Named(number): Named<u32>, _body: Bytes) -> StatusCode {
    let now = arrivals.clock.now().timestamp_micros();
    arrivals.came.lock().unwrap().push((number, now));
    StatusCode::CREATED
}

/// All that came since it was last asked, and forgets it.
async fn hand_out(State(arrivals): State<Arrivals>) -> String {
    let came = std::mem::take(&mut *arrivals.came.lock().unwrap());
    let lines: Vec<String> = came.iter().map(|(number, at)| format!("{number} {at}")).collect();
    lines.join("\n")
}

/// The sink, seen from the bench.
pub struct Sink {
    process: Guarded,
    http: reqwest::Client,
    port: u16,
    pub certificate: PathBuf,
}

impl Sink {
    /// Starts this program again as a sink.
    pub async fn start(directory: &Path) -> Self {
        let process = Guarded::spawn(&Program {
            path: &std::env::current_exe().unwrap(),
            args: vec!["--sink".into(), directory.into()],
            directory,
            environment: &[],
            user: None,
            log: &directory.join("sink.log"),
            stop: StopSignal::Terminate,
        })
        .unwrap();
        let port_file = directory.join(PORT);
        while !port_file.exists() {
            sleep(Duration::from_millis(5)).await;
        }
        let port = fs::read_to_string(port_file).unwrap().parse().unwrap();
        let certificate = directory.join(CERTIFICATE);
        let root = reqwest::Certificate::from_pem(&fs::read(&certificate).unwrap()).unwrap();
        let http = reqwest::Client::builder().tls_certs_merge([root]).build().unwrap();
        Self { process, http, port, certificate }
    }

    pub fn host_port(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn ask(&self, path: &str) -> String {
        let answer = self.http.get(format!("https://{}/{path}", self.host_port())).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// Waits until so many pushes came since they were last asked for.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Result<(), String> {
        let waiting = async {
            while self.ask("count").await.parse::<usize>().unwrap() < count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(limit, waiting).await;
        if waited.is_err() {
            return Err(format!("{} of {count} pushes came within {limit:?}", self.ask("count").await));
        }
        Ok(())
    }

    /// Number and microseconds of what came since it was last asked.
    pub async fn arrivals(&self) -> Vec<(u32, i64)> {
        let text = self.ask("arrivals").await;
        text.lines()
            .map(|line| {
                let (number, at) = line.split_once(' ').unwrap();
                (number.parse().unwrap(), at.parse().unwrap())
            })
            .collect()
    }
}
