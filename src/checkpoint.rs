//! Points between two effects at which a test can end the process like `kill -9`.
//!
//! `CAREBELL_ABORT_AT=committed carebell run` aborts when that point is first reached. Release builds (no debug
//! assertions) ignore the variable and compile the points away.

use std::sync::OnceLock;

/// A point just reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The run is planned; nothing is written.
    Worked,
    /// The run is committed; its children are not published.
    Committed,
    /// The children are published; the message is not acknowledged.
    Published,
    /// The delivery is claimed, not sent.
    Claimed,
    /// The delivery is sent; its outcome is not recorded.
    Sent,
    /// The delivery's outcome is recorded; the message is not acknowledged.
    Recorded,
    /// The waiting job is in HOLD; its message is not acknowledged.
    Parked,
    /// The dead letter is in `DEAD_LETTERS`; its message is not terminated.
    Buried,
    /// The message is settled.
    Settled,
    /// A batch of maintenance is committed; its run is not.
    Tended,
    /// Due schedules or reminders are locked; nothing is published.
    Due,
    /// They are published; their schedules have not advanced.
    Fired,
}

impl Step {
    /// Parses a step's lower-case name.
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
    Step::Tended,
    Step::Due,
    Step::Fired,
];

static ABORT_AT: OnceLock<Step> = OnceLock::new();

/// Aborts this process when it reaches `step`. For crash tests only.
pub fn abort_at(step: Step) {
    let _ = ABORT_AT.set(step);
}

/// Reports that a point is reached.
pub(crate) fn reached(step: Step) {
    if cfg!(debug_assertions) && ABORT_AT.get() == Some(&step) {
        std::process::abort();
    }
}
