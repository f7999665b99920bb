//! Guards shared by the kinds that announce an event.

use chrono::{DateTime, Utc};

use crate::{
    plan::Reason,
    store::{Event, EventStatus},
};

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
