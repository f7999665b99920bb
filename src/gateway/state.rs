//! What all requests share.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{access::Access, job::Reader, problem::Problem, waits::Waits};
use crate::{
    clock::{Clock, Random},
    config::GatewayConfig,
    health::{Health, NATS, Part},
    jobs,
    nats::JetStream,
    store::Store,
};

/// KiB of bodies in memory at a time.
const BODIES: usize = 64 * 1024;

/// Shared by all requests. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// See [`Gateway`].
pub struct Shared {
    /// A pool of its own.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The tokens.
    pub access: Access,
    /// Reads jobs.
    pub reader: Reader,
    /// Whoever waits for the end of a job.
    pub waits: Waits,
    /// Parts and metrics.
    pub health: Arc<Health>,
    /// Permits for KiB of bodies.
    pub bodies: Semaphore,
    /// Ends what waits.
    pub stop: CancellationToken,
    nats: Arc<OnceLock<JetStream>>,
}

impl Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The servers and settings of a gateway.
pub struct Parts {
    /// A pool of its own.
    pub store: Store,
    /// NATS, once it was reached.
    pub nats: Arc<OnceLock<JetStream>>,
    /// Parts and metrics.
    pub health: Arc<Health>,
    /// The time.
    pub clock: Clock,
    /// Settings.
    pub config: GatewayConfig,
}

impl Gateway {
    /// Serves until `stop`.
    pub fn new(parts: Parts, stop: CancellationToken) -> Self {
        let Parts { store, nats, health, clock, config } = parts;
        Self(Arc::new(Shared {
            access: Access::new(store.clone(), clock.clone(), config.applications),
            reader: Reader::new(jobs::registry(), clock.clone(), Random::system()),
            waits: Waits::start(store.clone(), stop.clone()),
            bodies: Semaphore::new(BODIES),
            store,
            clock,
            health,
            stop,
            nats,
        }))
    }

    /// `JetStream`.
    ///
    /// # Errors
    /// If NATS is away: the client would keep what is published, and nobody would know.
    pub fn jetstream(&self) -> Result<&JetStream, Problem> {
        let is_down = matches!(self.health.parts().get(NATS), Some(Part::Down(_)));
        let reached = self.nats.get().filter(|_| !is_down);
        reached.ok_or_else(|| Problem::unavailable("NATS is not reached: nothing was published"))
    }
}
