//! What all requests share.

use std::{
    net::IpAddr,
    ops::Deref,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
};

use super::{
    access::Access,
    failures::Failures,
    problem::Problem,
    secret,
    snapshot::{Look, Snapshot, Snapshots},
};
use crate::{clock::Clock, config::AdminConfig, nats::JetStream, store::Store, streams::Streams};

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
    /// SHA-256 of `ADMIN_TOKEN`.
    pub bootstrap: Option<Vec<u8>>,
    /// Whether browsers reach it by TLS.
    pub is_secure: bool,
    /// Proxies whose headers are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Providers that are known by their settings.
    pub providers: Vec<String>,
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
    #[must_use]
    pub fn new(parts: Parts, access: Access) -> Self {
        let Parts { store, nats, streams, clock, config, ticket } = parts;
        Self(Arc::new(Shared {
            store,
            nats,
            streams,
            clock,
            access,
            ticket: Mutex::new(ticket.as_deref().map(secret::hash)),
            failures: Failures::default(),
            snapshots: Snapshots::default(),
            listeners: Arc::default(),
            bootstrap: config.token.as_deref().map(secret::hash),
            is_secure: config.url.is_some_and(|url| url.scheme() == "https"),
            trusted_proxies: config.trusted_proxies,
            providers: config.providers,
        }))
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
