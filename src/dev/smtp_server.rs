//! A strict mail server on loopback, for tests.
//!
//! It speaks SMTP (RFC 5321) with TLS, STARTTLS or neither, and optionally a password. It refuses commands out of
//! order or too long, line ends other than CRLF, unknown parameters and missing headers. Unlike server libraries, it
//! can fall silent or hang up between a mail and its answer.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use carebell::dev::smtp_server::{Behaviour, Protection, SmtpServer, Step};
//! use std::time::Duration;
//!
//! let server = SmtpServer::start(Protection::Tls, Some(("ops", "s3cret"))).await?;
//! server.behave(Behaviour::answer(Step::Rcpt, "450 4.7.1 Come back later"));
//! // … send a mail to it by `server.url()`, twice …
//! let mails = server.wait_for(1, Duration::from_secs(5)).await?;
//! assert_eq!(mails[0].to, ["ana@example.org"]);
//! # Ok(()) }
//! ```

mod behaviour;
mod session;
mod state;
mod syntax;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use self::{
    behaviour::{Behaviour, Step},
    state::{Counts, ReceivedMail},
};
use self::{session::Session, state::State};
use super::certificates;

const BACKLOG: u32 = 1024;

/// Protection of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// TLS from the first byte (RFC 8314).
    Tls,
    /// STARTTLS required (RFC 3207).
    StartTls,
    /// None.
    None,
}

/// A running server. Dropping it closes its port and connections.
pub struct SmtpServer {
    state: Arc<State>,
    protection: Protection,
    user: Option<(String, String)>,
    tls: TlsAcceptor,
    ca_pem: String,
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    /// Keeps the port while stopped: bound, but not listening.
    held: Option<TcpSocket>,
}

impl SmtpServer {
    /// Starts on a free loopback port. Requires `user`, a name and a password, if given.
    ///
    /// # Errors
    /// If no port can be bound or no certificate made.
    pub async fn start(protection: Protection, user: Option<(&str, &str)>) -> io::Result<Self> {
        let (tls, ca_pem) = certificates::localhost(&[])?;
        let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(user.clone()));
        let mut server = Self { state, protection, user, tls, ca_pem, address, running: None, held: None };
        server.run(listener);
        Ok(server)
    }

    fn run(&mut self, listener: TcpListener) {
        let stop = CancellationToken::new();
        let serving = serve(listener, self.protection, self.tls.clone(), Arc::clone(&self.state), stop.clone());
        self.running = Some((stop, tokio::spawn(serving)));
    }

    /// Closes the port and every connection.
    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            let _ = task.await;
            self.held = hold(self.address).ok();
        }
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub async fn start_again(&mut self) -> io::Result<()> {
        self.stop().await;
        let listener = match self.held.take() {
            Some(socket) => socket.listen(BACKLOG)?,
            None => TcpListener::bind(self.address).await?,
        };
        self.run(listener);
        Ok(())
    }

    /// `SMTP_URL`, with user and password.
    pub fn url(&self) -> String {
        self.url_of(self.user.as_ref().map(|(name, password)| (name.as_str(), password.as_str())))
    }

    /// `SMTP_URL` with other credentials or none.
    pub fn url_of(&self, user: Option<(&str, &str)>) -> String {
        let user = user.map_or(String::new(), |(name, password)| format!("{name}:{password}@"));
        let port = self.address.port();
        match self.protection {
            Protection::Tls => format!("smtps://{user}localhost:{port}"),
            Protection::StartTls => format!("smtp://{user}localhost:{port}"),
            Protection::None => format!("smtp://{user}localhost:{port}?tls=none"),
        }
    }

    /// CA certificate in PEM, for `SMTP_CA_FILE`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Sets the behaviour of the next client at that step. Calls queue up.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behave_times(1, behaviour);
    }

    /// Likewise for the next `times` clients.
    pub fn behave_times(&self, times: usize, behaviour: Behaviour) {
        self.state.plan(times, behaviour);
    }

    /// Sets the default behaviour; `None` resets it.
    pub fn behave_always(&self, behaviour: Option<Behaviour>) {
        self.state.plan_always(behaviour);
    }

    /// Answers mail to this address like this: `550 5.1.1 No such user`.
    pub fn refuse(&self, recipient: &str, reply: &str) {
        self.state.refuse(recipient, reply);
    }

    /// Forgets what came and what was planned. Counts go on.
    pub fn forget(&self) {
        self.state.forget();
    }

    /// Accepted mails, in order.
    pub fn received(&self) -> Vec<ReceivedMail> {
        self.state.received()
    }

    /// Broken rules, in order.
    pub fn violations(&self) -> Vec<String> {
        self.state.violations()
    }

    /// Current counts.
    pub fn counts(&self) -> Counts {
        self.state.counts()
    }

    /// Waits for `n` accepted mails, and returns all.
    ///
    /// # Errors
    /// After `limit`, with what came instead.
    pub async fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<ReceivedMail>, Missing> {
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
        Err(Missing { counts: self.counts(), violations: self.violations() })
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.running {
            stop.cancel();
        }
    }
}

impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpServer")
            .field("address", &self.address)
            .field("protection", &self.protection)
            .finish_non_exhaustive()
    }
}

/// A wait timed out.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Counts so far.
    pub counts: Counts,
    /// Broken rules, in order.
    pub violations: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { connections, transactions, accepted, met } = self.counts;
        write!(f, "{accepted} mails accepted of {transactions} over {connections} connections, {met} met a behaviour")?;
        self.violations.iter().take(3).try_for_each(|violation| write!(f, "; {violation}"))
    }
}

impl std::error::Error for Missing {}

/// A bound socket that does not listen yet.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Recently closed connections must not block the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(
    listener: TcpListener,
    protection: Protection,
    tls: TlsAcceptor,
    state: Arc<State>,
    stop: CancellationToken,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        connections.spawn(connection(stream, protection, tls.clone(), Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    connections.shutdown().await;
}

/// Hanging up breaks no rule.
async fn connection(stream: TcpStream, protection: Protection, tls: TlsAcceptor, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    state.connected();
    let ended = match protection {
        Protection::None => Session::new(stream, &state, true).run().await.map(drop),
        Protection::Tls => {
            // The client reports failed handshakes.
            let Ok(stream) = tls.accept(stream).await else { return };
            Session::new(stream, &state, true).run().await.map(drop)
        }
        Protection::StartTls => match Session::new(stream, &state, false).run().await {
            Ok(Some(stream)) => {
                let Ok(stream) = tls.accept(stream).await else { return };
                Session::new(stream, &state, true).without_greeting().run().await.map(drop)
            }
            other => other.map(drop),
        },
    };
    drop(ended);
}
