//! The kinds of a worker, and their decoders.

use std::{collections::HashMap, future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::message::Form;
use crate::{
    job::{Context, Failure, Job, Outcome},
    kind::Kind,
    wire,
};

/// A job's work under way.
pub type Work = Pin<Box<dyn Future<Output = Result<Outcome, Failure>> + Send>>;

/// A job of any kind.
pub trait Runnable: Send {
    /// See [`Job::default_expiry`].
    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc>;

    /// See [`Job::work`].
    fn work(self: Box<Self>, cx: Context) -> Work;
}

/// Decodes jobs of a kind.
pub trait Decoder: Send + Sync {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// Names problem and place, never the content.
    fn decode(&self, body: &Bytes, form: Form) -> Result<Box<dyn Runnable>, String>;

    /// The body as canonical protobuf JSON. It need not be a valid job.
    ///
    /// # Errors
    /// If it is no message of the kind.
    fn to_json(&self, body: &Bytes, form: Form) -> Result<serde_json::Value, String>;
}

/// The kinds of a worker.
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

    /// Adds a kind with a decoder of its own.
    #[must_use]
    pub fn with_decoder(mut self, kind: Kind, decoder: Arc<dyn Decoder>) -> Self {
        self.kinds.push(kind);
        self.decoders.insert(kind.name, decoder);
        self
    }

    /// The kinds, in order.
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
