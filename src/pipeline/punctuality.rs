//! The service level of all of Carebell: how soon after the instant at which it was due a delivery was accepted.
//!
//! `docs/METRICS.md` defines it. Each ledger row counts once, in the worker that records its end.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    ending::{Disposition, Ending},
    runner::Runner,
};
use crate::{
    kind::Stage,
    meta::Meta,
    plan::{DeadReason, JobOutcome},
};

/// The objective: accepted within this time. `helm/carebell/files/rules.yaml` has it too.
pub const OBJECTIVE: TimeDelta = TimeDelta::seconds(5);

/// An end that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A provider accepted it then.
    Accepted(DateTime<Utc>),
    /// It expired.
    Expired,
    /// It is dead for this reason.
    Dead(DeadReason),
    /// It may have been accepted.
    Unknown,
}

impl End {
    /// That of a run. `None` for a run that goes on, or ends because nobody is to be told.
    pub(super) fn of(ending: &Ending) -> Option<Self> {
        if let Some(at) = ending.accepted {
            return Some(Self::Accepted(at));
        }
        match (ending.outcome, &ending.disposition) {
            (JobOutcome::Dead, Disposition::Dead(death)) => Some(Self::Dead(death.reason)),
            (JobOutcome::Expired, Disposition::Done) => Some(Self::Expired),
            (JobOutcome::Unknown, Disposition::Done) => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// The time in which a queue was paused while a message waited in it makes nothing late.
pub fn excuse_pauses(runner: &Runner, meta: &mut Meta) {
    // That of a task is told to its endpoint.
    let Some(due) = meta.due.filter(|_| meta.kind.stage != Stage::Task) else { return };
    let since = due.max(meta.position.published);
    meta.excuse(runner.pauses.held(runner.queue, since, runner.clock.now()));
}

/// Counts an end of a job for which somebody waited.
pub fn count(runner: &Runner, meta: &Meta, end: End) {
    let Some(due) = meta.due else { return };
    let is_delivery = meta.kind.stage == Stage::Delivery;
    if !matches!(meta.kind.stage, Stage::Reminder | Stage::Notification | Stage::Delivery) {
        return;
    }
    match end {
        End::Accepted(at) => runner.metrics.accepted((at - due).to_std().unwrap_or_default()),
        // Published too late, or kept from being sent until then by people.
        End::Expired if runner.clock.now() - due <= OBJECTIVE => {}
        End::Expired => runner.metrics.never_accepted("expired"),
        End::Unknown => runner.metrics.never_accepted("unknown"),
        // Of a reminder, the other reasons are its producer's.
        End::Dead(DeadReason::Exhausted | DeadReason::Crashed) => runner.metrics.never_accepted("dead"),
        End::Dead(_) if is_delivery => runner.metrics.never_accepted("dead"),
        End::Dead(_) => {}
    }
}
