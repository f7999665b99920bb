//! The kinds that a worker can run, and how a body becomes a job of one of them.

use std::{collections::HashMap, future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::message::Form;
use crate::{
    job::{Context, Failure, Job, Outcome},
    kind::Kind,
    wire,
};

/// What one kind's work will come to.
pub type Work = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// A job whose kind is known only at run time.
pub trait Runnable: Send {
    /// See [`Job::default_expiry`].
    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc>;

    /// See [`Job::work`].
    fn work(self: Box<Self>, cx: Context) -> Work;
}

/// Reads the jobs of one kind.
pub trait Decoder: Send + Sync {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// Says what cannot be read, and where; never what the body holds.
    fn decode(&self, body: &Bytes, form: Form) -> Result<Box<dyn Runnable>, String>;

    /// The body as canonical protobuf JSON, for a person to read and correct. It need not be valid as a job.
    ///
    /// # Errors
    /// As [`Decoder::decode`], if it is not even a message of the kind.
    fn to_json(&self, body: &Bytes, form: Form) -> Result<serde_json::Value, String>;
}

/// The kinds of a worker. `jobs::registry` makes it.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: Vec<Kind>,
    decoders: HashMap<&'static str, Arc<dyn Decoder>>,
}

impl Registry {
    /// Adds a kind.
    #[must_use]
    pub fn with<J: Job>(mut self) -> Self {
        self.kinds.push(J::KIND);
        self.decoders.insert(J::KIND.name, Arc::new(Of::<J>(PhantomData)));
        self
    }

    /// The kinds, in the order in which they were added.
    #[must_use]
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The decoder of a kind.
    #[must_use]
    pub fn decoder(&self, kind: Kind) -> Option<Arc<dyn Decoder>> {
        self.decoders.get(kind.name).cloned()
    }
}

struct Of<J>(PhantomData<fn() -> J>);

impl<J: Job> Decoder for Of<J> {
    fn decode(&self, body: &Bytes, form: Form) -> Result<Box<dyn Runnable>, String> {
        let job = J::parse(Self::read(body, form)?).map_err(|invalid| invalid.to_string())?;
        Ok(Box::new(Typed(job)))
    }

    fn to_json(&self, body: &Bytes, form: Form) -> Result<serde_json::Value, String> {
        Ok(wire::to_json(&Self::read(body, form)?))
    }
}

impl<J: Job> Of<J> {
    fn read(body: &Bytes, form: Form) -> Result<J::Wire, String> {
        let wire = match form {
            Form::Protobuf => wire::from_protobuf::<J::Wire>(body),
            Form::Json => wire::from_json::<J::Wire>(body),
        };
        wire.map_err(|error| error.to_string())
    }
}

struct Typed<J>(J);

impl<J: Job> Runnable for Typed<J> {
    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        self.0.default_expiry(published)
    }

    fn work(self: Box<Self>, cx: Context) -> Work {
        Box::pin(async move { self.0.work(&cx).await })
    }
}
