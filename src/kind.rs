//! What a job is called: its kind, its lane, and the subject and durable consumer made from them.

use std::fmt;

/// A kind of job. One value holds the name from which subject, durable, file name and metric label follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// For example `reminder.medication`.
    pub name: &'static str,
    /// The stage that the kind belongs to.
    pub stage: Stage,
    /// The lanes of its subject; empty where the kind has one queue only.
    pub lanes: &'static [Lane],
}

/// The three stages of the way through (see `docs/ARCHITECTURE.md`), and what stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Looks a care record up and decides whether anybody is to be told.
    Reminder,
    /// Expands one text to recipients, inbox rows and deliveries.
    Notification,
    /// Sends to one address. Internal: its message is only a ledger id, and its record is the ledger row.
    Delivery,
    /// Tends Carebell's own tables. Nothing follows from it.
    Maintenance,
}

/// How urgent a job is. Lanes are separate queues, so that none waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Medication: now.
    Critical,
    /// Everything else that concerns one person's care.
    Normal,
    /// Announcements to many.
    Bulk,
}

impl Kind {
    /// A first-stage kind with one queue on `jobs.<name>`.
    #[must_use]
    pub const fn reminder(name: &'static str) -> Self {
        Self { name, stage: Stage::Reminder, lanes: &[] }
    }

    /// A second-stage kind with three queues on `jobs.<name>.<lane>`.
    #[must_use]
    pub const fn notification(name: &'static str) -> Self {
        Self { name, stage: Stage::Notification, lanes: &[Lane::Critical, Lane::Normal, Lane::Bulk] }
    }

    /// A third-stage kind with two queues on `deliver.<channel>.<lane>`; `name` begins with `deliver.`.
    #[must_use]
    pub const fn delivery(name: &'static str) -> Self {
        Self { name, stage: Stage::Delivery, lanes: &[Lane::Critical, Lane::Normal] }
    }

    /// A kind beside the stages, with one queue on `jobs.<name>`.
    #[must_use]
    pub const fn maintenance(name: &'static str) -> Self {
        Self { name, stage: Stage::Maintenance, lanes: &[] }
    }

    /// Whether the stream of delayed jobs hands this kind on (`streams/JOBS.json`). Upkeep repeats: that is a schedule.
    #[must_use]
    pub const fn can_be_delayed(&self) -> bool {
        !matches!(self.stage, Stage::Maintenance | Stage::Delivery)
    }

    /// The subject of this kind in `lane`. A lane that the kind does not have becomes the next more urgent one that
    /// it has.
    #[must_use]
    pub fn subject(&self, lane: Lane) -> String {
        let prefix = if self.stage == Stage::Delivery { "" } else { "jobs." };
        match self.lane_for(lane) {
            Some(lane) => format!("{prefix}{}.{lane}", self.name),
            None => format!("{prefix}{}", self.name),
        }
    }

    /// The queues of this kind, most urgent first.
    #[must_use]
    pub fn queues(&self) -> Vec<Queue> {
        if self.lanes.is_empty() {
            return vec![Queue { kind: *self, lane: None }];
        }
        self.lanes.iter().map(|lane| Queue { kind: *self, lane: Some(*lane) }).collect()
    }

    /// The lane in which this kind runs what is as urgent as `wanted`, where it has lanes.
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
    /// The token in subjects, tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// Reads the token back.
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

/// One durable pull consumer: a kind, and a lane of it where it has lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    /// The kind.
    pub kind: Kind,
    /// The lane, where the kind has several.
    pub lane: Option<Lane>,
}

impl Queue {
    /// The durable's name, which is also the second part of its file name in `streams/`.
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
        assert_eq!(reminder.subject(Lane::Critical), "jobs.reminder.medication");
        assert_eq!(reminder.queues().iter().map(Queue::durable).collect::<Vec<_>>(), ["reminder_medication"]);

        let notification = Kind::notification("notification");
        assert_eq!(notification.subject(Lane::Bulk), "jobs.notification.bulk");

        let delivery = Kind::delivery("deliver.web_push");
        assert_eq!(delivery.subject(Lane::Critical), "deliver.web_push.critical");
        assert_eq!(delivery.subject(Lane::Bulk), "deliver.web_push.normal", "deliveries have no bulk lane");
        let durables: Vec<_> = delivery.queues().iter().map(Queue::durable).collect();
        assert_eq!(durables, ["deliver_web_push_critical", "deliver_web_push_normal"]);
    }
}
