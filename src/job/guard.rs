//! Guards shared by the kinds that announce a dose or an event.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Context, Failure, Outcome};
use crate::{
    meta::LONGEST_DELAY,
    plan::Reason,
    store::{Event, EventStatus},
};

/// A reminder that is due sooner than this does not wait: clocks differ, and the shortest wait is a second.
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
///
/// # Errors
/// If it would wait for more than ten years: the server's schedules end in 2262.
pub fn not_due(cx: &Context, instant: DateTime<Utc>, lead_minutes: i32) -> Result<Option<Outcome>, Failure> {
    let (due, now) = (instant - TimeDelta::minutes(i64::from(lead_minutes)), cx.clock.now());
    // One that comes back has waited by the server's clock.
    if !cx.meta.is_of_application() || cx.meta.resumed || due <= now + EARLY_ENOUGH {
        return Ok(None);
    }
    if due - now > LONGEST_DELAY {
        return Err(Failure::permanent("the reminder is for an instant more than ten years ahead"));
    }
    Ok(Some(Outcome::Wait(due, Reason::NotDue)))
}
