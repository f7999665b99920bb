//! Ends of runs: dispositions, log lines and spans.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{debug, error, info, warn};

use crate::{
    effects::{Death, Written, park::ParkedFor},
    kind::{Queue, Stage},
    meta::{Meta, NO_MESSAGE},
    plan::{JobOutcome, Reason},
    telemetry::traces::{End, Processing, context},
};

/// Target of the one line a run, named by filters of `LOG_LEVEL`.
const TARGET: &str = "carebell::pipeline::run";

/// How a message ends. Everything needed is already on record.
#[derive(Clone, Debug, PartialEq)]
pub enum Disposition {
    /// The job is finished: acknowledge the message.
    Done,
    /// The job failed and runs again after this short wait.
    Retry(Duration),
    /// The same message comes again after this short wait; no attempt is burnt.
    Again(Duration),
    /// The job waits in the stream HOLD.
    Park(Box<ParkedJob>),
    /// The job is dead: copy the message to the dead letters, then terminate it.
    Dead(Death),
    /// Another worker has the message and settles it.
    Leave,
    /// This worker stops: another may have the message at once.
    Release,
}

/// A job that is to be parked.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedJob {
    /// The job.
    pub meta: Meta,
    /// When it expires.
    pub not_after: DateTime<Utc>,
    /// When it comes back.
    pub until: DateTime<Utc>,
    /// The end of its wait.
    pub parked_for: ParkedFor,
}

impl Disposition {
    /// The job waits from `now` until `until`.
    pub(super) fn wait(
        meta: &Meta,
        not_after: DateTime<Utc>,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        reason: Reason,
    ) -> Self {
        let parked_for = match reason {
            Reason::NotDue => ParkedFor::Due,
            // In flight may mean: another message of it waits for the same end.
            Reason::QuietHours | Reason::InFlight => ParkedFor::QuietHours,
            _ => ParkedFor::Again,
        };
        Self::Park(Box::new(ParkedJob { meta: meta.waiting(reason, now, until), not_after, until, parked_for }))
    }

    /// The job waits for its instant.
    pub(super) fn delay(meta: &Meta, not_after: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        Self::Park(Box::new(ParkedJob { meta: meta.clone(), not_after, until, parked_for: ParkedFor::Instant }))
    }
}

/// The end of a run.
pub struct Ending {
    pub(super) disposition: Disposition,
    pub(super) outcome: JobOutcome,
    pub(super) why: Option<String>,
    /// The provider's answer to a send that failed.
    pub(super) error: Option<String>,
    pub(super) reason: Option<Reason>,
    /// Why a delivery was not sent, for its counts.
    pub(super) receipt: Option<&'static str>,
    pub(super) attempts: Option<u32>,
    /// Pushes sent directly.
    pub(super) pushes: Option<usize>,
    /// When a provider accepted the delivery.
    pub(super) accepted: Option<DateTime<Utc>>,
}

impl Ending {
    pub(super) fn new(outcome: JobOutcome, disposition: Disposition) -> Self {
        Self {
            disposition,
            outcome,
            why: None,
            error: None,
            reason: None,
            receipt: None,
            attempts: None,
            pushes: None,
            accepted: None,
        }
    }

    pub(super) fn because(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    pub(super) fn by(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self.because(reason.name()) }
    }

    /// An earlier delivery of the same message may be under way for this long.
    pub(super) fn in_flight(wait: Duration) -> Self {
        Self::new(JobOutcome::Waits, Disposition::Again(wait)).by(Reason::InFlight)
    }

    /// Leaves the message to the worker that took the delivery, if any. A run that has already ended only needs its
    /// acknowledgement.
    pub(super) fn if_written(self, meta: &Meta, written: Written) -> Self {
        match written {
            Written::Yes => self,
            Written::InFlight(wait) => Self::in_flight(wait),
            Written::Superseded if meta.kind.stage == Stage::Delivery => {
                Self::new(JobOutcome::Superseded, Disposition::Leave)
            }
            Written::Superseded => Self::new(JobOutcome::Duplicate, Disposition::Done),
        }
    }

    pub(super) fn label(&self) -> Option<&'static str> {
        match &self.disposition {
            Disposition::Dead(death) => Some(death.reason.name()),
            _ => self.reason.map(Reason::name),
        }
    }

    pub(super) fn attempts(&self) -> Option<u32> {
        match &self.disposition {
            Disposition::Dead(death) => Some(death.attempts),
            _ => self.attempts,
        }
    }

    pub(super) fn close(&self, span: &mut Processing, now: DateTime<Utc>) {
        let (reason, mut error, mut until) = (self.label(), self.why.as_deref(), None);
        match &self.disposition {
            Disposition::Park(parked) => until = Some(parked.until),
            Disposition::Retry(wait) | Disposition::Again(wait) => until = Some(now + *wait),
            Disposition::Dead(death) => error = Some(death.error.as_str()),
            Disposition::Done | Disposition::Leave | Disposition::Release => {}
        }
        span.ended(&End { outcome: self.outcome, reason, error, until });
    }

    pub(super) fn log(&self, run: &Logged<'_>) {
        let &Self { ref disposition, outcome, ref why, ref error, pushes, .. } = self;
        let Logged { queue, sequence, delivered: delivery_count, meta, attempt, took } = *run;
        let trace = meta.and_then(|meta| meta.trace.as_deref()).filter(|trace| context::is_sampled(trace));
        let trace_id = trace.and_then(context::trace_id);
        let word = outcome.name();
        let job = meta.map_or("?", |meta| meta.job_id.as_str());
        let root = meta.map_or("?", |meta| meta.root_id.as_str());
        let kind = queue.kind.name;
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // Only of what failed.
        let will_retry = match disposition {
            Disposition::Retry(_) => Some(true),
            Disposition::Park(_) => (outcome == JobOutcome::Retry).then_some(true),
            Disposition::Dead(_) => Some(false),
            Disposition::Done => [JobOutcome::Failed, JobOutcome::Unknown].contains(&outcome).then_some(false),
            Disposition::Leave | Disposition::Release | Disposition::Again(_) => None,
        };
        let error = error.as_deref();
        let why = why.as_deref();
        // The same fields in each line, and more if they say something.
        macro_rules! line {
            ($level:ident, $($rest:tt)+) => {
                $level!(
                    target: TARGET, job, root, kind, outcome = word, attempt, delivery_count, duration_ms, will_retry,
                    pushes, trace_id, $($rest)+
                )
            };
        }
        match disposition {
            Disposition::Leave => line!(warn, sequence, "{kind} is another worker's by now"),
            Disposition::Done if outcome == JobOutcome::Unknown => {
                line!(error, reason = why, error, "{kind} may have been sent, or not: somebody has to look");
            }
            // The notification's line counts these.
            Disposition::Done
                if sequence == NO_MESSAGE && queue.kind.stage == Stage::Delivery && outcome == JobOutcome::Done =>
            {
                line!(debug, reason = why, "{kind} {word}");
            }
            Disposition::Done => line!(info, reason = why, error, "{kind} {word}"),
            Disposition::Again(wait) => line!(info, reason = why, ?wait, "{kind} waits"),
            Disposition::Release => line!(info, reason = why, "{kind} given back: the worker stops"),
            Disposition::Park(parked) if outcome == JobOutcome::Retry => {
                line!(warn, error = why, until = %parked.until, "{kind} failed, again later");
            }
            Disposition::Park(parked) => line!(info, reason = why, until = %parked.until, "{kind} waits"),
            Disposition::Retry(wait) => line!(warn, error = why, ?wait, "{kind} failed, again soon"),
            Disposition::Dead(Death { reason, error, attempts, .. }) => {
                line!(error, reason = reason.name(), attempts, error, sequence, "{kind} is dead");
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Logged<'a> {
    pub(super) queue: Queue,
    pub(super) sequence: i64,
    pub(super) delivered: i64,
    /// Missing if the id is unreadable.
    pub(super) meta: Option<&'a Meta>,
    pub(super) attempt: Option<u32>,
    pub(super) took: Duration,
}
