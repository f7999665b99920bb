//! An HTTP endpoint of a declared kind on loopback: it checks each request with another library than the sender's.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State as Extract,
    http::{HeaderMap, Uri},
    response::Response,
    routing::any,
};
use tokio::{net::TcpListener, time::sleep};
use url::Url;

/// `whsec_` and 24 bytes.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Clone, Debug)]
pub enum Does {
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Never answers.
    Hangs,
    /// A byte of a long answer every 100 ms.
    Trickles,
    /// Ten megabytes.
    Floods,
    /// Reports this body to `/done` at the address, then answers 202.
    EndsBeforeItAnswers(String, String),
}

pub fn answer(status: u16, body: &str) -> Does {
    Does::Answer(status, Vec::new(), body.to_owned())
}

#[derive(Clone, Debug)]
pub struct Posted {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Posted {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn job(&self) -> &str {
        self.header("carebell-job-id")
    }

    pub fn token(&self) -> &str {
        self.header("carebell-task-token")
    }
}

#[derive(Default)]
struct State {
    next: Mutex<HashMap<String, VecDeque<Does>>>,
    always: Mutex<HashMap<String, Does>>,
    posted: Mutex<Vec<Posted>>,
    forged: Mutex<usize>,
}

pub struct TaskEndpoint {
    pub url: Url,
    pub secret_file: PathBuf,
    state: Arc<State>,
}

impl TaskEndpoint {
    pub async fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/jobs", listener.local_addr().unwrap())).unwrap();
        let state = Arc::new(State::default());
        let router = Router::new().fallback(any(handle)).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let secret_file = directory.join("endpoint.secret");
        write_secret(&secret_file, SECRET);
        Self { url, secret_file, state }
    }

    /// What it does with the next requests for a job.
    pub fn next(&self, job: &str, does: impl IntoIterator<Item = Does>) {
        self.state.next.lock().unwrap().entry(job.to_owned()).or_default().extend(does);
    }

    pub fn always(&self, job: &str, does: Does) {
        self.state.always.lock().unwrap().insert(job.to_owned(), does);
    }

    /// Requests for a job, in order, with valid signatures.
    pub fn posted(&self, job: &str) -> Vec<Posted> {
        self.state.posted.lock().unwrap().iter().filter(|posted| posted.job() == job).cloned().collect()
    }

    pub fn forged(&self) -> usize {
        *self.state.forged.lock().unwrap()
    }
}

pub fn write_secret(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn handle(Extract(state): Extract<Arc<State>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
    if verifier.verify(&body, &headers).is_err() {
        *state.forged.lock().unwrap() += 1;
        return respond(401, &[], Body::from("forged"));
    }
    let posted = Posted { path: uri.path().to_owned(), headers, body };
    let (job, token) = (posted.job().to_owned(), posted.token().to_owned());
    let key = if posted.path.ends_with("/cancel") { format!("{job} cancel") } else { job.clone() };
    state.posted.lock().unwrap().push(posted);
    let next = state.next.lock().unwrap().get_mut(&key).and_then(VecDeque::pop_front);
    let does = next.or_else(|| state.always.lock().unwrap().get(&key).cloned());
    match does.unwrap_or_else(|| answer(200, "{}")) {
        Does::Answer(status, headers, body) => respond(status, &headers, Body::from(body)),
        Does::Hangs => {
            sleep(Duration::from_mins(10)).await;
            respond(200, &[], Body::from("{}"))
        }
        Does::Trickles => {
            let bytes = futures::stream::unfold((), |()| async {
                sleep(Duration::from_millis(100)).await;
                Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
            });
            respond(200, &[], Body::from_stream(bytes))
        }
        Does::Floods => respond(200, &[], Body::from(vec![b' '; 10 * 1024 * 1024])),
        Does::EndsBeforeItAnswers(desk, told) => {
            let report = reqwest::Client::new().post(format!("{desk}/tasks/{job}/done")).bearer_auth(token);
            let status = report.body(told).send().await.unwrap().status();
            assert_eq!(status, 200);
            respond(202, &[], Body::empty())
        }
    }
}

fn respond(status: u16, headers: &[(&'static str, String)], body: Body) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body).unwrap()
}
