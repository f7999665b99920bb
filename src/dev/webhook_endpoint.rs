//! A strict webhook endpoint on loopback, for `carebell dev` and tests. It verifies requests with another library than
//! the sender's. HTTPS with its own CA.

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

/// Reaction to a request instead of 204.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answer this; a success accepts the request.
    Answer(u16, Vec<(&'static str, String)>),
    /// Never answer.
    Hang,
}

/// An accepted request.
#[derive(Clone, Debug)]
pub struct Received {
    /// Name of the hook.
    pub name: String,
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`, in seconds since 1970.
    pub timestamp: i64,
    /// Number of signatures.
    pub signatures: usize,
    /// Body.
    pub body: Value,
}

/// A running endpoint. Dropping it closes its port and connections.
pub struct WebhookEndpoint {
    state: Arc<State>,
    address: SocketAddr,
    ca_pem: String,
    _stop: DropGuard,
}

struct State {
    hooks: Mutex<HashMap<String, Hook>>,
    received: Mutex<Vec<Received>>,
    /// The broken rules.
    rejected: Mutex<Vec<String>>,
    /// Requests of any outcome.
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
    /// If no port can be bound or no certificate made.
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

    /// `localhost:PORT`, for `WEBHOOK_ALLOWED_HOSTS`.
    #[must_use]
    pub fn host_port(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// CA certificate in PEM, for `WEBHOOK_CA_FILE`.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A new hook's URL and secret, for `user_addresses`.
    ///
    /// # Panics
    /// Without randomness.
    pub fn subscribe(&self, name: &str) -> (String, String) {
        let secret = new_secret();
        let hook = Hook { secrets: vec![secret.clone()], next: VecDeque::new(), always: None };
        lock(&self.state.hooks).insert(name.to_owned(), hook);
        (format!("https://{}/hooks/{name}", self.host_port()), secret)
    }

    /// Gives a hook a new secret, the only valid one.
    ///
    /// # Panics
    /// Without randomness.
    pub fn change_key(&self, name: &str) -> String {
        let secret = new_secret();
        self.with(name, |hook| hook.secrets = vec![secret.clone()]);
        secret
    }

    /// Sets the behaviour of the next request to this hook. Calls queue up.
    pub fn behave(&self, name: &str, behaviour: Behaviour) {
        self.with(name, |hook| hook.next.push_back(behaviour));
    }

    /// Sets the default behaviour; `None` resets it.
    pub fn behave_always(&self, name: &str, behaviour: Option<Behaviour>) {
        self.with(name, |hook| hook.always = behaviour);
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Hook)) {
        if let Some(hook) = lock(&self.state.hooks).get_mut(name) {
            change(hook);
        }
    }

    /// Forgets what came and what was planned. Counts go on.
    pub fn forget(&self) {
        lock(&self.state.hooks).values_mut().for_each(|hook| (hook.next, hook.always) = (VecDeque::new(), None));
        lock(&self.state.received).clear();
        lock(&self.state.rejected).clear();
    }

    /// Accepted requests, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.state.received).clone()
    }

    /// Broken rules, in order.
    #[must_use]
    pub fn rejected(&self) -> Vec<String> {
        lock(&self.state.rejected).clone()
    }

    /// Number of requests of any outcome.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// Waits for `n` accepted requests, and returns all.
    ///
    /// # Errors
    /// After `limit`, with what came instead.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<Received>, String> {
        let mut taken = self.state.taken.subscribe();
        if let Ok(Ok(_)) = timeout(limit, taken.wait_for(|taken| *taken >= n)).await {
            return Ok(self.received());
        }
        Err(format!("{} requests, {} accepted, refused: {:?}", self.requests(), self.received().len(), self.rejected()))
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
    // The client reports failed handshakes.
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

fn read(state: &State, name: String, headers: &HeaderMap, body: &[u8]) -> Result<Received, String> {
    let secrets = lock(&state.hooks).get(&name).map(|hook| hook.secrets.clone());
    let secrets = secrets.ok_or_else(|| format!("there is no hook {name}"))?;
    let verified = secrets.iter().any(|secret| {
        standardwebhooks::Webhook::new(secret).is_ok_and(|webhook| webhook.verify(body, headers).is_ok())
    });
    if !verified {
        return Err("no signature is valid".into());
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("content-type") != "application/json" {
        return Err("the content type is not JSON".into());
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
