//! Performs the decisions of jobs: commits plans, publishes what follows, records outcomes.
//!
//! One commit holds the run and everything that follows from it; then the children are published; only then does
//! `pipeline::settle` acknowledge the message. The redelivery of the same sequence, or [`reconcile`], finishes after a
//! stop between two steps.

mod admission;
mod commit;
pub mod counts;
mod delay;
pub mod events;
mod journal;
mod maintenance;
pub mod park;
pub mod pauses;
pub mod publish;
pub mod reconcile;
mod record;
pub mod restore;
pub mod shortages;
pub mod storage;
pub mod submit;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};

use self::journal::{Journal, Journaled};
pub use self::{
    admission::{Admission, Admitted, Death, Patience, silence},
    commit::{CarriedOut, PlannedNotification},
    record::Written,
};
pub use crate::group::Refused;
use crate::{
    clock::{Clock, Random},
    group::{GROUP, Group, JOBS, batch},
    health::Health,
    reads::Reads,
    store::{
        ClaimAsk, Claimed, Commit, CommitOutcome, DelayAnswer, DelayAsk, FailedRun, LedgerEntry, RunAsk, RunRecord,
        Store,
    },
};

/// That of the shipped queues.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The effects of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    store: Store,
    context: jetstream::Context,
    clock: Clock,
    /// Unique name in claims.
    worker: Arc<str>,
    /// Age of a claim whose worker counts as dead ([`silence`]).
    patience: TimeDelta,
    look_ups: Group<LookUps>,
    commits: Group<Journaled<Commits>>,
    published: Group<ChildrenPublished>,
    failures: Group<Journaled<RunFailures>>,
    claims: Group<Claims>,
    ledger: Group<Journaled<Ledger>>,
    delays: Group<Journaled<Delays>>,
    due: Group<Journaled<Due>>,
    reads: Reads,
    journal: Journal,
}

batch!(LookUps("look_ups", WRITES = false): RunAsk => Option<RunRecord>, look_up_runs);
batch!(Commits("commits"): Commit => CommitOutcome, commit_or_find);
batch!(ChildrenPublished("published", REST = Duration::from_millis(50)): String => (), children_published);
batch!(RunFailures("failures"): FailedRun => bool, record_run_failures);
batch!(Claims("claims"): ClaimAsk => Claimed, claim_deliveries);
batch!(Ledger("ledger"): LedgerEntry => bool, record_deliveries);
batch!(Delays("delays"): DelayAsk => DelayAnswer, delay);
// Apart: a flood of new ones does not delay what is due.
batch!(Due("due"): DelayAsk => DelayAnswer, delay);

impl Effects {
    /// Starts the groups.
    #[must_use]
    pub fn start(store: &Store, context: jetstream::Context, clock: Clock, health: &Arc<Health>) -> Self {
        let journal = Journal::start(context.clone(), Arc::clone(health));
        Self::with(store, context, clock, health, journal)
    }

    fn with(store: &Store, context: jetstream::Context, clock: Clock, health: &Arc<Health>, journal: Journal) -> Self {
        Self {
            worker: Random::system().uuid(clock.now()).to_string().into(),
            patience: silence(ACK_WAIT),
            context,
            clock,
            look_ups: Group::start(LookUps(store.clone()), GROUP, Arc::clone(health)),
            commits: journal.group(Commits(store.clone()), JOBS, health),
            published: Group::start(ChildrenPublished(store.clone()), GROUP, Arc::clone(health)),
            failures: journal.group(RunFailures(store.clone()), GROUP, health),
            claims: Group::start(Claims(store.clone()), GROUP, Arc::clone(health)),
            ledger: journal.group(Ledger(store.clone()), GROUP, health),
            delays: journal.group(Delays(store.clone()), GROUP, health),
            due: journal.group(Due(store.clone()), GROUP, health),
            reads: Reads::start(store, health),
            store: store.clone(),
            journal,
        }
    }

    /// The name of this worker in claims.
    #[must_use]
    pub fn worker(&self) -> &Arc<str> {
        &self.worker
    }

    /// Sets the `ack_wait` of the notification queues. Defaults to 30 s.
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { patience: silence(ack_wait), ..self }
    }

    /// Waits until a failover of Postgres cannot lose what was written until now, as far as that can be known. Before an
    /// acknowledgement.
    pub async fn is_journaled(&self) {
        self.journal.is_written().await;
    }

    /// For messages that belong to no plan.
    #[must_use]
    pub fn context(&self) -> &jetstream::Context {
        &self.context
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Postgres.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Grouped reads.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }
}
