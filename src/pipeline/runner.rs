//! The resources of one queue's jobs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    bounds::Bounds,
    ending::{Disposition, Ending},
    message::Form,
    registry::{Decoder, Runnable},
};
use crate::{
    channels::{AfterUnknown, Channels, NOBODY},
    clock::{Clock, Random},
    documents::Documents,
    effects::{Death, Effects, Patience, Refused},
    intake::Unreadable,
    job::{Attempt, Context, Failure, Outcome},
    kind::Queue,
    meta::{Meta, StreamPosition},
    pauses::Pauses,
    plan::{Channel, DeadReason, JobOutcome, Plan, Receipt},
    policy::Policy,
    store::{Claim, Verdict},
    telemetry::metrics::QueueMetrics,
    templates::Templates,
};

/// The resources of one queue's jobs.
pub struct Runner {
    /// The queue.
    pub queue: Queue,
    /// Its stream.
    pub stream: String,
    /// Its policy.
    pub policy: Policy,
    /// How long the server waits for a sign of life.
    pub ack_wait: Duration,
    /// Decodes the queue's bodies.
    pub decoder: Arc<dyn Decoder>,
    /// Looks up, commits, publishes and records.
    pub effects: Effects,
    /// The ways to reach a person.
    pub channels: Channels,
    /// The document stores.
    pub documents: Documents,
    /// The texts, in the recipients' languages.
    pub templates: Templates,
    /// The queue's metrics.
    pub metrics: Arc<QueueMetrics>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// What people have paused.
    pub pauses: Pauses,
    /// How many delayed jobs wait.
    pub delays: Arc<Bounds>,
    /// One permit for each job that may run at the same time.
    pub permits: Arc<Semaphore>,
    /// One permit for each job that may run at the same time in the whole process, if that is bounded. Taken after the
    /// queue's own.
    pub all: Option<Arc<Semaphore>>,
    /// Cancelled when the worker stops.
    pub stop: CancellationToken,
    /// Cancelled when a stopping worker has waited long enough.
    pub deadline: CancellationToken,
}

impl Runner {
    /// Decodes a body. A panic in a decoder fails only that job.
    ///
    /// # Errors
    /// Says what cannot be read, and where; never the content.
    pub fn decode(&self, body: &Bytes, form: Form) -> Result<Box<dyn Runnable>, String> {
        let read = catch_unwind(AssertUnwindSafe(|| self.decoder.decode(body, form)));
        read.unwrap_or_else(|_| Err("reading the body panicked".into()))
    }

    /// Whether the queue is paused.
    pub fn is_paused(&self) -> bool {
        self.pauses.hold(self.queue)
    }

    /// How long another worker may be silent.
    pub fn patience(&self) -> Patience {
        Patience { ack_wait: self.ack_wait, timeout: self.policy.timeout }
    }

    /// The resources of one job's work.
    pub fn context(&self, meta: &Meta, not_after: DateTime<Utc>, claim: Option<Box<Claim>>) -> Context {
        Context {
            meta: meta.clone(),
            not_after,
            claim,
            reads: self.effects.reads().clone(),
            recipients: None,
            store: self.effects.store().clone(),
            channels: self.channels.clone(),
            documents: self.documents.clone(),
            templates: self.templates.clone(),
            attempt: Attempt { number: 1, timeout: self.policy.timeout, is_cancelled: false },
            clock: self.clock.clone(),
            random: self.random.clone(),
        }
    }

    /// Runs a job's work within a time limit. A panic ends only this attempt.
    ///
    /// # Errors
    /// The job's own failure, or its interruption.
    pub async fn work(&self, job: Box<dyn Runnable>, cx: Context, limit: Duration) -> Result<Outcome, Failure> {
        let work = AssertUnwindSafe(async { job.work(cx).await }).catch_unwind();
        match timeout(limit, work).await {
            Ok(Ok(result)) => result,
            // The panic's own text may hold personal data; the panic hook has logged its location.
            Ok(Err(_)) => self.broken_off("the work panicked".into()),
            Err(_) => self.broken_off(format!("the work took longer than {limit:?}")),
        }
    }

    /// Interrupted work has failed, but its message may have been sent.
    fn broken_off(&self, why: String) -> Result<Outcome, Failure> {
        if self.stops_after_unknown() {
            return Ok(Outcome::Done(Plan::receipt(Receipt::unknown(NOBODY, &why))));
        }
        Err(Failure::retry(why))
    }

    /// Whether a possibly accepted send of this queue is never repeated.
    pub fn stops_after_unknown(&self) -> bool {
        let rule = Channel::of(self.queue.kind).and_then(|channel| self.channels.after_unknown(channel));
        rule == Some(AfterUnknown::Stop)
    }
}

/// The most time to record that a stopping worker gives a job back.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Endings that are recorded first.
impl Runner {
    pub(super) async fn die(&self, meta: &Meta, death: Death) -> Result<Ending, Refused> {
        let verdict = Verdict::Dead { error: death.error.clone(), reason: death.reason };
        let written = self.effects.record(meta, verdict).await?;
        Ok(Ending::new(JobOutcome::Dead, Disposition::Dead(death)).if_written(meta, written))
    }

    pub(super) async fn crashed(&self, meta: &Meta, attempts: u32) -> Result<Ending, Refused> {
        let delivered = meta.position.delivered;
        let error = format!("delivered {delivered} times with nothing recorded: it ends the workers that run it");
        let written = self.effects.record_crashed(meta, &error).await?;
        let death = Death { reason: DeadReason::Crashed, error, attempts, first: meta.position.published };
        Ok(Ending::new(JobOutcome::Dead, Disposition::Dead(death)).if_written(meta, written))
    }

    /// No retry mends data that the database refuses.
    pub(super) async fn refused(&self, meta: &Meta, why: &str) -> Result<Ending, Refused> {
        let error = format!("the database refuses the job's data: {why}");
        let first = meta.position.published;
        self.die(meta, Death { reason: DeadReason::Permanent, error, attempts: 1, first }).await
    }

    /// An unreadable message: recorded if its id can be read, and kept in the dead letters in any case.
    pub(super) async fn unreadable(
        &self,
        position: &StreamPosition,
        meta: Option<&Meta>,
        unreadable: &Unreadable,
    ) -> Ending {
        let Unreadable { reason, why } = unreadable;
        if let Some(meta) = meta {
            let verdict = Verdict::Dead { error: why.clone(), reason: *reason };
            if let Err(refused) = self.effects.record(meta, verdict).await {
                warn!(job = meta.job_id, "an unreadable job is not on record: {refused:?}");
            }
        }
        let death = Death { reason: *reason, error: why.clone(), attempts: 1, first: position.published };
        Ending::new(JobOutcome::Dead, Disposition::Dead(death))
    }

    /// Gives a job back. Records that this is no crash, if that is quickly done.
    pub(super) async fn release(&self, meta: Option<&Meta>) -> Ending {
        if let Some(meta) = meta {
            let _ = timeout(RELEASE_TIMEOUT, self.effects.record(meta, Verdict::Released(None))).await;
        }
        Ending::new(JobOutcome::Released, Disposition::Release)
    }
}
