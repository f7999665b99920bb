//! Reads a source and stores it, checked: nothing is at the key before all bytes are here and are the expected ones.

use std::mem;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, MultipartUpload, PutMultipartOptions, PutPayload};
use tokio::time::timeout;

use super::{
    failure::{StoreFailure, UploadFailure, describe},
    key::Key,
    store::{Answer, Document, DocumentStore, READ_TIMEOUT, Seen, digits},
};
use crate::{
    channels::outbound::download::{Download, Unread},
    checkpoint::{self, Step},
};

/// Up to this size, a document is held in memory and put at once. A larger one is sent in parts.
const AT_ONCE: u64 = 16 * 1024 * 1024;

/// Bytes of a part: S3 takes at least 5 MiB.
const PART: u64 = 8 * 1024 * 1024;

/// S3 takes 10,000.
const MOST_PARTS: u64 = 9_000;

/// Where the bytes come from.
pub enum Source {
    /// An address.
    Download(Box<Download>),
    /// An object of a store.
    Object(BoxStream<'static, object_store::Result<Bytes>>, u64),
}

/// A document in its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// The store's mark of this version.
    pub e_tag: Option<String>,
    /// Whether it was there before, so that nothing was sent.
    pub was_there: bool,
}

impl Source {
    fn length(&self) -> Option<u64> {
        match self {
            Self::Download(download) => download.length(),
            Self::Object(_, length) => Some(*length),
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, UploadFailure> {
        match self {
            Self::Download(download) => Ok(download.chunk().await?),
            Self::Object(bytes, _) => match bytes.next().await.transpose() {
                Ok(chunk) => Ok(chunk),
                Err(error) => {
                    let why = format!("the source: {}", describe(&error));
                    Err(UploadFailure::Source(Unread::Later { why, after: None }))
                }
            },
        }
    }
}

/// Counts and sums up a source while it is read.
struct Checked<'a> {
    source: Source,
    document: &'a Document,
    hash: Context,
    came: u64,
}

impl Checked<'_> {
    /// The next bytes; `None` at the end of what is the document.
    async fn chunk(&mut self) -> Result<Option<Bytes>, UploadFailure> {
        let size = self.document.size;
        let Some(chunk) = self.source.chunk().await? else {
            if self.came < size {
                // A connection that ended looks like that too.
                let why = format!("the source ended after {} of {size} bytes", self.came);
                return Err(UploadFailure::Source(Unread::Later { why, after: None }));
            }
            let hash = mem::replace(&mut self.hash, Context::new(&SHA256)).finish();
            if digits(hash.as_ref()) != self.document.sha256 {
                let why = "the source has as many bytes as the job says, and another `sha256`".to_owned();
                return Err(UploadFailure::Differs(why));
            }
            return Ok(None);
        };
        self.came += chunk.len() as u64;
        if self.came > size {
            return Err(UploadFailure::Differs(format!("the source has more than the {size} bytes that the job says")));
        }
        self.hash.update(&chunk);
        Ok(Some(chunk))
    }
}

impl DocumentStore {
    /// An object of this store as a source.
    ///
    /// # Errors
    /// The store's, or there is no such object.
    pub async fn open(&self, key: &Key) -> Result<Source, UploadFailure> {
        let path = self.path(key)?;
        match self.ask(self.objects().get_opts(&path, GetOptions::default())).await? {
            Answer::Is(found) => {
                let size = found.meta.size;
                Ok(Source::Object(found.into_stream(), size))
            }
            Answer::Missing | Answer::Exists => {
                Err(UploadFailure::Source(Unread::Never { why: "the source's store has no such object".into() }))
            }
        }
    }

    /// Stores a document, unless it is there already.
    ///
    /// # Errors
    /// Nothing is at the key then, or another document that was there before.
    pub async fn upload(&self, document: &Document, source: Source) -> Result<Uploaded, UploadFailure> {
        if let Some(length) = source.length().filter(|length| *length != document.size) {
            let why = format!("the source has {length} bytes, and the job says {}", document.size);
            return Err(UploadFailure::Differs(why));
        }
        let source = Checked { source, document, hash: Context::new(&SHA256), came: 0 };
        let e_tag = if document.size <= AT_ONCE {
            self.put_at_once(document, source).await?
        } else {
            self.put_in_parts(document, source).await?
        };
        let uploaded = match e_tag {
            Some(e_tag) => Uploaded { e_tag, was_there: false },
            None => self.seen(document).await?.ok_or_else(|| {
                StoreFailure::Down("the store says that the key is taken, and has nothing there".into())
            })?,
        };
        checkpoint::reached(Step::Stored);
        Ok(uploaded)
    }

    /// The document, if it is there.
    ///
    /// # Errors
    /// Another one is there.
    pub async fn seen(&self, document: &Document) -> Result<Option<Uploaded>, UploadFailure> {
        match self.find(document).await? {
            None => Ok(None),
            Some(Seen::Same { e_tag }) => Ok(Some(Uploaded { e_tag, was_there: true })),
            Some(Seen::Other) => Err(UploadFailure::Taken(
                "another object has this key, and none is overwritten: choose another key, or remove it".into(),
            )),
        }
    }

    /// `None` if the key is taken.
    async fn put_at_once(
        &self,
        document: &Document,
        mut source: Checked<'_>,
    ) -> Result<Option<Option<String>>, UploadFailure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = source.chunk().await? {
            bytes.push(chunk);
        }
        Ok(self.put_new(document, bytes).await?)
    }

    /// `None` if the key was taken meanwhile.
    async fn put_in_parts(
        &self,
        document: &Document,
        source: Checked<'_>,
    ) -> Result<Option<Option<String>>, UploadFailure> {
        let path = self.path(&document.key)?;
        let attributes = self.attributes(&document.sha256, &document.content_type);
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let Answer::Is(mut parts) = self.ask(self.objects().put_multipart_opts(&path, options)).await? else {
            return Err(StoreFailure::Down("the store has no such bucket".into()).into());
        };
        let sent = match self.send_parts(document, source, &mut *parts).await {
            // Completing cannot be made conditional, so this is as late as possible.
            Ok(()) => self.seen(document).await.map(|seen| seen.is_some()),
            Err(failure) => Err(failure),
        };
        if !matches!(sent, Ok(false)) {
            // What is not removed here is left to the bucket's rule for incomplete uploads.
            let _ = timeout(READ_TIMEOUT, parts.abort()).await;
            return sent.map(|_| None);
        }
        match self.ask(parts.complete()).await? {
            Answer::Is(put) => Ok(Some(put.e_tag)),
            Answer::Exists => Ok(None),
            Answer::Missing => Err(StoreFailure::Down("the store has lost the parts of an upload".into()).into()),
        }
    }

    /// One part after the other: no more than one is in memory.
    async fn send_parts(
        &self,
        document: &Document,
        mut source: Checked<'_>,
        parts: &mut dyn MultipartUpload,
    ) -> Result<(), UploadFailure> {
        let most = usize::try_from(PART.max(document.size / MOST_PARTS)).unwrap_or(usize::MAX);
        let mut part = BytesMut::with_capacity(most);
        loop {
            let chunk = source.chunk().await?;
            let is_last = chunk.is_none();
            let mut rest = chunk.unwrap_or_default();
            loop {
                let more = rest.split_to(rest.len().min(most - part.len()));
                part.extend_from_slice(&more);
                if part.is_empty() || (part.len() < most && !is_last) {
                    break;
                }
                let payload = PutPayload::from(part.split().freeze());
                if !matches!(self.ask(parts.put_part(payload)).await?, Answer::Is(())) {
                    return Err(StoreFailure::Down("the store has lost the parts of an upload".into()).into());
                }
                if !is_last {
                    part.reserve(most);
                }
                if rest.is_empty() {
                    break;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
