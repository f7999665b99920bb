//! One run of a job, from its beginning to its end: decode, attempt, carry out, settle.
//!
//! A run begins and ends here, whatever its [`Origin`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use tokio::{
    join,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use super::{
    attempt::{Attempted, Decided, attempt, attempt_admitted},
    combined::{Combined, Draft},
    delay::hold_back,
    direct::{DirectEnd, DirectSends, Reserved},
    ending::{Disposition, Ending, Logged},
    judge::Decision,
    message::{Form, Pulled},
    punctuality,
    runner::{RELEASE_TIMEOUT, Runner},
    settle::settle,
    telling::Telling,
};
use crate::{
    channels::NOBODY,
    checkpoint::{self, Step},
    effects::{
        Admitted, Death, PlannedNotification, Refused, Written,
        park::{self, ParkedFor},
    },
    intake::{Unreadable, is_intake},
    kind::Stage,
    meta::{Ids, Meta, NO_MESSAGE, split},
    plan::{DeadReason, Delivered, JobOutcome, Maintenance, Plan, Reason},
    retry::Once,
    store::{Child, Claim, Committed, Verdict},
    telemetry::{
        tally::Running,
        traces::{self, Processing},
    },
};

/// Bytes of a reminder with its headers; the usual ones have some three hundred.
const LARGEST_REMINDER: usize = 2048;

/// The wait of a job while the database is away.
const HELD_FOR: Duration = Duration::from_secs(1);

/// How long data read before a commit stays valid: it may have changed while the database was away.
const FRESH: TimeDelta = TimeDelta::seconds(5);

/// How a job reached its run.
#[expect(clippy::large_enum_variant, reason = "the largest is the usual one, and a box would cost each message")]
pub enum Origin<'a> {
    /// By a pulled message.
    Message(Pulled),
    /// Planned with its reminder: a notification.
    Planned {
        /// Its identity.
        meta: Meta,
        /// The size of its body, in bytes.
        size: usize,
        /// When planning began.
        started: Instant,
    },
    /// Sent directly: a claimed push, with the message that it would have.
    Direct(&'a Child, DateTime<Utc>),
}

/// Combined commits and direct sends, which skip messages.
pub struct Shortcuts {
    /// Plans notifications with their reminders.
    pub combined: Combined,
    /// Sends pushes directly.
    pub direct: DirectSends,
}

/// A running job. Dropping it settles nothing: the server redelivers its message.
pub struct Run {
    runner: Arc<Runner>,
    shortcuts: Option<Arc<Shortcuts>>,
    message: Option<Pulled>,
    meta: Result<Meta, Unreadable>,
    span: Processing,
    started: Instant,
    is_counted: bool,
    /// Until the run is dropped.
    _running: Running,
}

impl Run {
    /// Begins a run.
    pub fn begin(runner: &Arc<Runner>, shortcuts: Option<&Arc<Shortcuts>>, origin: Origin<'_>) -> Self {
        let mut started = Instant::now();
        let is_counted = !matches!(origin, Origin::Planned { .. });
        let mut message = None;
        let (meta, span) = match origin {
            Origin::Message(mut pulled) => {
                let position = &pulled.position;
                let waited = || (runner.clock.now() - position.published).to_std().unwrap_or_default();
                // A redelivery's wait was not for a free worker.
                runner.metrics.begun((position.delivered == 1).then(waited));
                let mut meta = pulled.meta();
                if let Ok(meta) = &mut meta {
                    punctuality::excuse_pauses(runner, meta);
                }
                let span = pulled.begin_span(meta.as_mut().map_err(|invalid| &*invalid));
                if let Ok(meta) = &meta {
                    let delivery_count = meta.position.delivered;
                    debug!(job = meta.job_id, root = meta.root_id, kind = %meta.kind, delivery_count, "begun");
                }
                message = Some(pulled);
                (meta, span)
            }
            Origin::Planned { meta, size, started: since } => {
                started = since;
                let mut begun = begin_without_message(runner, meta, size);
                begun.1.attempt = Some(1);
                begun
            }
            Origin::Direct(child, claimed_at) => {
                checkpoint::reached(Step::Claimed);
                runner.metrics.begun(Some(Duration::ZERO));
                let ids = Ids { job: child.job_id.clone(), root: child.root_id.clone() };
                let mut meta = Meta::without_message(runner.queue, &runner.stream, ids, claimed_at, child.not_after);
                meta.trace.clone_from(&child.trace);
                meta.due = child.due;
                begin_without_message(runner, meta, child.body.len())
            }
        };
        let job_id = meta.as_ref().map_or("", |meta| meta.job_id.as_str());
        let running = runner.metrics.running(job_id, runner.clock.now());
        let (runner, shortcuts) = (Arc::clone(runner), shortcuts.cloned());
        Self { runner, shortcuts, message, meta, span, started, is_counted, _running: running }
    }

    /// Runs a message to its end, and keeps it this worker's until settled.
    pub async fn run(mut self) {
        let Some(lifeline) = self.message.as_ref().map(Pulled::lifeline) else { return };
        let runner = Arc::clone(&self.runner);
        let ending = tokio::select! {
            biased;
            ending = self.decide() => ending,
            never = lifeline.keep() => match never {},
            () = runner.deadline.cancelled() => {
                runner.release(self.meta.as_ref().ok().filter(|meta| is_begun(meta, runner.clock.now()))).await
            }
        };
        self.end(ending).await;
    }

    /// Decides and performs; repeats while the database is away.
    async fn decide(&mut self) -> Ending {
        let Self { runner, shortcuts, message: Some(message), meta, span, .. } = self else {
            // Unreachable: only a run with a message is decided.
            return Ending::new(JobOutcome::Superseded, Disposition::Leave);
        };
        let meta = match meta {
            Ok(meta) => &*meta,
            Err(unreadable) => {
                let known = message.identity().ok();
                return runner.unreadable(&message.position, known.as_ref(), unreadable).await;
            }
        };
        let mut told = Once::new();
        loop {
            let form = message.form().map_err(|invalid| invalid.to_string());
            let job = form.and_then(|form| runner.decode(message.body(), form));
            let job = match job.and_then(|job| is_small(message).map(|()| job)) {
                Ok(job) => job,
                Err(why) => {
                    let unreadable = Unreadable { reason: DeadReason::Undecodable, why };
                    return runner.unreadable(&message.position, Some(meta), &unreadable).await;
                }
            };
            let held_back = match &meta.delay {
                None => Ok(None),
                Some(delay) => {
                    let not_after = meta.not_after.unwrap_or_else(|| job.default_expiry(meta.begins()));
                    Box::pin(hold_back(runner, meta, delay, message.size(), not_after)).await
                }
            };
            let performed = match held_back {
                Ok(None) => match attempt(runner, meta, job, span).await {
                    Ok(Attempted::Decided(decided)) => perform(runner, shortcuts.as_ref(), meta, decided).await,
                    Ok(Attempted::Ended(ending)) => Ok(ending),
                    Err(refused) => Err(refused),
                },
                Ok(Some(ending)) => Ok(ending),
                Err(refused) => Err(refused),
            };
            let performed = match performed {
                Err(Refused::Data(why)) => runner.refused(meta, &why).await,
                performed => performed,
            };
            match performed {
                Ok(ending) => return ending,
                Err(Refused::Data(why) | Refused::Fault(why) | Refused::Unavailable(why)) => {
                    // Logged once, not each second: health shows which part is down.
                    if told.is_first() {
                        warn!(job = meta.job_id, kind = %meta.kind, "held, no attempt burnt: {why}");
                        span.held(&why);
                    }
                    sleep(HELD_FOR).await;
                }
            }
        }
    }

    async fn end(mut self, ending: Ending) {
        self.close(&ending);
        let took = self.started.elapsed();
        // Its id may be right though another header is not.
        let identity = self.message.as_ref().filter(|_| self.meta.is_err()).and_then(|message| message.identity().ok());
        let position = self.message.as_ref().map(|message| &message.position);
        let position = position.or(self.meta.as_ref().ok().map(|meta| &meta.position));
        ending.log(&Logged {
            queue: self.runner.queue,
            sequence: position.map_or(NO_MESSAGE, |position| position.sequence),
            delivered: position.map_or(1, |position| position.delivered),
            meta: self.meta.as_ref().ok().or(identity.as_ref()),
            attempt: self.span.attempt,
            took,
        });
        let (outcome, reason, attempts) = (ending.outcome, ending.label(), ending.attempts());
        let because = reason.or(ending.receipt);
        let punctual = punctuality::End::of(&ending);
        let runner = &self.runner;
        if let Some(message) = self.message.take() {
            let lifeline = message.lifeline();
            let telling = self.meta.as_ref().ok().and_then(|meta| Telling::of(meta, &ending, runner.clock.now()));
            let settled = async {
                if let Some(telling) = telling {
                    Box::pin(telling.tell(&runner.effects)).await;
                }
                settle(message, ending.disposition, &runner.effects).await;
            };
            tokio::select! {
                biased;
                () = settled => checkpoint::reached(Step::Settled),
                never = lifeline.keep() => match never {},
                () = out_of_time(runner) => {}
            }
        }
        if !self.is_counted {
            runner.metrics.begun(Some(Duration::ZERO));
        }
        runner.metrics.ended(outcome, self.started.elapsed(), reason, attempts);
        runner.metrics.tally(outcome, because);
        if let (Some(end), Ok(meta)) = (punctual, &self.meta) {
            punctuality::count(runner, meta, end);
        }
    }

    /// Ends a notification planned and written with its reminder, unless it had already ended through its own message.
    async fn end_with_reminder(mut self, reminder: Committed, followed: bool, pushes: Option<usize>) {
        let ending = match reminder {
            Committed::Fresh if followed => {
                Ending { attempts: Some(1), pushes, ..Ending::new(JobOutcome::Done, Disposition::Done) }
            }
            Committed::Fresh | Committed::Duplicate | Committed::InFlight(_) => {
                Ending::new(JobOutcome::Duplicate, Disposition::Done)
            }
            // Another job sent this reminder, so there is no such notification.
            Committed::MarkTaken => {
                return self.close(&Ending::new(JobOutcome::Skipped, Disposition::Done).by(Reason::AlreadySent));
            }
        };
        self.end(ending).await;
    }

    /// Closes a span without log line or count: the message will repeat the run, or the job does not exist.
    fn close(&mut self, ending: &Ending) {
        ending.close(&mut self.span, self.runner.clock.now());
    }
}

/// A reminder of an application may wait for years until it is due.
fn is_small(message: &Pulled) -> Result<(), String> {
    let is_one = message.queue().kind.stage == Stage::Reminder && is_intake(&message.position.stream);
    match message.size() {
        size if is_one && size > LARGEST_REMINDER => {
            Err(format!("a reminder may have {LARGEST_REMINDER} bytes with its headers, and this has {size}"))
        }
        _ => Ok(()),
    }
}

/// Whether giving it back is to be recorded. A delayed job has no run before it is due.
fn is_begun(meta: &Meta, now: DateTime<Utc>) -> bool {
    meta.delay.as_ref().is_none_or(|delay| !delay.only_waits && delay.due <= now)
}

fn begin_without_message(runner: &Runner, mut meta: Meta, size: usize) -> (Result<Meta, Unreadable>, Processing) {
    let ids = Some((meta.job_id.as_str(), meta.root_id.as_str()));
    let (span, trace) = traces::process(runner.queue, &meta.position, ids, size, meta.trace.as_deref());
    meta.trace = trace.or(meta.trace);
    (Ok(meta), span)
}

async fn perform(
    runner: &Arc<Runner>,
    shortcuts: Option<&Arc<Shortcuts>>,
    meta: &Meta,
    decided: Box<Decided>,
) -> Result<Ending, Refused> {
    let Decided { decision, attempts, first, not_after, read, policy } = *decided;
    let effects = &runner.effects;
    match decision {
        Decision::CarryOut(plan) => {
            let outcome = plan.outcome();
            let receipt = plan.receipt.as_ref().and_then(|receipt| receipt.reason);
            let why = receipt.map(str::to_owned);
            let failed = plan.receipt.as_ref().filter(|receipt| receipt.state != Delivered::Sent);
            let error = failed.map(|receipt| receipt.answer.clone()).filter(|answer| answer != NOBODY);
            // Recording it may take longer: the database may be away.
            let accepted = plan.receipt.as_ref().filter(|receipt| receipt.state == Delivered::Sent);
            let accepted = accepted.map(|_| runner.clock.now());
            let (committed, pushes) = match shortcuts {
                Some(shortcuts) => {
                    Box::pin(carry_out_with_shortcuts(runner, shortcuts, meta, not_after, plan, read)).await?
                }
                None => (effects.carry_out(meta, not_after, plan).await?, None),
            };
            Ok(match committed {
                Committed::Fresh => Ending {
                    why,
                    receipt,
                    error,
                    attempts: Some(attempts + 1),
                    pushes,
                    accepted,
                    ..Ending::new(outcome, Disposition::Done)
                },
                Committed::MarkTaken => Ending::new(JobOutcome::Skipped, Disposition::Done).by(Reason::AlreadySent),
                Committed::Duplicate => {
                    Ending::new(JobOutcome::Duplicate, Disposition::Done).if_written(meta, Written::Superseded)
                }
                Committed::InFlight(wait) => Ending::in_flight(wait),
            })
        }
        Decision::Skip(reason, plan) => {
            let written = Box::pin(effects.skip(meta, not_after, reason, plan)).await?;
            let outcome = if reason == Reason::Expired { JobOutcome::Expired } else { JobOutcome::Skipped };
            Ok(Ending::new(outcome, Disposition::Done).by(reason).if_written(meta, written))
        }
        Decision::Maintain(task) => Box::pin(maintain(runner, meta, not_after, task, policy.timeout)).await,
        Decision::Wait(until, reason) => {
            let exceeded = runner.delays.exceeded(split(&meta.job_id).0).filter(|_| reason == Reason::NotDue);
            if let Some(bound) = exceeded
                && !effects.is_open(meta).await?
            {
                let error = format!(
                    "it is not due, and {bound} delayed jobs (each KiB counts) wait: publish it when it is due"
                );
                let death = Death { reason: DeadReason::Permanent, error, attempts: attempts + 1, first };
                return runner.die(meta, death).await;
            }
            let written = effects.record_wait(meta, until, reason).await?;
            let parked = Disposition::wait(meta, not_after, runner.clock.now(), until, reason);
            Ok(Ending::new(JobOutcome::Waits, parked).by(reason).if_written(meta, written))
        }
        Decision::RetrySoon(why, wait) => {
            let written = effects.record(meta, Verdict::Attempt { error: why.clone(), until: None }).await?;
            Ok(Ending::new(JobOutcome::Retry, Disposition::Retry(wait)).because(why).if_written(meta, written))
        }
        Decision::RetryLater(why, until) => {
            let failed = Verdict::Attempt { error: why.clone(), until: Some(until) };
            let written = effects.record(meta, failed).await?;
            let parked = Disposition::wait(meta, not_after, runner.clock.now(), until, Reason::Retry);
            Ok(Ending::new(JobOutcome::Retry, parked).because(why).if_written(meta, written))
        }
        Decision::Die(error, reason) => runner.die(meta, Death { reason, error, attempts: attempts + 1, first }).await,
        Decision::Hold(why) => Err(Refused::Unavailable(why)),
    }
}

/// Plans and commits a reminder's notification with it, and sends pushes directly. Also returns the pushes sent, if
/// they belong to this job's log line.
async fn carry_out_with_shortcuts(
    runner: &Arc<Runner>,
    shortcuts: &Arc<Shortcuts>,
    meta: &Meta,
    not_after: DateTime<Utc>,
    mut plan: Plan,
    read: DateTime<Utc>,
) -> Result<(Committed, Option<usize>), Refused> {
    let effects = &runner.effects;
    let mut draft = shortcuts.combined.draft(meta, not_after, &mut plan).await;
    let (planner, pushing) = match &mut draft {
        Some(Draft { meta, plan, .. }) => (&*meta, plan),
        None => (meta, &mut plan),
    };
    let reserved = shortcuts.direct.reserve(planner, pushing, read).await;
    let job_id = planner.job_id.clone();
    if reserved.is_none() && draft.is_none() {
        return Ok((effects.carry_out(meta, not_after, plan).await?, None));
    }
    let (notification, run) = match draft {
        Some(Draft { runner, meta, size, plan, started }) => {
            let run = Run::begin(&runner, None, Origin::Planned { meta, size, started });
            let meta = run.meta.clone().ok();
            (meta.map(|meta| PlannedNotification { meta, plan }), Some(run))
        }
        None => (None, None),
    };
    let ids = reserved.as_ref().map(Reserved::ids);
    let carried_out = effects.commit_and_claim(meta, not_after, plan, notification, ids).await?;
    let (committed, followed) = (carried_out.committed, carried_out.followed);
    let mut pushes = None;
    match reserved.filter(|_| !carried_out.claimed.is_empty()) {
        Some(reserved) if runner.clock.now() - read > FRESH => {
            let _under_way = reserved.without_permits();
            effects.give_up_claims(&job_id, carried_out).await?;
        }
        Some(reserved) => {
            // At the same time: a message that cannot be published must not hold up the pushes.
            let sending = async {
                let sent = shortcuts.direct.send(reserved, &carried_out.claimed, send_directly).await;
                if !sent.need_message.is_empty() {
                    effects.publish_some(&sent.need_message).await;
                }
                sent.count
            };
            let (sent, ()) = join!(sending, effects.publish_some(&carried_out.others));
            pushes = Some(sent);
            effects.note_published(&job_id).await;
        }
        None => effects.publish(&job_id, &carried_out.others).await,
    }
    if let Some(run) = run {
        run.end_with_reminder(committed, followed, pushes.take()).await;
    }
    Ok((committed, pushes))
}

/// Runs a claimed push; `child` is the message that it would have.
fn send_directly(runner: Arc<Runner>, child: Child, claim: Box<Claim>) -> BoxFuture<'static, DirectEnd> {
    Box::pin(async move {
        let mut run = Run::begin(&runner, None, Origin::Direct(&child, claim.created_at));
        // Decoding cannot fail: this program made the body.
        let (Ok(job), Ok(meta)) = (runner.decoder.decode(&Bytes::from(child.body.clone()), Form::Protobuf), &run.meta)
        else {
            return DirectEnd::NeedsMessage;
        };
        let sending = async {
            match attempt_admitted(&runner, meta, job, &mut run.span, Admitted::claimed(claim)).await? {
                Attempted::Decided(decided) => perform(&runner, None, meta, decided).await,
                Attempted::Ended(ending) => Ok(ending),
            }
        };
        let ended = tokio::select! {
            biased;
            ended = sending => ended,
            () = runner.deadline.cancelled() => Ok(runner.release(Some(meta)).await),
        };
        let Ok(ending) = ended else {
            runner.release(Some(meta)).await;
            return DirectEnd::NeedsMessage;
        };
        let again = |wait: Duration, reason| {
            let now = runner.clock.now();
            let until = now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX);
            (meta.waiting(reason, now, until), until, ParkedFor::Again)
        };
        let (end, parks) = match &ending.disposition {
            // On record as dead. Its message is published and buried, because a dead letter names its stream and subject.
            Disposition::Dead(_) => {
                run.close(&ending);
                return DirectEnd::NeedsMessage;
            }
            Disposition::Done if ending.outcome == JobOutcome::Done => (DirectEnd::Sent, None),
            Disposition::Done | Disposition::Leave => (DirectEnd::Recorded, None),
            Disposition::Release => (DirectEnd::NeedsMessage, None),
            Disposition::Retry(wait) => (DirectEnd::Recorded, Some(again(*wait, Reason::Retry))),
            Disposition::Again(wait) => (DirectEnd::Recorded, Some(again(*wait, Reason::InFlight))),
            Disposition::Park(parked) => {
                (DirectEnd::Recorded, Some((parked.meta.clone(), parked.until, parked.parked_for)))
            }
        };
        run.end(ending).await;
        if let Some((meta, until, parked_for)) = parks
            && park::park_child(runner.effects.context(), &meta, &child, until, parked_for).await
                == park::Parked::TooLarge
        {
            return DirectEnd::NeedsMessage;
        }
        end
    })
}

/// Runs within the timeout. A stopping worker does not wait: the next one continues.
async fn maintain(
    runner: &Runner,
    meta: &Meta,
    not_after: DateTime<Utc>,
    task: Maintenance,
    limit: Duration,
) -> Result<Ending, Refused> {
    tokio::select! {
        maintained = runner.effects.maintain(meta, not_after, task, limit) => match maintained? {
            (Committed::Fresh | Committed::MarkTaken, removed) => {
                Ok(Ending::new(JobOutcome::Done, Disposition::Done).because(removed.to_string()))
            }
            (Committed::Duplicate, _) => Ok(Ending::new(JobOutcome::Duplicate, Disposition::Done)),
            (Committed::InFlight(wait), _) => Ok(Ending::in_flight(wait)),
        },
        () = runner.stop.cancelled() => Ok(runner.release(Some(meta)).await),
    }
}

/// Returns shortly after the deadline. A message unsettled by then is settled after its redelivery.
async fn out_of_time(runner: &Runner) {
    runner.deadline.cancelled().await;
    sleep(RELEASE_TIMEOUT).await;
}

/// Keeps a message this worker's until its time. False if the worker stops first, or the queue is paused.
pub async fn hold(runner: &Runner, message: &Pulled, until: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = runner.stop.cancelled() => false,
        () = runner.pauses.begun(runner.queue) => false,
        () = until => true,
        never = message.lifeline().keep() => match never {},
    }
}

/// Gives back a message that was pulled and not begun.
pub async fn give_back(runner: &Runner, message: Pulled) {
    let meta = message
        .meta()
        .ok()
        .filter(|meta| is_begun(meta, runner.clock.now()))
        .filter(|_| runner.queue.kind.stage != Stage::Delay);
    let ending = runner.release(meta.as_ref()).await;
    settle(message, ending.disposition, &runner.effects).await;
}
