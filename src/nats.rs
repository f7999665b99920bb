//! Connection to NATS, reopened by the client, and reported to [`Health`].

mod probe;

use std::{
    error::Error as _,
    future::ready,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{ConnectErrorKind, ConnectOptions, Event, jetstream};
use tokio::sync::{broadcast, watch};

pub use self::probe::{PermissionProbe, ProbeReply};
use crate::{
    config::{NatsConfig, NatsUser},
    health::{Health, NATS, Part},
};

/// Timeout of `JetStream` API calls and of publish acknowledgements.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// After the third of these without an answer, the client takes another server: five seconds for one that is frozen or
/// without power, whose connections nobody closes.
const PING_INTERVAL: Duration = Duration::from_millis(1500);

/// For each address of a server, with the handshake. With the pings, a frozen server holds a client for eight seconds
/// even if the client tries it first again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Publishes in flight per process, to bound memory.
const PUBLISHES_IN_FLIGHT: usize = 5000;

const REFUSALS: usize = 256;

/// The first version with message schedules.
const LEAST: (i64, i64, i64) = (2, 12, 0);

/// `JetStream`, for code that passes it on.
pub type JetStream = jetstream::Context;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Unreadable credentials file.
    #[error("NATS_CREDS cannot be read: {0}")]
    Creds(std::io::Error),
    /// No answer, or no known protocol.
    #[error("NATS_URL: {0}")]
    Unreachable(String),
    /// TLS is required, and the server offers none.
    #[error("NATS_URL: the server offers no TLS, which is required off this machine")]
    NoTls,
    /// Unknown user.
    #[error("NATS_URL: the server refuses the user or the password")]
    User,
    /// No message schedules.
    #[error("NATS_URL: the server is version {0}; Carebell needs 2.12 or later")]
    Old(String),
}

/// A connection and its permission errors.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client.
    pub client: async_nats::Client,
    refusals: broadcast::Sender<String>,
}

/// Connects once.
///
/// # Errors
/// If the server is unreachable, refuses the credentials or is older than 2.12.
pub async fn connect(config: &NatsConfig, health: &Arc<Health>) -> Result<async_nats::Client, ConnectError> {
    let connection = open(config, health).await?;
    connection.check_version()?;
    Ok(connection.client)
}

/// Connects once, to a server of any version.
///
/// # Errors
/// If the server is unreachable or refuses the credentials.
pub async fn open(config: &NatsConfig, health: &Arc<Health>) -> Result<Connection, ConnectError> {
    let listener = Arc::clone(health);
    let (refusals, _) = broadcast::channel(REFUSALS);
    let refused = refusals.clone();
    let options = options(config).await?.event_callback(move |event| {
        let (health, refused) = (Arc::clone(&listener), refused.clone());
        async move { hear(&health, &refused, &event) }
    });
    let client = dial(config, options).await?;
    health.set(NATS, Part::Up);
    Ok(Connection { client, refusals })
}

/// Where a queue's messages are pulled from.
#[derive(Clone, Debug)]
pub struct PullConnection {
    /// For the pulls, and for nothing else.
    pub context: JetStream,
    /// Changes with each connection, after which earlier pulls may be lost.
    pub connections: watch::Receiver<u64>,
}

/// Connects once, for the pulls of one queue of what applications publish. A message whose headers cannot be parsed
/// ends its connection, or the client for good (async-nats 0.51 panics on a carriage return in a value), but no other
/// queue's.
///
/// # Errors
/// If the server is unreachable or refuses the credentials.
pub async fn open_for_pulls(config: &NatsConfig) -> Result<PullConnection, ConnectError> {
    let (opened, connections) = watch::channel(0);
    let is_first = AtomicBool::new(true);
    let options = options(config).await?.event_callback(move |event| {
        if matches!(event, Event::Connected) && !is_first.swap(false, Ordering::Relaxed) {
            opened.send_modify(|count| *count += 1);
        }
        ready(())
    });
    let client = dial(config, options).await?;
    Ok(PullConnection { context: jetstream(&client), connections })
}

async fn options(config: &NatsConfig) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .name("carebell")
        .custom_inbox_prefix(&config.inbox_prefix)
        .require_tls(config.requires_tls)
        .connection_timeout(CONNECTION_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(reconnect_delay);
    if config.is_local {
        options = options.ignore_discovered_servers();
    }
    if let Some(roots) = &config.ca_file {
        options = options.add_root_certificates(roots.clone());
    }
    if let Some(creds) = &config.creds {
        options = options.credentials_file(creds).await.map_err(ConnectError::Creds)?;
    }
    // Not in the URLs, which the client writes to its debug log.
    Ok(match &config.user {
        Some(NatsUser::Password { name, password }) => options.user_and_password(name.clone(), password.clone()),
        Some(NatsUser::Token(token)) => options.token(token.clone()),
        None => options,
    })
}

async fn dial(config: &NatsConfig, options: ConnectOptions) -> Result<async_nats::Client, ConnectError> {
    let servers: Vec<&str> = config.servers.iter().map(String::as_str).collect();
    options.connect(servers).await.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation => ConnectError::User,
        _ if is_no_tls(&error) => ConnectError::NoTls,
        _ => ConnectError::Unreachable(format!("no connection to {}: {}", config.servers.join(", "), why(&error))),
    })
}

/// The cause: the error's own text may be no more than `IO error`.
fn why(error: &async_nats::ConnectError) -> String {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    let text = error.to_string();
    if cause.is_empty() || text.contains(&cause) { text } else { format!("{text}: {cause}") }
}

/// Whether the server answered a handshake in words.
fn is_no_tls(error: &async_nats::ConnectError) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let tls = io.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

impl Connection {
    /// Version of the server.
    #[must_use]
    pub fn version(&self) -> String {
        self.client.server_info().version
    }

    /// Name of the server, if it is one of a cluster.
    #[must_use]
    pub fn node(&self) -> Option<String> {
        let server = self.client.server_info();
        server.cluster.map(|_| server.server_name)
    }

    /// Checks that the server is new enough.
    ///
    /// # Errors
    /// If the server is too old.
    pub fn check_version(&self) -> Result<(), ConnectError> {
        let (major, minor, patch) = LEAST;
        if self.client.is_server_compatible(major, minor, patch) {
            return Ok(());
        }
        Err(ConnectError::Old(self.version()))
    }
}

/// None at first, then doubled from 200 ms to 3.2 s. Used before the first attempt too.
fn reconnect_delay(attempts: usize) -> Duration {
    match attempts {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(100 << (more - 1).min(5)),
    }
}

/// `JetStream` over a connection.
#[must_use]
pub fn jetstream(client: &async_nats::Client) -> jetstream::Context {
    jetstream::context::ContextBuilder::new()
        .timeout(API_TIMEOUT)
        .ack_timeout(API_TIMEOUT)
        .max_ack_inflight(PUBLISHES_IN_FLIGHT)
        .backpressure_on_inflight(true)
        .build(client.clone())
}

fn hear(health: &Health, refusals: &broadcast::Sender<String>, event: &Event) {
    match event {
        Event::Connected => health.connected(),
        Event::Disconnected => health.set(NATS, Part::Down("disconnected, trying again".into())),
        Event::ServerError(error) if is_answer(refusals, &error.to_string()) => {}
        // Otherwise a denied publish shows only as a missing acknowledgement.
        Event::ServerError(error) => tracing::error!("NATS refuses: {error}"),
        Event::ClientError(error) => tracing::warn!("the NATS client: {error}"),
        Event::LameDuckMode => tracing::info!("this NATS server is about to stop; the client moves to another"),
        _ => {}
    }
}

/// During a permission check, a refusal is an answer and needs no log line.
fn is_answer(refusals: &broadcast::Sender<String>, error: &str) -> bool {
    error.contains("Permissions Violation") && refusals.send(error.to_owned()).is_ok()
}
