//! A run to commit, with all that follows from it, and the outcome.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{meta::Meta, plan::Plan};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its plan was committed.
    Done,
    /// There was nothing to do.
    Skipped,
    /// It came too late.
    Expired,
}

impl RunState {
    /// As stored in `job_runs.state`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
        }
    }
}

/// A run to be written, with all that follows from it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The job.
    pub meta: Meta,
    /// How its run ended.
    pub state: RunState,
    /// Why, if it was skipped.
    pub reason: Option<&'static str>,
    /// The rows to write.
    pub plan: Plan,
    /// The job of the next stage, if it is published as a message.
    pub children: Vec<Child>,
    /// The notification planned with this reminder. It is written only if the reminder is, and takes effect.
    pub next: Option<Box<Commit>>,
    /// Expiry that the deliveries inherit.
    pub not_after: DateTime<Utc>,
    /// The deliveries that this worker claims for sending them directly.
    pub direct: Option<DirectClaims>,
    /// The instant of the commit.
    pub now: DateTime<Utc>,
}

/// Claims of direct sends, made as the deliveries are planned.
#[derive(Clone, Debug)]
pub struct DirectClaims {
    /// The claiming worker.
    pub worker: Arc<str>,
    /// `deliveries.id`.
    pub ids: HashSet<String>,
}

impl Commit {
    /// Whether messages follow from it: children, or deliveries, even if these are sent directly in the end.
    pub(super) fn publishes(&self) -> bool {
        !self.children.is_empty() || self.plan.deliveries.iter().any(|delivery| delivery.unsent.is_none())
    }
}

/// Outcome of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Outcome of the run.
    pub committed: Committed,
    /// Whether the notification planned with the run was written. It is not if it had ended before.
    pub followed: bool,
    /// The deliveries claimed by this commit. A delivery planned before is not among them.
    pub claimed: HashSet<String>,
}

impl CommitOutcome {
    pub(super) fn duplicate() -> Self {
        Self { committed: Committed::Duplicate, followed: false, claimed: HashSet::new() }
    }
}

/// Outcome of a run's commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It was written: publish the children.
    Fresh,
    /// Another job owns the mark. The run is written as skipped, and nothing follows from it.
    MarkTaken,
    /// The job id was committed before under another sequence. Nothing was written.
    Duplicate,
}

/// A message that a run planned. Kept until it is known to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its job id, which is also its `Nats-Msg-Id`.
    pub job_id: String,
    /// The root job.
    pub root_id: String,
    /// Its subject.
    pub subject: String,
    /// Its protobuf body.
    pub body: Vec<u8>,
    /// `Carebell-Not-After`.
    pub not_after: DateTime<Utc>,
    /// Its trace context (`telemetry::traces::context`).
    pub trace: Option<String>,
}
