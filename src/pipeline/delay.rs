//! Delayed jobs. Each is parked at once, whatever its queue waits for, and runs when it is due unless a later message of
//! its application has replaced or cancelled it.
//!
//! The table `delayed_jobs` decides, and not the order in which messages come: see `docs/RELIABILITY.md`.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    ending::{Disposition, Ending},
    runner::Runner,
};
use crate::{
    checkpoint::{self, Step},
    effects::{Death, Refused},
    intake::application,
    kind::{JOBS, LATER},
    meta::{Delay, Meta},
    plan::{DeadReason, JobOutcome, Plan, Reason},
    store::{DelayAnswer, DelayStep},
};

/// Decides about a job that its application delayed, whose body has `size` bytes. `None`: it runs now.
///
/// # Errors
/// If the database refuses an answer.
pub async fn hold_back(
    runner: &Runner,
    meta: &Meta,
    delay: &Delay,
    size: usize,
    not_after: DateTime<Utc>,
) -> Result<Option<Ending>, Refused> {
    let now = runner.clock.now();
    let waits = delay.only_waits || (delay.due > now && !delay.is_due);
    if let Some(position) = &delay.asked_by {
        // The queue of delayed jobs pauses instead. This one would hold up jobs that are not delayed.
        let exceeded = runner.delays.exceeded(application(&position.stream)).filter(|_| waits && !delay.only_waits);
        if let Some(bound) = exceeded {
            let error =
                format!("delayed jobs of more than {bound} KiB wait: publish delayed jobs to {JOBS}{LATER}<kind>");
            let death = Death { reason: DeadReason::Permanent, error, attempts: 1, first: meta.position.published };
            return Ok(Some(runner.die(meta, death).await?));
        }
        let step = if waits { DelayStep::Wait } else { DelayStep::Run };
        let left = |reason| Ending::new(JobOutcome::Skipped, Disposition::Done).by(reason);
        match runner.effects.delay(meta, size, position, step).await? {
            DelayAnswer::Again => {}
            DelayAnswer::Taken(replaced) => {
                if let Some(replaced) = replaced {
                    runner.effects.remove_parked(&replaced).await;
                }
            }
            // The replacement runs under the same id, and ends what is on record.
            DelayAnswer::Replaced => return Ok(Some(left(Reason::Replaced))),
            DelayAnswer::Cancelled if meta.resumed => {
                runner.effects.skip(meta, not_after, Reason::Cancelled, Plan::default()).await?;
                return Ok(Some(left(Reason::Cancelled)));
            }
            DelayAnswer::Cancelled => return Ok(Some(left(Reason::Cancelled))),
        }
        checkpoint::reached(if waits { Step::Noted } else { Step::Begun });
    }
    if !waits {
        return Ok(None);
    }
    // A past instant is at once, by the server's clock; before 1678 it would be never.
    let parked = Disposition::delay(meta, not_after, delay.due.max(now - TimeDelta::days(1)));
    Ok(Some(Ending::new(JobOutcome::Waits, parked).by(Reason::Delayed)))
}
