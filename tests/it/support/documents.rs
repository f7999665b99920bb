//! A server that speaks S3, a proxy before it that meddles with its answers, and a server of files to upload.

use std::{
    collections::BTreeMap,
    path::Path as FilePath,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
    routing::get,
};
use carebell::dev::{
    certificates,
    guard::{Guarded, PrivateDir, Program, StopSignal, private_dir},
};
use futures::stream;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{LIMIT, World, oidc::Tls, python_packages};

pub const BUCKET: &str = "care-documents";

const MOTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/moto.txt");

/// moto, with one bucket.
pub struct S3 {
    url: String,
    _guarded: Guarded,
    _directory: PrivateDir,
}

impl S3 {
    /// `None` without Python.
    pub async fn start() -> Option<Self> {
        let packages = tokio::task::spawn_blocking(|| python_packages(FilePath::new(MOTO))).await.unwrap()?;
        let directory = private_dir().unwrap();
        let log = directory.path().join("moto.log");
        let packages = packages.display().to_string();
        let guarded = Guarded::spawn(&Program {
            path: FilePath::new("python3"),
            args: ["-c", "from moto.server import main; main()", "-p", "0"].iter().map(Into::into).collect(),
            directory: directory.path(),
            environment: &[("PYTHONPATH", &packages), ("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONUNBUFFERED", "1")],
            user: None,
            log: &log,
            stop: StopSignal::Terminate,
        })
        .unwrap();
        let since = tokio::time::Instant::now();
        let url = loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some((_, rest)) = said.split_once("Running on ") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
            assert!(since.elapsed() < LIMIT, "moto does not start:\n{said}");
            sleep(Duration::from_millis(20)).await;
        };
        let made = reqwest::Client::new().put(format!("{url}/{BUCKET}")).send().await.unwrap();
        assert!(made.status().is_success());
        Some(Self { url, _guarded: guarded, _directory: directory })
    }

    /// Keys of all objects, and of all uploads in parts that are neither completed nor aborted.
    pub async fn keys(&self) -> (Vec<String>, usize) {
        let get = async |query: &str| {
            reqwest::get(format!("{}/{BUCKET}?{query}", self.url)).await.unwrap().text().await.unwrap()
        };
        let listed = get("list-type=2").await;
        let keys = listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned());
        (keys.collect(), get("uploads").await.matches("<UploadId>").count())
    }

    pub async fn object(&self, key: &str) -> Option<(reqwest::header::HeaderMap, Bytes)> {
        // moto checks no signature, but wants to see one.
        let signed =
            "AWS4-HMAC-SHA256 Credential=test/20270301/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=x";
        let asked = reqwest::Client::new().get(format!("{}/{BUCKET}/{key}", self.url)).header("authorization", signed);
        let answer = asked.send().await.unwrap();
        let headers = answer.headers().clone();
        answer.status().is_success().then_some((headers, answer.bytes().await.unwrap()))
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) {
        let put = reqwest::Client::new().put(format!("{}/{BUCKET}/{key}", self.url)).body(bytes.to_vec());
        assert!(put.send().await.unwrap().status().is_success());
    }
}

/// What a proxy does to requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Meddling {
    #[default]
    None,
    /// Passes objects on, and says 412 of them.
    SaysTaken,
    /// 503, and passes nothing on.
    Away,
}

/// Between a worker and S3.
pub struct Meddler {
    url: String,
    state: Arc<Meddled>,
    _stop: DropGuard,
}

struct Meddled {
    to: String,
    how: Mutex<Meddling>,
    asked: Mutex<Vec<(Method, u16)>>,
}

impl Meddler {
    pub async fn start(s3: &S3) -> Self {
        let state = Arc::new(Meddled { to: s3.url.clone(), how: Mutex::default(), asked: Mutex::default() });
        let router = Router::new().fallback(meddle).with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { url, state, _stop: serve(axum::serve(listener, router)) }
    }

    pub fn now(&self, how: Meddling) {
        *self.state.how.lock().unwrap() = how;
    }

    /// Requests of this method that were answered so.
    pub fn count(&self, method: &Method, status: u16) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|asked| asked.0 == *method && asked.1 == status).count()
    }

    /// For a worker whose store `archive` is in the bucket, below `docs`.
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("DOCUMENT_STORES", format!("archive=s3://{BUCKET}/docs")),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "top-secret".into()),
            ("AWS_REGION", "eu-central-1".into()),
            ("AWS_ENDPOINT_URL", self.url.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

async fn meddle(State(state): State<Arc<Meddled>>, request: Request) -> Response {
    let how = *state.how.lock().unwrap();
    let method = request.method().clone();
    let answer = if how == Meddling::Away {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    } else {
        let url = format!("{}{}", state.to, request.uri());
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let passed = reqwest::Client::new().request(method.clone(), url).headers(parts.headers).body(body);
        let passed = passed.send().await.unwrap();
        let (status, mut headers) = (passed.status(), passed.headers().clone());
        headers.remove("transfer-encoding");
        headers.remove("connection");
        let bytes = passed.bytes().await.unwrap();
        if how == Meddling::SaysTaken && method == Method::PUT && status.is_success() {
            StatusCode::PRECONDITION_FAILED.into_response()
        } else {
            // The length of an answer to HEAD is told, and its bytes are not sent.
            let mut answer = if method == Method::HEAD { Body::empty() } else { Body::from(bytes) }.into_response();
            (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
            answer
        }
    };
    state.asked.lock().unwrap().push((method, answer.status().as_u16()));
    answer
}

/// Files to upload, and what stands in their place, over HTTPS.
pub struct Files {
    port: u16,
    ca_pem: String,
    served: Arc<Served>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Served {
    files: Mutex<BTreeMap<String, Bytes>>,
    asked: Mutex<Vec<String>>,
}

impl Files {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, ca_pem) = certificates::localhost(certificates::HTTPS).unwrap();
        let served = Arc::new(Served::default());
        let router = Router::new()
            .route("/file/{name}", get(file))
            .route("/endless/{what}", get(endless))
            .route("/to/{*target}", get(async |Path(target): Path<String>| (StatusCode::FOUND, [(LOCATION, target)])))
            .route("/status/{code}", get(async |Path(code): Path<u16>| StatusCode::from_u16(code).unwrap()))
            .with_state(Arc::clone(&served));
        Self { port, ca_pem, served, _stop: serve(axum::serve(Tls(listener, acceptor), router)) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The fields of a job that uploads these bytes to `key` of `archive`, from a signed URL.
    pub fn job(&self, name: &str, bytes: impl Into<Bytes>, key: &str) -> Value {
        let bytes = bytes.into();
        let sha256 = hex(&bytes);
        let job = json!({
            "store": "archive", "key": key, "url": self.url(&format!("/file/{name}?X-Amz-Signature=deepsecret")),
            "sha256": sha256, "size": bytes.len(), "contentType": "application/pdf",
        });
        self.served.files.lock().unwrap().insert(name.to_owned(), bytes);
        job
    }

    /// How often a file was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.served.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    /// For a worker that may read from here.
    pub fn variables(&self, world: &World) -> Vec<(String, String)> {
        let file = world.directory.path().join("files.pem");
        std::fs::write(&file, &self.ca_pem).unwrap();
        let values = [
            ("DOCUMENT_ALLOWED_HOSTS", format!("localhost:{}", self.port)),
            ("DOCUMENT_CA_FILE", file.display().to_string()),
        ];
        values.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

async fn file(State(served): State<Arc<Served>>, Path(name): Path<String>) -> Response {
    let file = served.files.lock().unwrap().get(&name).cloned();
    served.asked.lock().unwrap().push(name);
    file.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

/// Without a length: a byte now and then, or as many as are taken.
async fn endless(Path(what): Path<String>) -> Body {
    Body::from_stream(stream::unfold(what == "slow", async |is_slow| {
        if is_slow {
            sleep(Duration::from_millis(100)).await;
            return Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), is_slow));
        }
        Some((Ok(Bytes::from_static(&[b'x'; 8 * 1024])), is_slow))
    }))
}

fn serve(server: impl IntoFuture<Output = std::io::Result<()>, IntoFuture: Send + 'static>) -> DropGuard {
    let stop = CancellationToken::new();
    let serving = server.into_future();
    let stopped = stop.clone();
    tokio::spawn(async move { stopped.run_until_cancelled(serving).await });
    stop.drop_guard()
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
