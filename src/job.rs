//! The interface of a job: what a kind implements, what its work may use, and what it can answer.

pub mod field;
pub mod guard;

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use prost_reflect::ReflectMessage;

pub use self::field::Invalid;
use crate::{
    channels::Channels,
    clock::{Clock, Random},
    documents::Documents,
    group::Refused,
    kind::Kind,
    meta::Meta,
    person::People,
    plan::{Maintenance, Plan, Reason},
    reads::Reads,
    store::{Claim, Store},
    templates::Templates,
};

/// A kind of job. `parse` makes only valid values; `work` reads and decides, and leaves every effect to its plan.
pub trait Job: Sized + Send + 'static {
    /// The kind's name, stage and lanes.
    const KIND: Kind;

    /// The protobuf message of `proto/`, which is also its canonical JSON.
    type Wire: prost::Message + Default + ReflectMessage;

    /// Checks a message. An [`Invalid`] message is dead-lettered unchanged.
    ///
    /// # Errors
    /// Names the field and the values it may hold.
    fn parse(wire: Self::Wire) -> Result<Self, Invalid>;

    /// When the job expires if its producer set no `Carebell-Not-After`.
    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc>;

    /// Looks everything up afresh and decides. May run more than once for one job. Must not write or send anything,
    /// except that a delivery sends itself, and that kinds which are looked up before they run
    /// ([`Stage::works_before_its_commit`](crate::kind::Stage::works_before_its_commit)) may write outside of Postgres what
    /// a repetition finds done.
    ///
    /// # Errors
    /// A [`Failure`] says at its source whether the job is retried.
    fn work(self, cx: &Context) -> impl Future<Output = Result<Outcome, Failure>> + Send;
}

/// The decision of `work`.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Carry out this plan.
    Done(Plan),
    /// Do nothing, for this reason.
    Skipped(Reason),
    /// Tell nobody, for this reason, but carry out the plan.
    SkippedWith(Reason, Plan),
    /// Maintain Carebell's own tables.
    Maintenance(Maintenance),
    /// Run again at this instant. Burns no attempt.
    Wait(DateTime<Utc>, Reason),
}

/// Why `work` could not decide. There is no blanket `From`: each `?` chooses one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Try again after the queue's backoff, or after `after` if that is longer. Burns an attempt.
    Retry {
        /// For the log and the record; no personal data.
        why: String,
        /// The shortest wait that the other side asked for.
        after: Option<Duration>,
    },
    /// Trying again cannot help.
    Permanent {
        /// For the log and the record; no personal data.
        why: String,
    },
    /// Something that every job needs, such as the database, is away. The job is held; this burns no attempt.
    Unavailable {
        /// For the log; no personal data.
        why: String,
    },
}

impl Failure {
    /// A failure that trying again may mend.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry { why: why.into(), after: None }
    }

    /// A failure that trying again cannot mend.
    pub fn permanent(why: impl Into<String>) -> Self {
        Self::Permanent { why: why.into() }
    }

    /// A failed read: held while the database is away or busy, otherwise retried.
    #[must_use]
    pub fn reading(error: impl Into<Refused>) -> Self {
        match error.into() {
            Refused::Unavailable(why) => Self::Unavailable { why },
            Refused::Data(why) | Refused::Fault(why) => Self::retry(why),
        }
    }
}

/// One attempt at a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// From 1. Those that burn none have the number of the next.
    pub number: u32,
    /// Its time limit.
    pub timeout: Duration,
    /// Whether people have asked to cancel the job.
    pub is_cancelled: bool,
}

/// Everything that `work` may use.
#[derive(Clone)]
pub struct Context {
    /// The job's identity.
    pub meta: Meta,
    /// When the job expires.
    pub not_after: DateTime<Utc>,
    /// The ledger row of a delivery, claimed before `work` is called.
    pub claim: Option<Box<Claim>>,
    /// Grouped reads.
    pub reads: Reads,
    /// The recipients, if the job that planned this one has read them already.
    pub recipients: Option<People>,
    /// Postgres, for rare reads.
    pub store: Store,
    /// The ways to reach a person.
    pub channels: Channels,
    /// The document stores.
    pub documents: Documents,
    /// The texts, in the recipients' languages.
    pub templates: Templates,
    /// This attempt.
    pub attempt: Attempt,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
}
