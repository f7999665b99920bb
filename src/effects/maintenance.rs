//! Maintains Carebell's own tables, in batches of one transaction each. It rests after a batch for as long as the batch
//! took, so that the pipeline keeps the database.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{Effects, Refused};
use crate::{
    checkpoint::{self, Step},
    meta::Meta,
    plan::{KeepRule, Maintenance, Plan, Removed},
    store::{Committed, PruneCursor, RunState, Store, StoreError},
};

/// Limit of one batch. It usually takes some ten milliseconds; longer means a lost connection.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);

impl Effects {
    /// Carries out maintenance within `limit`, then commits the run. The next job does the rest. A stop in between
    /// loses only the count: the redelivery continues.
    ///
    /// # Errors
    /// The database does not answer. Removed rows stay removed.
    pub async fn maintain(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        task: Maintenance,
        limit: Duration,
    ) -> Result<(Committed, Removed), Refused> {
        let mut batches = Batches { store: &self.store, until: Instant::now() + limit, removed: Removed::default() };
        match task {
            Maintenance::Prune { before, dead_before, counts_before, workers_before, rules } => {
                batches.prune_counts(counts_before, workers_before).await?;
                for rule in &rules {
                    batches.prune_kind(rule).await?;
                }
                let ruled: Vec<String> = rules.into_iter().map(|rule| rule.kind).collect();
                batches.prune(before, dead_before, &ruled).await?;
            }
            Maintenance::RemoveSubscriptions { ids } => batches.remove_subscriptions(&ids).await?,
        }
        let removed = batches.removed;
        let result = serde_json::to_value(&removed).unwrap_or(Value::Null);
        let plan = Plan { result: Some(result), ..Plan::default() };
        let committed = self.end_run(meta, not_after, RunState::Done, None, plan).await?;
        Ok((committed, removed))
    }
}

struct Batches<'a> {
    store: &'a Store,
    until: Instant,
    removed: Removed,
}

impl Batches<'_> {
    async fn prune_counts(&mut self, before: DateTime<Utc>, workers_before: DateTime<Utc>) -> Result<(), Refused> {
        let workers = self.batch(self.store.remove_workers(workers_before)).await?;
        self.removed.add("workers", workers);
        while !self.time_is_up() {
            let (counts, more) = self.batch(self.store.remove_outcome_counts(before)).await?;
            self.removed.add("outcome_counts", counts);
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Removes jobs of one kind by its rule.
    async fn prune_kind(&mut self, rule: &KeepRule) -> Result<(), Refused> {
        let store = self.store;
        let surplus = self.batch(store.surplus(&rule.kind, rule.last, rule.dead_last)).await?;
        let cutoff = |by_age: DateTime<Utc>, by_count: Option<DateTime<Utc>>, latest| {
            by_count.map_or(by_age, |by_count| by_age.max(by_count)).min(latest)
        };
        let before = cutoff(rule.before, surplus.ended, rule.latest);
        let dead_before = cutoff(rule.dead_before, surplus.dead, rule.dead_latest);
        let mut runs = 0;
        let mut seen = Some(PruneCursor::start());
        while let Some(from) = seen.take() {
            if self.time_is_up() {
                break;
            }
            let page = self.batch(store.finished_roots_of(&rule.kind, &from, before, dead_before)).await?;
            seen = page.next;
            let Some(removed) = self.remove(&page.roots, before, dead_before).await? else { break };
            runs += removed;
        }
        self.removed.by_kind.insert(rule.kind.clone(), runs);
        Ok(())
    }

    async fn prune(
        &mut self,
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
        ruled: &[String],
    ) -> Result<(), Refused> {
        let store = self.store;
        let mut seen = Some(PruneCursor::start());
        while let Some(from) = seen.take() {
            if self.time_is_up() {
                return Ok(());
            }
            let page = self.batch(store.finished_roots(&from, before, dead_before, ruled)).await?;
            seen = page.next;
            if self.remove(&page.roots, before, dead_before).await?.is_none() {
                return Ok(());
            }
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
            let (delayed, more) = self.batch(store.remove_delayed_jobs(before)).await?;
            self.note("delayed_jobs", delayed);
            if !more {
                break;
            }
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

    /// Removes these roots with all that followed. Answers the number of runs; `None` if time ran out.
    async fn remove(
        &mut self,
        roots: &[String],
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<Option<u64>, Refused> {
        let store = self.store;
        if roots.is_empty() {
            return Ok(Some(0));
        }
        // A notification to very many people needs several batches.
        loop {
            let (deliveries, more) = self.batch(store.remove_deliveries(roots, before, dead_before)).await?;
            self.note("deliveries", deliveries);
            if !more {
                break;
            }
            if self.time_is_up() {
                return Ok(None);
            }
        }
        let (runs, contents) = self.batch(store.remove_runs(roots, before, dead_before)).await?;
        self.note("job_runs", runs);
        self.note("contents", contents);
        Ok(Some(runs))
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

    /// Runs a batch, then rests for as long as it took.
    async fn batch<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, Refused> {
        let since = Instant::now();
        let silent = |_| StoreError::Unavailable(format!("no answer within {BATCH_TIMEOUT:?}"));
        let answer = timeout(BATCH_TIMEOUT, work).await.map_err(silent)??;
        sleep(since.elapsed()).await;
        Ok(answer)
    }

    fn note(&mut self, table: &str, rows: u64) {
        self.removed.add(table, rows);
        checkpoint::reached(Step::Maintained);
    }

    /// Whether time has run out. Then notes that rows may be left.
    fn time_is_up(&mut self) -> bool {
        self.removed.unfinished |= Instant::now() >= self.until;
        self.removed.unfinished
    }
}
