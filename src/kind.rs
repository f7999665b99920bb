//! Kinds, lanes, and the subjects and durables named after them.

use std::fmt;

/// Begins the subjects of jobs that applications publish.
pub const JOBS: &str = "jobs.";

/// After that, begins the subjects of delayed jobs.
pub const LATER: &str = "later.";

/// Begins the subjects of jobs of the first two stages that Carebell publishes.
pub const WORK: &str = "work.";

/// A kind of job. Subject, durable, file name and metric label follow from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// For example `reminder.medication`.
    pub name: &'static str,
    /// Its stage.
    pub stage: Stage,
    /// Empty if it has a single queue.
    pub lanes: &'static [Lane],
}

/// The three stages (see `docs/ARCHITECTURE.md`), and what is beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reads a care record and decides whether to tell anybody.
    Reminder,
    /// Expands one text to recipients, inbox rows and deliveries.
    Notification,
    /// Sends to one address. Internal: its message is only a ledger id.
    Delivery,
    /// Published by schedules and operators only: maintains Carebell's own tables, tidies document stores, reports.
    Maintenance,
    /// Does work outside before its commit: at an endpoint that a file declares, or in a document store.
    Task,
    /// Notes delayed jobs, or takes them back. Not a job itself: its messages are about others.
    Delay,
}

impl Stage {
    /// Whether a job of it works before its commit, which may be for nothing. Such a job is always looked up first.
    #[must_use]
    pub const fn works_before_its_commit(self) -> bool {
        matches!(self, Self::Maintenance | Self::Task)
    }
}

/// The queue of delayed jobs of all kinds: each is parked until it is due.
pub const DELAYED: Queue = Queue { kind: Kind { name: "later", stage: Stage::Delay, lanes: &[] }, lane: None };

/// The queue of messages that take delayed jobs back.
pub const CANCEL: Queue = Queue { kind: Kind { name: "cancel", stage: Stage::Delay, lanes: &[] }, lane: None };

/// Urgency of a job. Each lane has a queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Medication: now.
    Critical,
    /// Anything else about one person's care.
    Normal,
    /// Announcements to many.
    Bulk,
}

impl Kind {
    /// A first-stage kind: one queue.
    #[must_use]
    pub const fn reminder(name: &'static str) -> Self {
        Self { name, stage: Stage::Reminder, lanes: &[] }
    }

    /// A second-stage kind: three queues.
    #[must_use]
    pub const fn notification(name: &'static str) -> Self {
        Self { name, stage: Stage::Notification, lanes: &[Lane::Critical, Lane::Normal, Lane::Bulk] }
    }

    /// A third-stage kind: two queues. `name` begins with `deliver.`.
    #[must_use]
    pub const fn delivery(name: &'static str) -> Self {
        Self { name, stage: Stage::Delivery, lanes: &[Lane::Critical, Lane::Normal] }
    }

    /// A kind of schedules and operators: one queue.
    #[must_use]
    pub const fn maintenance(name: &'static str) -> Self {
        Self { name, stage: Stage::Maintenance, lanes: &[] }
    }

    /// A kind that works outside before its commit: a queue for each of its lanes, or one.
    #[must_use]
    pub const fn task(name: &'static str, lanes: &'static [Lane]) -> Self {
        Self { name, stage: Stage::Task, lanes }
    }

    /// Whether applications publish this kind, and may delay it. Maintenance has schedules, deliveries are planned.
    #[must_use]
    pub const fn is_published(&self) -> bool {
        matches!(self.stage, Stage::Reminder | Stage::Notification | Stage::Task)
    }

    /// The subject in `lane`, or in the next more urgent lane of this kind, of jobs that Carebell publishes.
    #[must_use]
    pub fn subject(&self, lane: Lane) -> String {
        // The name of a delivery's kind is its subject.
        self.subject_after(if self.stage == Stage::Delivery { "" } else { WORK }, lane)
    }

    /// As [`Self::subject`], of jobs that an application publishes.
    #[must_use]
    pub fn intake_subject(&self, lane: Lane) -> String {
        self.subject_after(JOBS, lane)
    }

    /// As [`Self::intake_subject`], of delayed jobs.
    #[must_use]
    pub fn later_subject(&self, lane: Lane) -> String {
        self.subject_after(&format!("{JOBS}{LATER}"), lane)
    }

    fn subject_after(&self, prefix: &str, lane: Lane) -> String {
        match self.lane_for(lane) {
            Some(lane) => format!("{prefix}{}.{lane}", self.name),
            None => format!("{prefix}{}", self.name),
        }
    }

    /// Most urgent first.
    #[must_use]
    pub fn queues(&self) -> Vec<Queue> {
        if self.lanes.is_empty() {
            return vec![Queue { kind: *self, lane: None }];
        }
        self.lanes.iter().map(|lane| Queue { kind: *self, lane: Some(*lane) }).collect()
    }

    /// The lane for jobs as urgent as `wanted`, if the kind has lanes.
    #[must_use]
    pub fn lane_for(&self, wanted: Lane) -> Option<Lane> {
        self.lanes.iter().copied().filter(|lane| *lane <= wanted).max()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Lane {
    /// As in subjects, tables and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Critical, Self::Normal, Self::Bulk].into_iter().find(|lane| lane.name() == text)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The jobs of one kind, or of one lane of it. Each stream that holds some has a durable pull consumer of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    /// The kind.
    pub kind: Kind,
    /// Its lane, if the kind has lanes.
    pub lane: Option<Lane>,
}

impl Queue {
    /// The subject of the queue's jobs that Carebell publishes.
    #[must_use]
    pub fn subject(&self) -> String {
        self.kind.subject(self.lane.unwrap_or(Lane::Critical))
    }

    /// The subject of the queue's jobs that an application publishes.
    #[must_use]
    pub fn intake_subject(&self) -> String {
        self.kind.intake_subject(self.lane.unwrap_or(Lane::Critical))
    }

    /// The durable's name, also in its file name in `streams/`.
    #[must_use]
    pub fn durable(&self) -> String {
        let name = self.kind.name.replace('.', "_");
        self.lane.map_or_else(|| name.clone(), |lane| format!("{name}_{lane}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_kind() {
        let reminder = Kind::reminder("reminder.medication");
        assert_eq!(reminder.subject(Lane::Critical), "work.reminder.medication");
        assert_eq!(reminder.intake_subject(Lane::Critical), "jobs.reminder.medication");
        assert_eq!(reminder.queues().iter().map(Queue::durable).collect::<Vec<_>>(), ["reminder_medication"]);

        let notification = Kind::notification("notification");
        assert_eq!(notification.subject(Lane::Bulk), "work.notification.bulk");
        assert_eq!(notification.intake_subject(Lane::Normal), "jobs.notification.normal");

        let delivery = Kind::delivery("deliver.web_push");
        assert_eq!(delivery.subject(Lane::Critical), "deliver.web_push.critical");
        assert_eq!(delivery.subject(Lane::Bulk), "deliver.web_push.normal", "deliveries have no bulk lane");
        let durables: Vec<_> = delivery.queues().iter().map(Queue::durable).collect();
        assert_eq!(durables, ["deliver_web_push_critical", "deliver_web_push_normal"]);
    }
}
