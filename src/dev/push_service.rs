//! A strict push service on loopback, for `carebell dev`, tests and benches.
//!
//! It checks each push against RFC 8030, RFC 8291 and RFC 8292 with other libraries than the sender's, and decrypts it.
//! HTTPS with its own CA ([`PushService::ca_pem`]), HTTP/2 and 1.1.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use carebell::dev::push_service::{Behaviour, PushService};
//! use std::time::Duration;
//!
//! let service = PushService::start().await?;
//! let phone = service.subscribe("phone"); // Its endpoint and keys go into `push_subscriptions`.
//! service.behave("phone", Behaviour::status(503));
//! // … send to it, twice …
//! let pushes = service.wait_for(1, Duration::from_secs(5)).await?;
//! assert_eq!(pushes[0].json()["title"], "Aspirin");
//! # Ok(()) }
//! ```

mod behaviour;
mod server;
mod state;
mod verify;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use behaviour::{Behaviour, Reply};
pub use state::{Counts, ReceivedPush, RejectedRequest, Subscription};
pub use verify::VapidClaims;

use super::certificates;
use crate::clock::Clock;
use state::State;

/// A running service. Dropping it closes its port and connections.
pub struct PushService {
    state: Arc<State>,
    address: SocketAddr,
    ca_pem: String,
    _stop: DropGuard,
}

impl PushService {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound or no certificate made.
    pub async fn start() -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tls, ca_pem) = certificates::localhost(certificates::HTTPS)?;
        let state = Arc::new(State::new(format!("https://localhost:{}", address.port()), Clock::system()));
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(listener, tls, Arc::clone(&state), stop.clone()));
        Ok(Self { state, address, ca_pem, _stop: stop.drop_guard() })
    }

    /// `localhost:PORT`, for `WEB_PUSH_ALLOWED_HOSTS`.
    pub fn host_port(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// `https://localhost:PORT`: the required audience of tokens.
    pub fn origin(&self) -> &str {
        self.state.origin()
    }

    /// CA certificate in PEM, for `WEB_PUSH_CA_FILE`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A new subscription, as browsers report it, for any sender.
    ///
    /// # Panics
    /// Without randomness.
    pub fn subscribe(&self, name: &str) -> Subscription {
        self.state.subscribe(name, None)
    }

    /// A new subscription for one sender's public key (base64url), like `applicationServerKey`. Others get 403.
    ///
    /// # Panics
    /// Like [`PushService::subscribe`].
    pub fn subscribe_for(&self, name: &str, public_key: &str) -> Subscription {
        self.state.subscribe(name, Some(public_key))
    }

    /// Ends a subscription: later pushes get 410.
    pub fn unsubscribe(&self, name: &str) {
        self.state.unsubscribe(name);
    }

    /// Sets the behaviour of the next valid push to this subscription. Calls queue up.
    pub fn behave(&self, name: &str, behaviour: Behaviour) {
        self.behave_times(name, 1, behaviour);
    }

    /// Likewise for the next `times` pushes.
    pub fn behave_times(&self, name: &str, times: usize, behaviour: Behaviour) {
        self.state.plan(name, times, behaviour);
    }

    /// Sets the default behaviour; `None` resets it.
    pub fn behave_always(&self, name: &str, behaviour: Option<Behaviour>) {
        self.state.plan_always(name, behaviour);
    }

    /// Forgets what came and what was planned; ended subscriptions are good again. Counts go on.
    pub fn forget(&self) {
        self.state.forget();
    }

    /// Accepted pushes, in order.
    pub fn received(&self) -> Vec<ReceivedPush> {
        self.state.received()
    }

    /// Requests that broke a rule, in order.
    pub fn rejected(&self) -> Vec<RejectedRequest> {
        self.state.rejected()
    }

    /// Current counts.
    pub fn counts(&self) -> Counts {
        self.state.counts()
    }

    /// Waits for `n` accepted pushes, and returns all.
    ///
    /// # Errors
    /// After `limit`, with what came instead.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<ReceivedPush>, Missing> {
        self.wait_until(limit, |counts| counts.accepted >= n).await?;
        Ok(self.received())
    }

    /// Waits for counts that satisfy `wished`.
    ///
    /// # Errors
    /// After `limit`, with the counts so far.
    pub async fn wait_until(&self, limit: Duration, wished: impl FnMut(&Counts) -> bool) -> Result<Counts, Missing> {
        let mut changes = self.state.changes();
        if let Ok(Ok(counts)) = timeout(limit, changes.wait_for(wished)).await {
            return Ok(*counts);
        }
        Err(Missing { counts: self.counts(), rejected: self.rejected() })
    }

    /// Breaks all connections, like a restart.
    pub fn drop_connections(&self) {
        self.state.drop_connections();
    }
}

impl fmt::Debug for PushService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushService").field("origin", &self.origin()).finish_non_exhaustive()
    }
}

/// A wait timed out.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Counts so far.
    pub counts: Counts,
    /// Requests that broke a rule.
    pub rejected: Vec<RejectedRequest>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { connections, requests, accepted, rejected, .. } = self.counts;
        write!(f, "{accepted} pushes accepted and {rejected} rejected of {requests} over {connections} connections")?;
        self.rejected.iter().take(3).try_for_each(|request| write!(f, "; {}: {}", request.status, request.why))
    }
}

impl std::error::Error for Missing {}
