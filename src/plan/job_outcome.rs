/// Outcome of a run: the word in its log line, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobOutcome {
    /// Carried out.
    Done,
    /// A delivery's address no longer exists.
    Failed,
    /// A delivery may have been sent.
    Unknown,
    /// Nobody is told.
    Skipped,
    /// Too late to be of use.
    Expired,
    /// Ended before.
    Duplicate,
    /// Failed; tried again.
    Retry,
    /// Waits; no attempt is burnt.
    Waits,
    /// Given up.
    Dead,
    /// Taken by another worker.
    Superseded,
    /// Given back by a stopping worker.
    Released,
}

impl JobOutcome {
    /// In the order of their numbers.
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

    /// Whether a job ended without having been carried out, and somebody may have to know.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Unknown | Self::Expired | Self::Dead)
    }

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
