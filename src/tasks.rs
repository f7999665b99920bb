//! Carries out jobs of declared kinds by their HTTP endpoints.
//!
//! A job is a signed request (`request`), whose answer has one meaning (`answer`). Where an endpoint may answer later, or
//! must not be asked twice, a row is written before the request (`store/tasks.rs`), and `state` says what a row means.
//! Endpoints report to `desk`; `watch` wakes what a lost worker has not woken, and tells endpoints of cancellations.

mod answer;
mod carry;
mod desk;
mod effects;
mod end;
mod request;
mod state;
mod told;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

pub use self::{desk::routes, watch::run as watch};
use crate::{
    channels::{
        SettingsError,
        breaker::{Breaker, BreakerPolicy, Concurrency},
        endpoint::{self, Settings},
    },
    clock::Clock,
    declared::{AfterUnknown, Carrier, Declaration, Endpoint, Http, Mode},
    job::{Context, Failure},
    pipeline::{Registry, registry::Work},
    telemetry::metrics::Metrics,
};

/// The declared kinds of a process, and their endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    kinds: HashMap<&'static str, Arc<Task>>,
    /// Reads the jobs that endpoints ask for: it knows these kinds too, so it comes later.
    registry: OnceLock<Registry>,
}

/// A declared kind.
struct Task {
    declaration: Arc<Declaration>,
    mode: Mode,
    after_unknown: AfterUnknown,
    endpoint: endpoint::Endpoint,
    breaker: Breaker,
    metrics: Metrics,
}

/// A kind that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// A setting of its endpoint is wrong.
    #[error("{kind}: [http] {why}")]
    Settings {
        /// The kind.
        kind: &'static str,
        /// The setting, and what it should be.
        why: SettingsError,
    },
    /// Its endpoint is a service of NATS.
    #[error("{0}: [nats] is not carried out by this version: declare an HTTP endpoint, [http]")]
    Nats(&'static str),
}

impl Tasks {
    /// Checks the endpoints of these declarations, and reads their secrets. Connects to nothing.
    ///
    /// # Errors
    /// Names the kind and the setting.
    pub fn new(
        declarations: impl IntoIterator<Item = Arc<Declaration>>,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, TasksError> {
        let mut kinds = HashMap::new();
        for declaration in declarations {
            let kind = declaration.kind.name;
            let http = match &declaration.endpoint {
                Endpoint::Http(http) => http.clone(),
                Endpoint::Nats(_) => return Err(TasksError::Nats(kind)),
            };
            let Http { url, secret_file, mode, after_unknown, ca_file, allowed_hosts } = http;
            let may_repeat = after_unknown == AfterUnknown::SendAgain;
            let settings = Settings { url, secret_file, ca_file, allowed_hosts, may_repeat };
            let endpoint = endpoint::Endpoint::new(settings, clock.clone());
            let endpoint = endpoint.map_err(|why| TasksError::Settings { kind, why })?;
            let breaker = Breaker::new(BreakerPolicy::default(), Concurrency::UNLIMITED, clock.clone());
            let metrics = metrics.clone();
            kinds.insert(kind, Arc::new(Task { declaration, mode, after_unknown, endpoint, breaker, metrics }));
        }
        Ok(Self(Arc::new(Inner { kinds, registry: OnceLock::new() })))
    }

    /// Sets the kinds that endpoints may ask for. Before the first job is carried out.
    pub fn know(&self, registry: &Registry) {
        let _ = self.0.registry.set(registry.clone());
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.kinds.is_empty()
    }

    fn registry(&self) -> &Registry {
        self.0.registry.get_or_init(Registry::default)
    }

    fn task(&self, kind: &str) -> Option<&Arc<Task>> {
        self.0.kinds.get(kind)
    }
}

impl Carrier for Tasks {
    fn carry(&self, declaration: Arc<Declaration>, body: Bytes, cx: Context) -> Work {
        let tasks = self.clone();
        Box::pin(async move {
            let Some(task) = tasks.task(declaration.kind.name) else {
                return Err(Failure::permanent("this worker has no endpoint of the kind"));
            };
            task.carry(tasks.registry(), body, &cx).await
        })
    }
}

impl Task {
    /// Whether a row is written before its requests.
    fn has_rows(&self) -> bool {
        self.mode != Mode::Sync || self.after_unknown == AfterUnknown::Stop || self.declaration.in_flight.is_some()
    }
}
