//! Parsers for the fields of messages, shared by all kinds.

use chrono::{DateTime, Datelike, Utc};

/// A message that cannot be a job of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Invalid {
    /// The field as the `.proto` file names it, or the header.
    pub field: &'static str,
    /// The problem and the expected form; never the value.
    pub problem: String,
}

impl Invalid {
    /// An error about `field`. `problem` continues the sentence that the field's name begins.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Reads a required id: not empty, at most 100 bytes, no control characters.
///
/// # Errors
/// Names the field.
pub fn id(field: &'static str, text: String) -> Result<String, Invalid> {
    match text.len() {
        0 => Err(Invalid::new(field, "is required")),
        1..=100 if !text.chars().any(char::is_control) => Ok(text),
        _ => Err(Invalid::new(field, "must be an id of at most 100 bytes without control characters")),
    }
}

/// Reads a required instant, to the microsecond.
///
/// # Errors
/// Names the field.
pub fn instant(field: &'static str, time: Option<prost_types::Timestamp>) -> Result<DateTime<Utc>, Invalid> {
    let time = time.ok_or_else(|| Invalid::new(field, "is required"))?;
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    nanos
        .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos / 1000 * 1000))
        .filter(|instant| (1970..=9999).contains(&instant.year()))
        .ok_or_else(|| Invalid::new(field, "must be an instant between the years 1970 and 9999"))
}

/// Reads a lead time of 0 minutes to a week.
///
/// # Errors
/// Names the field.
pub fn lead_minutes(field: &'static str, minutes: i32) -> Result<i32, Invalid> {
    if (0..=10_080).contains(&minutes) {
        Ok(minutes)
    } else {
        Err(Invalid::new(field, "must be between 0 and 10080 minutes (a week)"))
    }
}

/// Reads a number of doses.
///
/// # Errors
/// Names the field.
pub fn doses(field: &'static str, doses: i32) -> Result<i32, Invalid> {
    if doses >= 0 { Ok(doses) } else { Err(Invalid::new(field, "must not be negative")) }
}

/// Reads a text of at most `most` characters and trims it. Refuses U+0000: protobuf allows it, Postgres does not.
///
/// # Errors
/// Names the field.
pub fn text(field: &'static str, text: &str, most: usize) -> Result<String, Invalid> {
    let text = text.trim();
    if text.contains('\0') {
        return Err(Invalid::new(field, "must not hold U+0000"));
    }
    if text.chars().nth(most).is_some() {
        return Err(Invalid::new(field, format!("must be at most {most} characters")));
    }
    Ok(text.to_owned())
}
