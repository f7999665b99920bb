//! Guards shared by the kinds that announce a dose or an event.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Context, Outcome};
use crate::{
    plan::Reason,
    store::{Event, EventStatus},
};

/// A reminder that comes back sooner than this before it is due need not wait again: clocks differ.
const EARLY_ENOUGH: TimeDelta = TimeDelta::seconds(1);

/// The reason to skip a reminder that announces `event` for the instant `told`, if there is one.
#[must_use]
pub fn called_off(event: &Event, told: DateTime<Utc>) -> Option<Reason> {
    match event.status {
        EventStatus::Cancelled => Some(Reason::Cancelled),
        EventStatus::Completed => Some(Reason::Over),
        // Compared to the millisecond, the finest unit that many producers have.
        EventStatus::Ahead if event.starts_at.timestamp_millis() != told.timestamp_millis() => Some(Reason::Moved),
        EventStatus::Ahead => None,
    }
}

/// Has a reminder wait that an application publishes before it is due. It would take the mark of the real one, whose
/// record may have changed by then.
#[must_use]
pub fn not_due(cx: &Context, instant: DateTime<Utc>, lead_minutes: i32) -> Option<Outcome> {
    let due = instant - TimeDelta::minutes(i64::from(lead_minutes));
    let is_early = cx.meta.is_of_application() && cx.clock.now() + EARLY_ENOUGH < due;
    is_early.then_some(Outcome::Wait(due, Reason::NotDue))
}
