//! What a job decided, as data: the rows to write and the messages to publish. `work` makes it, `effects` performs it.

mod at_once;
mod outcome;
mod report;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Display, Formatter},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{
    at_once::{AtOnce, Subscription},
    outcome::JobOutcome,
    report::{Report, Undelivered},
};
use crate::kind::{Kind, Lane};

/// All that follows from one job. Written in one commit, then published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What must not happen twice whichever job asks for it.
    pub mark: Option<Mark>,
    /// What the job found out about a medication's shortage.
    pub shortage: Option<Shortage>,
    /// The texts that inbox rows and deliveries of this job carry: one for each language among its recipients.
    pub contents: Vec<Content>,
    /// The inbox rows, one per user.
    pub inbox: Vec<InboxRow>,
    /// The ledger rows, one per recipient × channel × address.
    pub deliveries: Vec<PlannedDelivery>,
    /// What is known of those deliveries that this worker may send at once, by their ids.
    pub at_once: HashMap<String, AtOnce>,
    /// The job of the next stage. One at most: what follows carries the root's id, and a root has one text.
    pub next: Option<NextJob>,
    /// What became of the delivery that this job was.
    pub receipt: Option<Receipt>,
    /// What the work came to, where that is worth keeping: `job_runs.result`.
    pub result: Option<Value>,
}

impl Plan {
    /// A plan of one job of a later stage, guarded by a mark.
    #[must_use]
    pub fn next(mark: Mark, next: NextJob) -> Self {
        Self { mark: Some(mark), next: Some(next), ..Self::default() }
    }

    /// What became of the job.
    #[must_use]
    pub fn outcome(&self) -> JobOutcome {
        match self.receipt.as_ref().map(|receipt| receipt.state) {
            None | Some(Delivered::Sent) => JobOutcome::Done,
            Some(Delivered::Failed) => JobOutcome::Failed,
            Some(Delivered::Unknown) => JobOutcome::Unknown,
        }
    }

    /// A plan that only records what became of a delivery.
    #[must_use]
    pub fn receipt(receipt: Receipt) -> Self {
        Self { receipt: Some(receipt), ..Self::default() }
    }
}

/// One reminder of one instant of one care record. The first job to commit it owns it; another's is `already_sent`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// The care record's id.
    pub record_id: String,
    /// The dose's, appointment's or shift's own instant.
    pub instant: DateTime<Utc>,
    /// How long before it this reminder goes out.
    pub lead_minutes: i32,
}

/// The shortage of a medication: like a [`Mark`], it is owned by the first job that commits it; unlike one, it ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortage {
    /// There is one, and this job tells of it. Where another job has told of it already, this one is `already_sent`.
    Found {
        /// The medication's id.
        medication_id: String,
        /// The supply at which it begins.
        refill_at: i32,
    },
    /// The one that `told_by` told of is over. A later one is not meant: it stays.
    Over {
        /// The medication's id.
        medication_id: String,
        /// The job that owns it.
        told_by: String,
    },
}

/// What a person reads, and where a tap leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// Its language, as `users.locale` has it; empty where it is nobody's in particular.
    pub locale: String,
    /// `notifications.type`.
    pub kind: String,
    /// The headline.
    pub title: String,
    /// The text.
    pub body: String,
    /// A path of the application or an absolute URL.
    pub url: Option<String>,
    /// What the application wants back with it.
    pub data: Map<String, Value>,
    /// Notifications with the same tag replace each other where they are shown.
    pub tag: Option<String>,
}

impl Content {
    /// What a person reads where nothing tells a headline from a text: each on lines of its own.
    #[must_use]
    pub fn words(&self) -> String {
        if self.body.is_empty() { self.title.clone() } else { format!("{}\n{}", self.title, self.body) }
    }
}

/// One inbox row that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxRow {
    /// The new row's id.
    pub id: String,
    /// Whose inbox.
    pub user_id: String,
    /// The language of its text, one of the plan's.
    pub locale: String,
}

/// One row of the ledger that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDelivery {
    /// The new row's id.
    pub id: String,
    /// Whom it is for; empty for a raw e-mail address or telephone number.
    pub user_id: String,
    /// By which way.
    pub channel: Channel,
    /// Where to: the id of the subscription (Web Push) or of the address (webhook), the address itself elsewhere.
    pub address: String,
    /// The language of its text, one of the plan's.
    pub locale: String,
    /// How urgent it is.
    pub lane: Lane,
    /// Whether the job named the channel, so that the recipient's own choice does not count.
    pub named: bool,
    /// Why it is on record only, and never sent.
    pub unsent: Option<Unsent>,
}

/// Why a delivery that a job asked for cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The channel is not configured: `failed`, `no_channel`.
    NoChannel,
    /// There is no address of the recipient's: `failed`, `no_address`.
    NoAddress,
    /// A raw address that the channels which the job names do not reach: `skipped`, `not_named`.
    NotNamed,
    /// The recipient has not asked for this channel, which is used of nobody who has not: `skipped`, `not_opted_in`.
    NotOptedIn,
}

/// Makes [`Channel`] of one line for each channel: its name in the ledger, from which that of its kind follows.
macro_rules! channels {
    ($($(#[$text:meta])* $channel:ident = $name:literal,)*) => {
        /// A way to reach a person, as the ledger names it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Channel { $($(#[$text])* $channel,)* }

        impl Channel {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$channel),*];

            /// The name in the ledger, in metric labels and in `deliver.<channel>`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$channel => $name,)* }
            }

            /// The kind of job that sends by it.
            #[must_use]
            pub const fn kind(self) -> Kind {
                Kind::delivery(match self { $(Self::$channel => concat!("deliver.", $name),)* })
            }
        }
    };
}

channels! {
    /// Web Push (RFC 8030).
    WebPush = "web_push",
    /// E-mail.
    Email = "email",
    /// Text message.
    Sms = "sms",
    /// `WhatsApp` message.
    WhatsApp = "whatsapp",
    /// Voice call.
    Voice = "voice",
    /// A signed HTTP request (Standard Webhooks).
    Webhook = "webhook",
}

impl Channel {
    /// Reads the name back.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
    }

    /// The channel that a kind of delivery sends by.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.kind() == kind)
    }
}

/// A job of a later stage that is to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct NextJob {
    /// Its kind.
    pub kind: Kind,
    /// Its lane.
    pub lane: Lane,
    /// What is put behind the root id to make its job id, for example `notification`.
    pub suffix: &'static str,
    /// Its protobuf body.
    pub body: Vec<u8>,
}

impl NextJob {
    /// Its id.
    #[must_use]
    pub fn job_id(&self, root_id: &str) -> String {
        format!("{root_id}:{}", self.suffix)
    }
}

/// What became of a delivery, for the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The state that the row ends in.
    pub state: Delivered,
    /// Why, where it was not sent.
    pub reason: Option<&'static str>,
    /// Who answered: a provider's name, or the host.
    pub provider: String,
    /// The provider's own id of what it took, by which it can be asked.
    pub provider_id: Option<String>,
    /// The answer in short, for example `201`.
    pub answer: String,
    /// Whether the address answered that it is gone for good, and is to be removed.
    pub address_gone: bool,
    /// Whether it was sent in the person's quiet hours, because it is critical.
    pub overrode_quiet_hours: bool,
}

impl Receipt {
    /// Of a send that was perhaps accepted. Nobody can call it back, so it is not sent again: somebody has to look.
    #[must_use]
    pub fn unknown(provider: &str, why: &str) -> Self {
        Self {
            state: Delivered::Unknown,
            reason: Some("no_answer"),
            provider: provider.to_owned(),
            provider_id: None,
            answer: why.to_owned(),
            address_gone: false,
            overrode_quiet_hours: false,
        }
    }
}

/// The final states that a send can end in by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Accepted by the provider.
    Sent,
    /// Refused for a reason that is nobody's mistake, such as a subscription that has ended.
    Failed,
    /// Whether it was accepted, nobody knows, and to send it again might reach the person twice.
    Unknown,
}

/// What is to be done to Carebell's own tables. It may be millions of rows, so it is no part of the run's one commit: it is
/// carried out before that, in batches. Carried out again, it goes on where it stopped.
#[derive(Clone, Debug, PartialEq)]
pub enum Upkeep {
    /// Remove what is over and was not written since.
    Prune {
        /// Since when.
        before: DateTime<Utc>,
        /// Since when, of what is dead.
        dead_before: DateTime<Utc>,
    },
    /// Remove these Web Push subscriptions, as far as their users still do not exist.
    RemoveSubscriptions {
        /// `push_subscriptions.id`.
        ids: Vec<String>,
    },
}

/// What upkeep has removed. The result of its run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Rows, by table.
    pub removed: BTreeMap<String, u64>,
    /// Whether its time was up before all was done; the rest is the next job's.
    pub unfinished: bool,
}

impl Removed {
    /// Adds to the rows of a table.
    pub fn add(&mut self, table: &str, rows: u64) {
        *self.removed.entry(table.to_owned()).or_default() += rows;
    }
}

/// `removed 8 deliveries, 3 job_runs`
impl Display for Removed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> =
            self.removed.iter().filter(|(_, rows)| **rows > 0).map(|(table, rows)| format!("{rows} {table}")).collect();
        let removed = if tables.is_empty() { "nothing".to_owned() } else { tables.join(", ") };
        let rest = if self.unfinished { ", and left the rest to the next job: its time was up" } else { "" };
        write!(f, "removed {removed}{rest}")
    }
}

/// Why a job was skipped, or waits. Kept in `job_runs.reason` and `deliveries.reason`, and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The care record does not exist any more.
    Gone,
    /// The medication is not active.
    Inactive,
    /// The appointment or shift was called off.
    Cancelled,
    /// The appointment or shift is completed.
    Over,
    /// The appointment or shift begins at another time by now: another reminder tells of that.
    Moved,
    /// The dose was given.
    AlreadyGiven,
    /// The dose was skipped on purpose.
    AlreadySkipped,
    /// Another job sent this very reminder.
    AlreadySent,
    /// There is nobody to tell.
    NoRecipients,
    /// The supply is above the threshold of a refill, or not known any more.
    Restocked,
    /// Too late to be of use.
    Expired,
    /// The provider asked to come back later.
    RetryLater,
    /// The last attempt failed, and the next is due later.
    Retry,
    /// The recipient does not want this channel any more.
    OptedOut,
    /// The recipient's quiet hours: until they end, or, where it would expire before that, for good.
    QuietHours,
    /// Another worker is sending this delivery.
    InFlight,
    /// The provider is down: its circuit breaker is open.
    ProviderDown,
}

impl Reason {
    /// The token that is stored and counted.
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
            Self::NoRecipients => "no_recipients",
            Self::Restocked => "restocked",
            Self::Expired => "expired",
            Self::RetryLater => "retry_later",
            Self::Retry => "retry",
            Self::OptedOut => "opted_out",
            Self::QuietHours => "quiet_hours",
            Self::InFlight => "in_flight",
            Self::ProviderDown => "provider_down",
        }
    }
}

/// Why a job was dead-lettered: `Carebell-Dead-Reason`, and the `reason` of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// Trying again cannot help.
    Permanent,
    /// The last attempt failed.
    Exhausted,
    /// It ended the worker that ran it, again and again.
    Crashed,
    /// Its body or headers cannot be read.
    Undecodable,
    /// No consumer covers its subject.
    UnknownKind,
}

impl DeadReason {
    /// The token in the header and in the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Exhausted => "exhausted",
            Self::Crashed => "crashed",
            Self::Undecodable => "undecodable",
            Self::UnknownKind => "unknown_kind",
        }
    }

    /// Reads the token back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Permanent, Self::Exhausted, Self::Crashed, Self::Undecodable, Self::UnknownKind]
            .into_iter()
            .find(|reason| reason.name() == text)
    }
}
