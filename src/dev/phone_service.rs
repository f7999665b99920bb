//! A strict provider of text messages, `WhatsApp` messages and calls on loopback, for `carebell dev` and tests.
//!
//! It has the form-encoded API that [`gateway`](crate::channels::gateway) speaks, and refuses what the real ones would
//! and more: unknown and repeated fields, numbers that are not E.164, instructions that are not well-formed. It can be
//! told to misbehave, and to report back what becomes of a message, signed rightly or wrongly; signatures are made by
//! another library than the one that checks them. HTTPS with a root of its own ([`PhoneService::ca_pem`]).
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
mod report;
mod server;
mod state;
mod twiml;
mod verify;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use behaviour::Behaviour;
pub use report::{Report, signature};
pub use state::{Counts, Received};
pub use twiml::{Spoken, read as read_twiml};
pub use verify::Violation;

use super::certificates;
use crate::clock::Clock;
use state::State;

/// The account that every service has.
const ACCOUNT: &str = "AC00000000000000000000000000000001";

/// The running service. Dropping it closes its port and connections.
pub struct PhoneService {
    state: Arc<State>,
    address: SocketAddr,
    ca_pem: String,
    _stop: DropGuard,
}

impl PhoneService {
    /// Starts on a free port of 127.0.0.1, with a fresh root and token.
    ///
    /// # Errors
    /// When no port can be bound or no certificate be made.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tls, ca_pem) = certificates::localhost(certificates::HTTPS)?;
        let state = Arc::new(State::new(ACCOUNT, Clock::system()));
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(listener, tls, Arc::clone(&state), stop.clone()));
        Ok(Self { state, address, ca_pem, _stop: stop.drop_guard() })
    }

    /// `https://AccountSid:AuthToken@localhost:PORT`, as `SMS_PROVIDER_URL` and the others take it.
    pub fn url(&self) -> String {
        format!("https://{ACCOUNT}:{}@{}", self.token(), self.name())
    }

    /// `localhost:PORT`: what the provider is called in the ledger.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// The token of the account.
    pub fn token(&self) -> &str {
        self.state.token()
    }

    /// The root certificate in PEM, for the file that `PROVIDER_CA_FILE` names.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What the next `times` well-formed requests meet; called again, those after them.
    pub fn behave(&self, times: usize, behaviour: Behaviour) {
        self.state.plan(times, behaviour);
    }

    /// What all requests meet that nothing else was planned for; `None` is the normal again.
    pub fn behave_always(&self, behaviour: Option<Behaviour>) {
        self.state.plan_always(behaviour);
    }

    /// Whether connections are refused from now on, as by a service that is not there.
    pub fn shut(&self, shut: bool) {
        self.state.shut(shut);
    }

    /// The messages and calls that were accepted, in their order.
    pub fn received(&self) -> Vec<Received> {
        self.state.received()
    }

    /// The requests that broke a rule, in their order. Empty in a test of anything that ought to work.
    pub fn rejected(&self) -> Vec<Violation> {
        self.state.rejected()
    }

    /// How much of everything there was.
    pub fn counts(&self) -> Counts {
        self.state.counts()
    }

    /// Waits until `n` messages and calls were accepted since the start, and returns all.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the error says what came instead.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<Received>, Missing> {
        self.wait_until(limit, |counts| counts.accepted >= n).await?;
        Ok(self.received())
    }

    /// Waits until the counts are as wished, and returns them.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the error says how far they got.
    pub async fn wait_until(&self, limit: Duration, wished: impl FnMut(&Counts) -> bool) -> Result<Counts, Missing> {
        let mut changes = self.state.changes();
        if let Ok(Ok(counts)) = timeout(limit, changes.wait_for(wished)).await {
            return Ok(*counts);
        }
        Err(Missing { counts: self.counts(), rejected: self.rejected() })
    }

    /// Where the public URL leads: connections to any other place than the one of a `StatusCallback` itself are made to
    /// this address, as a proxy that ends TLS makes them.
    pub fn callbacks_go_to(&self, address: SocketAddr) {
        self.state.set_proxy(address);
    }

    /// Reports what became of a message or call to where its request said, and answers the HTTP status.
    ///
    /// # Errors
    /// When there is nowhere to report to, or nobody there.
    pub async fn report(&self, received: &Received, status: &str, error_code: Option<u32>) -> io::Result<u16> {
        self.report_signed_by(self.token(), received, status, error_code).await
    }

    /// The same with another token: a forgery.
    ///
    /// # Errors
    /// As [`PhoneService::report`].
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

/// What was waited for did not come.
#[derive(Clone, Debug)]
pub struct Missing {
    /// How far it got.
    pub counts: Counts,
    /// The requests that broke a rule, in their order.
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
