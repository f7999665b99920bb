//! A job's decision as data: rows to write and messages to publish. `work` makes it, `effects` performs it.

mod channel;
mod job_outcome;
mod maintenance;
mod reason;
mod receipt;
mod report;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

pub use self::{
    channel::{By, Channel, by},
    job_outcome::JobOutcome,
    maintenance::{Maintenance, Removed},
    reason::{DeadReason, Reason},
    receipt::{Delivered, Receipt},
    report::{Report, Undelivered},
};
use crate::{
    kind::{Kind, Lane},
    person::{People, PushTarget},
};

/// Everything that follows from one job. Written in one commit, then published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The reminder that must not be sent twice, whichever job asks for it.
    pub mark: Option<Mark>,
    /// The state of a medication's supply that the job found.
    pub shortage: Option<Shortage>,
    /// The texts of inbox rows and deliveries, one for each language among the recipients.
    pub contents: Vec<Content>,
    /// The inbox rows, one per user.
    pub inbox: Vec<InboxRow>,
    /// The ledger rows, one per recipient × channel × address.
    pub deliveries: Vec<PlannedDelivery>,
    /// The pushes among them that may be sent directly, by delivery id.
    pub push_targets: HashMap<String, PushTarget>,
    /// The job of the next stage. At most one: all that follows carries the root's id, and a root has one text.
    pub next: Option<NextJob>,
    /// The end of the delivery that this job was.
    pub receipt: Option<Receipt>,
    /// The result of the work, if it is worth keeping: `job_runs.result`.
    pub result: Option<Value>,
}

impl Plan {
    /// A plan of one job of a later stage, guarded by a mark.
    #[must_use]
    pub fn next(mark: Mark, next: NextJob) -> Self {
        Self { mark: Some(mark), next: Some(next), ..Self::default() }
    }

    /// A plan that only records how a delivery ended.
    #[must_use]
    pub fn receipt(receipt: Receipt) -> Self {
        Self { receipt: Some(receipt), ..Self::default() }
    }

    /// The outcome of a job with this plan.
    #[must_use]
    pub fn outcome(&self) -> JobOutcome {
        match self.receipt.as_ref().map(|receipt| receipt.state) {
            None | Some(Delivered::Sent) => JobOutcome::Done,
            Some(Delivered::Failed) => JobOutcome::Failed,
            Some(Delivered::Unknown) => JobOutcome::Unknown,
        }
    }
}

/// One reminder for one instant of one care record. The first job that commits it owns it; any other is `already_sent`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// The care record's id.
    pub record_id: String,
    /// The instant of the dose, appointment or shift.
    pub instant: DateTime<Utc>,
    /// How long before that instant the reminder goes out.
    pub lead_minutes: i32,
}

/// The shortage of a medication. Like a [`Mark`], it belongs to the first job that commits it; unlike one, it ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortage {
    /// The supply is low, and this job tells of it. If another job already has, this one is `already_sent`.
    Found {
        /// The medication's id.
        medication_id: String,
        /// The supply at which a shortage begins.
        refill_at: i32,
    },
    /// Closes the shortage reported by `told_by`. Later shortages are unaffected.
    Over {
        /// The medication's id.
        medication_id: String,
        /// The job that owns the shortage.
        told_by: String,
    },
}

/// A text for a person, and the page that a tap opens.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The language, as in `users.locale`; empty if it is nobody's in particular.
    pub locale: String,
    /// `notifications.type`.
    pub kind: String,
    /// The headline.
    pub title: String,
    /// The text.
    pub body: String,
    /// A path of the application, or an absolute URL.
    pub url: Option<String>,
    /// The application's own data, handed back with the notification.
    pub data: Map<String, Value>,
    /// Notifications with the same tag replace each other on the device.
    pub tag: Option<String>,
}

impl Content {
    /// Title and body on lines of their own, for channels without a headline.
    #[must_use]
    pub fn words(&self) -> String {
        if self.body.is_empty() { self.title.clone() } else { format!("{}\n{}", self.title, self.body) }
    }
}

/// A new inbox row.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxRow {
    /// The row's id.
    pub id: String,
    /// The owner of the inbox.
    pub user_id: String,
    /// The language of its text, one of the plan's.
    pub locale: String,
}

/// A new ledger row.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDelivery {
    /// The row's id.
    pub id: String,
    /// The recipient; empty for a raw e-mail address or telephone number.
    pub user_id: String,
    /// The channel.
    pub channel: Channel,
    /// The address: the id of a subscription (Web Push) or of a webhook, otherwise the address itself.
    pub address: String,
    /// The language of its text, one of the plan's.
    pub locale: String,
    /// The lane.
    pub lane: Lane,
    /// Whether the job named the channel, which overrides the recipient's own choice.
    pub named: bool,
    /// Why it is only recorded and never sent.
    pub unsent: Option<Unsent>,
}

/// Why a delivery that a job asked for cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The channel is not configured: `failed`, `no_channel`.
    NoChannel,
    /// The recipient has no address: `failed`, `no_address`.
    NoAddress,
    /// A raw address that none of the named channels reaches: `skipped`, `not_named`.
    NotNamed,
    /// The channel needs the recipient's consent, which is missing: `skipped`, `not_opted_in`.
    NotOptedIn,
}

/// A job of a later stage, to be published or run in place.
#[derive(Clone, Debug, PartialEq)]
pub struct NextJob {
    /// Its kind.
    pub kind: Kind,
    /// Its lane.
    pub lane: Lane,
    /// Appended to the root id to make its job id, for example `notification`.
    pub suffix: &'static str,
    /// Its protobuf body.
    pub body: Vec<u8>,
    /// The recipients, if the planning job has read all of them. They are not part of the message.
    pub recipients: Option<People>,
}

impl NextJob {
    /// Its job id.
    #[must_use]
    pub fn job_id(&self, root_id: &str) -> String {
        format!("{root_id}:{}", self.suffix)
    }
}
