//! Points between two effects, at which tests end the process like `kill -9`.
//!
//! `CAREBELL_ABORT_AT=committed carebell run` aborts at the first such point, with debug assertions only.

use std::sync::OnceLock;

/// A point just reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Planned; nothing is written.
    Worked,
    /// Committed; the children are not published.
    Committed,
    /// Children published; the message is not acknowledged.
    Published,
    /// Delivery claimed, not sent.
    Claimed,
    /// Delivery sent; the outcome is not recorded.
    Sent,
    /// Outcome recorded; the message is not acknowledged.
    Recorded,
    /// Delayed job or cancellation noted; nothing is parked or removed.
    Noted,
    /// Delayed job noted as due; it has not run.
    Begun,
    /// Job parked in HOLD; the message is not acknowledged.
    Parked,
    /// Dead letter stored; the message is not terminated.
    Buried,
    /// Event stored; the message is not settled.
    Told,
    /// Message settled.
    Settled,
    /// Batch of maintenance committed; the run is not.
    Maintained,
    /// Due schedules or reminders locked; nothing is published.
    Due,
    /// Published; schedules have not advanced.
    Fired,
    /// Job given by HTTP noted; nothing is published.
    Offered,
    /// Document stored; nothing is written.
    Stored,
    /// Task noted; its request has not gone out.
    Opened,
    /// Endpoint answered; nothing is noted.
    Answered,
    /// Task noted as accepted; it is not parked.
    Accepted,
    /// End of a task noted; its job is not woken.
    Completed,
}

impl Step {
    /// Parses a step's lower-case name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        STEPS.into_iter().find(|step| format!("{step:?}").eq_ignore_ascii_case(name))
    }
}

const STEPS: [Step; 21] = [
    Step::Worked,
    Step::Committed,
    Step::Published,
    Step::Claimed,
    Step::Sent,
    Step::Recorded,
    Step::Noted,
    Step::Begun,
    Step::Parked,
    Step::Buried,
    Step::Told,
    Step::Settled,
    Step::Maintained,
    Step::Due,
    Step::Fired,
    Step::Offered,
    Step::Stored,
    Step::Opened,
    Step::Answered,
    Step::Accepted,
    Step::Completed,
];

static ABORT_AT: OnceLock<Step> = OnceLock::new();

/// Aborts the process at `step`. For crash tests only.
pub fn abort_at(step: Step) {
    let _ = ABORT_AT.set(step);
}

pub(crate) fn reached(step: Step) {
    if cfg!(debug_assertions) && ABORT_AT.get() == Some(&step) {
        std::process::abort();
    }
}
