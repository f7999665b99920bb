//! The format of the journal: protobuf, so that workers of neighbouring versions read each other's pages. A number is
//! never used again for another field.

use prost::Message;

/// What some statements wrote.
#[derive(Clone, PartialEq, Message)]
pub struct Page {
    /// The worker that wrote it, and made its claims.
    #[prost(string, tag = "1")]
    pub worker: String,
    #[prost(message, repeated, tag = "2")]
    pub commits: Vec<CommitEntry>,
    #[prost(message, repeated, tag = "3")]
    pub failures: Vec<FailureEntry>,
    #[prost(message, repeated, tag = "4")]
    pub delays: Vec<DelayEntry>,
    #[prost(message, repeated, tag = "5")]
    pub outcomes: Vec<OutcomeEntry>,
}

impl Page {
    /// All that these pages of one worker hold.
    #[must_use]
    pub fn of(pages: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for page in pages {
            if all.worker.is_empty() {
                all.worker = page.worker;
            }
            all.commits.extend(page.commits);
            all.failures.extend(page.failures);
            all.delays.extend(page.delays);
            all.outcomes.extend(page.outcomes);
        }
        all
    }
}

/// A run with its effects.
#[derive(Clone, PartialEq, Message)]
pub struct CommitEntry {
    #[prost(message, required, tag = "1")]
    pub run: RunEntry,
    /// `job_runs.state`.
    #[prost(string, tag = "2")]
    pub state: String,
    #[prost(string, optional, tag = "3")]
    pub reason: Option<String>,
    /// JSON.
    #[prost(string, optional, tag = "4")]
    pub result: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub mark: Option<MarkEntry>,
    #[prost(message, optional, tag = "6")]
    pub shortage: Option<ShortageEntry>,
    #[prost(message, repeated, tag = "7")]
    pub contents: Vec<ContentEntry>,
    #[prost(message, repeated, tag = "8")]
    pub inbox: Vec<InboxEntry>,
    #[prost(message, repeated, tag = "9")]
    pub deliveries: Vec<DeliveryEntry>,
    #[prost(message, repeated, tag = "10")]
    pub children: Vec<ChildEntry>,
    /// The notification planned with it.
    #[prost(message, optional, boxed, tag = "11")]
    pub next: Option<Box<CommitEntry>>,
    #[prost(int64, tag = "12")]
    pub not_after: i64,
    #[prost(int64, tag = "13")]
    pub now: i64,
}

/// The identity of a run. Instants are in microseconds since 1970, here and below.
#[derive(Clone, PartialEq, Message)]
pub struct RunEntry {
    #[prost(string, tag = "1")]
    pub job_id: String,
    /// Empty if it is the job's own id.
    #[prost(string, tag = "2")]
    pub root_id: String,
    #[prost(string, tag = "3")]
    pub kind: String,
    #[prost(string, tag = "4")]
    pub stream: String,
    #[prost(int64, tag = "5")]
    pub sequence: i64,
    #[prost(int64, tag = "6")]
    pub delivered: i64,
    #[prost(string, optional, tag = "7")]
    pub trace: Option<String>,
    /// Of kinds that have lanes.
    #[prost(string, optional, tag = "8")]
    pub lane: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct MarkEntry {
    #[prost(string, tag = "1")]
    pub record_id: String,
    #[prost(int64, tag = "2")]
    pub instant: i64,
    #[prost(int32, tag = "3")]
    pub lead_minutes: i32,
}

/// One that was found, or that is over if it has `told_by`.
#[derive(Clone, PartialEq, Message)]
pub struct ShortageEntry {
    #[prost(string, tag = "1")]
    pub medication_id: String,
    #[prost(int32, tag = "2")]
    pub refill_at: i32,
    #[prost(string, optional, tag = "3")]
    pub told_by: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContentEntry {
    #[prost(string, tag = "1")]
    pub locale: String,
    #[prost(string, tag = "2")]
    pub kind: String,
    #[prost(string, tag = "3")]
    pub title: String,
    #[prost(string, tag = "4")]
    pub body: String,
    #[prost(string, optional, tag = "5")]
    pub url: Option<String>,
    /// JSON; empty for an empty object.
    #[prost(string, tag = "6")]
    pub data: String,
    #[prost(string, optional, tag = "7")]
    pub tag: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InboxEntry {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub user_id: String,
    #[prost(string, tag = "3")]
    pub locale: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeliveryEntry {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub user_id: String,
    #[prost(string, tag = "3")]
    pub channel: String,
    #[prost(string, tag = "4")]
    pub address: String,
    #[prost(string, tag = "5")]
    pub locale: String,
    #[prost(string, tag = "6")]
    pub lane: String,
    #[prost(bool, tag = "7")]
    pub named: bool,
    /// Why it is only recorded; 0: it is sent.
    #[prost(uint32, tag = "8")]
    pub unsent: u32,
    /// Whether the worker claimed it for a direct send.
    #[prost(bool, tag = "9")]
    pub direct: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ChildEntry {
    #[prost(string, tag = "1")]
    pub job_id: String,
    #[prost(string, tag = "2")]
    pub root_id: String,
    #[prost(string, tag = "3")]
    pub subject: String,
    #[prost(bytes = "vec", tag = "4")]
    pub body: Vec<u8>,
    #[prost(int64, tag = "5")]
    pub not_after: i64,
    #[prost(string, optional, tag = "6")]
    pub trace: Option<String>,
    #[prost(int64, optional, tag = "7")]
    pub at: Option<i64>,
    #[prost(bool, tag = "8")]
    pub is_json: bool,
}

/// A failed attempt of a run, or its death.
#[derive(Clone, PartialEq, Message)]
pub struct FailureEntry {
    #[prost(message, required, tag = "1")]
    pub run: RunEntry,
    #[prost(string, tag = "2")]
    pub error: String,
    /// Of a dead run.
    #[prost(string, optional, tag = "3")]
    pub dead: Option<String>,
    #[prost(int64, tag = "4")]
    pub now: i64,
}

/// A message about a delayed job.
#[derive(Clone, PartialEq, Message)]
pub struct DelayEntry {
    /// 0: it waits, 1: it is due, 2: it is taken back.
    #[prost(uint32, tag = "1")]
    pub step: u32,
    #[prost(string, tag = "2")]
    pub job_id: String,
    #[prost(string, tag = "3")]
    pub application: String,
    #[prost(string, tag = "4")]
    pub kind: String,
    #[prost(string, optional, tag = "5")]
    pub lane: Option<String>,
    #[prost(int64, optional, tag = "6")]
    pub due: Option<i64>,
    #[prost(uint64, tag = "7")]
    pub size: u64,
    #[prost(string, tag = "8")]
    pub stream: String,
    #[prost(int64, tag = "9")]
    pub created: i64,
    #[prost(int64, tag = "10")]
    pub sequence: i64,
    #[prost(int64, tag = "11")]
    pub now: i64,
}

/// The outcome of a delivery.
#[derive(Clone, PartialEq, Message)]
pub struct OutcomeEntry {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(int64, tag = "2")]
    pub sequence: i64,
    #[prost(int64, tag = "3")]
    pub delivered: i64,
    #[prost(int64, tag = "4")]
    pub now: i64,
    #[prost(oneof = "Record", tags = "5, 6, 7, 8, 9, 10")]
    pub record: Option<Record>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Record {
    #[prost(message, tag = "5")]
    Receipt(ReceiptEntry),
    #[prost(string, tag = "6")]
    Expired(String),
    #[prost(string, tag = "7")]
    Skipped(String),
    #[prost(message, tag = "8")]
    Held(HeldEntry),
    #[prost(message, tag = "9")]
    Attempt(AttemptEntry),
    #[prost(message, tag = "10")]
    Dead(DeadEntry),
}

#[derive(Clone, PartialEq, Message)]
pub struct ReceiptEntry {
    /// 0: sent, 1: failed, 2: unknown.
    #[prost(uint32, tag = "1")]
    pub state: u32,
    #[prost(string, optional, tag = "2")]
    pub reason: Option<String>,
    #[prost(string, tag = "3")]
    pub provider: String,
    #[prost(string, optional, tag = "4")]
    pub provider_id: Option<String>,
    #[prost(string, tag = "5")]
    pub answer: String,
    #[prost(bool, tag = "6")]
    pub address_gone: bool,
    #[prost(string, optional, tag = "7")]
    pub tried: Option<String>,
    #[prost(bool, tag = "8")]
    pub overrode_quiet_hours: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeldEntry {
    #[prost(int64, tag = "1")]
    pub until: i64,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct AttemptEntry {
    #[prost(string, tag = "1")]
    pub error: String,
    #[prost(int64, optional, tag = "2")]
    pub until: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeadEntry {
    #[prost(string, tag = "1")]
    pub error: String,
    #[prost(string, tag = "2")]
    pub reason: String,
}
