//! Causes: what may have decided whether somebody was told, and facts beside it.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::question::OddHour;
use crate::{
    pauses::Pause,
    preferences::Preferences,
    store::{AddressLine, DelayedLine, InboxLine, LedgerLine, Liveness, RunLine, SubscriptionCount},
};

/// Whether the person was told, as far as the records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A provider accepted it.
    Yes,
    /// Of several notifications, some.
    Partly,
    /// It may have been sent.
    Perhaps,
    /// It is to come.
    NotYet,
    /// It does not come.
    No,
    /// The records do not say.
    Unknown,
}

/// A cause, or a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// A line of the ledger.
    Delivery(Box<LedgerLine>),
    /// A run that ended without a delivery to the person, or is open.
    Run(Box<RunLine>),
    /// A job that its application delayed.
    Delayed(Box<DelayedLine>),
    /// A planned job that is not known to be published.
    Unpublished {
        /// The job.
        job_id: String,
    },
    /// A published job that no worker has recorded.
    NotRun {
        /// The job.
        job_id: String,
        /// When it was published.
        published_at: DateTime<Utc>,
        /// Whether workers give a sign of life.
        is_worker_up: bool,
    },
    /// The notification was planned without the person.
    NotARecipient {
        /// The notification's run.
        job_id: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// There is an inbox row and no line of the ledger.
    Unrecorded {
        /// The root.
        job_id: String,
        /// When the row was written.
        at: DateTime<Utc>,
    },
    /// No row in `users`.
    UnknownUser,
    /// The care record does not exist.
    Gone,
    /// The person is not of the care recipient's family.
    NoMember,
    /// The shift is another's, or nobody's.
    NotTheirShift {
        /// Whether anybody has it.
        is_assigned: bool,
    },
    /// The medication is not active.
    Inactive,
    /// The appointment or shift was called off.
    Cancelled,
    /// The appointment or shift is completed.
    Over,
    /// The dose is on record as given.
    Given,
    /// The dose is on record as skipped on purpose.
    SkippedDose,
    /// The medication has no dose at that time.
    NoDose(NoDose),
    /// Its instant is to come.
    NotDue {
        /// When it is due.
        due: DateTime<Utc>,
        /// Whether a scheduler has planned it.
        is_planned: bool,
    },
    /// No scheduler has looked at the care tables since it was due.
    SchedulerDown {
        /// When it was due.
        due: DateTime<Utc>,
        /// Last look.
        looked_at: Option<DateTime<Utc>>,
    },
    /// It is planned and past its instant, and schedulers are up.
    SchedulerBehind {
        /// When it was due.
        due: DateTime<Utc>,
        /// Reminders in the same state.
        overdue: i64,
    },
    /// A scheduler has looked since it was due, and has no such reminder.
    NotPlanned {
        /// When it would have been due.
        due: DateTime<Utc>,
        /// Last look.
        looked_at: DateTime<Utc>,
    },
    /// Somebody has paused what it waits for.
    Paused(Pause),
    /// Nothing is on record.
    Nothing,
    /// A fact: the inbox row.
    Inbox(InboxLine),
    /// A fact: the named hour is odd.
    Hour(OddHour),
    /// A fact: the person's browsers now.
    Subscriptions(SubscriptionCount),
    /// A fact: the person's other addresses now.
    Addresses(Vec<AddressLine>),
    /// A fact: the person's preferences now.
    Preferences(Preferences),
    /// A fact: signs of life of workers and schedulers.
    Life(Liveness),
}

/// Why a medication has no dose at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDose {
    /// It has no schedule with times.
    NoSchedule,
    /// Its schedules are not ACTIVE.
    Rests,
    /// The first begins on this day.
    NotBegun(NaiveDate),
    /// The last ended on this day.
    Ended(NaiveDate),
    /// Not on this weekday.
    Weekday(NaiveDate),
    /// The doses of that day are at other times.
    OtherTimes(Vec<String>),
}

impl Cause {
    /// A stable word for programs and for docs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Delivery(line) => match (line.state.as_str(), line.reason.as_deref()) {
                ("sent" | "delivered", _) => "told",
                ("unknown", _) => "perhaps_told",
                ("dead", _) => "dead",
                (state @ ("pending" | "sending"), _) => state,
                (state, reason) => reason.unwrap_or(state),
            },
            Self::Run(run) => match (run.state.as_str(), run.reason.as_deref()) {
                ("open", None) => "running",
                ("dead", _) => "dead",
                (state, reason) => reason.unwrap_or(state),
            },
            Self::Delayed(delayed) => match delayed.state.as_str() {
                "waiting" => "delayed",
                "fired" => "not_run",
                state => state,
            },
            Self::Unpublished { .. } => "unpublished",
            Self::NotRun { is_worker_up: false, .. } => "worker_down",
            Self::NotRun { .. } => "not_run",
            Self::NotARecipient { .. } => "not_a_recipient",
            Self::Unrecorded { .. } => "unrecorded",
            Self::UnknownUser => "unknown_user",
            Self::Gone => "gone",
            Self::NoMember => "no_member",
            Self::NotTheirShift { is_assigned: true } => "not_their_shift",
            Self::NotTheirShift { .. } => "no_recipients",
            Self::Inactive => "inactive",
            Self::Cancelled => "cancelled",
            Self::Over => "over",
            Self::Given => "already_given",
            Self::SkippedDose => "already_skipped",
            Self::NoDose(why) => match why {
                NoDose::NoSchedule => "no_schedule",
                NoDose::Rests => "schedule_rests",
                NoDose::NotBegun(_) => "schedule_not_begun",
                NoDose::Ended(_) => "schedule_ended",
                NoDose::Weekday(_) => "not_on_weekday",
                NoDose::OtherTimes(_) => "no_such_time",
            },
            Self::NotDue { .. } => "not_due",
            Self::SchedulerDown { .. } => "scheduler_down",
            Self::SchedulerBehind { .. } => "scheduler_behind",
            Self::NotPlanned { .. } => "not_planned",
            Self::Paused(_) => "paused",
            Self::Nothing => "nothing_known",
            Self::Inbox(_) => "inbox",
            Self::Hour(OddHour::Skipped) => "skipped_hour",
            Self::Hour(OddHour::Repeated) => "repeated_hour",
            Self::Subscriptions(_) => "subscriptions",
            Self::Addresses(_) => "addresses",
            Self::Preferences(_) => "preferences",
            Self::Life(_) => "signs_of_life",
        }
    }

    /// Whether the person was told, if this decided.
    #[must_use]
    pub fn told(&self) -> Told {
        match self {
            Self::Delivery(line) => match line.state.as_str() {
                "sent" | "delivered" => Told::Yes,
                "unknown" | "sending" => Told::Perhaps,
                "pending" | "held" => Told::NotYet,
                _ => Told::No,
            },
            Self::Run(run) if run.state == "open" => Told::NotYet,
            // The owner is known only by the care record.
            Self::Run(run) if run.reason.as_deref() == Some("already_sent") => Told::Unknown,
            Self::Delayed(delayed) if delayed.state != "cancelled" => Told::NotYet,
            Self::Unpublished { .. }
            | Self::NotRun { .. }
            | Self::Paused(_)
            | Self::NotDue { .. }
            | Self::SchedulerDown { .. }
            | Self::SchedulerBehind { .. } => Told::NotYet,
            Self::Nothing => Told::Unknown,
            _ => Told::No,
        }
    }

    /// The first of several decides. Whatever is on record goes before what is only inferred from the care tables, and
    /// that before the state of schedulers and workers.
    #[must_use]
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Delivery(line) => match line.state.as_str() {
                "sent" | "delivered" => 0,
                "unknown" | "sending" => 1,
                "held" | "pending" => 3,
                "dead" => 4,
                "failed" => 5,
                "expired" => 6,
                _ => 7,
            },
            Self::Paused(_) => 2,
            Self::Run(run) if run.state != "open" => 8,
            Self::Delayed(delayed) if delayed.state == "cancelled" => 8,
            Self::Run(_) | Self::Unpublished { .. } | Self::Delayed(_) => 9,
            Self::NotARecipient { .. } | Self::Unrecorded { .. } => 10,
            Self::UnknownUser => 11,
            Self::Gone => 12,
            Self::NoMember | Self::NotTheirShift { .. } => 13,
            Self::Inactive | Self::Cancelled | Self::Over => 14,
            Self::Given | Self::SkippedDose => 15,
            Self::NoDose(_) => 16,
            Self::NotDue { .. } => 17,
            Self::SchedulerDown { .. } | Self::SchedulerBehind { .. } | Self::NotRun { .. } => 18,
            Self::NotPlanned { .. } => 19,
            Self::Nothing => 20,
            Self::Inbox(_) => 30,
            Self::Hour(_) => 31,
            Self::Subscriptions(_) => 32,
            Self::Addresses(_) => 33,
            Self::Preferences(_) => 34,
            Self::Life(_) => 35,
        }
    }

    /// Whether it can decide; otherwise it is a fact.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.rank() < 30
    }

    /// The instant that it is about.
    #[must_use]
    pub fn at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Delivery(line) => {
                Some(line.held_until.filter(|_| line.state == "held").or(line.sent_at).unwrap_or(line.updated_at))
            }
            Self::Run(run) => Some(run.updated_at),
            Self::Delayed(delayed) => delayed.due.or(Some(delayed.updated_at)),
            Self::NotRun { published_at: at, .. }
            | Self::NotARecipient { at, .. }
            | Self::Unrecorded { at, .. }
            | Self::NotDue { due: at, .. }
            | Self::SchedulerDown { due: at, .. }
            | Self::SchedulerBehind { due: at, .. }
            | Self::NotPlanned { due: at, .. } => Some(*at),
            Self::Paused(pause) => pause.until,
            Self::Inbox(row) => Some(row.read_at.or(row.seen_at).unwrap_or(row.created_at)),
            _ => None,
        }
    }

    /// The job that it is about.
    #[must_use]
    pub fn job_id(&self) -> Option<&str> {
        match self {
            Self::Delivery(line) => Some(&line.run_id),
            Self::Run(run) => Some(&run.job_id),
            Self::Delayed(delayed) => Some(&delayed.job_id),
            Self::Unpublished { job_id }
            | Self::NotRun { job_id, .. }
            | Self::NotARecipient { job_id, .. }
            | Self::Unrecorded { job_id, .. } => Some(job_id),
            _ => None,
        }
    }
}
