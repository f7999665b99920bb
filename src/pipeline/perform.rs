//! The way of a run: decode, attempt, and perform what was decided.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use tokio::{join, time::sleep};
use tracing::warn;

use super::{
    attempt::{Attempted, Decided, attempt, attempt_admitted},
    combined::Draft,
    delay::hold_back,
    direct::{DirectEnd, Reserved},
    ending::{Disposition, Ending},
    judge::Decision,
    message::{Form, Pulled},
    run::{Origin, Run, Shortcuts, is_begun},
    runner::Runner,
};
use crate::{
    channels::NOBODY,
    effects::{
        Admitted, Death, PlannedNotification, Refused, Written,
        park::{self, ParkedFor},
    },
    intake::{Unreadable, is_intake},
    kind::Stage,
    meta::{Meta, split},
    plan::{DeadReason, Delivered, JobOutcome, Maintenance, Plan, Reason},
    retry::Once,
    store::{Child, Claim, Committed, Verdict},
};

/// Bytes of a reminder with its headers; the usual ones have some three hundred.
const LARGEST_REMINDER: usize = 2048;

/// The wait of a job while the database is away.
const HELD_FOR: Duration = Duration::from_secs(1);

/// How long data read before a commit stays valid: it may have changed while the database was away.
const FRESH: TimeDelta = TimeDelta::seconds(5);

impl Run {
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
