//! One store: whether an object is there, and putting one where there is none.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;
use futures::StreamExt;
use object_store::{
    Attribute, AttributeValue, Attributes, Error, GetOptions, GetResult, ObjectStore, PutMode, PutOptions, PutPayload,
    path::Path,
};
use tracing::{info, warn};

use super::{
    failure::{StoreFailure, describe},
    key::Key,
    place::Built,
};
use crate::{
    channels::breaker::{Breaker, BreakerPolicy, BreakerState, Concurrency, ProviderHealth},
    clock::Clock,
};

/// How long a store may be silent. It writes what it was sent before it answers.
pub const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Metadata of each object that a job has put: the checksum of its bytes, in hexadecimal digits.
const CHECKSUM: &str = "sha256";

/// Uploads are few and large, so a store counts as down sooner than a provider of messages.
const BREAKER: BreakerPolicy = BreakerPolicy {
    window: Duration::from_mins(5),
    least: 10,
    share: 0.5,
    failing: 3,
    silent: 2,
    first: Duration::from_secs(15),
    longest: Duration::from_mins(5),
};

/// A document as a job describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its place.
    pub key: Key,
    /// Checksum of its bytes, 64 hexadecimal digits in lower case.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
    /// For those who read it; empty for the store's default.
    pub content_type: String,
}

impl Document {
    /// A document that this program made.
    #[must_use]
    pub fn of(key: Key, content_type: &str, bytes: &[u8]) -> Self {
        let sha256 = digits(digest(&SHA256, bytes).as_ref());
        Self { key, sha256, size: bytes.len() as u64, content_type: content_type.to_owned() }
    }
}

/// The object that has a document's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is the document.
    Same {
        /// The store's mark of this version.
        e_tag: Option<String>,
    },
    /// It is another one.
    Other,
}

/// One store of `DOCUMENT_STORES`.
pub struct DocumentStore {
    name: String,
    pub(super) built: Built,
    breaker: Breaker,
}

/// A store's answer, if it gave one.
pub(super) enum Answer<T> {
    Is(T),
    Missing,
    Exists,
}

impl DocumentStore {
    pub(super) fn new(name: String, built: Built, clock: Clock) -> Self {
        Self { name, built, breaker: Breaker::new(BREAKER, Concurrency::UNLIMITED, clock) }
    }

    /// As jobs name it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.built.objects
    }

    pub(super) fn path(&self, key: &Key) -> Result<Path, StoreFailure> {
        // Unreachable: both parts were parsed before.
        self.built.path(key.as_str()).map_err(|_| StoreFailure::Down("the key cannot be used".into()))
    }

    /// The object that has the document's key, if there is one. Without a checksum in its metadata, as in a directory, its
    /// bytes are read.
    ///
    /// # Errors
    /// The store's.
    pub async fn find(&self, document: &Document) -> Result<Option<Seen>, StoreFailure> {
        let path = self.path(&document.key)?;
        let head = GetOptions { head: true, ..GetOptions::default() };
        let Answer::Is(found) = self.ask(self.objects().get_opts(&path, head)).await? else { return Ok(None) };
        if found.meta.size != document.size {
            return Ok(Some(Seen::Other));
        }
        let is_same = match found.attributes.get(&Attribute::Metadata(CHECKSUM.into())) {
            Some(checksum) if checksum.len() == document.sha256.len() => checksum.as_ref() == document.sha256,
            _ => {
                let Answer::Is(whole) = self.ask(self.objects().get_opts(&path, GetOptions::default())).await? else {
                    return Ok(None);
                };
                self.ask(checksum(whole)).await?.is(&document.sha256)
            }
        };
        Ok(Some(if is_same { Seen::Same { e_tag: found.meta.e_tag } } else { Seen::Other }))
    }

    /// Puts a document that is in memory, unless its key is taken. `None`: it may be, by this very document. A store can
    /// answer that a key is taken though it is this request that took it, if a client below it repeated it.
    pub(super) async fn put_new(
        &self,
        document: &Document,
        bytes: Vec<Bytes>,
    ) -> Result<Option<Option<String>>, StoreFailure> {
        let path = self.path(&document.key)?;
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: self.attributes(&document.sha256, &document.content_type),
            ..PutOptions::default()
        };
        match self.ask(self.objects().put_opts(&path, PutPayload::from_iter(bytes), options)).await? {
            Answer::Is(put) => Ok(Some(put.e_tag)),
            Answer::Exists => Ok(None),
            Answer::Missing => Err(StoreFailure::Down("the store has no such bucket".into())),
        }
    }

    /// Puts bytes that this program made, whatever was there before.
    ///
    /// # Errors
    /// The store's.
    pub async fn replace(&self, document: &Document, bytes: Vec<u8>) -> Result<Option<String>, StoreFailure> {
        let path = self.path(&document.key)?;
        let options = PutOptions {
            attributes: self.attributes(&document.sha256, &document.content_type),
            ..PutOptions::default()
        };
        match self.ask(self.objects().put_opts(&path, bytes.into(), options)).await? {
            Answer::Is(put) => Ok(put.e_tag),
            Answer::Exists | Answer::Missing => Err(StoreFailure::Down("the store has no such bucket".into())),
        }
    }

    pub(super) fn attributes(&self, sha256: &str, content_type: &str) -> Attributes {
        let mut attributes = Attributes::new();
        if self.built.has_attributes {
            attributes.insert(Attribute::Metadata(CHECKSUM.into()), AttributeValue::from(sha256.to_owned()));
            if !content_type.is_empty() {
                attributes.insert(Attribute::ContentType, AttributeValue::from(content_type.to_owned()));
            }
        }
        attributes
    }

    /// One request, which the store's breaker admits and hears of.
    pub(super) async fn ask<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Answer<T>, StoreFailure> {
        let pass = self.breaker.admit().map_err(StoreFailure::Closed)?;
        let (answer, health) = match request.await {
            Ok(answer) => (Ok(Answer::Is(answer)), ProviderHealth::Well),
            Err(Error::NotFound { .. }) => (Ok(Answer::Missing), ProviderHealth::Well),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => (Ok(Answer::Exists), ProviderHealth::Well),
            Err(error) => (Err(describe(&error)), ProviderHealth::Failing),
        };
        let told = pass.report(health);
        let store = self.name.as_str();
        match (told.change, &answer) {
            (Some(BreakerState::Open), Err(why)) => {
                warn!(store, "document store {store} is down, its jobs wait: {why}");
            }
            (Some(BreakerState::Closed), _) => info!(store, "document store {store} is back"),
            _ => {}
        }
        answer.map_err(|why| told.open_until.map_or(StoreFailure::Down(why), StoreFailure::Closed))
    }
}

impl Answer<String> {
    fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Is(found) if found == expected)
    }
}

async fn checksum(object: GetResult) -> object_store::Result<String> {
    let mut hash = Context::new(&SHA256);
    let mut bytes = object.into_stream();
    while let Some(chunk) = bytes.next().await {
        hash.update(&chunk?);
    }
    Ok(digits(hash.finish().as_ref()))
}

/// In hexadecimal digits.
pub(super) fn digits(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // A `String` takes whatever is written to it.
        text
    })
}
