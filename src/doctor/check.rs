use std::fmt;

use serde_json::{Value, json};

/// A check, in output order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// All variables are well-formed.
    Configuration,
    /// This process may open enough files.
    Descriptors,
    /// The rules of time zones are not older than a year.
    Zones,
    /// All templates load.
    Templates,
    /// The server answers and accepts the credentials.
    Nats,
    /// It has message schedules.
    NatsVersion,
    /// `JetStream` is on, for the account too.
    JetStream,
    /// Streams and consumers match `streams/`.
    Streams,
    /// The user's permissions suffice for a worker.
    NatsPermissions,
    /// Its clock agrees with this machine's.
    NatsClock,
    /// The server answers, accepts the credentials and is writable.
    Database,
    /// Carebell's tables are current.
    Schema,
    /// The care tables have all required columns.
    CareTables,
    /// No push subscription is malformed.
    Subscriptions,
    /// The role's privileges suffice for a worker.
    DatabasePermissions,
    /// Its clock agrees with this machine's.
    DatabaseClock,
    /// The keys match, and the subject is a contact.
    VapidKeys,
    /// Push services are reachable.
    PushEgress,
    /// Providers of text messages, `WhatsApp` and calls are reachable.
    ProviderEgress,
    /// Mail servers, if any, accept the credentials.
    MailServers,
    /// Document stores, if any, can be read.
    DocumentStores,
    /// The jobs that a producer may publish.
    ProducerJobs,
    /// It may publish to no internal subject.
    ProducerSubjects,
    /// It may ask nothing of `JetStream`.
    ProducerApi,
    /// It may read nothing.
    ProducerSubscriptions,
    /// Headers that it may not set are refused.
    ProducerHeaders,
    /// The server's answers to it stay in its account.
    ProducerReplies,
}

/// A starting worker's reaction to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStart {
    /// Wait until it passes or the start timeout ends.
    Wait,
    /// Exit: only an administrator can fix it, and every job would suffer.
    Exit,
    /// Log it and go on.
    Tell,
}

impl Item {
    /// As shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Descriptors => "file descriptors",
            Self::Zones => "time zones",
            Self::Templates => "templates",
            Self::Nats => "NATS",
            Self::NatsVersion => "NATS version",
            Self::JetStream => "JetStream",
            Self::Streams => "streams",
            Self::NatsPermissions => "NATS permissions",
            Self::NatsClock => "NATS clock",
            Self::Database => "database",
            Self::Schema => "schema",
            Self::CareTables => "care tables",
            Self::Subscriptions => "push subscriptions",
            Self::DatabasePermissions => "database permissions",
            Self::DatabaseClock => "database clock",
            Self::VapidKeys => "VAPID keys",
            Self::PushEgress => "push egress",
            Self::ProviderEgress => "provider egress",
            Self::MailServers => "mail servers",
            Self::DocumentStores => "document stores",
            Self::ProducerJobs => "jobs",
            Self::ProducerSubjects => "subjects",
            Self::ProducerApi => "API",
            Self::ProducerSubscriptions => "subscriptions",
            Self::ProducerHeaders => "headers",
            Self::ProducerReplies => "answers",
        }
    }

    /// A starting worker's reaction to its failure.
    #[must_use]
    pub const fn at_start(self) -> AtStart {
        match self {
            Self::Nats
            | Self::NatsVersion
            | Self::JetStream
            | Self::Streams
            | Self::Database
            | Self::Schema
            | Self::CareTables => AtStart::Wait,
            // A worker with these problems ends earlier.
            Self::Configuration
            | Self::Descriptors
            | Self::Templates
            | Self::VapidKeys
            | Self::NatsPermissions
            | Self::DatabasePermissions => AtStart::Exit,
            Self::NatsClock
            | Self::Zones
            | Self::Subscriptions
            | Self::DatabaseClock
            | Self::PushEgress
            | Self::ProviderEgress
            | Self::MailServers
            | Self::DocumentStores
            | Self::ProducerJobs
            | Self::ProducerSubjects
            | Self::ProducerApi
            | Self::ProducerSubscriptions
            | Self::ProducerHeaders
            | Self::ProducerReplies => AtStart::Tell,
        }
    }
}

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// Passed, with details.
    Ok(String),
    /// Works, but needs attention.
    Warn {
        /// Finding.
        what: String,
        /// Remedy.
        advice: String,
    },
    /// Does not work.
    Fail {
        /// Problem.
        what: String,
        /// Remedy.
        advice: String,
    },
    /// Skipped, with the reason.
    NotChecked(String),
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Item.
    pub item: Item,
    /// Result.
    pub outcome: CheckResult,
}

impl Check {
    pub(super) fn ok(item: Item, detail: impl Into<String>) -> Self {
        Self { item, outcome: CheckResult::Ok(detail.into()) }
    }

    pub(super) fn warn(item: Item, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { item, outcome: CheckResult::Warn { what: what.into(), advice: advice.into() } }
    }

    pub(super) fn fail(item: Item, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { item, outcome: CheckResult::Fail { what: what.into(), advice: advice.into() } }
    }

    pub(super) fn not_checked(item: Item, why: impl Into<String>) -> Self {
        Self { item, outcome: CheckResult::NotChecked(why.into()) }
    }

    /// Whether it failed.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, CheckResult::Fail { .. })
    }

    /// Finding and remedy, without the severity.
    #[must_use]
    pub fn words(&self) -> String {
        let name = self.item.name();
        match &self.outcome {
            CheckResult::Ok(detail) => format!("{name}: {detail}"),
            CheckResult::Warn { what, advice } | CheckResult::Fail { what, advice } => {
                format!("{name}: {what} — {advice}")
            }
            CheckResult::NotChecked(why) => format!("{name}: not checked: {why}"),
        }
    }

    /// As a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (result, detail, advice) = match &self.outcome {
            CheckResult::Ok(detail) => ("ok", detail, None),
            CheckResult::Warn { what, advice } => ("warn", what, Some(advice)),
            CheckResult::Fail { what, advice } => ("fail", what, Some(advice)),
            CheckResult::NotChecked(why) => ("not_checked", why, None),
        };
        json!({ "name": self.item.name(), "result": result, "detail": detail, "advice": advice })
    }
}

/// `FAIL  streams: JOBS.reminder_medication: not on the server — run …`
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match &self.outcome {
            CheckResult::Ok(_) => "ok",
            CheckResult::Warn { .. } => "warn",
            CheckResult::Fail { .. } => "FAIL",
            CheckResult::NotChecked(_) => "-",
        };
        write!(f, "{result:<4}  {}", self.words())
    }
}

/// Push services and mail servers to contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Configured ones, and those of common browsers.
    All,
    /// Only those in `WEB_PUSH_ALLOWED_HOSTS` and `SMTP_URL`.
    Named,
    /// None.
    Offline,
}

pub(super) fn some(list: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = list[..list.len().min(SHOWN)].join("; ");
    match list.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let list: Vec<String> = (1..=7).map(|number| number.to_string()).collect();
        assert_eq!(some(&list), "1; 2; 3; 4; 5; and 2 more");
        assert_eq!(some(&list[..2]), "1; 2");
    }
}
