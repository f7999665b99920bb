//! Instants as people name them, in options and in queries.

use chrono::{DateTime, TimeDelta, Utc};

/// The answer to anything else.
pub(crate) const WHEN: &str = "expected an instant such as 2027-03-01T09:00:00Z, or an age such as 2h";

/// An instant, or an age.
pub(crate) fn parse_when(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    let ago = TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
    now.checked_sub_signed(ago)
}
