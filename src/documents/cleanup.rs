//! Removes old objects below a prefix, page by page.

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectMeta, path::Path};

use super::{
    failure::{StoreFailure, describe},
    key::Key,
    store::{Answer, DocumentStore},
};
use crate::checkpoint::{self, Step};

/// Objects that one request removes. S3 takes 1000.
const TOGETHER: usize = 500;

/// The objects that are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Only objects below it.
    pub prefix: Key,
    /// Only objects that were last written before.
    pub before: DateTime<Utc>,
    /// At most so many.
    pub most: u64,
    /// Only counts.
    pub dry_run: bool,
}

/// Removed objects, or those that would be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Their number.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether more may be left than one job removes.
    pub unfinished: bool,
}

impl DocumentStore {
    /// Asks for its first object.
    ///
    /// # Errors
    /// Why it cannot be read, without its address.
    pub async fn reach(&self) -> Result<(), String> {
        let prefix = (!self.built.prefix.is_empty()).then(|| Path::from(self.built.prefix.as_str()));
        let first = self.objects().list(prefix.as_ref()).next().await;
        first.transpose().map(|_| ()).map_err(|error| describe(&error))
    }

    /// Removes what a cleanup names. Repeating it continues.
    ///
    /// # Errors
    /// The store's. Removed objects stay removed.
    pub async fn clean(&self, cleanup: &Cleanup) -> Result<Cleaned, StoreFailure> {
        let prefix = self.path(&cleanup.prefix)?;
        let mut listed = self.objects().list(Some(&prefix));
        let mut cleaned = Cleaned::default();
        let mut page: Vec<ObjectMeta> = Vec::new();
        loop {
            let next = match self.ask(async { listed.next().await.transpose() }).await? {
                Answer::Is(next) => next,
                // It went while the directory was read.
                Answer::Missing | Answer::Exists => continue,
            };
            let is_last = next.is_none();
            page.extend(next.filter(|object| object.last_modified < cleanup.before));
            let found = cleaned.objects + page.len() as u64;
            let is_full = found >= cleanup.most;
            if page.len() >= TOGETHER || ((is_full || is_last) && !page.is_empty()) {
                if !cleanup.dry_run {
                    self.remove(&page).await?;
                    checkpoint::reached(Step::Maintained);
                }
                cleaned.objects += page.len() as u64;
                cleaned.bytes += page.iter().map(|object| object.size).sum::<u64>();
                page.clear();
            }
            if is_full || is_last {
                cleaned.unfinished = !is_last;
                return Ok(cleaned);
            }
        }
    }

    async fn remove(&self, page: &[ObjectMeta]) -> Result<(), StoreFailure> {
        let paths: Vec<_> = page.iter().map(|object| Ok(object.location.clone())).collect();
        let removing = self.objects().delete_stream(stream::iter(paths).boxed());
        let removed = removing.filter_map(async |removed| match removed {
            // Somebody else was faster.
            Ok(_) | Err(Error::NotFound { .. }) => None,
            Err(error) => Some(Err(error)),
        });
        self.ask(removed.try_collect::<()>()).await.map(|_| ())
    }
}
