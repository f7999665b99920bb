//! `document.cleanup`: removes old objects below a prefix of a document store.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::document_upload::{key, store_failed, store_name};
use crate::{
    documents::{Cleaned, Cleanup, Key},
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    plan::Plan,
    wire,
};

const MOST_HOURS: i32 = 876_000;

const MOST_REMOVED: i32 = 1_000_000;

/// Default limit of one job.
const REMOVED: i32 = 10_000;

/// Another job comes each day.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(6);

/// Removes old objects.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanDocuments {
    store: String,
    prefix: Key,
    older_than: TimeDelta,
    most: u64,
    dry_run: bool,
}

impl Job for CleanDocuments {
    const KIND: Kind = Kind::maintenance("document.cleanup");

    type Wire = wire::CleanDocuments;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        if wire.prefix.is_empty() {
            return Err(Invalid::new("prefix", "is required: a cleanup of a whole store is refused"));
        }
        let hours @ 1..=MOST_HOURS = wire.older_than_hours else {
            return Err(Invalid::new("older_than_hours", format!("must be 1 to {MOST_HOURS} hours")));
        };
        let most = match wire.most_removed {
            0 => REMOVED,
            most @ 1..=MOST_REMOVED => most,
            _ => {
                let expected = format!("must be 1 to {MOST_REMOVED}, or 0 for {REMOVED}");
                return Err(Invalid::new("most_removed", expected));
            }
        };
        Ok(Self {
            store: store_name("store", wire.store)?,
            prefix: key("prefix", &wire.prefix)?,
            older_than: TimeDelta::hours(hours.into()),
            most: u64::from(most.unsigned_abs()),
            dry_run: wire.dry_run,
        })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    /// Removes before its commit. A repetition removes the rest.
    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let store = cx.documents.store(&self.store).map_err(Failure::permanent)?;
        let cleanup = Cleanup {
            prefix: self.prefix,
            before: cx.clock.now() - self.older_than,
            most: self.most,
            dry_run: self.dry_run,
        };
        let Cleaned { objects, bytes, unfinished } = match store.clean(&cleanup).await {
            Ok(cleaned) => cleaned,
            Err(failure) => return store_failed(failure),
        };
        let counts = json!({ "objects": objects, "bytes": bytes });
        let counted = if self.dry_run { "would_remove" } else { "removed" };
        let result = json!({ "store": self.store, counted: counts, "unfinished": unfinished });
        Ok(Outcome::Done(Plan { result: Some(result), ..Plan::default() }))
    }
}
