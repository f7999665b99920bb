//! The states of jobs, and the words that older systems have for them.

use crate::plan::JobOutcome;

/// The state of a job that has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// A delayed job waits for its instant.
    Delayed,
    /// A run waits for its next attempt, or until it is due.
    Open,
    /// A delivery's message waits for a worker.
    Pending,
    /// A delivery waits until an instant.
    Held,
    /// A worker is sending it.
    Sending,
    /// A run was carried out.
    Done,
    /// A delivery was accepted by its provider.
    Sent,
    /// Its provider reported it as delivered.
    Delivered,
    /// Nobody is told, for a reason.
    Skipped,
    /// Too late to be of use.
    Expired,
    /// A delivery's address does not work.
    Failed,
    /// A delivery may have been sent.
    Unknown,
    /// Given up: a dead letter.
    Dead,
}

/// The words of older systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldWord {
    /// For a worker.
    Waiting,
    /// A worker has it.
    Active,
    /// It came to its end, also if that was to tell nobody.
    Completed,
    /// It ended without that.
    Failed,
    /// It waits for an instant.
    Delayed,
    /// No job is: queues are.
    Paused,
    /// No job is: the server gives that of a lost worker to another.
    Stalled,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 13] = [
        Self::Delayed,
        Self::Open,
        Self::Pending,
        Self::Held,
        Self::Sending,
        Self::Done,
        Self::Sent,
        Self::Delivered,
        Self::Skipped,
        Self::Expired,
        Self::Failed,
        Self::Unknown,
        Self::Dead,
    ];

    /// As in lists; also as stored, but for `delayed`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Open => "open",
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Sending => "sending",
            Self::Done => "done",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Dead => "dead",
        }
    }

    /// The older word.
    #[must_use]
    pub const fn word(self) -> OldWord {
        match self {
            Self::Delayed | Self::Open | Self::Held => OldWord::Delayed,
            Self::Pending => OldWord::Waiting,
            Self::Sending => OldWord::Active,
            Self::Done | Self::Sent | Self::Delivered | Self::Skipped => OldWord::Completed,
            Self::Expired | Self::Failed | Self::Unknown | Self::Dead => OldWord::Failed,
        }
    }

    /// The states of an older word or of one of ours; `failed` is the older one, which includes ours. None if it is
    /// neither.
    #[must_use]
    pub fn named(text: &str) -> Option<Vec<Self>> {
        if let Some(word) = OldWord::ALL.into_iter().find(|word| word.name() == text) {
            return Some(Self::ALL.into_iter().filter(|state| state.word() == word).collect());
        }
        Self::ALL.into_iter().find(|state| state.name() == text).map(|state| vec![state])
    }

    /// Says that there is no such state or word, and which there are.
    #[must_use]
    pub fn unknown(text: &str) -> String {
        let words: Vec<&str> = OldWord::ALL.into_iter().map(OldWord::name).collect();
        let states: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
        format!("there is no state {text:?}; there are {}, and the words {}", states.join(", "), words.join(", "))
    }

    /// Whether a run can be in it.
    pub(super) const fn is_of_runs(self) -> bool {
        matches!(self, Self::Open | Self::Done | Self::Skipped | Self::Expired | Self::Dead)
    }

    /// Whether a delivery can be in it.
    pub(super) const fn is_of_deliveries(self) -> bool {
        !matches!(self, Self::Delayed | Self::Open | Self::Done)
    }

    /// Whether `unsent_deliveries` has all deliveries in it.
    pub(super) const fn is_unsent(self) -> bool {
        self.is_of_deliveries() && !matches!(self, Self::Pending | Self::Sending | Self::Sent | Self::Delivered)
    }
}

impl OldWord {
    /// All words.
    pub const ALL: [Self; 7] =
        [Self::Waiting, Self::Active, Self::Completed, Self::Failed, Self::Delayed, Self::Paused, Self::Stalled];

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Paused => "paused",
            Self::Stalled => "stalled",
        }
    }

    /// The word for the end of a run. None if the job goes on, or ended before.
    #[must_use]
    pub const fn of_end(outcome: JobOutcome) -> Option<Self> {
        match outcome {
            JobOutcome::Done | JobOutcome::Skipped => Some(Self::Completed),
            JobOutcome::Failed | JobOutcome::Unknown | JobOutcome::Expired | JobOutcome::Dead => Some(Self::Failed),
            JobOutcome::Duplicate
            | JobOutcome::Retry
            | JobOutcome::Waits
            | JobOutcome::Superseded
            | JobOutcome::Released => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_names_its_states_and_each_state_itself() {
        let names = |text| JobState::named(text).unwrap().into_iter().map(JobState::name).collect::<Vec<_>>();
        assert_eq!(names("waiting"), ["pending"]);
        assert_eq!(names("active"), ["sending"]);
        assert_eq!(names("completed"), ["done", "sent", "delivered", "skipped"]);
        assert_eq!(names("failed"), ["expired", "failed", "unknown", "dead"]);
        assert_eq!(names("delayed"), ["delayed", "open", "held"]);
        assert!(names("paused").is_empty() && names("stalled").is_empty());
        for state in JobState::ALL {
            assert!(names(state.name()).contains(&state.name()));
        }
        assert_eq!(JobState::named("fine"), None);
    }

    #[test]
    fn the_page_of_commands_has_the_same_words() {
        let page = std::fs::read_to_string("docs/COMMANDS.md").unwrap();
        for word in OldWord::ALL {
            let states = JobState::ALL.into_iter().filter(|state| state.word() == word);
            let states: Vec<String> = states.map(|state| format!("`{}`", state.name())).collect();
            let states = if states.is_empty() { "none".to_owned() } else { states.join(", ") };
            let row = format!("| `{}` | {states} |", word.name());
            assert!(page.contains(&row), "no row begins {row}");
        }
    }
}
