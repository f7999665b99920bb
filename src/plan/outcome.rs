//! What became of a run of a job, in a word.

/// What became of a run of a job, in a word: in its log line, and as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Carried out; a delivery was sent.
    Done,
    /// The address of a delivery is none any more.
    Failed,
    /// A delivery may have been sent, or not.
    Unknown,
    /// Nobody is to be told.
    Skipped,
    /// Too late to be of use.
    Expired,
    /// It had ended before.
    Duplicate,
    /// It failed, and is tried again.
    Retry,
    /// It waits, and no attempt is burnt.
    Waits,
    /// It is given up.
    Dead,
    /// Another worker has it by now.
    Superseded,
    /// The worker stops, and gives it back.
    Released,
}

impl JobOutcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Unknown,
        Self::Skipped,
        Self::Expired,
        Self::Duplicate,
        Self::Retry,
        Self::Waits,
        Self::Dead,
        Self::Superseded,
        Self::Released,
    ];

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
            Self::Duplicate => "duplicate",
            Self::Retry => "retry",
            Self::Waits => "waits",
            Self::Dead => "dead",
            Self::Superseded => "superseded",
            Self::Released => "released",
        }
    }
}
