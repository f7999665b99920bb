//! Why a document is not stored. No text holds an address, a key or an answer of a store.

use std::{error::Error as _, io, iter::successors};

use chrono::{DateTime, Utc};
use object_store::{
    Error,
    client::{HttpError, HttpErrorKind},
};

use crate::channels::outbound::download::Unread;

/// What a store fails in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreFailure {
    /// It was down lately, and is not asked before this instant.
    Closed(DateTime<Utc>),
    /// It is down, refuses access, or did not answer.
    Down(String),
}

/// Why an upload came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadFailure {
    /// The store's failure.
    Store(StoreFailure),
    /// The source cannot be read.
    Source(Unread),
    /// The source is not what the job says.
    Differs(String),
    /// Another document has the key.
    Taken(String),
}

impl From<StoreFailure> for UploadFailure {
    fn from(failure: StoreFailure) -> Self {
        Self::Store(failure)
    }
}

impl From<Unread> for UploadFailure {
    fn from(unread: Unread) -> Self {
        Self::Source(unread)
    }
}

/// The kind of error, in words of this program.
pub(super) fn describe(error: &Error) -> String {
    match error {
        Error::PermissionDenied { .. } => return "the store refuses access".into(),
        Error::Unauthenticated { .. } => return "the store does not accept the credentials".into(),
        Error::NotFound { .. } => return "the store has no such bucket".into(),
        Error::NotImplemented { .. } | Error::NotSupported { .. } => return "the store cannot do this".into(),
        _ => {}
    }
    let causes = || successors(error.source(), |cause| (*cause).source());
    if let Some(http) = causes().find_map(|cause| cause.downcast_ref::<HttpError>()) {
        return match http.kind() {
            HttpErrorKind::Connect => "no connection to the store".into(),
            HttpErrorKind::Timeout => "the store does not answer in time".into(),
            _ => "the connection to the store broke".into(),
        };
    }
    if let Some(file) = causes().find_map(|cause| cause.downcast_ref::<io::Error>()) {
        return format!("the directory cannot be used: {}", file.kind());
    }
    match status(&error.to_string()) {
        Some(status) => format!("the store answers {status}"),
        None => "the store answers with an error".into(),
    }
}

/// The library has the status only in its text.
fn status(text: &str) -> Option<u16> {
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_without_what_the_library_says() {
        let generic = |text: &str| Error::Generic { store: "S3", source: text.to_owned().into() };
        let said = "Error performing PUT https://secret/?sig=secret in 2ms - Server returned non-2xx status code: 503 \
                    Service Unavailable: <Key>secret</Key>";
        assert_eq!(describe(&generic(said)), "the store answers 503");
        assert_eq!(describe(&generic("secret")), "the store answers with an error");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::Generic { store: "Local", source: Box::new(full) };
        assert_eq!(describe(&error), "the directory cannot be used: no storage space");
    }
}
