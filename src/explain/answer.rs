//! An explanation as data.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cause::Told;

/// Why somebody was or was not told. Ids only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The person.
    pub user_id: String,
    /// Their IANA zone, in which times are told.
    pub zone: String,
    /// The care recipient's IANA zone, if the question is about a care record.
    pub care_zone: Option<String>,
    /// The dose, or the start.
    pub instant: Option<DateTime<Utc>>,
    /// Whether they were told.
    pub told: Told,
    /// The word for the cause that decided (`docs/OPERATIONS.md`).
    pub reason: String,
    /// All of it in one sentence.
    pub sentence: String,
    /// Causes and facts; the first decided.
    pub facts: Vec<Fact>,
    /// Steps to take.
    pub next: Vec<String>,
    /// Each notification, newest first, if the question is about a time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Notified>,
    /// Tables that were read.
    pub looked_at: Vec<&'static str>,
    /// Those that could not be.
    pub unread: Vec<&'static str>,
    /// When.
    pub as_of: DateTime<Utc>,
}

/// A cause that holds, or a fact beside it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// Its word.
    pub reason: String,
    /// Whether it can decide.
    pub decides: bool,
    /// In words.
    pub text: String,
    /// The instant that it is about.
    pub at: Option<DateTime<Utc>>,
    /// The job that it is about.
    pub job_id: Option<String>,
    /// The delivery that it is about.
    pub delivery_id: Option<String>,
    /// The delivery's channel.
    pub channel: Option<String>,
}

/// One of several notifications.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notified {
    /// The root.
    pub job_id: String,
    /// When its inbox row was written.
    pub at: DateTime<Utc>,
    /// Whether the person was told.
    pub told: Told,
    /// The channel that decided.
    pub channel: Option<String>,
    /// When the person read it in their inbox.
    pub read_at: Option<DateTime<Utc>>,
    /// The word for the cause.
    pub reason: String,
    /// In one sentence.
    pub sentence: String,
}
