//! Catching up with a timeline: which are on record, and what is missing in the tables.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{ConnectOptions, Executor, PgConnection, Row};

use super::{
    database::Store,
    error::StoreError,
    ledger::LedgerEntry,
    named_sql::{NamedSql, rows},
    timelines::{Timeline, timeline_of},
};

static RESTORE_CLAIMS: NamedSql = NamedSql::new(include_str!("sql/restore_claims.sql"));

/// Connections for restoring.
const CONNECTIONS: u32 = 4;

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
    _connection: PgConnection,
}

impl Store {
    /// From now on, connections to a server on another timeline wait for [`Self::caught_up`].
    pub fn watch_timelines(&self) {
        self.timelines.watch();
    }

    /// Waits until connections wait for a timeline.
    pub async fn behind(&self) -> Timeline {
        self.timelines.behind().await
    }

    /// Lets the connections to this timeline through.
    pub fn caught_up(&self, timeline: Timeline) {
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

    /// Waits until no other worker is catching up.
    pub async fn lock_timeline(&self) -> Result<TimelineLock, StoreError> {
        let mut connection = self.database.options.connect().await?;
        connection.execute(sqlx::AssertSqlSafe(self.database.search_path())).await?;
        // The connection stays idle. A second worker that catches up at the same time does no harm.
        connection.execute("SET idle_session_timeout = '1min'").await?;
        connection.execute("SELECT pg_advisory_lock(hashtextextended(current_schema() || ' timeline', 0))").await?;
        let Some(timeline) = timeline_of(&mut connection).await? else {
            return Err(StoreError::Unavailable("it is a standby".into()));
        };
        Ok(TimelineLock { timeline, _connection: connection })
    }

    /// Whether some worker has caught up with this timeline.
    pub async fn is_on_record(&self, timeline: Timeline) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM scheduler_state WHERE part = $1)");
        Ok(found.bind(part(timeline)).fetch_one(&self.pool).await?)
    }

    /// Puts on record that a worker has caught up with this timeline.
    pub async fn record_timeline(&self, timeline: Timeline, now: DateTime<Utc>) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO scheduler_state (part, looked_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(part(timeline))
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Those of these outcomes that are not on record, of deliveries that are.
    pub async fn lost_outcomes(&self, entries: Vec<LedgerEntry>) -> Result<Vec<LedgerEntry>, StoreError> {
        let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        let statement = sqlx::query(
            "SELECT id, updated_at FROM deliveries WHERE id = ANY($1) AND state NOT IN ('sent', 'delivered')",
        );
        let rows = self.keyed.fetch_all(statement.bind(ids)).await?;
        let mut open: HashMap<String, DateTime<Utc>> = HashMap::with_capacity(rows.len());
        for row in rows {
            open.insert(row.try_get("id")?, row.try_get("updated_at")?);
        }
        // An outcome that is on record has set `updated_at`.
        let is_lost = |entry: &LedgerEntry| open.get(&entry.id).is_some_and(|updated_at| *updated_at < entry.now);
        Ok(entries.into_iter().filter(is_lost).collect())
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
