//! A strict webhook endpoint on loopback, for `carebell dev` and tests: it verifies each request by another library than
//! the one that signed it, and can be told to misbehave. HTTPS with a root of its own.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::rand;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State as Extract},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::certificates;

/// What the next request to a hook meets in place of 204.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// This status, with these headers; taken if it is a success.
    Answer(u16, Vec<(&'static str, String)>),
    /// No answer.
    Hang,
}

/// A request that was taken.
#[derive(Clone, Debug)]
pub struct Received {
    /// The hook's name.
    pub name: String,
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`, in seconds since 1970.
    pub timestamp: i64,
    /// How many signatures it carried.
    pub signatures: usize,
    /// The body.
    pub body: Value,
}

/// The running endpoint. Dropping it closes its port and connections.
pub struct WebhookEndpoint {
    state: Arc<State>,
    address: SocketAddr,
    ca_pem: String,
    _stop: DropGuard,
}

struct State {
    hooks: Mutex<HashMap<String, Hook>>,
    received: Mutex<Vec<Received>>,
    /// Requests that broke a rule, with which.
    rejected: Mutex<Vec<String>>,
    /// Requests, whatever became of them.
    requests: watch::Sender<usize>,
    taken: watch::Sender<usize>,
}

struct Hook {
    secrets: Vec<String>,
    next: VecDeque<Behaviour>,
    always: Option<Behaviour>,
}

impl WebhookEndpoint {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound or no certificate be made.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (acceptor, ca_pem) = certificates::localhost(certificates::HTTPS)?;
        let state = Arc::new(State {
            hooks: Mutex::default(),
            received: Mutex::default(),
            rejected: Mutex::default(),
            requests: watch::Sender::new(0),
            taken: watch::Sender::new(0),
        });
        let stop = CancellationToken::new();
        let router = Router::new().route("/hooks/{name}", post(handle)).with_state(Arc::clone(&state));
        tokio::spawn(serve(listener, acceptor, router, stop.clone()));
        Ok(Self { state, address, ca_pem, _stop: stop.drop_guard() })
    }

    /// `localhost:PORT`, as `WEBHOOK_ALLOWED_HOSTS` takes it.
    #[must_use]
    pub fn host_port(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// The root certificate in PEM, for the file that `WEBHOOK_CA_FILE` names.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A new hook: its URL and its secret, for `user_addresses`.
    ///
    /// # Panics
    /// When the cryptographic library has no randomness.
    pub fn subscribe(&self, name: &str) -> (String, String) {
        let secret = new_secret();
        let hook = Hook { secrets: vec![secret.clone()], next: VecDeque::new(), always: None };
        lock(&self.state.hooks).insert(name.to_owned(), hook);
        (format!("https://{}/hooks/{name}", self.host_port()), secret)
    }

    /// Changes a hook's key: from now on it verifies by the new secret only.
    ///
    /// # Panics
    /// When the cryptographic library has no randomness.
    pub fn change_key(&self, name: &str) -> String {
        let secret = new_secret();
        self.with(name, |hook| hook.secrets = vec![secret.clone()]);
        secret
    }

    /// What the next request to this hook meets; called again, the one after it.
    pub fn behave(&self, name: &str, behaviour: Behaviour) {
        self.with(name, |hook| hook.next.push_back(behaviour));
    }

    /// What all requests to this hook meet that nothing else was planned for; `None` is the normal again.
    pub fn behave_always(&self, name: &str, behaviour: Option<Behaviour>) {
        self.with(name, |hook| hook.always = behaviour);
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Hook)) {
        if let Some(hook) = lock(&self.state.hooks).get_mut(name) {
            change(hook);
        }
    }

    /// The requests that were taken, in their order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state.received).clone()
    }

    /// The rules that requests broke. Empty in a test of anything that ought to work.
    #[must_use]
    pub fn rejected(&self) -> Vec<String> {
        lock(&self.state.rejected).clone()
    }

    /// How many requests there were, whatever became of them.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// Waits until `n` requests were taken since the start, and returns all.
    ///
    /// # Errors
    /// When that takes longer than `limit`; says what came instead.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<Received>, String> {
        let mut taken = self.state.taken.subscribe();
        if let Ok(Ok(_)) = timeout(limit, taken.wait_for(|taken| *taken >= n)).await {
            return Ok(self.received());
        }
        Err(format!("{} requests, {} taken, refused: {:?}", self.requests(), self.received().len(), self.rejected()))
    }
}

impl fmt::Debug for WebhookEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEndpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::expect_used, reason = "without randomness nothing here can go on")]
fn new_secret() -> String {
    let mut key = [0; 32];
    rand::fill(&mut key).expect("the system has randomness");
    format!("whsec_{}", STANDARD.encode(key))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, router: Router, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(connection(stream, tls, router)).await });
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router) {
    // A handshake that fails is the client's business: it tells its user.
    let Ok(stream) = tls.accept(stream).await else { return };
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

async fn handle(
    Extract(state): Extract<Arc<State>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    state.requests.send_modify(|requests| *requests += 1);
    let behaviour = lock(&state.hooks).get_mut(&name).and_then(|hook| hook.next.pop_front().or(hook.always.clone()));
    let received = match read(&state, name, &headers, &body) {
        Ok(received) => received,
        Err(why) => {
            lock(&state.rejected).push(why.clone());
            return answer(400, &[], why);
        }
    };
    match behaviour {
        // Longer than any sender waits.
        Some(Behaviour::Hang) => sleep(Duration::from_hours(1)).await,
        Some(Behaviour::Answer(status, headers)) => {
            if (200..300).contains(&status) {
                state.take(received);
            }
            return answer(status, &headers, String::new());
        }
        None => state.take(received),
    }
    answer(204, &[], String::new())
}

impl State {
    fn take(&self, received: Received) {
        lock(&self.received).push(received);
        self.taken.send_modify(|taken| *taken += 1);
    }
}

/// Verifies a request as the specification asks of endpoints.
fn read(state: &State, name: String, headers: &HeaderMap, body: &[u8]) -> Result<Received, String> {
    let secrets = lock(&state.hooks).get(&name).map(|hook| hook.secrets.clone());
    let secrets = secrets.ok_or_else(|| format!("there is no hook {name}"))?;
    let verified = secrets.iter().any(|secret| {
        standardwebhooks::Webhook::new(secret).is_ok_and(|webhook| webhook.verify(body, headers).is_ok())
    });
    if !verified {
        return Err("no signature is right".into());
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("content-type") != "application/json" {
        return Err("the body is not said to be JSON".into());
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    for field in ["type", "timestamp", "data"] {
        if body[field].is_null() {
            return Err(format!("the body has no `{field}`"));
        }
    }
    Ok(Received {
        name,
        id: header("webhook-id").to_owned(),
        timestamp: header("webhook-timestamp").parse().unwrap_or_default(),
        signatures: header("webhook-signature").split(' ').count(),
        body,
    })
}

fn answer(status: u16, headers: &[(&'static str, String)], body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}
