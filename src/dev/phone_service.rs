//! A strict provider of text messages, `WhatsApp` messages and calls on loopback, for `carebell dev` and tests.
//!
//! It speaks the API of [`gateway`](crate::channels::gateway) over HTTPS with its own CA ([`PhoneService::ca_pem`]).
//! It refuses unknown and repeated fields, invalid numbers and malformed instructions. It can misbehave and send
//! status callbacks.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use carebell::dev::phone_service::{Behaviour, PhoneService};
//! use std::time::Duration;
//!
//! let service = PhoneService::start().await?; // Its URL goes into `SMS_PROVIDER_URL`.
//! service.behave(1, Behaviour::error(400, 21_211));
//! // … send by it, twice …
//! let received = service.wait_for(1, Duration::from_secs(5)).await?;
//! assert_eq!(received[0].to, "+4366012345678");
//! service.report(&received[0], "delivered", None).await?;
//! # Ok(()) }
//! ```

mod behaviour;
mod received;
mod report;
mod server;
mod state;
mod twiml;
mod verify;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use behaviour::Behaviour;
pub use received::Received;
pub use report::{Report, signature};
pub use state::Counts;
pub use twiml::{Spoken, read as read_twiml};
pub use verify::Violation;

use super::certificates;
use crate::clock::Clock;
use state::State;

const ACCOUNT: &str = "AC00000000000000000000000000000001";

/// A running service. Dropping it closes its port and connections.
pub struct PhoneService {
    state: Arc<State>,
    address: SocketAddr,
    ca_pem: String,
    _stop: DropGuard,
}

impl PhoneService {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound or no certificate made.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tls, ca_pem) = certificates::localhost(certificates::HTTPS)?;
        let state = Arc::new(State::new(ACCOUNT, Clock::system()));
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(listener, tls, Arc::clone(&state), stop.clone()));
        Ok(Self { state, address, ca_pem, _stop: stop.drop_guard() })
    }

    /// `https://AccountSid:AuthToken@localhost:PORT`, for `SMS_PROVIDER_URL` and the like.
    pub fn url(&self) -> String {
        format!("https://{ACCOUNT}:{}@{}", self.token(), self.name())
    }

    /// `localhost:PORT`: the provider's name in the ledger.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// Token of the account.
    pub fn token(&self) -> &str {
        self.state.token()
    }

    /// CA certificate in PEM, for `PROVIDER_CA_FILE`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Sets the behaviour of the next `times` valid requests. Calls queue up.
    pub fn behave(&self, times: usize, behaviour: Behaviour) {
        self.state.plan(times, behaviour);
    }

    /// Sets the default behaviour; `None` resets it.
    pub fn behave_always(&self, behaviour: Option<Behaviour>) {
        self.state.plan_always(behaviour);
    }

    /// Refuses connections, like a service that is down, or accepts them again.
    pub fn shut(&self, shut: bool) {
        self.state.shut(shut);
    }

    /// Forgets what came and what was planned. Counts go on.
    pub fn forget(&self) {
        self.state.forget();
    }

    /// Accepted messages and calls, in order.
    pub fn received(&self) -> Vec<Received> {
        self.state.received()
    }

    /// Requests that broke a rule, in order.
    pub fn rejected(&self) -> Vec<Violation> {
        self.state.rejected()
    }

    /// Current counts.
    pub fn counts(&self) -> Counts {
        self.state.counts()
    }

    /// Waits for `n` accepted messages and calls, and returns all.
    ///
    /// # Errors
    /// After `limit`, with what came instead.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<Received>, Missing> {
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

    /// Sends callbacks to this address, like a proxy that terminates TLS.
    pub fn callbacks_go_to(&self, address: SocketAddr) {
        self.state.set_proxy(address);
    }

    /// Sends a status callback and returns the HTTP status.
    ///
    /// # Errors
    /// If the request had no URL, or nobody answers.
    pub async fn report(&self, received: &Received, status: &str, error_code: Option<u32>) -> io::Result<u16> {
        self.report_signed_by(self.token(), received, status, error_code).await
    }

    /// Sends a status callback signed with this token.
    ///
    /// # Errors
    /// Like [`PhoneService::report`].
    pub async fn report_signed_by(
        &self,
        token: &str,
        received: &Received,
        status: &str,
        error_code: Option<u32>,
    ) -> io::Result<u16> {
        Report::of(received, status, error_code)?.post(token, self.state.proxy()).await
    }
}

impl fmt::Debug for PhoneService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PhoneService").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A wait timed out.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Counts so far.
    pub counts: Counts,
    /// Requests that broke a rule.
    pub rejected: Vec<Violation>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { requests, accepted, rejected, .. } = self.counts;
        write!(f, "{accepted} accepted and {rejected} rejected of {requests} requests")?;
        self.rejected.iter().take(3).try_for_each(|request| write!(f, "; {}: {}", request.status, request.why))
    }
}

impl std::error::Error for Missing {}
