//! What all requests share.

use std::{
    net::IpAddr,
    ops::Deref,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
};

use ipnet::IpNet;

use super::{
    access::Access,
    failures::Failures,
    oidc::Oidc,
    problem::Problem,
    proxy::Proxy,
    secret,
    snapshot::{Look, Snapshot, Snapshots},
};
use crate::{
    channels::SettingsError, clock::Clock, config::AdminConfig, nats::JetStream, store::Store, streams::Streams,
    telemetry::console::ConsoleMetrics,
};

/// Shared by all requests. Cheap to clone.
#[derive(Clone)]
pub struct Admin(Arc<Shared>);

/// See [`Admin`].
pub struct Shared {
    /// A pool of its own.
    pub store: Store,
    /// NATS, once it was reached.
    pub nats: Arc<OnceLock<JetStream>>,
    /// Streams and queues as declared.
    pub streams: Streams,
    /// The time.
    pub clock: Clock,
    /// The need of each route.
    pub access: Access,
    /// SHA-256 of a way in that is good once.
    pub ticket: Mutex<Option<Vec<u8>>>,
    /// Failed sign-ins.
    pub failures: Failures,
    /// What all pages show.
    pub snapshots: Snapshots,
    /// Pages that are kept current.
    pub listeners: Arc<AtomicUsize>,
    /// If they are served.
    pub metrics: Option<ConsoleMetrics>,
    /// SHA-256 of `ADMIN_TOKEN`.
    pub bootstrap: Option<Vec<u8>>,
    /// Whether browsers reach it by TLS.
    pub is_secure: bool,
    /// Proxies whose headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Sign-in by one of them.
    pub proxy: Option<Proxy>,
    /// Sign-in by `OpenID` Connect.
    pub oidc: Option<Oidc>,
    /// Providers that are known by their settings.
    pub providers: Vec<String>,
}

impl Shared {
    /// Whether an address is that of a proxy whose headers are believed.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Deref for Admin {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The servers and settings of an [`Admin`].
pub struct Parts {
    /// A pool of its own.
    pub store: Store,
    /// NATS, once it was reached.
    pub nats: Arc<OnceLock<JetStream>>,
    /// Streams and queues as declared.
    pub streams: Streams,
    /// The time.
    pub clock: Clock,
    /// Settings.
    pub config: AdminConfig,
    /// A way in of role admin that is good once ([`ticket_path`](super::ticket_path)).
    pub ticket: Option<String>,
}

impl Admin {
    /// For these routes.
    ///
    /// # Errors
    /// A file of certificates that cannot be read.
    pub fn new(parts: Parts, access: Access) -> Result<Self, SettingsError> {
        let Parts { store, nats, streams, clock, config, ticket } = parts;
        let oidc = config.oidc.map(|settings| Oidc::new(settings, clock.clone())).transpose()?;
        Ok(Self(Arc::new(Shared {
            store,
            nats,
            streams,
            clock,
            access,
            ticket: Mutex::new(ticket.as_deref().map(secret::hash)),
            failures: Failures::default(),
            snapshots: Snapshots::default(),
            listeners: Arc::default(),
            metrics: config.metrics_port.map(|_| ConsoleMetrics::new()),
            bootstrap: config.token.as_deref().map(secret::hash),
            is_secure: config.url.is_some_and(|url| url.scheme() == "https"),
            trusted_proxies: config.trusted_proxies,
            proxy: config.proxy.map(Proxy::new),
            oidc,
            providers: config.providers,
        })))
    }

    /// How things are, a few seconds old at most.
    pub async fn snapshot(&self) -> Arc<Snapshot> {
        let Shared { store, nats, streams, clock, .. } = &**self;
        self.snapshots.get(&Look { store, nats: nats.get(), streams, clock }).await
    }

    /// `JetStream`.
    ///
    /// # Errors
    /// If it was not reached yet.
    pub fn jetstream(&self) -> Result<&JetStream, Problem> {
        self.nats.get().ok_or_else(|| Problem::unavailable("NATS", "it was not reached yet; it is tried again"))
    }
}
