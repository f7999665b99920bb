//! A saved schedule, and its move to the next instant.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// The settings of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSpec {
    /// Its unique name, part of its job ids.
    pub name: String,
    /// The kind of its jobs.
    pub kind: String,
    /// The lane, for kinds that have lanes.
    pub lane: Option<String>,
    /// The job, as canonical protobuf JSON.
    pub payload: Value,
    /// The recurrence: see [`crate::schedule::Expression`].
    pub expression: String,
    /// The IANA name of its time zone.
    pub zone: String,
    /// See [`crate::schedule::Gap`].
    pub gap: String,
    /// See [`crate::schedule::Fold`].
    pub fold: String,
    /// The policy for missed instants: `skip`, `latest` or `all`.
    pub missed: String,
    /// Upper bound of instants made up by `all`.
    pub missed_limit: i32,
    /// Age at which missed instants are no longer made up, in seconds.
    pub missed_seconds: i64,
    /// Upper bound of the jitter, in seconds.
    pub jitter_seconds: i64,
    /// Expiry of a job after its instant, in seconds. Defaults to the kind's.
    pub expiry_seconds: Option<i64>,
    /// First possible instant, and the anchor of intervals.
    pub starts_at: DateTime<Utc>,
    /// End, exclusive.
    pub ends_at: Option<DateTime<Utc>>,
    /// Whether it is paused.
    pub paused: bool,
    /// Its owner, for example `medication:metformin`.
    pub owner: Option<String>,
}

/// A saved schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRow {
    /// Its id.
    pub id: String,
    /// Its settings.
    pub spec: ScheduleSpec,
    /// Its next instant.
    pub next: NextInstant,
    /// The last instant that was published.
    pub last_at: Option<DateTime<Utc>>,
    /// The job published for it.
    pub last_job_id: Option<String>,
    /// Number of instants published.
    pub fired: i64,
    /// Number of instants missed because no scheduler ran.
    pub missed_count: i64,
    /// The last decision about missed instants.
    pub last_note: Option<String>,
    /// Its creation.
    pub created: Edit,
    /// Its last change.
    pub changed: Edit,
}

/// When somebody edited a schedule, and who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The person.
    pub by: String,
}

/// The next instant of a schedule. Both are none if no instant is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextInstant {
    /// The instant.
    pub at: Option<DateTime<Utc>>,
    /// When it is published: the instant plus jitter.
    pub due: Option<DateTime<Utc>>,
}

/// When schedules are next due. None if none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextDue {
    /// All schedules.
    pub all: Option<DateTime<Utc>>,
    /// All but the excluded ones.
    pub without: Option<DateTime<Utc>>,
}

/// A schedule's move to its next instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Advance {
    /// The schedule's id.
    pub id: String,
    /// The new next instant.
    pub next: NextInstant,
    /// The last instant published, if any was.
    pub last: Option<PublishedInstant>,
    /// Number of instants published.
    pub fired: i64,
    /// Number of instants missed.
    pub missed: i64,
    /// The decision about the missed ones.
    pub note: Option<String>,
}

/// An instant that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedInstant {
    /// The instant.
    pub at: DateTime<Utc>,
    /// Its job.
    pub job_id: String,
}
