//! Performs the decisions of jobs: commits plans, publishes what follows, records outcomes.
//!
//! The order is the promise. One commit holds the run and everything that follows from it; then the children are
//! published; only then does `pipeline::settle` acknowledge the message. A stop between two steps is finished by the
//! redelivery of the same sequence, or by [`reconcile`].

mod admission;
mod commit;
mod maintenance;
pub mod park;
pub mod publish;
pub mod reconcile;
mod record;
pub mod shortages;
pub mod submit;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};

pub use self::{
    admission::{Admission, Admitted, Death},
    commit::{CarriedOut, PlannedNotification},
    record::Written,
};
pub use crate::group::Refused;
use crate::{
    clock::{Clock, Random},
    group::{GROUP, Group, JOBS, batch},
    health::Health,
    reads::Reads,
    store::{ClaimAsk, Claimed, Commit, CommitOutcome, FailedRun, LedgerEntry, RunAsk, RunRecord, Store},
};

/// The effects of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    store: Store,
    context: jetstream::Context,
    clock: Clock,
    /// This worker's name in claims, different from all others.
    worker: Arc<str>,
    /// The age of a claim whose worker has been silent for an `ack_wait`: half of that.
    patience: TimeDelta,
    look_ups: Group<LookUps>,
    commits: Group<Commits>,
    published: Group<ChildrenPublished>,
    failures: Group<RunFailures>,
    claims: Group<Claims>,
    ledger: Group<Ledger>,
    reads: Reads,
}

batch!(LookUps("look_ups"): RunAsk => Option<RunRecord>, look_up_runs);
batch!(Commits("commits"): Commit => CommitOutcome, commit);
batch!(ChildrenPublished("published", REST = Duration::from_millis(50)): String => (), children_published);
batch!(RunFailures("failures"): FailedRun => bool, record_run_failures);
batch!(Claims("claims"): ClaimAsk => Claimed, claim_deliveries);
batch!(Ledger("ledger"): LedgerEntry => bool, record_deliveries);

impl Effects {
    /// Starts the groups.
    #[must_use]
    pub fn start(store: &Store, context: jetstream::Context, clock: Clock, health: &Arc<Health>) -> Self {
        Self {
            worker: Random::system().uuid(clock.now()).to_string().into(),
            patience: TimeDelta::seconds(15),
            context,
            clock,
            look_ups: Group::start(LookUps(store.clone()), GROUP, Arc::clone(health)),
            commits: Group::start(Commits(store.clone()), JOBS, Arc::clone(health)),
            published: Group::start(ChildrenPublished(store.clone()), GROUP, Arc::clone(health)),
            failures: Group::start(RunFailures(store.clone()), GROUP, Arc::clone(health)),
            claims: Group::start(Claims(store.clone()), GROUP, Arc::clone(health)),
            ledger: Group::start(Ledger(store.clone()), GROUP, Arc::clone(health)),
            reads: Reads::start(store, health),
            store: store.clone(),
        }
    }

    /// Sets the `ack_wait` of the notification queues. Defaults to 30 s.
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { patience: TimeDelta::from_std(ack_wait / 2).unwrap_or(TimeDelta::MAX), ..self }
    }

    /// `JetStream`, for messages that belong to no plan.
    #[must_use]
    pub fn context(&self) -> &jetstream::Context {
        &self.context
    }

    /// The present instant.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Postgres.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The grouped reads of jobs.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }
}
