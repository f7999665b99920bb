//! What people do to jobs, by commands or the console: retry, cancel and discard.
//!
//! Each act is safe to repeat, and on record under the name of whoever did it.

mod cancel;
mod look;
pub mod predict;
mod retry;

pub use self::{
    cancel::{Ended, rest},
    look::{Found, Prospect, Way},
    retry::Retried,
};
use crate::{
    clock::Clock,
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

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such job.
    #[error("{0}")]
    Unknown(String),
    /// It is in no state for this.
    #[error("{0}")]
    Conflict(String),
    /// NATS does not answer.
    #[error("{0}")]
    Nats(String),
    /// The database does not answer.
    #[error("{0}")]
    Store(#[from] StoreError),
}
