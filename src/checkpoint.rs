//! Named points between two effects, at which a test can end the process as `kill -9` would.
//!
//! `CAREBELL_ABORT_AT=committed carebell run` aborts the first time that point is reached. Builds without debug
//! assertions (releases) do not read the variable and compile every point away.

use std::sync::OnceLock;

/// A point that has just been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A run knows what is to be; nothing of it is written yet.
    Worked,
    /// A run is committed; its children are not published yet.
    Committed,
    /// The children are published; the message is not acknowledged yet.
    Published,
    /// A delivery is claimed; it is not sent yet.
    Claimed,
    /// A delivery is sent; its outcome is not recorded yet.
    Sent,
    /// The outcome of a delivery is recorded; the message is not acknowledged yet.
    Recorded,
    /// A job that waits is in HOLD; its message is not acknowledged yet.
    Parked,
    /// A job that failed for good is in `DEAD_LETTERS`; its message is not terminated yet.
    Buried,
    /// The server was told what became of a message.
    Settled,
    /// A batch of maintenance is committed; its run is not committed yet.
    Maintained,
    /// What is due by itself is locked; nothing of it is published yet.
    Due,
    /// It is published; its schedules are not moved on yet.
    Fired,
}

impl Step {
    /// Reads a step's name, in lower case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        STEPS.into_iter().find(|step| format!("{step:?}").eq_ignore_ascii_case(name))
    }
}

const STEPS: [Step; 12] = [
    Step::Worked,
    Step::Committed,
    Step::Published,
    Step::Claimed,
    Step::Sent,
    Step::Recorded,
    Step::Parked,
    Step::Buried,
    Step::Settled,
    Step::Maintained,
    Step::Due,
    Step::Fired,
];

static ABORT_AT: OnceLock<Step> = OnceLock::new();

/// Makes this process abort when it reaches `step`. For tests of crashes only.
pub fn abort_at(step: Step) {
    let _ = ABORT_AT.set(step);
}

/// Says that a point has been reached.
pub(crate) fn reached(step: Step) {
    if cfg!(debug_assertions) && ABORT_AT.get() == Some(&step) {
        std::process::abort();
    }
}
