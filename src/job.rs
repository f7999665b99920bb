//! The vocabulary of a job: what a kind must say of itself, and what can become of one job.

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use prost_reflect::ReflectMessage;

use crate::{
    channels::Channels,
    clock::{Clock, Random},
    group::Refused,
    kind::{Kind, Lane},
    plan::{Plan, Reason, Upkeep},
    policy::Wishes,
    reads::{Reads, Recipients},
    store::{Claim, Event, EventStatus, Store},
    templates::Templates,
};

/// A kind of job. `parse` makes only valid values; `work` reads and decides, and leaves every effect to its plan.
pub trait Job: Sized + Send + 'static {
    /// The kind's name, stage and lanes.
    const KIND: Kind;

    /// The protobuf message of `proto/`, which is also its canonical JSON.
    type Wire: prost::Message + Default + ReflectMessage;

    /// Checks a message. An [`Invalid`] one is dead-lettered as it came.
    ///
    /// # Errors
    /// Names the field and what it should hold.
    fn parse(wire: Self::Wire) -> Result<Self, Invalid>;

    /// When the job is of no use any more, where its producer named no `Carebell-Not-After`.
    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc>;

    /// Looks things up afresh and decides. May run more than once for one job; must not write or send anything but
    /// the one delivery that the job is.
    ///
    /// # Errors
    /// A [`Failure`] says at its source whether the job is to be tried again.
    fn work(self, cx: &Context) -> impl Future<Output = Result<Outcome, Failure>> + Send;
}

/// What `work` decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// This is to be done.
    Done(Plan),
    /// Nothing is to be done, and why.
    Skipped(Reason),
    /// Nobody is to be told anything, and why; but this is to be done.
    SkippedWith(Reason, Plan),
    /// Carebell's own tables are to be tended.
    Upkeep(Upkeep),
    /// It is to be run again at this instant. Burns no attempt.
    Wait(DateTime<Utc>, Reason),
}

/// Why `work` could not decide. There is no blanket `From`: each `?` says which of these it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Try again after the queue's backoff, or after `after` where the other side named a time. Burns an attempt.
    Retry {
        /// For the log and the record; no personal data.
        why: String,
        /// At least this long.
        after: Option<Duration>,
    },
    /// Trying again cannot help.
    Permanent {
        /// For the log and the record; no personal data.
        why: String,
    },
    /// Something that every job needs (the database) is away. The job is held; this burns no attempt.
    Unavailable {
        /// For the log; no personal data.
        why: String,
    },
}

impl Failure {
    /// A failure that trying again may mend.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry { why: why.into(), after: None }
    }

    /// A failure that trying again cannot mend.
    pub fn permanent(why: impl Into<String>) -> Self {
        Self::Permanent { why: why.into() }
    }

    /// A failed read: held while the database is away or busy, otherwise a failure that may be tried again.
    #[must_use]
    pub fn reading(error: impl Into<Refused>) -> Self {
        match error.into() {
            Refused::Unavailable(why) => Self::Unavailable { why },
            Refused::Data(why) | Refused::Fault(why) => Self::retry(why),
        }
    }
}

/// A message whose content cannot be a job of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Invalid {
    /// The field, as the `.proto` file names it, or the header.
    pub field: &'static str,
    /// What is wrong with it and what it should be; never its value.
    pub problem: String,
}

impl Invalid {
    /// For `field`, with what it should be.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// What the headers and the stream say of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// The job's own id.
    pub job_id: String,
    /// The id of the job that an application published, and that this one follows from. Its own id where it is one.
    pub root_id: String,
    /// Its kind.
    pub kind: Kind,
    /// Its lane.
    pub lane: Lane,
    /// The stream it was read from.
    pub stream: String,
    /// Its sequence there.
    pub sequence: i64,
    /// How often the server has delivered this sequence, this time included.
    pub delivered: i64,
    /// When it was published to that stream.
    pub published: DateTime<Utc>,
    /// Whether it was parked, and is the message that comes back.
    pub resumed: bool,
    /// When it stops being of use, where a header says so.
    pub not_after: Option<DateTime<Utc>>,
    /// W3C trace context, handed on to all that follows (`telemetry::traces::context`).
    pub trace: Option<String>,
    /// What the job asks for itself, within the queue's ceilings.
    pub wishes: Wishes,
}

/// What `work` may use.
#[derive(Clone)]
pub struct Context {
    /// What the headers and the stream say of the job.
    pub meta: Meta,
    /// When it stops being of use.
    pub not_after: DateTime<Utc>,
    /// The ledger row, where the job is a delivery: claimed before `work` is called.
    pub claim: Option<Box<Claim>>,
    /// What many jobs read at once.
    pub reads: Reads,
    /// What is known of the recipients already.
    pub recipients: Recipients,
    /// Postgres, for what is read more rarely.
    pub store: Store,
    /// The ways to reach a person.
    pub channels: Channels,
    /// What people are told, in their languages.
    pub templates: Templates,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
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
        .filter(|instant| (1970..=9999).contains(&chrono::Datelike::year(instant)))
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

/// Reads a text of at most `most` characters. U+0000 is valid in protobuf and refused by Postgres, so it is refused here.
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

/// Why nobody is to be reminded of an event that was to begin at `told`, if there is a reason.
#[must_use]
pub fn called_off(event: &Event, told: DateTime<Utc>) -> Option<Reason> {
    match event.status {
        EventStatus::Cancelled => Some(Reason::Cancelled),
        EventStatus::Completed => Some(Reason::Over),
        // To the millisecond, because many producers cannot name an instant more exactly than that.
        EventStatus::Ahead if event.starts_at.timestamp_millis() != told.timestamp_millis() => Some(Reason::Moved),
        EventStatus::Ahead => None,
    }
}
