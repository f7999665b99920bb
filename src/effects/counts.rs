//! Writes how runs ended, and that this worker lives, every few seconds: one small statement, whatever the load.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    retry::Once,
    store::{CountRow, Store, StoreError, WorkerReport},
    telemetry::{
        process,
        tally::{EndKey, Tally},
    },
};

/// Between two writes.
const EVERY: Duration = Duration::from_secs(5);

/// The most that a write may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever writes.
#[derive(Clone, Debug)]
pub struct Identity {
    id: Arc<str>,
    host: String,
    duties: Vec<&'static str>,
}

impl Identity {
    /// This process.
    #[must_use]
    pub fn here(worker: &Arc<str>, duties: &[&'static str]) -> Self {
        Self { id: Arc::clone(worker), host: process::host(), duties: duties.to_vec() }
    }
}

/// The counts of this process on their way to the database.
#[derive(Debug)]
pub struct Counts {
    store: Store,
    tally: Tally,
    clock: Clock,
    identity: Identity,
    started: DateTime<Utc>,
    /// Until then, ends are counted in `waiting`.
    taken: DateTime<Utc>,
    waiting: HashMap<(EndKey, DateTime<Utc>), u64>,
    processed: u64,
    failed: u64,
    batch: Batch,
}

/// What is written at once. One whose answer was lost is written again as it is, and counts once by its number.
#[derive(Debug, Default)]
struct Batch {
    number: i64,
    rows: Vec<CountRow>,
    is_written: bool,
}

impl Counts {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(store: Store, tally: Tally, clock: Clock, identity: Identity) -> Self {
        let now = clock.now();
        let batch = Batch { is_written: true, ..Batch::default() };
        let waiting = HashMap::new();
        Self { store, tally, clock, identity, started: now, taken: now, waiting, processed: 0, failed: 0, batch }
    }

    /// Writes until `stop`, then once more, and takes this worker off the list.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut told = Once::new();
        while !stop.is_cancelled() {
            match self.write().await {
                Ok(()) => told.reset(),
                Err(why) if told.is_first() => tracing::warn!("counts are not written, and are kept: {why}"),
                Err(_) => {}
            }
            let wait = self.until_next();
            stop.run_until_cancelled(sleep(wait)).await;
        }
        if let Err(why) = self.leave().await {
            tracing::warn!("the last counts are not written: {why}");
        }
    }

    /// Writes all ends so far.
    ///
    /// # Errors
    /// If the database does not answer. The counts are kept.
    pub async fn write(&mut self) -> Result<(), StoreError> {
        self.take();
        if !self.batch.is_written {
            self.write_batch().await?;
        }
        self.batch = Batch { number: self.batch.number + 1, rows: rows(&self.waiting), is_written: false };
        self.waiting.clear();
        self.write_batch().await
    }

    async fn leave(&mut self) -> Result<(), StoreError> {
        self.write().await?;
        self.store.remove_worker(&self.identity.id).await
    }

    /// Adds the ends since the last call, to the minute in which that was: both fall on the same full seconds.
    fn take(&mut self) {
        let minute = self.taken.duration_trunc(TimeDelta::minutes(1)).unwrap_or(self.taken);
        for (end, count) in self.tally.take() {
            *self.waiting.entry((end, minute)).or_default() += count;
            self.processed += count;
            if end.outcome.is_failure() {
                self.failed += count;
            }
        }
        self.taken = self.clock.now();
    }

    async fn write_batch(&mut self) -> Result<(), StoreError> {
        let (busy, running) = self.tally.running();
        let report = WorkerReport {
            id: &self.identity.id,
            host: &self.identity.host,
            duties: &self.identity.duties,
            started_at: self.started,
            seen_at: self.clock.now(),
            busy,
            processed: self.processed,
            failed: self.failed,
            running: &running,
            batch: self.batch.number,
        };
        let written = timeout(TIMEOUT, self.store.add_outcome_counts(&report, &self.batch.rows)).await;
        written.map_err(|_| StoreError::Unavailable(format!("no answer within {TIMEOUT:?}")))??;
        self.batch.is_written = true;
        Ok(())
    }

    /// Until the next multiple of the interval, so that a minute's ends are written as that minute's.
    fn until_next(&self) -> Duration {
        let every = self.clock.paced(EVERY);
        let interval = i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1);
        let past = self.clock.now().timestamp_millis().rem_euclid(interval);
        Duration::from_millis(u64::try_from(interval - past).unwrap_or(1))
    }
}

fn rows(counts: &HashMap<(EndKey, DateTime<Utc>), u64>) -> Vec<CountRow> {
    let row = |((end, minute), count): (&(EndKey, DateTime<Utc>), &u64)| CountRow {
        minute: *minute,
        queue: end.queue.durable(),
        outcome: end.outcome.name(),
        reason: end.reason.unwrap_or_default(),
        count: i64::try_from(*count).unwrap_or(i64::MAX),
    };
    counts.iter().map(row).collect()
}
