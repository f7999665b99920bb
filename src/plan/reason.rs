/// Why a job was skipped, or waits: `job_runs.reason` and `deliveries.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The care record no longer exists.
    Gone,
    /// The medication is not active.
    Inactive,
    /// The appointment or shift was called off, or the delayed job taken back.
    Cancelled,
    /// The appointment or shift is completed.
    Over,
    /// The appointment or shift has a new start time, with its own reminder.
    Moved,
    /// The dose was given.
    AlreadyGiven,
    /// The dose was skipped on purpose.
    AlreadySkipped,
    /// Another job sent this reminder.
    AlreadySent,
    /// Its application delayed it.
    Delayed,
    /// Its application published the delayed job anew.
    Replaced,
    /// Its application published the reminder before its instant less its lead.
    NotDue,
    /// Nobody to tell.
    NoRecipients,
    /// The supply is above the refill threshold, or unknown.
    Restocked,
    /// Too late to be of use.
    Expired,
    /// The provider asked to come back later.
    RetryLater,
    /// The last attempt failed; the next is due later.
    Retry,
    /// The recipient no longer wants this channel.
    OptedOut,
    /// The recipient's quiet hours: until they end, or for good if the job expires first.
    QuietHours,
    /// Another worker is sending this delivery.
    InFlight,
    /// The provider's circuit breaker is open.
    ProviderDown,
    /// Somebody has paused its provider.
    Paused,
    /// Its endpoint has accepted it, and has not finished.
    Accepted,
    /// Its kind has as many open tasks as it may have.
    EndpointFull,
    /// Its endpoint found nothing to do.
    NotNeeded,
}

impl Reason {
    /// Those of waits.
    pub const WAITS: [Self; 9] = [
        Self::ProviderDown,
        Self::Retry,
        Self::RetryLater,
        Self::InFlight,
        Self::QuietHours,
        Self::Paused,
        Self::NotDue,
        Self::Accepted,
        Self::EndpointFull,
    ];

    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Inactive => "inactive",
            Self::Cancelled => "cancelled",
            Self::Over => "over",
            Self::Moved => "moved",
            Self::AlreadyGiven => "already_given",
            Self::AlreadySkipped => "already_skipped",
            Self::AlreadySent => "already_sent",
            Self::Delayed => "delayed",
            Self::Replaced => "replaced",
            Self::NotDue => "not_due",
            Self::NoRecipients => "no_recipients",
            Self::Restocked => "restocked",
            Self::Expired => "expired",
            Self::RetryLater => "retry_later",
            Self::Retry => "retry",
            Self::OptedOut => "opted_out",
            Self::QuietHours => "quiet_hours",
            Self::InFlight => "in_flight",
            Self::ProviderDown => "provider_down",
            Self::Paused => "paused",
            Self::Accepted => "accepted",
            Self::EndpointFull => "endpoint_full",
            Self::NotNeeded => "not_needed",
        }
    }

    /// Whether people asked for a wait with this reason, so that it makes nothing late.
    #[must_use]
    pub const fn is_wished(self) -> bool {
        matches!(self, Self::QuietHours | Self::Paused | Self::NotDue | Self::Delayed)
    }

    /// Parses the reason of a wait.
    #[must_use]
    pub fn of_wait(name: &str) -> Option<Self> {
        Self::WAITS.into_iter().find(|reason| reason.name() == name)
    }
}

/// Why a job was dead-lettered: `Carebell-Dead-Reason`, and the `reason` of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// A retry can't help.
    Permanent,
    /// The last attempt failed.
    Exhausted,
    /// It repeatedly killed its worker.
    Crashed,
    /// Unreadable body or headers.
    Undecodable,
    /// No consumer covers its subject.
    UnknownKind,
    /// It waits for an instant that it does not have.
    Unscheduled,
}

impl DeadReason {
    /// All reasons.
    pub const ALL: [Self; 6] =
        [Self::Permanent, Self::Exhausted, Self::Crashed, Self::Undecodable, Self::UnknownKind, Self::Unscheduled];

    /// As in header and record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Exhausted => "exhausted",
            Self::Crashed => "crashed",
            Self::Undecodable => "undecodable",
            Self::UnknownKind => "unknown_kind",
            Self::Unscheduled => "unscheduled",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == text)
    }
}
