use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Effects, Refused};
use crate::{
    checkpoint::{self, Step},
    kind::Stage,
    meta::Meta,
    plan::{DeadReason, Reason},
    store::{AROUND_A_SEND, CRASHES, Claim, ClaimAsk, Claimed, RunAsk, RunRecord},
};

/// How old a claim must be when its message comes again, for its worker to count as dead. The server lets a live one's
/// message alone for `ack_wait`, and the claim came a moment after the message. One that comes earlier, from a server
/// that lost its state in a crash, says nothing of its worker.
#[must_use]
pub fn silence(ack_wait: Duration) -> TimeDelta {
    TimeDelta::from_std(ack_wait.mul_f64(0.9)).unwrap_or(TimeDelta::MAX)
}

/// A claim that took longer is made anew.
const STALE: TimeDelta = TimeDelta::seconds(2);

/// The claim may be another worker's, whose clock is a little ahead.
const SHORTEST_WAIT: TimeDelta = TimeDelta::milliseconds(100);

/// Whether a job may run.
#[derive(Clone, Debug)]
pub enum Admission {
    /// It may.
    Run(Admitted),
    /// It ended in this state.
    Ended(String),
    /// Recorded as dead under this message, which still has to be dead-lettered.
    Dead(Death),
    /// It has to wait.
    Wait(DateTime<Utc>, Reason),
    /// An earlier delivery of the same message may be under way for this long.
    Again(Duration),
    /// It kills its workers.
    Crashing {
        /// Recorded failures.
        attempts: u32,
    },
}

/// How long a queue's workers may be silent before they count as dead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// How long the server waits for a sign of life.
    pub ack_wait: Duration,
    /// The longest send.
    pub timeout: Duration,
}

/// A job that may run.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Recorded failures.
    pub attempts: u32,
    /// The claimed ledger row of a delivery.
    pub claim: Option<Box<Claim>>,
    /// First record.
    pub first: DateTime<Utc>,
    /// Whether people have asked to cancel it.
    pub is_cancelled: bool,
}

impl Admitted {
    fn new(meta: &Meta) -> Self {
        Self { attempts: 0, claim: None, first: meta.position.published, is_cancelled: false }
    }

    /// A claimed delivery.
    #[must_use]
    pub fn claimed(claim: Box<Claim>) -> Self {
        Self { attempts: count(claim.attempts), first: claim.created_at, claim: Some(claim), is_cancelled: false }
    }
}

/// Why a job is dead, for its dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Reason.
    pub reason: DeadReason,
    /// Last error.
    pub error: String,
    /// Recorded failures.
    pub attempts: u32,
    /// First record.
    pub first: DateTime<Utc>,
}

impl Effects {
    /// Whether the job has an open run on record, so that it waits already, or has failed before.
    ///
    /// # Errors
    /// If the database refuses an answer.
    pub async fn is_open(&self, meta: &Meta) -> Result<bool, Refused> {
        let record = self.look_ups.ask(RunAsk { job_id: meta.job_id.clone() }).await?;
        Ok(record.is_some_and(|record| record.state == "open"))
    }

    /// Decides whether a job may run; claims it if it is a delivery.
    ///
    /// # Errors
    /// The look-up was refused.
    pub async fn admit(&self, meta: &Meta, patience: Patience) -> Result<Admission, Refused> {
        match meta.kind.stage {
            Stage::Delivery => self.claim(meta, patience).await,
            _ if Self::takes_for_new(meta) => Ok(Admission::Run(Admitted::new(meta))),
            Stage::Reminder | Stage::Notification | Stage::Maintenance | Stage::Delay | Stage::Task => {
                self.look_up(meta).await
            }
        }
    }

    /// Whether a job runs without a look-up. A first delivery almost never has a record; if it does, the commit
    /// notices, and after a failure [`Self::look_up`] tells the attempt. Kinds that work before their commit
    /// are always looked up.
    #[must_use]
    pub fn takes_for_new(meta: &Meta) -> bool {
        matches!(meta.kind.stage, Stage::Reminder | Stage::Notification)
            && meta.position.delivered == 1
            && !meta.resumed
    }

    /// Looks up a run. Publishes unpublished children if it ended under this message.
    ///
    /// # Errors
    /// The look-up was refused.
    pub async fn look_up(&self, meta: &Meta) -> Result<Admission, Refused> {
        self.look_up_and(meta, false).await
    }

    /// As [`Self::look_up`]. With `gives_up_claims`, this worker first releases the claims of an unfinished run, whose
    /// pushes nobody sends.
    pub(super) async fn look_up_and(&self, meta: &Meta, gives_up_claims: bool) -> Result<Admission, Refused> {
        let record = self.look_ups.ask(RunAsk { job_id: meta.job_id.clone() }).await?;
        let Some(record) = record else {
            if meta.position.delivered > CRASHES {
                return Ok(Admission::Crashing { attempts: 0 });
            }
            return Ok(Admission::Run(Admitted::new(meta)));
        };
        let same_message = is_of(&record, meta);
        let attempts = count(record.attempts);
        let recorded = if same_message { record.recorded_delivery } else { 0 };
        match record.state.as_str() {
            "open" if meta.position.delivered - recorded > CRASHES => Ok(Admission::Crashing { attempts }),
            "open" => {
                let is_cancelled = record.cancel_at.is_some();
                Ok(Admission::Run(Admitted { attempts, claim: None, first: record.created_at, is_cancelled }))
            }
            "dead" if same_message => Ok(Admission::Dead(Death {
                reason: record.reason.as_deref().and_then(DeadReason::parse).unwrap_or(DeadReason::Permanent),
                error: record.last_error.unwrap_or_default(),
                attempts,
                first: record.created_at,
            })),
            // Parked again by a worker that was lost before its ack: the message went on, and died.
            "dead" if meta.resumed => Ok(Admission::Ended(record.state)),
            "dead" if meta.position.delivered > CRASHES => Ok(Admission::Crashing { attempts: 0 }),
            // Published again after its death, without effects so far: attempts start at zero.
            "dead" => Ok(Admission::Run(Admitted::new(meta))),
            _ => {
                if let Some(job_id) = self.unfinished(&record, meta).await? {
                    if gives_up_claims {
                        self.store.release_direct(&job_id, &self.worker).await?;
                    }
                    if let Some(wait) = self.publish_pending(&job_id).await? {
                        return Ok(Admission::Again(wait));
                    }
                }
                Ok(Admission::Ended(record.state))
            }
        }
    }

    /// The run that this message ended with children that may be unpublished: its own, or that of the notification
    /// planned with it.
    async fn unfinished(&self, record: &RunRecord, meta: &Meta) -> Result<Option<String>, Refused> {
        if !is_of(record, meta) {
            return Ok(None);
        }
        if record.children_pending {
            return Ok(Some(meta.job_id.clone()));
        }
        if meta.kind.stage == Stage::Reminder {
            return Ok(self.store.pending_combined_run(&meta.root_id).await?);
        }
        Ok(None)
    }

    async fn claim(&self, meta: &Meta, patience: Patience) -> Result<Admission, Refused> {
        let mut ask = self.claim_ask(meta, patience);
        let mut claimed = self.claims.ask(ask.clone()).await?;
        // Its lease counts from the question, which may have waited for the database.
        while matches!(claimed, Claimed::Taken(_)) && self.clock.now() - ask.now > STALE {
            ask.now = self.clock.now();
            claimed = self.claims.ask(ask.clone()).await?;
        }
        Ok(match claimed {
            Claimed::Taken(claim) => {
                checkpoint::reached(Step::Claimed);
                Admission::Run(Admitted::claimed(claim))
            }
            Claimed::Ended(state) => Admission::Ended(state),
            Claimed::Missing => Admission::Ended("missing".into()),
            Claimed::Busy(until) => Admission::Wait(until, Reason::InFlight),
            Claimed::Again(until) => Admission::Again(self.wait_until(until)),
            Claimed::Crashing { attempts } => Admission::Crashing { attempts: count(attempts) },
            Claimed::Dead { reason, error, attempts } => Admission::Dead(Death {
                reason: DeadReason::parse(&reason).unwrap_or(DeadReason::Permanent),
                error,
                attempts: count(attempts),
                first: meta.position.published,
            }),
        })
    }

    pub(super) fn wait_until(&self, instant: DateTime<Utc>) -> Duration {
        (instant - self.clock.now()).max(SHORTEST_WAIT).to_std().unwrap_or_default()
    }

    pub(super) fn claim_ask(&self, meta: &Meta, patience: Patience) -> ClaimAsk {
        ClaimAsk {
            id: meta.job_id.clone(),
            sequence: meta.position.sequence,
            delivered: meta.position.delivered,
            worker: Arc::clone(&self.worker),
            patience: silence(patience.ack_wait),
            lease: TimeDelta::from_std(patience.timeout).map_or(TimeDelta::MAX, |send| send + AROUND_A_SEND),
            now: self.clock.now(),
        }
    }
}

/// Whether this message wrote the record.
fn is_of(record: &RunRecord, meta: &Meta) -> bool {
    record.stream == meta.position.stream && record.sequence == meta.position.sequence
}

/// Postgres has no unsigned numbers.
fn count(attempts: i32) -> u32 {
    u32::try_from(attempts).unwrap_or(0)
}
