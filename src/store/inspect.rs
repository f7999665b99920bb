//! Reads for people: what became of a job.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{Store, StoreError};

/// One line of `job_runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLine {
    /// The job's id.
    pub job_id: String,
    /// Its kind.
    pub kind: String,
    /// `open`, `done`, `skipped`, `expired` or `dead`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Recorded failures.
    pub attempts: i32,
    /// What the last one said.
    pub last_error: Option<String>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    /// `deliveries.id`.
    pub id: String,
    /// Whom it is for.
    pub user_id: String,
    /// By which way.
    pub channel: String,
    /// The state.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Recorded failures.
    pub attempts: i32,
    /// How often it was taken for sending.
    pub claims: i32,
    /// What the other side answered.
    pub answer: Option<String>,
}

/// How much there is of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inbox rows.
    pub inbox_rows: i64,
    /// Deliveries planned.
    pub deliveries: i64,
    /// Deliveries that have ended, well or not.
    pub ended: i64,
    /// Deliveries that were accepted.
    pub sent: i64,
}

impl Store {
    /// The runs of one way, in the order in which they were first recorded.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn runs_of(&self, root_id: &str) -> Result<Vec<RunLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT job_id, kind, state, reason, attempts, last_error, updated_at FROM job_runs \
             WHERE root_id = $1 ORDER BY created_at, job_id",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(RunLine {
                job_id: row.try_get("job_id")?,
                kind: row.try_get("kind")?,
                state: row.try_get("state")?,
                reason: row.try_get("reason")?,
                attempts: row.try_get("attempts")?,
                last_error: row.try_get("last_error")?,
                updated_at: row.try_get("updated_at")?,
            });
        }
        Ok(lines)
    }

    /// The deliveries of one way, in the order in which they were planned.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn ledger_of(&self, root_id: &str) -> Result<Vec<LedgerLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, user_id, channel, state, reason, attempts, claims, answer FROM deliveries \
             WHERE job_id = $1 ORDER BY id",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(LedgerLine {
                id: row.try_get("id")?,
                user_id: row.try_get("user_id")?,
                channel: row.try_get("channel")?,
                state: row.try_get("state")?,
                reason: row.try_get("reason")?,
                attempts: row.try_get("attempts")?,
                claims: row.try_get("claims")?,
                answer: row.try_get("answer")?,
            });
        }
        Ok(lines)
    }

    /// How much there is of one way.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn totals_of(&self, root_id: &str) -> Result<Totals, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM notifications WHERE job_id = $1) AS inbox_rows, count(*) AS deliveries, \
                    count(*) FILTER (WHERE state NOT IN ('pending', 'held', 'sending')) AS ended, \
                    count(*) FILTER (WHERE state = 'sent') AS sent \
             FROM deliveries WHERE job_id = $1",
        )
        .bind(root_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(Totals {
            inbox_rows: row.try_get("inbox_rows")?,
            deliveries: row.try_get("deliveries")?,
            ended: row.try_get("ended")?,
            sent: row.try_get("sent")?,
        })
    }
}
