use std::time::Duration;

use super::breaker::ProviderHealth;

/// Judged outcome of a send, for all channels. Texts hold no address, key or content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted by the provider.
    Accepted {
        /// Short form, such as `201`.
        answer: String,
        /// Id at the provider.
        provider_id: Option<String>,
    },
    /// The provider is healthy and asks for a pause. Burns no attempt.
    Later {
        /// Minimum wait.
        after: Duration,
        /// Short form.
        answer: String,
    },
    /// The provider is healthy; a retry of this parcel may succeed.
    Retry {
        /// Cause.
        why: String,
        /// Minimum wait, if requested.
        after: Option<Duration>,
    },
    /// No connection, a timeout before the request went out, or a 5xx. Counts against the breaker.
    Down {
        /// Cause.
        why: String,
        /// Minimum wait, if requested.
        after: Option<Duration>,
        /// Whether it timed out.
        timed_out: bool,
    },
    /// No response; it may have been accepted. Counts against the breaker as silence.
    Unknown {
        /// Cause.
        why: String,
    },
    /// A retry can't help.
    Permanent {
        /// Cause and remedy.
        why: String,
    },
    /// The address is malformed, or the operator's settings do not allow it. It stays as it is.
    Refused {
        /// Cause.
        why: String,
        /// `deliveries.reason`, such as `host_not_allowed`.
        reason: &'static str,
    },
    /// The address is none, no longer exists or has opted out. It is marked or removed.
    Gone {
        /// Short form.
        answer: String,
        /// `deliveries.reason`, such as `subscription_gone`.
        reason: &'static str,
    },
}

impl Answer {
    /// Metric label, one of [`ANSWERS`](crate::telemetry::metrics::ANSWERS).
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Later { .. } => "later",
            Self::Retry { .. } => "retry",
            Self::Down { .. } => "down",
            Self::Unknown { .. } => "unknown",
            Self::Permanent { .. } => "permanent",
            Self::Refused { .. } => "refused",
            Self::Gone { .. } => "gone",
        }
    }

    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Accepted { .. } | Self::Later { .. } => None,
            Self::Retry { why, .. }
            | Self::Down { why, .. }
            | Self::Unknown { why }
            | Self::Permanent { why }
            | Self::Refused { why, .. } => Some(why),
            Self::Gone { reason, .. } => Some(reason),
        }
    }

    pub(super) fn health(&self) -> ProviderHealth {
        match self {
            Self::Accepted { .. }
            | Self::Later { .. }
            | Self::Retry { .. }
            | Self::Permanent { .. }
            | Self::Refused { .. }
            | Self::Gone { .. } => ProviderHealth::Well,
            Self::Down { timed_out: false, .. } => ProviderHealth::Failing,
            Self::Down { timed_out: true, .. } | Self::Unknown { .. } => ProviderHealth::Silent,
        }
    }
}
