use chrono::{DateTime, Utc};

use crate::plan::{DeadReason, Reason};

/// The consequence of a failure or release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A failed attempt; more follow.
    Attempt {
        /// Error.
        error: String,
        /// When a parked job's next attempt is due. Its delivery is not claimed before.
        until: Option<DateTime<Utc>>,
    },
    /// The last attempt, or a permanent failure.
    Dead {
        /// Error.
        error: String,
        /// Why no attempt follows.
        reason: DeadReason,
    },
    /// Released at shutdown, or parked for this reason. No attempt is burnt.
    Released(Option<Reason>),
}
