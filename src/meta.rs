//! The identity of one job: its ids, where its message stands, and the wishes in its headers.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    kind::{Kind, Lane, Queue},
    plan::Reason,
    policy::Wishes,
};

/// The sequence of a job that has no message: stream sequences begin at 1.
pub const NO_MESSAGE: i64 = 0;

/// The position of a message in its stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPosition {
    /// The stream.
    pub stream: String,
    /// The stream sequence; [`NO_MESSAGE`] if the job has no message.
    pub sequence: i64,
    /// How often the server has delivered the message, this delivery included.
    pub delivered: i64,
    /// When the message was stored in the stream.
    pub published: DateTime<Utc>,
}

/// Everything that headers and stream say about one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// The job's own id.
    pub job_id: String,
    /// The id of the job that an application published and that led to this one. Equal to `job_id` for that job itself.
    pub root_id: String,
    /// The job's kind.
    pub kind: Kind,
    /// The job's lane.
    pub lane: Lane,
    /// The position of its message.
    pub position: StreamPosition,
    /// Whether the job was parked and this message brings it back.
    pub resumed: bool,
    /// When the job expires, if a header says so.
    pub not_after: Option<DateTime<Utc>>,
    /// W3C trace context, inherited by every job that follows (`telemetry::traces::context`).
    pub trace: Option<String>,
    /// The job's own policy, limited by the queue's ceilings.
    pub wishes: Wishes,
    /// If its application delayed it.
    pub delay: Option<Box<Delay>>,
    /// The instant from which somebody waits for it: its own, or that of the job that it follows from. Waits that people
    /// asked for move it. `None` if nobody waits: bulk, maintenance, a redriven delivery.
    pub due: Option<DateTime<Utc>>,
    /// Why it was parked, if this message comes back from that.
    pub waited: Option<Waiting>,
}

/// Why a job is parked, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Why.
    pub reason: Reason,
    /// Since when. One wait is made of many if a provider stays down.
    pub since: DateTime<Utc>,
}

impl Waiting {
    /// Parses what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (reason, since) = text.split_once(' ')?;
        let since = DateTime::from_timestamp_micros(since.parse().ok()?)?;
        Some(Self { reason: Reason::of_wait(reason)?, since })
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.reason.name(), self.since.timestamp_micros())
    }
}

/// Nothing waits longer: the server fires a schedule beyond the year 2262 at once, and a wrong unit looks like that.
pub const LONGEST_DELAY: TimeDelta = TimeDelta::days(3660);

/// The delay of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// When it is due.
    pub due: DateTime<Utc>,
    /// The message that asked for it. `None` for a redriven job, which no message replaces.
    pub asked_by: Option<IntakePosition>,
    /// Whether this message may not run the job, even if it is due: its consumer has no rate and no pause.
    pub only_waits: bool,
    /// Whether this message comes back from waiting: the server's clock says that it is due.
    pub is_due: bool,
}

/// The position of a message that an application published. Later ones are greater: a stream made anew counts from 1
/// again, so its creation comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntakePosition {
    /// When its stream was created, in microseconds.
    pub created: DateTime<Utc>,
    /// Its sequence there.
    pub sequence: i64,
    /// The stream.
    pub stream: String,
}

impl IntakePosition {
    /// Parses what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (stream, created, sequence) = (parts.next()?, parts.next()?, parts.next()?);
        let created = DateTime::from_timestamp_micros(created.parse().ok()?)?;
        let position = Self { stream: stream.to_owned(), created, sequence: sequence.parse().ok()? };
        parts.next().is_none().then_some(position)
    }
}

impl fmt::Display for IntakePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.stream, self.created.timestamp_micros(), self.sequence)
    }
}

impl Meta {
    /// Whether an application published it, and not Carebell for itself. Its message may be in a stream of Carebell's by
    /// now.
    #[must_use]
    pub fn is_of_application(&self) -> bool {
        is_of_application(&self.job_id)
    }

    /// Its lane's name, if its kind has lanes.
    #[must_use]
    pub fn recorded_lane(&self) -> Option<&'static str> {
        self.kind.lane_for(self.lane).map(Lane::name)
    }

    /// From when its default expiry counts.
    #[must_use]
    pub fn begins(&self) -> DateTime<Utc> {
        self.delay.as_ref().map_or(self.position.published, |delay| delay.due.max(self.position.published))
    }

    /// That of the same job while it waits from `now` until `until`.
    #[must_use]
    pub fn waiting(&self, reason: Reason, now: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        let before = self.waited.filter(|before| before.reason.is_wished() == reason.is_wished());
        let since = before.map_or(now, |before| before.since);
        let mut waiting = Self { waited: Some(Waiting { reason, since }), ..self.clone() };
        if reason.is_wished() {
            waiting.excuse(until - now);
        }
        waiting
    }

    /// Moves the instant from which somebody waits, by a time that people asked it to wait.
    pub fn excuse(&mut self, time: TimeDelta) {
        self.due = self.due.map(|due| due + time.max(TimeDelta::zero()));
    }

    /// A job of `queue` that this process plans at `now` and runs without a message.
    #[must_use]
    pub fn without_message(queue: Queue, stream: &str, ids: Ids, now: DateTime<Utc>, not_after: DateTime<Utc>) -> Self {
        Self {
            job_id: ids.job,
            root_id: ids.root,
            kind: queue.kind,
            lane: queue.lane.unwrap_or(Lane::Critical),
            position: StreamPosition { stream: stream.to_owned(), sequence: NO_MESSAGE, delivered: 1, published: now },
            resumed: false,
            not_after: Some(not_after),
            trace: None,
            wishes: Wishes::default(),
            delay: None,
            due: None,
            waited: None,
        }
    }
}

/// The two ids of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// See [`Meta::job_id`].
    pub job: String,
    /// See [`Meta::root_id`].
    pub root: String,
}

/// In ids that Carebell makes; a producer may not use it, so none of its ids can be mistaken for one.
pub const OWN: char = '~';

/// Begins the id of a reminder that Carebell publishes for a care record.
pub const CARE: &str = "care~";

/// The kind and the care record of a reminder that Carebell publishes, by its id:
/// `care~reminder.medication:metformin:2026-03-08T07:00:00Z:0`, or without the lead of a refill. `None` if the id is a hash.
#[must_use]
pub fn care_record(job_id: &str) -> Option<(&str, &str)> {
    let (kind, rest) = job_id.strip_prefix(CARE)?.split_once(':')?;
    let ends_with_instant = |text: &'_ str| {
        text.match_indices(':').map(|(at, _)| at).find(|at| DateTime::parse_from_rfc3339(&text[at + 1..]).is_ok())
    };
    let without_lead = rest.rsplit_once(':').map_or(rest, |(before, _)| before);
    let end = ends_with_instant(rest).or_else(|| ends_with_instant(without_lead))?;
    Some((kind, &rest[..end]))
}

/// Begins the id of a job that Carebell publishes for a saved schedule.
pub const SCHEDULE: &str = "schedule~";

/// Longest id that a producer may choose, in bytes.
pub const LONGEST_JOB_ID: usize = 128;

/// Longest id that Carebell makes: a producer's and a short suffix.
pub const LONGEST_OWN_ID: usize = 192;

/// Whether the job of this id was published by an application, and not by Carebell for itself.
#[must_use]
pub fn is_of_application(job_id: &str) -> bool {
    ![CARE, SCHEDULE].iter().any(|own| job_id.starts_with(own))
}

/// Whether a producer may choose this id: 1 to 128 of the characters `A-Z a-z 0-9 _ : . -`.
#[must_use]
pub fn is_job_id(text: &str) -> bool {
    (1..=LONGEST_JOB_ID).contains(&text.len()) && text.chars().all(in_job_id)
}

/// Whether Carebell or a producer can have made this id.
#[must_use]
pub fn is_any_id(text: &str) -> bool {
    (1..=LONGEST_OWN_ID).contains(&text.len()) && text.chars().all(|c| in_job_id(c) || c == OWN)
}

fn in_job_id(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_:.-".contains(c)
}

/// The id of a job of an application that is kept apart: `~<application>~<id>`. Others keep theirs.
#[must_use]
pub fn scoped(application: &str, id: &str) -> String {
    if application.is_empty() { id.to_owned() } else { format!("{OWN}{application}{OWN}{id}") }
}

/// Application and id of [`scoped`]. The application is empty if there is only one.
#[must_use]
pub fn split(id: &str) -> (&str, &str) {
    id.strip_prefix(OWN).and_then(|rest| rest.split_once(OWN)).unwrap_or(("", id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_applications_are_apart() {
        for (application, id) in [("", "dose-1"), ("app", "dose-1"), ("app", "~17"), ("", "care~reminder:x")] {
            assert_eq!(split(&scoped(application, id)), (application, id));
        }
        assert_eq!(scoped("app", "dose-1"), "~app~dose-1");
        assert_eq!(split("~app~dose-1~notification"), ("app", "dose-1~notification"));
    }

    #[test]
    fn positions_of_a_stream_made_anew_are_greater() {
        let at = |seconds, sequence| IntakePosition {
            created: DateTime::from_timestamp(seconds, 0).unwrap(),
            sequence,
            stream: "JOBS".into(),
        };
        assert!(at(1, 2) < at(1, 3) && at(1, 9) < at(2, 1));
        let text = at(1, 2).to_string();
        assert_eq!(IntakePosition::parse(&text), Some(at(1, 2)));
        for wrong in ["", "JOBS", "JOBS 1", "JOBS x 1", "JOBS 1 2 3"] {
            assert_eq!(IntakePosition::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_record_of_a_reminder_is_read_from_its_id() {
        for (id, record) in [
            ("care~reminder.medication:metformin:2026-03-08T07:00:00Z:0", Some(("reminder.medication", "metformin"))),
            ("care~reminder.shift:a:b:1:2026-03-08T07:00:00.250Z:60", Some(("reminder.shift", "a:b:1"))),
            ("care~alert.refill:metformin:2026-03-08T07:00:00Z", Some(("alert.refill", "metformin"))),
            ("care~reminder.shift:2b7-hash", None),
            ("dose-1", None),
            ("schedule~tea:2026-03-08T07:00:00Z", None),
        ] {
            assert_eq!(care_record(id), record, "{id}");
        }
    }
}
