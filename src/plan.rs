//! A job's decision as data: `work` makes it, `effects` performs it.

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
    maintenance::{KeepRule, Maintenance, Removed},
    reason::{DeadReason, Reason},
    receipt::{Delivered, Receipt},
    report::{Report, Undelivered},
};
use crate::{
    kind::{Kind, Lane},
    meta::OWN,
    person::{People, PushTarget},
};

/// Everything that follows from one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The reminder that must not be sent twice.
    pub mark: Option<Mark>,
    /// State of a medication's supply.
    pub shortage: Option<Shortage>,
    /// Texts of inbox rows and deliveries, one per language.
    pub contents: Vec<Content>,
    /// One per user.
    pub inbox: Vec<InboxRow>,
    /// One per recipient × channel × address.
    pub deliveries: Vec<PlannedDelivery>,
    /// Pushes that may be sent directly, by delivery id.
    pub push_targets: HashMap<String, PushTarget>,
    /// The next stage's job. At most one: all that follows carries the root's id, and a root has one text.
    pub next: Option<NextJob>,
    /// Jobs that follow from a task, each a root of its own.
    pub effects: Vec<Effect>,
    /// End of the delivery that this job was.
    pub receipt: Option<Receipt>,
    /// `job_runs.result`, if worth keeping.
    pub result: Option<Value>,
}

impl Plan {
    /// One job of a later stage, guarded by a mark.
    #[must_use]
    pub fn next(mark: Mark, next: NextJob) -> Self {
        Self { mark: Some(mark), next: Some(next), ..Self::default() }
    }

    /// Only records how a delivery ended.
    #[must_use]
    pub fn receipt(receipt: Receipt) -> Self {
        Self { receipt: Some(receipt), ..Self::default() }
    }

    /// Outcome of a job with this plan.
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
    /// Care record.
    pub record_id: String,
    /// Instant of the dose, appointment or shift.
    pub instant: DateTime<Utc>,
    /// Minutes between reminder and instant.
    pub lead_minutes: i32,
}

/// A medication's shortage. Like a [`Mark`], it belongs to the first job that commits it; unlike one, it ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortage {
    /// The supply is low. If another job has reported it, this one is `already_sent`.
    Found {
        /// Medication.
        medication_id: String,
        /// Threshold.
        refill_at: i32,
    },
    /// Closes the shortage reported by `told_by`. Later shortages are unaffected.
    Over {
        /// Medication.
        medication_id: String,
        /// The job that owns the shortage.
        told_by: String,
    },
}

/// A text for a person.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// As in `users.locale`; empty if no particular one.
    pub locale: String,
    /// `notifications.type`.
    pub kind: String,
    /// Headline.
    pub title: String,
    /// Text.
    pub body: String,
    /// Opened by a tap: a path of the application, or an absolute URL.
    pub url: Option<String>,
    /// Application's own data.
    pub data: Map<String, Value>,
    /// Notifications with the same tag replace each other on the device.
    pub tag: Option<String>,
}

impl Content {
    /// Title and body on separate lines, for channels without a headline.
    #[must_use]
    pub fn words(&self) -> String {
        if self.body.is_empty() { self.title.clone() } else { format!("{}\n{}", self.title, self.body) }
    }
}

/// A new inbox row.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxRow {
    /// Row id.
    pub id: String,
    /// Owner of the inbox.
    pub user_id: String,
    /// Language, one of the plan's.
    pub locale: String,
}

/// A new ledger row.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDelivery {
    /// Row id.
    pub id: String,
    /// Empty for a raw e-mail address or telephone number.
    pub user_id: String,
    /// Channel.
    pub channel: Channel,
    /// Id of a subscription (Web Push) or webhook, otherwise the address itself.
    pub address: String,
    /// Language, one of the plan's.
    pub locale: String,
    /// Lane.
    pub lane: Lane,
    /// Whether the job named the channel, which overrides the recipient's choice.
    pub named: bool,
    /// Why it is only recorded.
    pub unsent: Option<Unsent>,
}

/// Why nothing is sent for a ledger row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// The channel is not configured: `failed`, `no_channel`.
    NoChannel,
    /// The recipient has no address: `failed`, `no_address`.
    NoAddress,
    /// None of the named channels reaches this raw address: `skipped`, `not_named`.
    NotNamed,
    /// The recipient has not consented to the channel: `skipped`, `not_opted_in`.
    NotOptedIn,
    /// Nothing else reaches the recipient, who has no usable push subscription: `skipped`, `no_subscription`.
    NoSubscription,
    /// The recipient's preferences leave no channel: `skipped`, `opted_out`.
    OptedOut,
    /// The job names the inbox only: `skipped`, `inbox_only`.
    InboxOnly,
    /// The recipient is not in `users`, and has no inbox row either: `skipped`, `unknown_user`.
    UnknownUser,
}

/// A job of a later stage, to be published, or planned by the same worker.
#[derive(Clone, Debug, PartialEq)]
pub struct NextJob {
    /// Kind.
    pub kind: Kind,
    /// Lane.
    pub lane: Lane,
    /// Appended to the root id for its job id, for example `notification`.
    pub suffix: &'static str,
    /// Protobuf body.
    pub body: Vec<u8>,
    /// Recipients, if the planning job has read all. Not part of the message.
    pub recipients: Option<People>,
}

/// A job that a task asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Job id: the task's, and the effect's own after [`OWN`].
    pub job_id: String,
    /// Kind.
    pub kind: Kind,
    /// Lane.
    pub lane: Lane,
    /// JSON body.
    pub body: Vec<u8>,
    /// When it runs, if later.
    pub at: Option<DateTime<Utc>>,
    /// When it expires.
    pub not_after: DateTime<Utc>,
}

/// Bytes of a body. The streams of `streams/` take 16 KiB more, for headers.
pub const LARGEST_BODY: usize = 512 * 1024;

impl NextJob {
    /// The error if no stream would take its message, which would be published again for ever.
    #[must_use]
    pub fn too_large(&self) -> Option<String> {
        let size = self.body.len();
        let what = self.kind.name;
        (size > LARGEST_BODY).then(|| {
            format!("its {what} would be a message of {size} bytes, and at most {LARGEST_BODY} are possible; it has too many recipients")
        })
    }

    /// Job id.
    #[must_use]
    pub fn job_id(&self, root_id: &str) -> String {
        format!("{root_id}{OWN}{}", self.suffix)
    }
}
