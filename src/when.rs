//! Instants as people name them, in options and in queries.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, de::Error};

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

/// A field with an instant, for `#[serde(deserialize_with)]`: the error says what was expected.
pub(crate) fn instant<'de, D: Deserializer<'de>>(field: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(field)? else { return Ok(None) };
    let instant = DateTime::parse_from_rfc3339(&text);
    let instant = instant.map_err(|_| D::Error::custom("expected an instant such as 2027-03-01T09:00:00Z"))?;
    Ok(Some(instant.with_timezone(&Utc)))
}

/// Whether a text is a date and a time of day without an offset, and so no instant.
pub(crate) fn lacks_offset(text: &str) -> bool {
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    forms.into_iter().any(|form| NaiveDateTime::parse_from_str(text.trim(), form).is_ok())
}
