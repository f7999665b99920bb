//! One job from pulled to settled: decode, guard, work, effects, settle.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    at_once::ShortWay,
    judge::{Next, judge, parked_until},
    message::{Form, Place, Pulled},
    registry::{Decoder, Runnable},
    settle::{Fate, settle},
};
use crate::{
    channels::{AfterUnknown, Channels, NOBODY},
    checkpoint::{self, Step},
    clock::{Clock, Random},
    effects::{Admission, Death, Effects, Refused, Written},
    job::{Context, Failure, Meta, Outcome},
    kind::{Queue, Stage},
    plan::{Channel, DeadReason, JobOutcome, Plan, Reason, Receipt, Upkeep},
    policy::Policy,
    reads::Recipients,
    store::{Claim, Committed, NO_MESSAGE, Verdict},
    telemetry::{
        metrics::QueueMetrics,
        traces::{End, Processing, context},
    },
    templates::Templates,
};

/// How long a job that cannot run because the database is away waits before it looks again.
const HOLD: Duration = Duration::from_secs(1);

/// How long a worker that stops tries to record that it gives a job back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// What every job of one queue is run with.
pub struct Runner {
    /// How the queue behaves.
    pub policy: Policy,
    /// How long the server waits for a sign of life.
    pub ack_wait: Duration,
    /// Reads the queue's bodies.
    pub decoder: Arc<dyn Decoder>,
    /// Looks up, writes and publishes.
    pub effects: Effects,
    /// The ways to reach a person.
    pub channels: Channels,
    /// What people are told, in their languages.
    pub templates: Templates,
    /// Plans notifications with their reminders, and sends pushes as they are planned: where these are jobs of such stages.
    pub short_way: Option<Arc<ShortWay>>,
    /// What is counted of the queue.
    pub metrics: Arc<QueueMetrics>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// Cancelled when the worker stops.
    pub stop: CancellationToken,
    /// Cancelled when a worker that stops has waited long enough.
    pub deadline: CancellationToken,
}

/// What came of a job, for its one log line and the metrics.
pub(super) struct Ending {
    pub(super) fate: Fate,
    pub(super) outcome: JobOutcome,
    pub(super) why: Option<String>,
    /// The name of why it was skipped or waits.
    pub(super) reason: Option<Reason>,
    /// Which attempt it was, where that was its last.
    pub(super) attempts: Option<u32>,
    /// How many of its pushes need no message, where they were sent with it.
    pub(super) pushes: Option<usize>,
}

impl Ending {
    pub(super) fn new(outcome: JobOutcome, fate: Fate) -> Self {
        Self { fate, outcome, why: None, reason: None, attempts: None, pushes: None }
    }

    fn because(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    pub(super) fn by(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self.because(reason.name()) }
    }

    /// Leaves the message alone where another worker's word counts: a run that has ended needs no more than its
    /// acknowledgement, a delivery that another has claimed is that one's to settle.
    fn if_written(self, meta: &Meta, written: Written) -> Self {
        match written {
            Written::Yes => self,
            Written::Superseded if meta.kind.stage == Stage::Delivery => Self::new(JobOutcome::Superseded, Fate::Leave),
            Written::Superseded => Self::new(JobOutcome::Duplicate, Fate::Done),
        }
    }
}

impl Runner {
    /// Runs one message to its end and settles it. The message stays this worker's until then.
    pub async fn run(&self, mut message: Pulled) {
        let started = Instant::now();
        self.metrics.begun(self.waited(&message));
        let mut meta = message.meta();
        let mut span = message.begin(meta.as_mut().map_err(|invalid| &*invalid));
        let meta = meta.as_ref();
        if let Ok(meta) = meta {
            debug!(job = meta.job_id, root = meta.root_id, kind = %meta.kind, delivered = meta.delivered, "begun");
        }
        let alive = self.ack_wait / 3;
        let ending = tokio::select! {
            biased;
            ending = self.decide(&message, meta, &mut span) => ending,
            never = message.lifeline().keep(alive) => match never {},
            () = self.deadline.cancelled() => self.release(meta).await,
        };
        self.end(&mut span, &ending);
        Self::log(message.queue(), &message.place, meta.ok(), span.attempt, &ending, started.elapsed());
        let Ending { fate, outcome, reason, attempts, .. } = ending;
        let (reason, attempts) = match &fate {
            Fate::Dead(death) => (Some(death.reason.name()), Some(death.attempts)),
            _ => (reason.map(Reason::name), attempts),
        };
        let lifeline = message.lifeline();
        tokio::select! {
            biased;
            () = settle(message, fate, &self.effects) => checkpoint::reached(Step::Settled),
            never = lifeline.keep(alive) => match never {},
            () = self.out_of_time() => {}
        }
        self.metrics.ended(outcome, started.elapsed(), reason, attempts);
    }

    /// How long a message lay in its queue. One that comes again waited for something else.
    fn waited(&self, message: &Pulled) -> Option<Duration> {
        let since = || (self.clock.now() - message.place.published).to_std().unwrap_or_default();
        (message.place.delivered == 1).then(since)
    }

    /// Holds a message until its time, and keeps it this worker's meanwhile. False where the worker stops before.
    pub async fn hold(&self, message: &Pulled, until: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = until => true,
            never = message.lifeline().keep(self.ack_wait / 3) => match never {},
        }
    }

    /// Gives back a message that was pulled and not begun.
    pub async fn give_back(&self, message: Pulled) {
        let ending = self.release(message.meta().as_ref()).await;
        settle(message, ending.fate, &self.effects).await;
    }

    /// Some time after the deadline: what is not settled by then is settled after its redelivery.
    async fn out_of_time(&self) {
        self.deadline.cancelled().await;
        sleep(RELEASE_TIMEOUT).await;
    }

    /// Decodes, guards, works and performs, again while the database is away.
    async fn decide(
        &self,
        message: &Pulled,
        meta: Result<&Meta, &crate::job::Invalid>,
        span: &mut Processing,
    ) -> Ending {
        let meta = match meta {
            Ok(meta) => meta,
            Err(invalid) => {
                let known = message.identity().ok();
                return self.undecodable(message, known.as_ref(), &invalid.to_string()).await;
            }
        };
        let mut is_told = false;
        loop {
            let job = match message.form().map_err(|invalid| invalid.to_string()) {
                Ok(form) => self.decode(message, form),
                Err(why) => Err(why),
            };
            let job = match job {
                Ok(job) => job,
                Err(why) => return self.undecodable(message, Some(meta), &why).await,
            };
            let ending = match self.attempt(meta, job, span).await {
                Err(Refused::Data(why)) => self.refused(meta, &why).await,
                ending => ending,
            };
            match ending {
                Ok(ending) => return ending,
                Err(Refused::Data(why) | Refused::Fault(why) | Refused::Unavailable(why)) => {
                    // Once, and not each second: what is down is told of by health.
                    if !std::mem::replace(&mut is_told, true) {
                        warn!(job = meta.job_id, kind = %meta.kind, "held, no attempt burnt: {why}");
                        span.held(&why);
                    }
                    sleep(HOLD).await;
                }
            }
        }
    }

    /// Reads the body. A panic in a decoder is that job's only.
    fn decode(&self, message: &Pulled, form: Form) -> Result<Box<dyn Runnable>, String> {
        let read = catch_unwind(AssertUnwindSafe(|| self.decoder.decode(message.body(), form)));
        read.unwrap_or_else(|_| Err("reading the body panicked".into()))
    }

    /// One run of the job. What is rare is boxed: the state of a run is as large as the largest that it awaits, and is
    /// copied where it begins. A database that is away or answers nonsense is the caller's to wait for.
    async fn attempt(&self, meta: &Meta, job: Box<dyn Runnable>, span: &mut Processing) -> Result<Ending, Refused> {
        match self.effects.admit(meta, self.ack_wait).await? {
            Admission::Run { attempts, claim, first } => {
                self.attempt_admitted(meta, job, span, (attempts, claim, first)).await
            }
            other => {
                let not_after = meta.not_after.unwrap_or_else(|| job.default_expiry(meta.published));
                Box::pin(self.not_admitted(meta, not_after, other)).await
            }
        }
    }

    /// The same of a job that may run: with so many failures on record, its claim where it is a delivery, and first
    /// recorded then.
    pub(super) async fn attempt_admitted(
        &self,
        meta: &Meta,
        job: Box<dyn Runnable>,
        span: &mut Processing,
        (mut attempts, claim, mut first): (u32, Option<Box<Claim>>, DateTime<Utc>),
    ) -> Result<Ending, Refused> {
        let not_after = meta.not_after.unwrap_or_else(|| job.default_expiry(meta.published));
        span.attempt = Some(attempts + 1);
        // What was perhaps sent has not come too late: its channel's rule says what it is.
        let unsure = claim.as_ref().is_some_and(|claim| claim.unsettled) && self.stops_after_unknown(meta);
        let read = self.clock.now();
        if read >= not_after && !unsure {
            let written = Box::pin(self.effects.skip(meta, not_after, Reason::Expired, Plan::default())).await?;
            return Ok(Ending::new(JobOutcome::Expired, Fate::Done).if_written(meta, written));
        }
        let cx = self.context(meta, not_after, claim);
        let recipients = cx.recipients.clone();
        let policy = self.policy.for_job(&meta.wishes);
        let result = self.work(meta, job, cx, policy.timeout).await;
        let failed = matches!(result, Err(Failure::Retry { .. } | Failure::Permanent { .. }));
        if failed && Effects::takes_for_new(meta) {
            match self.effects.look_up(meta).await? {
                Admission::Run { attempts: recorded, first: since, .. } => (attempts, first) = (recorded, since),
                other => return Box::pin(self.not_admitted(meta, not_after, other)).await,
            }
            span.attempt = Some(attempts + 1);
        }
        match judge(result, attempts, &policy, &self.random, self.clock.now(), not_after) {
            Next::CarryOut(plan) => {
                let outcome = plan.outcome();
                let why = plan.receipt.as_ref().and_then(|receipt| receipt.reason).map(str::to_owned);
                let (committed, pushes) = match &self.short_way {
                    Some(short_way) => {
                        Box::pin(short_way.carry_out(self, meta, not_after, plan, (read, recipients))).await?
                    }
                    None => (self.effects.carry_out(meta, not_after, plan).await?, None),
                };
                match committed {
                    Committed::Fresh => {
                        Ok(Ending { why, attempts: Some(attempts + 1), pushes, ..Ending::new(outcome, Fate::Done) })
                    }
                    Committed::MarkTaken => Ok(Ending::new(JobOutcome::Skipped, Fate::Done).by(Reason::AlreadySent)),
                    Committed::Duplicate => {
                        Ok(Ending::new(JobOutcome::Duplicate, Fate::Done).if_written(meta, Written::Superseded))
                    }
                }
            }
            Next::Skip(reason, plan) => {
                let written = Box::pin(self.effects.skip(meta, not_after, reason, plan)).await?;
                Ok(Ending::new(JobOutcome::Skipped, Fate::Done).by(reason).if_written(meta, written))
            }
            Next::Tend(upkeep) => Box::pin(self.tend(meta, not_after, upkeep, policy.timeout)).await,
            Next::Wait(until, reason) => {
                let written = self.effects.record_wait(meta, until, reason).await?;
                Ok(Ending::new(JobOutcome::Waits, park(meta, not_after, until)).by(reason).if_written(meta, written))
            }
            Next::RetrySoon(why, wait) => {
                let written = self.effects.record(meta, Verdict::Attempt { error: why.clone(), until: None }).await?;
                Ok(Ending::new(JobOutcome::Retry, Fate::Retry(wait)).because(why).if_written(meta, written))
            }
            Next::RetryLater(why, until) => {
                let failed = Verdict::Attempt { error: why.clone(), until: Some(until) };
                let written = self.effects.record(meta, failed).await?;
                Ok(Ending::new(JobOutcome::Retry, park(meta, not_after, until)).because(why).if_written(meta, written))
            }
            Next::Die(error, reason) => self.die(meta, Death { reason, error, attempts: attempts + 1, first }).await,
            Next::Hold(why) => Err(Refused::Unavailable(why)),
        }
    }

    /// What a job may use.
    pub(super) fn context(&self, meta: &Meta, not_after: DateTime<Utc>, claim: Option<Box<Claim>>) -> Context {
        Context {
            meta: meta.clone(),
            not_after,
            claim,
            reads: self.effects.reads().clone(),
            recipients: Recipients::default(),
            store: self.effects.store().clone(),
            channels: self.channels.clone(),
            templates: self.templates.clone(),
            clock: self.clock.clone(),
            random: self.random.clone(),
        }
    }

    /// What becomes of a job that is not to run (any more).
    async fn not_admitted(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        admission: Admission,
    ) -> Result<Ending, Refused> {
        Ok(match admission {
            // A job that may run is none of these.
            Admission::Run { .. } => Ending::new(JobOutcome::Superseded, Fate::Leave),
            Admission::Ended(state) => Ending::new(JobOutcome::Duplicate, Fate::Done).because(state),
            Admission::Dead(death) => Ending::new(JobOutcome::Dead, Fate::Dead(death)),
            Admission::Wait(until, reason) => {
                let until = parked_until(until, self.clock.now(), not_after);
                Ending::new(JobOutcome::Waits, park(meta, not_after, until)).by(reason)
            }
            Admission::Crashing { attempts } => return self.crashed(meta, attempts).await,
        })
    }

    /// Upkeep, within the timeout too. No worker waits for it when it stops: the next one goes on.
    async fn tend(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        upkeep: Upkeep,
        limit: Duration,
    ) -> Result<Ending, Refused> {
        tokio::select! {
            tended = self.effects.tend(meta, not_after, upkeep, limit) => match tended? {
                (Committed::Fresh | Committed::MarkTaken, removed) => {
                    Ok(Ending::new(JobOutcome::Done, Fate::Done).because(removed.to_string()))
                }
                (Committed::Duplicate, _) => Ok(Ending::new(JobOutcome::Duplicate, Fate::Done)),
            },
            () = self.stop.cancelled() => Ok(self.release(Ok(meta)).await),
        }
    }

    /// The work itself, within its timeout. A panic ends this job's attempt and nothing else.
    async fn work(
        &self,
        meta: &Meta,
        job: Box<dyn Runnable>,
        cx: Context,
        limit: Duration,
    ) -> Result<Outcome, Failure> {
        let work = AssertUnwindSafe(async { job.work(cx).await }).catch_unwind();
        match timeout(limit, work).await {
            Ok(Ok(result)) => result,
            // The panic's own text may hold personal data; the panic hook has logged where it was.
            Ok(Err(_)) => self.broken_off(meta, "the work panicked".into()),
            Err(_) => self.broken_off(meta, format!("the work took longer than {limit:?}")),
        }
    }

    fn stops_after_unknown(&self, meta: &Meta) -> bool {
        let rule = Channel::of(meta.kind).and_then(|channel| self.channels.after_unknown(channel));
        rule == Some(AfterUnknown::Stop)
    }

    /// Work that was broken off failed, but what it was sending may have been sent.
    fn broken_off(&self, meta: &Meta, why: String) -> Result<Outcome, Failure> {
        if self.stops_after_unknown(meta) {
            return Ok(Outcome::Done(Plan::receipt(Receipt::unknown(NOBODY, &why))));
        }
        Err(Failure::retry(why))
    }

    async fn die(&self, meta: &Meta, death: Death) -> Result<Ending, Refused> {
        let verdict = Verdict::Dead { error: death.error.clone(), reason: death.reason };
        let written = self.effects.record(meta, verdict).await?;
        Ok(Ending::new(JobOutcome::Dead, Fate::Dead(death)).if_written(meta, written))
    }

    async fn crashed(&self, meta: &Meta, attempts: u32) -> Result<Ending, Refused> {
        let error =
            format!("delivered {} times with nothing recorded: it ends the workers that run it", meta.delivered);
        let written = self.effects.record_crashed(meta, &error).await?;
        let death = Death { reason: DeadReason::Crashed, error, attempts, first: meta.published };
        Ok(Ending::new(JobOutcome::Dead, Fate::Dead(death)).if_written(meta, written))
    }

    /// What cannot be read is recorded where its id can be, and kept in the dead letters in any case.
    async fn undecodable(&self, message: &Pulled, meta: Option<&Meta>, why: &str) -> Ending {
        if let Some(meta) = meta {
            let verdict = Verdict::Dead { error: why.to_owned(), reason: DeadReason::Undecodable };
            if let Err(refused) = self.effects.record(meta, verdict).await {
                warn!(job = meta.job_id, "an undecodable job is not on record: {refused:?}");
            }
        }
        let first = message.place.published;
        Ending::new(
            JobOutcome::Dead,
            Fate::Dead(Death { reason: DeadReason::Undecodable, error: why.to_owned(), attempts: 1, first }),
        )
    }

    /// The database refuses what the job wants written. Data that it cannot hold never gets better.
    async fn refused(&self, meta: &Meta, why: &str) -> Result<Ending, Refused> {
        let error = format!("the database refuses the job's data: {why}");
        self.die(meta, Death { reason: DeadReason::Permanent, error, attempts: 1, first: meta.published }).await
    }

    /// Gives the job back because the worker stops. That this is no crash is recorded, if that is quickly done.
    pub(super) async fn release(&self, meta: Result<&Meta, &crate::job::Invalid>) -> Ending {
        if let Ok(meta) = meta {
            let _ = timeout(RELEASE_TIMEOUT, self.effects.record(meta, Verdict::Released)).await;
        }
        Ending::new(JobOutcome::Released, Fate::Release)
    }

    /// What the span says of the end.
    pub(super) fn end(&self, span: &mut Processing, ending: &Ending) {
        let (mut reason, mut error) = (ending.reason.map(Reason::name), ending.why.as_deref());
        let until = match &ending.fate {
            Fate::Park { until, .. } => Some(*until),
            Fate::Retry(wait) => Some(self.clock.now() + *wait),
            Fate::Dead(death) => {
                (reason, error) = (Some(death.reason.name()), Some(death.error.as_str()));
                None
            }
            Fate::Done | Fate::Leave | Fate::Release => None,
        };
        span.ended(&End { outcome: ending.outcome, reason, error, until });
    }

    pub(super) fn log(
        queue: Queue,
        place: &Place,
        meta: Option<&Meta>,
        attempt: Option<u32>,
        ending: &Ending,
        took: Duration,
    ) {
        let &Ending { ref fate, outcome, ref why, pushes, .. } = ending;
        let trace = meta.and_then(|meta| meta.trace.as_deref()).filter(|trace| context::is_sampled(trace));
        let trace_id = trace.and_then(context::trace_id);
        let word = outcome.name();
        let job = meta.map_or("?", |meta| meta.job_id.as_str());
        let root = meta.map_or("?", |meta| meta.root_id.as_str());
        let kind = queue.kind.name;
        let &Place { sequence, delivered, .. } = place;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let why = why.as_deref();
        // The same fields in each, and more where they say something.
        macro_rules! line {
            ($level:ident, $($rest:tt)+) => {
                $level!(job, root, kind, outcome = word, attempt, delivered, ms, pushes, trace_id, $($rest)+)
            };
        }
        match fate {
            Fate::Leave => line!(warn, sequence, "{kind} is another worker's by now"),
            Fate::Done if outcome == JobOutcome::Unknown => {
                line!(error, reason = why, "{kind} may have been sent, or not: somebody has to look");
            }
            // The line of its notification says how many there were.
            Fate::Done
                if sequence == NO_MESSAGE && queue.kind.stage == Stage::Delivery && outcome == JobOutcome::Done =>
            {
                line!(debug, reason = why, "{kind} {word}");
            }
            Fate::Done => line!(info, reason = why, "{kind} {word}"),
            Fate::Release => line!(info, reason = why, "{kind} given back: the worker stops"),
            Fate::Park { until, .. } if outcome == JobOutcome::Retry => {
                line!(warn, error = why, %until, "{kind} failed, again later");
            }
            Fate::Park { until, .. } => line!(info, reason = why, %until, "{kind} waits"),
            Fate::Retry(wait) => line!(warn, error = why, ?wait, "{kind} failed, again soon"),
            Fate::Dead(Death { reason, error, attempts, .. }) => {
                line!(error, reason = reason.name(), attempts, error, sequence, "{kind} is dead");
            }
        }
    }
}

fn park(meta: &Meta, not_after: DateTime<Utc>, until: DateTime<Utc>) -> Fate {
    Fate::Park { meta: Box::new(meta.clone()), not_after, until }
}
