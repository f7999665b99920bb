//! One attempt at a job: admission, expiry, work, and the decision about the result.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{
    ending::{Disposition, Ending},
    judge::{Decision, judge, parked_until},
    registry::Runnable,
    runner::Runner,
};
use crate::{
    effects::{Admission, Admitted, Effects, Refused},
    job::{self, Failure},
    kind::Stage,
    meta::Meta,
    plan::{JobOutcome, Plan, Reason},
    policy::Policy,
    telemetry::traces::Processing,
};

/// Time for what is read and noted before and after a task's request.
const AROUND_A_REQUEST: Duration = Duration::from_mins(1);

/// The result of an attempt.
pub enum Attempted {
    /// The work was done, and this is to follow.
    Decided(Box<Decided>),
    /// The job did not run: it is not admitted, or has expired.
    Ended(Ending),
}

/// A decision, and the facts that it rests on.
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// Failures recorded before this attempt.
    pub attempts: u32,
    /// When the job was first recorded.
    pub first: DateTime<Utc>,
    /// When the job expires.
    pub not_after: DateTime<Utc>,
    /// The earliest time any input was read.
    pub read: DateTime<Utc>,
    /// The policy, with the job's own wishes.
    pub policy: Policy,
}

/// One attempt. Boxes rare paths: a run's state is as large as the largest future it awaits, and is copied where it
/// begins.
///
/// # Errors
/// If the database refuses an answer; the caller waits and attempts again.
pub async fn attempt(
    runner: &Runner,
    meta: &Meta,
    job: Box<dyn Runnable>,
    span: &mut Processing,
) -> Result<Attempted, Refused> {
    match runner.effects.admit(meta, runner.patience()).await? {
        Admission::Run(admitted) => attempt_admitted(runner, meta, job, span, admitted).await,
        other => {
            let not_after = meta.not_after.unwrap_or_else(|| job.default_expiry(meta.begins()));
            Ok(Attempted::Ended(Box::pin(not_admitted(runner, meta, not_after, other)).await?))
        }
    }
}

/// Attempts a job that may run.
///
/// # Errors
/// As [`attempt`].
pub async fn attempt_admitted(
    runner: &Runner,
    meta: &Meta,
    job: Box<dyn Runnable>,
    span: &mut Processing,
    admitted: Admitted,
) -> Result<Attempted, Refused> {
    let Admitted { mut attempts, claim, mut first, is_cancelled } = admitted;
    let not_after = meta.not_after.unwrap_or_else(|| job.default_expiry(meta.begins()));
    span.attempt = Some(attempts + 1);
    // A send that may have happened is not too late: its channel's rule decides its end. Nor is a task under way, which
    // has a deadline.
    let may_be_sent = claim.as_ref().is_some_and(|claim| claim.unsettled) && runner.stops_after_unknown();
    let is_accepted = meta.waited.is_some_and(|waited| waited.reason == Reason::Accepted);
    let read = runner.clock.now();
    if read >= not_after && !may_be_sent && !is_accepted {
        let written = Box::pin(runner.effects.skip(meta, not_after, Reason::Expired, Plan::default())).await?;
        return Ok(Attempted::Ended(Ending::new(JobOutcome::Expired, Disposition::Done).if_written(meta, written)));
    }
    let policy = runner.policy.for_job(&meta.wishes);
    let attempt = job::Attempt { number: attempts + 1, timeout: policy.timeout, is_cancelled };
    let cx = job::Context { attempt, ..runner.context(meta, not_after, claim) };
    // A task ends at its own timeout: only it knows whether its request went out.
    let more = if meta.kind.stage == Stage::Task { AROUND_A_REQUEST } else { Duration::ZERO };
    let result = runner.work(job, cx, policy.timeout + more).await;
    let failed = matches!(result, Err(Failure::Retry { .. } | Failure::Permanent { .. }));
    if failed && Effects::takes_for_new(meta) {
        match runner.effects.look_up(meta).await? {
            Admission::Run(recorded) => (attempts, first) = (recorded.attempts, recorded.first),
            other => {
                return Ok(Attempted::Ended(Box::pin(not_admitted(runner, meta, not_after, other)).await?));
            }
        }
        span.attempt = Some(attempts + 1);
    }
    let decision = judge(result, attempts, &policy, &runner.random, runner.clock.now(), not_after);
    Ok(Attempted::Decided(Box::new(Decided { decision, attempts, first, not_after, read, policy })))
}

async fn not_admitted(
    runner: &Runner,
    meta: &Meta,
    not_after: DateTime<Utc>,
    admission: Admission,
) -> Result<Ending, Refused> {
    Ok(match admission {
        // Unreachable: both callers handle `Run` themselves.
        Admission::Run(_) => Ending::new(JobOutcome::Superseded, Disposition::Leave),
        Admission::Ended(state) => Ending::new(JobOutcome::Duplicate, Disposition::Done).because(state),
        Admission::Dead(death) => Ending::new(JobOutcome::Dead, Disposition::Dead(death)),
        Admission::Wait(until, reason) => {
            let now = runner.clock.now();
            let until = parked_until(until, now, not_after);
            Ending::new(JobOutcome::Waits, Disposition::wait(meta, not_after, now, until, reason)).by(reason)
        }
        Admission::Again(wait) => Ending::in_flight(wait),
        Admission::Crashing { attempts } => return runner.crashed(meta, attempts).await,
    })
}
