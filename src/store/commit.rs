//! A run to commit with its effects, and the outcome.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use crate::{meta::Meta, plan::Plan};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its plan was committed.
    Done,
    /// Nothing to do.
    Skipped,
    /// Too late.
    Expired,
}

impl RunState {
    /// `job_runs.state`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
        }
    }
}

/// A run to write, with its effects.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Job.
    pub meta: Meta,
    /// How it ended.
    pub state: RunState,
    /// Why it was skipped.
    pub reason: Option<&'static str>,
    /// Rows to write.
    pub plan: Plan,
    /// The next stage's job, if published as a message.
    pub children: Vec<Child>,
    /// The notification planned with this reminder. Written only if the reminder is written and not skipped.
    pub next: Option<Box<Commit>>,
    /// Expiry of the deliveries.
    pub not_after: DateTime<Utc>,
    /// Deliveries that this worker sends directly.
    pub direct: Option<DirectClaims>,
    /// Time.
    pub now: DateTime<Utc>,
}

/// Claims of direct sends, made as the deliveries are planned.
#[derive(Clone, Debug)]
pub struct DirectClaims {
    /// Claiming worker.
    pub worker: Arc<str>,
    /// `deliveries.id`.
    pub ids: HashSet<String>,
}

impl Commit {
    /// Whether it has children or deliveries, even if these are sent directly in the end.
    pub(super) fn publishes(&self) -> bool {
        !self.children.is_empty() || self.plan.deliveries.iter().any(|delivery| delivery.unsent.is_none())
    }
}

/// Outcome of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Outcome of the run.
    pub committed: Committed,
    /// Whether the notification planned with it was written: false if that had ended before.
    pub followed: bool,
    /// Deliveries claimed by this commit; none planned before.
    pub claimed: HashSet<String>,
    /// If it is a duplicate of its own: what this very message was committed as, when the answer was lost.
    pub earlier: Option<EarlierCommit>,
}

/// An earlier commit of the same message, with the same outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierCommit {
    /// Whether another job owned the mark.
    pub is_mark_taken: bool,
    /// As in [`CommitOutcome`].
    pub followed: bool,
}

impl CommitOutcome {
    pub(super) fn duplicate() -> Self {
        Self { committed: Committed::Duplicate, followed: false, claimed: HashSet::new(), earlier: None }
    }
}

/// Outcome of a run's commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Written: publish the children.
    Fresh,
    /// Another job owns the mark: the run was written as skipped, without effects.
    MarkTaken,
    /// The job id was committed under another sequence: nothing was written.
    Duplicate,
    /// An earlier delivery of the same message committed it, and its worker may be sending pushes for this long.
    InFlight(Duration),
}

/// A planned message. Kept until it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Job id, also its `Nats-Msg-Id`.
    pub job_id: String,
    /// Root job.
    pub root_id: String,
    /// Subject.
    pub subject: String,
    /// Body.
    pub body: Vec<u8>,
    /// `Carebell-Not-After`.
    pub not_after: DateTime<Utc>,
    /// Trace context (`telemetry::traces::context`).
    pub trace: Option<String>,
    /// [`Meta::due`]. Not stored: made anew, it is when the child was planned.
    pub due: Option<DateTime<Utc>>,
    /// When it runs, if it is delayed (`Carebell-At`).
    pub at: Option<DateTime<Utc>>,
    /// Whether its body is JSON, and not protobuf.
    pub is_json: bool,
}
