//! Performs what jobs decided: looks records up, commits plans, publishes what follows, records what became of them.
//!
//! The order is the promise: one commit holds the run and all that follows from it; then the children are published;
//! only then is the message acknowledged, by `pipeline::settle`. A stop between any two steps is finished by the
//! redelivery of the same sequence, or by [`reconcile`].

pub mod park;
pub mod publish;
pub mod reconcile;
pub mod shortages;
pub mod submit;
mod upkeep;

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::jetstream;
use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;
use tokio::time::sleep;

pub use crate::group::Refused;
use crate::{
    checkpoint::{self, Step},
    clock::{Clock, Random},
    group::{GROUP, Group, JOBS, batch},
    health::Health,
    job::Meta,
    kind::Stage,
    plan::{DeadReason, Plan, PlannedDelivery, Reason},
    reads::Reads,
    store::{
        Child, Claim, ClaimAsk, Claimed, Commit, CommitOutcome, Committed, DirectClaims, FailedRun, LedgerEntry,
        LedgerRecord, RunAsk, RunRecord, RunState, Store, Verdict,
    },
    wire,
};

/// Between two tries to record an outcome that the database does not take.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// The effects of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    store: Store,
    context: jetstream::Context,
    clock: Clock,
    /// Tells this worker from all others, in claims.
    worker: Arc<str>,
    /// How old a claim must be whose worker was silent for an `ack_wait`: half of that.
    patience: TimeDelta,
    look_ups: Group<LookUps>,
    commits: Group<Commits>,
    published: Group<ChildrenPublished>,
    failures: Group<RunFailures>,
    claims: Group<Claims>,
    ledger: Group<Ledger>,
    reads: Reads,
}

/// Whether a job may run.
#[derive(Clone, Debug)]
pub enum Admission {
    /// It may.
    Run {
        /// Failures recorded so far.
        attempts: u32,
        /// The ledger row, where the job is a delivery.
        claim: Option<Box<Claim>>,
        /// When the first thing about the job was recorded.
        first: DateTime<Utc>,
    },
    /// There is nothing left to do: it ended before, in this state.
    Ended(String),
    /// It was recorded as dead under this very message, which is still to be dead-lettered.
    Dead(Death),
    /// It has to wait.
    Wait(DateTime<Utc>, Reason),
    /// It ends the workers that run it.
    Crashing {
        /// Failures recorded so far.
        attempts: u32,
    },
}

/// What came of a commit by which deliveries are claimed, or the next job is planned.
#[derive(Debug)]
pub struct CarriedOut {
    /// What came of the run.
    pub committed: Committed,
    /// Whether the job that was planned together with it was written.
    pub followed: bool,
    /// The messages of the deliveries that this worker has claimed: each is published only if somebody else has to send it,
    /// and then [`Effects::note_published`] ends the run that planned them.
    pub claimed: Vec<Child>,
    /// The messages that are to be published in any case.
    pub others: Vec<Child>,
}

/// Whether what a worker says of a job is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is.
    Yes,
    /// It is not: the job has ended, or another worker has it, because this one was silent for too long.
    Superseded,
}

/// Why a job is dead, for its dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The reason.
    pub reason: DeadReason,
    /// What the last failure said.
    pub error: String,
    /// Failures recorded.
    pub attempts: u32,
    /// When the first thing about the job was recorded.
    pub first: DateTime<Utc>,
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

    /// The same where the queues of notifications have another `ack_wait` than the usual 30 s.
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { patience: TimeDelta::from_std(ack_wait / 2).unwrap_or(TimeDelta::MAX), ..self }
    }

    /// `JetStream`, for what is published outside of a plan.
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

    /// What jobs read in groups.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Whether a job may run. A delivery is claimed by this; a run that is committed already is brought to its end.
    ///
    /// # Errors
    /// If the look-up is refused.
    pub async fn admit(&self, meta: &Meta, ack_wait: Duration) -> Result<Admission, Refused> {
        match meta.kind.stage {
            Stage::Delivery => self.admit_delivery(meta, ack_wait).await,
            _ if Self::takes_for_new(meta) => Ok(Admission::Run { attempts: 0, claim: None, first: meta.published }),
            Stage::Reminder | Stage::Notification | Stage::Maintenance => self.look_up(meta).await,
        }
    }

    /// Whether a job is admitted without a look at what is on record of it. Of a first delivery that is almost always
    /// nothing. Where it is not, the job's commit finds out; of a failure, [`Self::look_up`] says which attempt it was.
    /// Upkeep works before its commit, so that it is worth a look.
    #[must_use]
    pub fn takes_for_new(meta: &Meta) -> bool {
        matches!(meta.kind.stage, Stage::Reminder | Stage::Notification) && meta.delivered == 1 && !meta.resumed
    }

    /// What is on record of a run says whether it may run. One that is committed already is brought to its end.
    ///
    /// # Errors
    /// If the look-up is refused.
    pub async fn look_up(&self, meta: &Meta) -> Result<Admission, Refused> {
        self.look_up_and(false, meta).await
    }

    /// The same. Where the run is of this very message and not brought to its end, this worker may give up what it has
    /// claimed for it.
    async fn look_up_and(&self, gives_up: bool, meta: &Meta) -> Result<Admission, Refused> {
        let record = self.look_ups.ask(RunAsk { job_id: meta.job_id.clone() }).await?;
        let Some(record) = record else {
            if meta.delivered > crate::store::CRASHES {
                return Ok(Admission::Crashing { attempts: 0 });
            }
            return Ok(Admission::Run { attempts: 0, claim: None, first: meta.published });
        };
        let same_message = record.stream == meta.stream && record.sequence == meta.sequence;
        let attempts = u32::try_from(record.attempts).unwrap_or(0);
        let recorded = if same_message { record.recorded_delivery } else { 0 };
        match record.state.as_str() {
            "open" if meta.delivered - recorded > crate::store::CRASHES => Ok(Admission::Crashing { attempts }),
            "open" => Ok(Admission::Run { attempts, claim: None, first: record.created_at }),
            "dead" if same_message => Ok(Admission::Dead(Death {
                reason: record.reason.as_deref().and_then(DeadReason::parse).unwrap_or(DeadReason::Permanent),
                error: record.last_error.unwrap_or_default(),
                attempts,
                first: record.created_at,
            })),
            // Parked once more by a worker that was lost before it acknowledged: the message itself went on, and died.
            "dead" if meta.resumed => Ok(Admission::Ended(record.state)),
            "dead" if meta.delivered > crate::store::CRASHES => Ok(Admission::Crashing { attempts: 0 }),
            // Published again after it died: it has had no effect yet, so it runs, and counts afresh.
            "dead" => Ok(Admission::Run { attempts: 0, claim: None, first: meta.published }),
            _ => {
                let unfinished = if !same_message {
                    None
                } else if record.children_pending {
                    Some(meta.job_id.clone())
                } else if meta.kind.stage == Stage::Reminder {
                    self.store.pending_combined_run(&meta.root_id).await?
                } else {
                    None
                };
                if let Some(job_id) = unfinished {
                    if gives_up {
                        self.store.release_direct(&job_id, &self.worker).await?;
                    }
                    let children = self.pending_children(&job_id).await?;
                    self.publish(&job_id, &children).await;
                }
                Ok(Admission::Ended(record.state))
            }
        }
    }

    async fn admit_delivery(&self, meta: &Meta, ack_wait: Duration) -> Result<Admission, Refused> {
        let claimed = self.claims.ask(self.claim_ask(meta, ack_wait)).await?;
        Ok(match claimed {
            Claimed::Taken(claim) => {
                checkpoint::reached(Step::Claimed);
                Admission::Run {
                    attempts: u32::try_from(claim.attempts).unwrap_or(0),
                    first: claim.created_at,
                    claim: Some(claim),
                }
            }
            Claimed::Ended(state) => Admission::Ended(state),
            Claimed::Missing => Admission::Ended("missing".into()),
            Claimed::Busy(until) => Admission::Wait(until, Reason::InFlight),
            Claimed::Crashing { attempts } => Admission::Crashing { attempts: u32::try_from(attempts).unwrap_or(0) },
            Claimed::Dead { reason, error, attempts } => Admission::Dead(Death {
                reason: DeadReason::parse(&reason).unwrap_or(DeadReason::Permanent),
                error,
                attempts: u32::try_from(attempts).unwrap_or(0),
                first: meta.published,
            }),
        })
    }

    /// Carries out a plan: one commit, then its children published.
    ///
    /// # Errors
    /// If the database refuses the plan's data; then nothing of it was written.
    pub async fn carry_out(&self, meta: &Meta, not_after: DateTime<Utc>, plan: Plan) -> Result<Committed, Refused> {
        if meta.kind.stage == Stage::Delivery {
            checkpoint::reached(Step::Sent);
            return self.record_receipt(meta, plan).await;
        }
        // Boxed, for a delivery's state need not be as large as that of a commit.
        Box::pin(self.end(meta, not_after, RunState::Done, None, plan)).await
    }

    /// Commits the plan of a job whose next one is planned together with it, or of whose deliveries this worker sends
    /// `at_once` those of these ids, and leaves it to the caller to send and publish. None where another task of this worker
    /// may be sending them: it then gives up nothing that is claimed.
    ///
    /// # Errors
    /// As [`Self::carry_out`].
    pub async fn carry_out_at_once(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        plan: Plan,
        next: Option<(Meta, Plan)>,
        at_once: Option<HashSet<String>>,
    ) -> Result<CarriedOut, Refused> {
        let deliveries = match &next {
            Some((meta, plan)) => deliveries_of(meta, not_after, plan),
            None => deliveries_of(meta, not_after, &plan),
        };
        let gives_up = at_once.is_some();
        let claims = at_once.map(|ids| DirectClaims { worker: Arc::clone(&self.worker), ids });
        let mut commit = self.commit(meta, not_after, plan);
        if let Some((meta, plan)) = next {
            commit.next = Some(Box::new(Commit { direct: claims, ..self.commit(&meta, not_after, plan) }));
            // It needs no message.
            commit.children.clear();
        } else {
            commit.direct = claims;
        }
        let is_together = commit.next.is_some();
        checkpoint::reached(Step::Worked);
        let CommitOutcome { committed, followed, claimed } = self.commits.ask(commit).await?;
        checkpoint::reached(Step::Committed);
        if committed == Committed::Duplicate {
            // Perhaps a commit of this very message, whose answer was lost: then nobody sends what it claimed.
            self.look_up_and(gives_up, meta).await?;
        }
        let is_written = committed == Committed::Fresh && (followed || !is_together);
        let (claimed, mut others): (Vec<Child>, Vec<Child>) =
            deliveries.into_iter().partition(|child| claimed.contains(&child.job_id));
        if !is_written {
            others.clear();
        }
        Ok(CarriedOut { committed, followed, claimed, others })
    }

    /// Has the deliveries that this worker claimed as it planned them sent by whoever gets their messages.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn give_up_at_once(&self, job_id: &str, claimed: &[Child]) -> Result<(), Refused> {
        self.store.release_direct(job_id, &self.worker).await?;
        self.publish(job_id, claimed).await;
        Ok(())
    }

    /// Ends a run: one commit, then its children published.
    async fn end(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        state: RunState,
        reason: Option<&'static str>,
        plan: Plan,
    ) -> Result<Committed, Refused> {
        let deliveries = deliveries_of(meta, not_after, &plan);
        let commit = Commit { state, reason, ..self.commit(meta, not_after, plan) };
        let mut children = commit.children.clone();
        children.extend(deliveries);
        checkpoint::reached(Step::Worked);
        let committed = self.commits.ask(commit).await?.committed;
        checkpoint::reached(Step::Committed);
        match committed {
            Committed::Fresh => self.publish(&meta.job_id, &children).await,
            Committed::MarkTaken => {}
            // Perhaps a commit of this very message, whose answer was lost: then its children are still to be published.
            Committed::Duplicate => drop(self.look_up(meta).await?),
        }
        Ok(committed)
    }

    fn commit(&self, meta: &Meta, not_after: DateTime<Utc>, plan: Plan) -> Commit {
        Commit {
            meta: meta.clone(),
            state: RunState::Done,
            reason: None,
            children: next_of(meta, not_after, &plan).into_iter().collect(),
            plan,
            next: None,
            not_after,
            direct: None,
            now: self.clock.now(),
        }
    }

    /// Records how a send ended, however long that takes: a delivery whose outcome is not on record would be sent again.
    async fn record_receipt(&self, meta: &Meta, plan: Plan) -> Result<Committed, Refused> {
        let Some(receipt) = plan.receipt else { return Ok(Committed::Fresh) };
        let mut is_told = false;
        loop {
            match self.record_delivery(meta, LedgerRecord::Receipt(receipt.clone())).await {
                Ok(Written::Yes) => return Ok(Committed::Fresh),
                Ok(Written::Superseded) => return Ok(Committed::Duplicate),
                Err(Refused::Data(why)) => return Err(Refused::Data(why)),
                Err(Refused::Fault(why) | Refused::Unavailable(why)) => {
                    // Once, and not each second.
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::error!(job = meta.job_id, "its outcome cannot be recorded, again soon: {why}");
                    }
                    sleep(RECORD_AGAIN).await;
                }
            }
        }
    }

    /// Carries out a plan, if any, and records that nobody was to be told anything.
    ///
    /// # Errors
    /// If the database refuses it.
    pub async fn skip(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        reason: Reason,
        plan: Plan,
    ) -> Result<Written, Refused> {
        let state = if reason == Reason::Expired { RunState::Expired } else { RunState::Skipped };
        if meta.kind.stage == Stage::Delivery {
            let record = match reason {
                Reason::Expired | Reason::QuietHours => LedgerRecord::Expired(reason.name()),
                _ => LedgerRecord::Skipped(reason.name()),
            };
            return self.record_delivery(meta, record).await;
        }
        let committed = self.end(meta, not_after, state, Some(reason.name()), plan).await?;
        Ok(if committed == Committed::Duplicate { Written::Superseded } else { Written::Yes })
    }

    /// Records a failure, or that the job is given back unfinished.
    ///
    /// # Errors
    /// If the database refuses it.
    pub async fn record(&self, meta: &Meta, verdict: Verdict) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            return self.record_delivery(meta, LedgerRecord::Verdict(verdict)).await;
        }
        let failed = FailedRun { meta: meta.clone(), verdict, now: self.clock.now() };
        let written = self.failures.ask(failed).await?;
        checkpoint::reached(Step::Recorded);
        Ok(if written { Written::Yes } else { Written::Superseded })
    }

    /// Records that the job waits until an instant.
    ///
    /// # Errors
    /// If the database refuses it.
    pub async fn record_wait(&self, meta: &Meta, until: DateTime<Utc>, reason: Reason) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            return self.record_delivery(meta, LedgerRecord::Held(until, reason.name())).await;
        }
        self.record(meta, Verdict::Released).await
    }

    /// Records that a delivery's message ends its workers, without claiming it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn record_crashed(&self, meta: &Meta, error: &str) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            self.store.record_crashed_delivery(&self.claim_ask(meta, Duration::ZERO), error).await?;
            return Ok(Written::Yes);
        }
        self.record(meta, Verdict::Dead { error: error.into(), reason: DeadReason::Crashed }).await
    }

    /// Publishes what a committed run planned, and notes that it is done.
    pub async fn publish(&self, job_id: &str, children: &[Child]) {
        if children.is_empty() {
            return;
        }
        publish::children(&self.context, children).await;
        self.note_published(job_id).await;
    }

    /// Notes that nothing of what a run planned is left to be published.
    pub async fn note_published(&self, job_id: &str) {
        checkpoint::reached(Step::Published);
        // The note only saves the reconciler's work: neither its loss nor the wait for it is the job's.
        self.published.tell(job_id.to_owned()).await;
    }

    /// What a committed run planned and may not have published.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pending_children(&self, job_id: &str) -> Result<Vec<Child>, Refused> {
        Ok(self.store.pending_children(job_id, self.clock.now() - self.patience).await?)
    }

    async fn record_delivery(&self, meta: &Meta, record: LedgerRecord) -> Result<Written, Refused> {
        let entry = LedgerEntry {
            id: meta.job_id.clone(),
            sequence: meta.sequence,
            delivered: meta.delivered,
            worker: Arc::clone(&self.worker),
            record,
            now: self.clock.now(),
        };
        let written = self.ledger.ask(entry).await?;
        checkpoint::reached(Step::Recorded);
        Ok(if written { Written::Yes } else { Written::Superseded })
    }

    fn claim_ask(&self, meta: &Meta, ack_wait: Duration) -> ClaimAsk {
        ClaimAsk {
            id: meta.job_id.clone(),
            sequence: meta.sequence,
            delivered: meta.delivered,
            worker: Arc::clone(&self.worker),
            patience: TimeDelta::from_std(ack_wait / 2).unwrap_or(TimeDelta::MAX),
            now: self.clock.now(),
        }
    }
}

/// The message of the job of the next stage that a plan asks for.
fn next_of(meta: &Meta, not_after: DateTime<Utc>, plan: &Plan) -> Option<Child> {
    let next = plan.next.as_ref()?;
    let (job_id, subject) = (next.job_id(&meta.root_id), next.kind.subject(next.lane));
    Some(child(meta, not_after, (job_id, subject, next.body.clone())))
}

/// The messages of a plan's deliveries, as far as they are to be sent.
fn deliveries_of(meta: &Meta, not_after: DateTime<Utc>, plan: &Plan) -> Vec<Child> {
    let deliveries = plan.deliveries.iter().filter(|row| row.unsent.is_none());
    let message = |row: &PlannedDelivery| {
        let body = wire::Delivery { delivery_id: row.id.clone() }.encode_to_vec();
        child(meta, not_after, (row.id.clone(), row.channel.kind().subject(row.lane), body))
    };
    deliveries.map(message).collect()
}

fn child(meta: &Meta, not_after: DateTime<Utc>, (job_id, subject, body): (String, String, Vec<u8>)) -> Child {
    Child { job_id, root_id: meta.root_id.clone(), subject, body, not_after, trace: meta.trace.clone() }
}
