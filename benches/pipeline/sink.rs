//! A push service that accepts every push, and a mail server that accepts every mail. Both record arrivals, in a
//! process of their own.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use carebell::{
    clock::Clock,
    dev::{
        certificates,
        guard::{Guarded, Program, StopSignal},
        smtp_server::{Protection, SmtpServer},
    },
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, time::sleep};

const CERTIFICATE: &str = "sink.pem";
const MAIL_CERTIFICATE: &str = "mail.pem";
/// The file has the push port and the mail URL, a line each.
const PLACES: &str = "sink.places";

struct Arrivals {
    clock: Clock,
    /// Number and microseconds since 1970.
    pushes: Mutex<Vec<(u32, i64)>>,
    mail: SmtpServer,
    /// Microseconds since 1970, in the order of the mails.
    mails: Mutex<Vec<i64>>,
}

/// Serves until terminated. Writes its certificates and places into the directory.
pub async fn serve(directory: &Path) -> io::Result<()> {
    let (acceptor, pem) = certificates::localhost(certificates::HTTPS)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mail = SmtpServer::start(Protection::Tls, None).await?;
    fs::write(directory.join(CERTIFICATE), pem)?;
    fs::write(directory.join(MAIL_CERTIFICATE), mail.ca_pem())?;
    // The places come last and whole, since readers connect at once.
    let part = directory.join("sink.part");
    fs::write(&part, format!("{}\n{}\n", listener.local_addr()?.port(), mail.url()))?;
    fs::rename(part, directory.join(PLACES))?;

    let arrivals =
        Arc::new(Arrivals { clock: Clock::system(), pushes: Mutex::default(), mail, mails: Mutex::default() });
    tokio::spawn(note_mails(Arc::clone(&arrivals)));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, arrivals) = (acceptor.clone(), Arc::clone(&arrivals));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(Arc::clone(&arrivals), request));
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(1000);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A POST is a push to the number that ends its path. A GET comes from the bench.
async fn answer(arrivals: Arc<Arrivals>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let text = if request.uri().path() == "/count" { arrivals.count() } else { arrivals.hand_out() };
        return Ok(Response::new(Full::from(text)));
    }
    let number = request.uri().path().rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let _ = request.into_body().collect().await;
    let now = arrivals.clock.now().timestamp_micros();
    arrivals.pushes.lock().unwrap().push((number, now));
    Ok(Response::builder().status(201).body(Full::default()).unwrap())
}

/// Records arrivals of mails. Each mail wakes it, on the same thread.
async fn note_mails(arrivals: Arc<Arrivals>) {
    let mut noted = 0;
    loop {
        let more = arrivals.mail.wait_until(Duration::MAX, |counts| counts.accepted > noted).await;
        let now = arrivals.clock.now().timestamp_micros();
        noted = more.map_or(noted, |counts| counts.accepted);
        arrivals.mails.lock().unwrap().resize(noted, now);
    }
}

impl Arrivals {
    fn count(&self) -> String {
        (self.pushes.lock().unwrap().len() + self.mails.lock().unwrap().len()).to_string()
    }

    fn hand_out(&self) -> String {
        let pushes = self.pushes.lock().unwrap().clone();
        let mails = self.mail.received();
        let numbers =
            mails.iter().filter_map(|mail| mail.to.first()?.strip_prefix("user-")?.split('@').next()?.parse().ok());
        let times = self.mails.lock().unwrap().clone();
        let lines = pushes.into_iter().chain(numbers.zip(times)).map(|(number, at)| format!("{number} {at}\n"));
        lines.collect()
    }
}

pub struct Sink {
    process: Guarded,
    http: reqwest::Client,
    port: u16,
    pub certificate: PathBuf,
    pub mail_url: String,
    pub mail_certificate: PathBuf,
}

impl Sink {
    /// Starts this program again, as a sink.
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
        let places = directory.join(PLACES);
        while !places.exists() {
            sleep(Duration::from_millis(5)).await;
        }
        let places = fs::read_to_string(places).unwrap();
        let (port, mail_url) = places.trim().split_once('\n').unwrap();
        let certificate = directory.join(CERTIFICATE);
        let root = reqwest::Certificate::from_pem(&fs::read(&certificate).unwrap()).unwrap();
        let http = reqwest::Client::builder().tls_certs_merge([root]).build().unwrap();
        Self {
            process,
            http,
            port: port.parse().unwrap(),
            certificate,
            mail_url: mail_url.to_owned(),
            mail_certificate: directory.join(MAIL_CERTIFICATE),
        }
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

    pub async fn count(&self) -> usize {
        self.ask("count").await.parse().unwrap()
    }

    /// The user's number and microseconds of each arrival.
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
