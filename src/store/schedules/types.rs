use chrono::{DateTime, Utc};
use serde_json::Value;

/// Settings of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSpec {
    /// Unique name, part of its job ids.
    pub name: String,
    /// Kind of its jobs.
    pub kind: String,
    /// Lane, for kinds with lanes.
    pub lane: Option<String>,
    /// Job, as protobuf JSON.
    pub payload: Value,
    /// Recurrence: see [`crate::schedule::Expression`].
    pub expression: String,
    /// IANA time zone.
    pub zone: String,
    /// See [`crate::schedule::Gap`].
    pub gap: String,
    /// See [`crate::schedule::Fold`].
    pub fold: String,
    /// Policy for missed instants: `skip`, `latest` or `all`.
    pub missed: String,
    /// Most instants that `all` makes up.
    pub missed_limit: i32,
    /// Age limit for made-up instants, in seconds.
    pub missed_seconds: i64,
    /// Longest jitter, in seconds.
    pub jitter_seconds: i64,
    /// Expiry after the instant, in seconds. Defaults to the kind's.
    pub expiry_seconds: Option<i64>,
    /// First possible instant, and the anchor of intervals.
    pub starts_at: DateTime<Utc>,
    /// End, exclusive.
    pub ends_at: Option<DateTime<Utc>>,
    /// Whether it is paused.
    pub paused: bool,
    /// For example `medication:metformin`.
    pub owner: Option<String>,
}

/// Whether saving a schedule replaces one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It does not.
    Never,
    /// It does.
    Always,
    /// It does if its last change was then.
    IfLastChanged(DateTime<Utc>),
}

impl Replace {
    /// Always, or never.
    #[must_use]
    pub const fn of(replace: bool) -> Self {
        if replace { Self::Always } else { Self::Never }
    }
}

/// A saved schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRow {
    /// Id.
    pub id: String,
    /// Settings.
    pub spec: ScheduleSpec,
    /// Next instant.
    pub next: NextInstant,
    /// Last instant published.
    pub last_at: Option<DateTime<Utc>>,
    /// Job.
    pub last_job_id: Option<String>,
    /// Instants published.
    pub fired: i64,
    /// Instants missed because no scheduler ran.
    pub missed_count: i64,
    /// Last decision about missed instants.
    pub last_note: Option<String>,
    /// Creation.
    pub created: Edit,
    /// Last change.
    pub changed: Edit,
}

/// Who edited, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Time.
    pub at: DateTime<Utc>,
    /// Person.
    pub by: String,
}

/// The next instant. Both are none at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextInstant {
    /// Instant.
    pub at: Option<DateTime<Utc>>,
    /// When it is published: with jitter.
    pub due: Option<DateTime<Utc>>,
}

/// When schedules are next due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextDue {
    /// All schedules.
    pub all: Option<DateTime<Utc>>,
    /// All but those excluded.
    pub without: Option<DateTime<Utc>>,
}

/// A schedule's move to its next instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Advance {
    /// Schedule id.
    pub id: String,
    /// Next instant.
    pub next: NextInstant,
    /// Last instant published.
    pub last: Option<PublishedInstant>,
    /// Instants published.
    pub fired: i64,
    /// Instants missed.
    pub missed: i64,
    /// Decision about the missed ones.
    pub note: Option<String>,
}

/// A published instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedInstant {
    /// Instant.
    pub at: DateTime<Utc>,
    /// Job.
    pub job_id: String,
}
