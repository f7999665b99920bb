//! Catching up with a timeline: which are on record, and what is missing in the tables.

use std::{collections::HashMap, future::Future, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row, postgres::PgRow};
use tokio::time::{sleep, timeout};

use super::{
    database::{PING_TIMEOUT, Store},
    error::StoreError,
    ledger::{LedgerEntry, LedgerRecord},
    named_sql::{NamedSql, rows},
    timelines::{Timeline, Told, ask},
};
use crate::plan::Delivered;

static RESTORE_CLAIMS: NamedSql = NamedSql::new(include_str!("sql/restore_claims.sql"));

/// Connections for restoring.
const CONNECTIONS: u32 = 4;

/// Interval of attempts to take the lock.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

rows! {
    struct ClaimRow<'q> {
        id: &'q str,
        sequence: i64,
        delivered: i64,
        worker: &'q str,
        now: DateTime<Utc>,
    }
}

/// The sole right to catch up with a server's timeline, until dropped. A worker that hangs loses it.
#[derive(Debug)]
pub struct TimelineLock {
    /// The server's timeline.
    pub timeline: Timeline,
    connection: PgConnection,
}

impl TimelineLock {
    /// Shows the server that this worker does not hang.
    pub async fn keep(&mut self) -> Result<(), StoreError> {
        within(self.connection.ping()).await
    }
}

/// The record of a timeline that a worker has caught up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineRecord {
    /// When it first did.
    pub at: DateTime<Utc>,
    /// The last message of the journal that was read for it; 0: none.
    pub read: u64,
}

/// Outcomes, by what the ledger knows of them.
#[derive(Debug, Default)]
pub struct LostOutcomes {
    /// Not on record, of deliveries that are.
    pub lost: Vec<LedgerEntry>,
    /// Of deliveries that are not on record.
    pub early: Vec<LedgerEntry>,
}

impl Store {
    /// From now on, connections to a server on another timeline wait for [`Self::caught_up`].
    pub fn watch_timelines(&self) {
        self.timelines.watch();
    }

    /// Waits until connections wait for a timeline.
    pub async fn behind(&self) {
        self.timelines.behind().await;
    }

    /// Lets the connections to this timeline through. None: to a server that does not tell it, for which none waits.
    pub fn caught_up(&self, timeline: Option<Timeline>) {
        self.timelines.caught_up(timeline);
    }

    /// Tells those who ask for the state of the database why catching up takes long.
    pub fn catching_up_is_hindered(&self, why: &str) {
        self.timelines.is_hindered(why);
    }

    /// Another store in the same place whose connections don't wait.
    #[must_use]
    pub fn ahead(&self) -> Self {
        Self::new(&self.database, CONNECTIONS)
    }

    /// Waits until no other worker is catching up. None if the server does not tell its timeline: then there is nothing
    /// to catch up with.
    pub async fn lock_timeline(&self) -> Result<Option<TimelineLock>, StoreError> {
        let mut connection = within(self.database.options.connect()).await?;
        within(connection.execute(sqlx::AssertSqlSafe(self.database.search_path()))).await?;
        // A second worker that catches up at the same time does no harm.
        within(connection.execute("SET idle_session_timeout = '1min'")).await?;
        loop {
            let timeline = match within(ask(&mut connection)).await? {
                Told::Timeline(timeline) => timeline,
                Told::Standby => return Err(StoreError::Unavailable("it is a standby".into())),
                Told::Nothing => return Ok(None),
            };
            // Asked again and again: a server that falls silent would not end a wait.
            let locked =
                sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended(current_schema() || ' timeline', 0))");
            if within(locked.fetch_one(&mut connection)).await? {
                return Ok(Some(TimelineLock { timeline, connection }));
            }
            sleep(LOCK_AGAIN).await;
        }
    }

    /// Whether some worker has caught up with this timeline, and how.
    pub async fn timeline_record(&self, timeline: Timeline) -> Result<Option<TimelineRecord>, StoreError> {
        let row =
            sqlx::query("SELECT looked_at, COALESCE(journal_seq, 0) AS read FROM scheduler_state WHERE part = $1")
                .bind(part(timeline))
                .fetch_optional(&self.pool);
        let read = |row: PgRow| {
            let read = u64::try_from(row.try_get::<i64, _>("read")?).unwrap_or(0);
            Ok(TimelineRecord { at: row.try_get("looked_at")?, read })
        };
        within(row).await?.map(read).transpose()
    }

    /// Puts on record that a worker has caught up with this timeline. `read`: the last message of the journal that it read.
    pub async fn record_timeline(&self, timeline: Timeline, read: u64, now: DateTime<Utc>) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO scheduler_state (part, looked_at, journal_seq) VALUES ($1, $2, $3) \
             ON CONFLICT (part) DO UPDATE SET journal_seq = excluded.journal_seq",
        );
        let statement = statement.bind(part(timeline)).bind(now).bind(i64::try_from(read).unwrap_or(i64::MAX));
        within(statement.execute(&self.pool)).await.map(drop)
    }

    /// Looks for outcomes in the ledger.
    pub async fn lost_outcomes(&self, entries: Vec<LedgerEntry>) -> Result<LostOutcomes, StoreError> {
        let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        let statement = sqlx::query(
            "SELECT id, state, claims, claim_seq, claim_delivery, recorded_delivery FROM deliveries WHERE id = ANY($1)",
        );
        let rows = self.keyed.fetch_all(statement.bind(ids)).await?;
        let mut known: HashMap<String, LedgerFence> = HashMap::with_capacity(rows.len());
        for row in rows {
            known.insert(row.try_get("id")?, LedgerFence::of(&row)?);
        }
        let mut found = LostOutcomes::default();
        for entry in entries {
            match known.get(&entry.id) {
                None => found.early.push(entry),
                Some(fence) if fence.lacks(&entry) => found.lost.push(entry),
                Some(_) => {}
            }
        }
        Ok(found)
    }

    /// Gives back the claims under which these outcomes were recorded, so that they can be again. One per delivery.
    pub async fn restore_claims(&self, entries: &[LedgerEntry]) -> Result<(), StoreError> {
        let claims = entries.iter().map(|entry| ClaimRow {
            id: &entry.id,
            sequence: entry.sequence,
            delivered: entry.delivered,
            worker: &entry.worker,
            now: entry.now,
        });
        self.keyed.execute(RESTORE_CLAIMS.bind().rows("outcomes", claims).statement()?).await
    }

    /// Notes which runs have nothing left to publish. A restored run does not know.
    pub async fn note_children_of_restored(&self) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE job_runs r SET children_pending = false WHERE children_pending \
             AND NOT EXISTS (SELECT FROM job_children c WHERE c.job_id = r.job_id) \
             AND NOT EXISTS (SELECT FROM deliveries d WHERE d.job_id = r.root_id AND d.run_id = r.job_id \
                 AND d.subject IS NOT NULL AND d.state IN ('pending', 'held', 'sending', 'dead'))",
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// How far a delivery is. Not by instants: clocks of workers differ.
struct LedgerFence {
    state: String,
    claims: i32,
    /// Sequence and delivery count.
    claim: Option<(i64, i64)>,
    recorded: i64,
}

impl LedgerFence {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (sequence, delivered): (Option<i64>, Option<i64>) =
            (row.try_get("claim_seq")?, row.try_get("claim_delivery")?);
        Ok(Self {
            state: row.try_get("state")?,
            claims: row.try_get("claims")?,
            claim: sequence.zip(delivered),
            recorded: row.try_get("recorded_delivery")?,
        })
    }

    /// Whether an outcome was never recorded. As in `record_deliveries.sql`, one that was sent needs no claim.
    fn lacks(&self, entry: &LedgerEntry) -> bool {
        if matches!(&entry.record, LedgerRecord::Receipt(receipt) if receipt.state == Delivered::Sent) {
            // A provider may report later that one has failed.
            return !["sent", "delivered", "failed"].contains(&self.state.as_str());
        }
        let own = (entry.sequence, entry.delivered);
        let is_before = match self.claim {
            // A redriven one has been claimed before.
            None => self.claims == 0,
            Some(claim) => claim < own || (claim == own && self.recorded < entry.delivered),
        };
        is_before && ["pending", "held", "sending"].contains(&self.state.as_str())
    }
}

/// The answer, which a silent server never gives.
async fn within<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match timeout(PING_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}"))),
    }
}

/// As in `scheduler_state`.
fn part(timeline: Timeline) -> String {
    format!("timeline {timeline}")
}

#[cfg(test)]
mod tests {
    use super::{ClaimRow, RESTORE_CLAIMS};

    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(RESTORE_CLAIMS.bind().rows("outcomes", std::iter::empty::<ClaimRow<'_>>()).statement().is_ok());
    }
}
