//! The verdict on a job that did not succeed.

use chrono::{DateTime, Utc};

use crate::plan::DeadReason;

/// The consequence of a failure or release for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A failed attempt; more follow.
    Attempt {
        /// The error.
        error: String,
        /// When the next attempt is due, if the job is parked. A delivery is not claimed before.
        until: Option<DateTime<Utc>>,
    },
    /// The last attempt, or a permanent failure.
    Dead {
        /// The error.
        error: String,
        /// Why no attempt follows.
        reason: DeadReason,
    },
    /// Given back unfinished by a worker that stops, or parked. No attempt is burnt.
    Released,
}
