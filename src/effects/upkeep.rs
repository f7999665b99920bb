//! Tends Carebell's own tables. Long, and nobody waits for it: so it goes by batches that are each a transaction of their
//! own, and rests as long as it works, so that the pipeline has the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{Effects, Refused};
use crate::{
    checkpoint::{self, Step},
    job::Meta,
    plan::{Plan, Removed, Upkeep},
    store::{Committed, PruneCursor, RunState, Store, StoreError},
};

/// How long one batch may take. It takes some ten milliseconds, so that this is a connection that is lost.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);

impl Effects {
    /// Carries out upkeep, for no longer than `limit`, and then commits the run. What is left is the next job's. A stop in
    /// between loses nothing but the count: whoever runs the job again goes on.
    ///
    /// # Errors
    /// If the database does not answer. What was removed stays so.
    pub async fn tend(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        upkeep: Upkeep,
        limit: Duration,
    ) -> Result<(Committed, Removed), Refused> {
        let mut turn = Turn { store: &self.store, until: Instant::now() + limit, removed: Removed::default() };
        match upkeep {
            Upkeep::Prune { before, dead_before } => turn.prune(before, dead_before).await?,
            Upkeep::RemoveSubscriptions { ids } => turn.remove_subscriptions(&ids).await?,
        }
        let removed = turn.removed;
        let result = serde_json::to_value(&removed).unwrap_or(Value::Null);
        let plan = Plan { result: Some(result), ..Plan::default() };
        let committed = self.end(meta, not_after, RunState::Done, None, plan).await?;
        Ok((committed, removed))
    }
}

/// One job's share of upkeep.
struct Turn<'a> {
    store: &'a Store,
    until: Instant,
    removed: Removed,
}

impl Turn<'_> {
    async fn prune(&mut self, before: DateTime<Utc>, dead_before: DateTime<Utc>) -> Result<(), Refused> {
        let store = self.store;
        let mut seen = Some(PruneCursor::start());
        while let Some(from) = seen.take() {
            if self.time_is_up() {
                return Ok(());
            }
            let page = self.batch(store.finished_roots(&from, before, dead_before)).await?;
            seen = page.next;
            if page.roots.is_empty() {
                continue;
            }
            // A notification to very many is more than a batch by itself.
            loop {
                let (deliveries, more) = self.batch(store.remove_deliveries(&page.roots, before, dead_before)).await?;
                self.note("deliveries", deliveries);
                if !more {
                    break;
                }
                if self.time_is_up() {
                    return Ok(());
                }
            }
            let (runs, contents) = self.batch(store.remove_runs(&page.roots, before, dead_before)).await?;
            self.note("job_runs", runs);
            self.note("contents", contents);
        }
        let mut next = Some(DateTime::UNIX_EPOCH);
        while let Some(from) = next.take() {
            if self.time_is_up() {
                return Ok(());
            }
            let (marks, more) = self.batch(store.remove_marks(from, before)).await?;
            self.note("reminder_marks", marks);
            next = more;
        }
        loop {
            if self.time_is_up() {
                return Ok(());
            }
            let (addresses, more) = self.batch(store.remove_raw_addresses(before)).await?;
            self.note("user_addresses", addresses);
            if !more {
                return Ok(());
            }
        }
    }

    async fn remove_subscriptions(&mut self, ids: &[String]) -> Result<(), Refused> {
        let store = self.store;
        let mut rest = ids;
        while !rest.is_empty() && !self.time_is_up() {
            let (removed, looked_at) = self.batch(store.remove_orphaned_subscriptions(rest)).await?;
            self.note("push_subscriptions", removed);
            rest = &rest[looked_at..];
        }
        Ok(())
    }

    /// One batch, and a rest as long as it.
    async fn batch<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, Refused> {
        let since = Instant::now();
        let silent = |_| StoreError::Unavailable(format!("no answer within {BATCH_TIMEOUT:?}"));
        let answer = timeout(BATCH_TIMEOUT, work).await.map_err(silent)??;
        sleep(since.elapsed()).await;
        Ok(answer)
    }

    /// Counts what a batch removed.
    fn note(&mut self, table: &str, rows: u64) {
        self.removed.add(table, rows);
        checkpoint::reached(Step::Tended);
    }

    /// Whether the time is up. Notes that something may be left, where it is.
    fn time_is_up(&mut self) -> bool {
        self.removed.unfinished |= Instant::now() >= self.until;
        self.removed.unfinished
    }
}
