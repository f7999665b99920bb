//! What people do to jobs, by commands or the console: retry, cancel, discard, and the same on all that a filter finds.
//!
//! Each act is safe to repeat, and on record under the name of whoever did it.

mod cancel;
mod empty;
mod held_up;
mod look;
mod operations;
pub mod predict;
mod preview;
mod retry;
mod spec;
mod steps;

pub use self::{
    cancel::{Ended, rest},
    held_up::HeldUp,
    look::{Found, Prospect, Way},
    operations::{Carrier, LONGEST_REASON, operation_to_json},
    preview::{Preview, Sampled},
    retry::Retried,
    spec::{Act, LetterFilter, Spec},
};
use crate::{
    clock::Clock,
    jobs,
    nats::JetStream,
    store::{Store, StoreError},
    streams::Streams,
};

/// Acts for somebody.
#[derive(Clone, Copy)]
pub struct Acting<'a> {
    /// Holds jobs and the audit log.
    pub store: &'a Store,
    /// NATS, or why it was not reached.
    pub context: Result<&'a JetStream, &'a str>,
    /// Streams and queues as declared.
    pub streams: &'a Streams,
    /// The time.
    pub clock: &'a Clock,
    /// Named in the audit log.
    pub actor: &'a str,
}

impl<'a> Acting<'a> {
    fn nats(&self) -> Result<&'a JetStream, Refused> {
        self.context.map_err(|why| Refused::Nats(why.to_owned()))
    }
}

/// Whether an endpoint carries out jobs of this kind: it is none of this program's own.
#[must_use]
pub fn is_task(kind: &str) -> bool {
    !kind.is_empty() && !jobs::registry().kinds().iter().any(|known| known.name == kind)
}

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such job.
    #[error("{0}")]
    Unknown(String),
    /// It is in no state for this.
    #[error("{0}")]
    Conflict(String),
    /// This part of what was asked for is wrong.
    #[error("{0}: {1}")]
    Wrong(&'static str, String),
    /// NATS does not answer.
    #[error("{0}")]
    Nats(String),
    /// The database does not answer.
    #[error("{0}")]
    Store(#[from] StoreError),
}
