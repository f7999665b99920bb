//! `document.upload`: a file becomes an object of a document store.
//!
//! Its `work` stores the object before the commit, as a delivery's sends. A repetition finds the object by its size and
//! checksum, and stores nothing.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use url::Url;

use crate::{
    channels::outbound::download::Unread,
    documents::{
        Document, DocumentStore, Documents, Key, Source, StoreFailure, UploadFailure, Uploaded, is_store_name,
    },
    job::{Context, Failure, Invalid, Job, Outcome, field},
    kind::Kind,
    meta::split,
    plan::{Plan, Reason},
    wire::{self, upload_document},
};

/// A weekend without the store.
const USEFUL_FOR: TimeDelta = TimeDelta::days(3);

/// Bytes. Signatures are long.
const LONGEST_URL: usize = 4096;

/// Characters.
const LONGEST_TYPE: usize = 128;

/// A file that becomes an object.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadDocument {
    store: String,
    document: Document,
    from: From,
}

#[derive(Clone, Debug, PartialEq)]
enum From {
    Url(Url),
    Object { store: String, key: Key },
}

impl Job for UploadDocument {
    const KIND: Kind = Kind::task("document.upload", &[]);

    type Wire = wire::UploadDocument;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        let from = match wire.source {
            None => return Err(Invalid::new("url", "is required, or `object`")),
            Some(upload_document::Source::Url(text)) => From::Url(url(&text)?),
            Some(upload_document::Source::Object(object)) => {
                From::Object { store: store_name("object.store", object.store)?, key: key("object.key", &object.key)? }
            }
        };
        let size = u64::try_from(wire.size).ok().filter(|size| *size > 0);
        Ok(Self {
            store: store_name("store", wire.store)?,
            document: Document {
                key: key("key", &wire.key)?,
                sha256: sha256(&wire.sha256)?,
                size: size.ok_or_else(|| Invalid::new("size", "is required: the file's bytes, at least 1"))?,
                content_type: content_type(&wire.content_type)?,
            },
            from,
        })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let Self { store, document, from } = self;
        let most = cx.documents.most_bytes();
        if document.size > most {
            let why = format!("`size` is {} bytes, and DOCUMENT_MAX_MIB allows {most}", document.size);
            return Err(Failure::permanent(why));
        }
        let application = split(&cx.meta.job_id).0;
        let store = store_for(application, &cx.documents, &store).map_err(Failure::permanent)?;
        let uploaded = async {
            if let Some(uploaded) = store.seen(&document).await? {
                return Ok(uploaded);
            }
            let source = match from {
                From::Url(url) => Source::Download(Box::new(cx.documents.downloads().open(&url).await?)),
                From::Object { store, key } => {
                    let never = |why| UploadFailure::Source(Unread::Never { why });
                    store_for(application, &cx.documents, &store).map_err(never)?.open(&key).await?
                }
            };
            store.upload(&document, source).await
        };
        match uploaded.await {
            Ok(uploaded) => Ok(done(store.name(), &document, &uploaded)),
            Err(failure) => failed(failure),
        }
    }
}

/// The store of this name. An application that is kept apart has stores of its own: it could copy out of others.
fn store_for<'a>(application: &str, documents: &'a Documents, name: &str) -> Result<&'a DocumentStore, String> {
    if may_use(application, name) {
        return documents.store(name);
    }
    Err(format!(
        "the application {application} may use stores named `{application}` or `{application}-…`, and not `{name}`"
    ))
}

fn may_use(application: &str, store: &str) -> bool {
    let rest = store.strip_prefix(application);
    application.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn done(store: &str, document: &Document, uploaded: &Uploaded) -> Outcome {
    let result = json!({
        "store": store,
        "key": document.key.as_str(),
        "bytes": document.size,
        "sha256": document.sha256,
        "etag": uploaded.e_tag,
        "was_there": uploaded.was_there,
    });
    Outcome::Done(Plan { result: Some(result), ..Plan::default() })
}

fn failed(failure: UploadFailure) -> Result<Outcome, Failure> {
    match failure {
        UploadFailure::Store(failure) => store_failed(failure),
        UploadFailure::Source(Unread::Later { why, after }) => Err(Failure::Retry { why, after }),
        UploadFailure::Source(Unread::Never { why }) | UploadFailure::Differs(why) | UploadFailure::Taken(why) => {
            Err(Failure::permanent(why))
        }
    }
}

/// While a store is known to be down, its jobs wait and burn no attempt.
pub(super) fn store_failed(failure: StoreFailure) -> Result<Outcome, Failure> {
    match failure {
        StoreFailure::Closed(until) => Ok(Outcome::Wait(until, Reason::ProviderDown)),
        StoreFailure::Down(why) => Err(Failure::retry(why)),
    }
}

/// Reads the name of a store.
pub(super) fn store_name(field: &'static str, name: String) -> Result<String, Invalid> {
    if is_store_name(&name) {
        return Ok(name);
    }
    Err(Invalid::new(field, "must name a store of DOCUMENT_STORES: 1 to 32 of the characters a-z 0-9 - _"))
}

/// Reads a key.
pub(super) fn key(field: &'static str, text: &str) -> Result<Key, Invalid> {
    Key::parse(text).map_err(|problem| Invalid::new(field, problem))
}

fn url(text: &str) -> Result<Url, Invalid> {
    let invalid = |problem: &str| Invalid::new("url", problem);
    let url = Url::parse(text).ok().filter(|url| text.len() <= LONGEST_URL && url.host().is_some());
    let url = url.ok_or_else(|| invalid("must be an https URL of at most 4096 bytes"))?;
    if url.scheme() != "https" {
        return Err(invalid("must be an https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("must have no user name and password: sign it instead"));
    }
    Ok(url)
}

fn sha256(text: &str) -> Result<String, Invalid> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Invalid::new("sha256", "must be the file's SHA-256 as 64 hexadecimal digits"))
}

fn content_type(text: &str) -> Result<String, Invalid> {
    let text = field::text("content_type", text, LONGEST_TYPE)?;
    let is_type = text.is_empty() || (text.contains('/') && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    if is_type { Ok(text) } else { Err(Invalid::new("content_type", "must be a media type such as application/pdf")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_is_kept_apart_has_stores_of_its_own() {
        for (application, store) in [("", "archive"), ("care", "care"), ("care", "care-scans"), ("my_app", "my_app-1")]
        {
            assert!(may_use(application, store), "{application} {store}");
        }
        for (application, store) in [("care", "archive"), ("care", "care2"), ("care", "care_2"), ("care", "board-care")]
        {
            assert!(!may_use(application, store), "{application} {store}");
        }
    }
}
