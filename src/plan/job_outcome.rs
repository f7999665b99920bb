//! The outcome of a run, in one word.

/// The outcome of a run: the word in its log line, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// Carried out. A delivery was sent.
    Done,
    /// The address of a delivery no longer exists.
    Failed,
    /// A delivery may have been sent.
    Unknown,
    /// Nobody is told.
    Skipped,
    /// Too late to be of use.
    Expired,
    /// It had ended before.
    Duplicate,
    /// It failed, and is tried again.
    Retry,
    /// It waits; no attempt is burnt.
    Waits,
    /// It is given up.
    Dead,
    /// Another worker has it now.
    Superseded,
    /// The worker stops and gives it back.
    Released,
}

impl JobOutcome {
    /// All outcomes, in the order of their numbers.
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
