//! Reads for people: the trail of a job.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Row;

use super::{audit::AuditEntry, database::Store, error::StoreError};

/// One line of `job_runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLine {
    /// The job's id.
    pub job_id: String,
    /// Its kind.
    pub kind: String,
    /// `open`, `done`, `skipped`, `expired` or `dead`.
    pub state: String,
    /// The reason of the state.
    pub reason: Option<String>,
    /// Recorded failures.
    pub attempts: i32,
    /// The last error.
    pub last_error: Option<String>,
    /// Its result, if it has one.
    pub result: Option<Value>,
    /// The stream of its message.
    pub stream: String,
    /// The message's sequence there.
    pub stream_seq: i64,
    /// When it was first recorded.
    pub created_at: DateTime<Utc>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// A job that a run planned and that is not known to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedLine {
    /// The run.
    pub run_id: String,
    /// The planned job.
    pub job_id: String,
}

/// One inbox row, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxLine {
    /// The recipient.
    pub user_id: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When the user saw it in the list.
    pub seen_at: Option<DateTime<Utc>>,
    /// When the user opened it.
    pub read_at: Option<DateTime<Utc>>,
    /// When the user put it away.
    pub archived_at: Option<DateTime<Utc>>,
}

/// All records of a root job and of the jobs that followed from it. Holds ids, and no text written by a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Trail {
    /// The root: the job that an application published.
    pub root_id: String,
    /// The runs, oldest first.
    pub runs: Vec<RunLine>,
    /// Jobs still to be published.
    pub planned: Vec<PlannedLine>,
    /// The inbox rows, by user.
    pub inbox: Vec<InboxLine>,
    /// The deliveries, in the order of planning.
    pub deliveries: Vec<LedgerLine>,
    /// Manual actions on any of them.
    pub audit: Vec<AuditEntry>,
}

impl Trail {
    /// The trail of a job without records.
    #[must_use]
    pub fn of(root_id: &str) -> Self {
        let root_id = root_id.to_owned();
        Self { root_id, runs: vec![], planned: vec![], inbox: vec![], deliveries: vec![], audit: vec![] }
    }
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    /// `deliveries.id`, which is also the id of its job.
    pub id: String,
    /// The notification job that planned it.
    pub run_id: String,
    /// The recipient; empty for a raw address.
    pub user_id: String,
    /// The channel.
    pub channel: String,
    /// The state.
    pub state: String,
    /// The reason of the state.
    pub reason: Option<String>,
    /// Whether it was sent in quiet hours because it is critical.
    pub overrode_quiet_hours: bool,
    /// Recorded failures.
    pub attempts: i32,
    /// Number of claims.
    pub claims: i32,
    /// Recorded failures, oldest first.
    pub failures: Vec<AttemptLine>,
    /// The provider: a push service's host, or a name.
    pub provider: Option<String>,
    /// The provider's id of the message.
    pub provider_id: Option<String>,
    /// The provider's answer.
    pub answer: Option<String>,
    /// When the provider accepted it.
    pub sent_at: Option<DateTime<Utc>>,
    /// When the provider reported its delivery.
    pub delivered_at: Option<DateTime<Utc>>,
    /// End of the wait, if it is held.
    pub held_until: Option<DateTime<Utc>>,
    /// Its expiry.
    pub not_after: DateTime<Utc>,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// One recorded failure of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLine {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The error.
    pub answer: String,
}

/// Counts of one root job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrailTotals {
    /// Inbox rows.
    pub inbox_rows: i64,
    /// Deliveries planned.
    pub deliveries: i64,
    /// Deliveries that have ended, successfully or not.
    pub ended: i64,
    /// Web Pushes that were accepted.
    pub pushes_sent: i64,
}

impl Store {
    /// The trail of a job, by its id or that of any job that followed from it. None without records.
    pub async fn trail_of(&self, id: &str) -> Result<Option<Trail>, StoreError> {
        let root: Option<String> = sqlx::query_scalar(
            "SELECT root_id FROM (SELECT root_id FROM job_runs WHERE job_id = $1 OR root_id = $1 \
             UNION ALL SELECT job_id FROM deliveries WHERE id = $1 OR job_id = $1 \
             UNION ALL SELECT root_id FROM job_children WHERE child_id = $1 \
             UNION ALL SELECT job_id FROM notifications WHERE job_id = $1 \
             UNION ALL SELECT root_id FROM audit_log WHERE root_id = $1) AS found LIMIT 1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(root_id) = root else { return Ok(None) };
        let runs = self.runs_of(&root_id).await?;
        let planned = self.planned_of(&root_id).await?;
        let inbox = self.inbox_of(&root_id).await?;
        let deliveries = self.ledger_of(&root_id).await?;
        let audit = self.audit_of(&root_id).await?;
        Ok(Some(Trail { root_id, runs, planned, inbox, deliveries, audit }))
    }

    async fn planned_of(&self, root_id: &str) -> Result<Vec<PlannedLine>, StoreError> {
        let rows =
            sqlx::query("SELECT job_id, child_id FROM job_children WHERE root_id = $1 ORDER BY job_id, child_id")
                .bind(root_id)
                .fetch_all(&self.pool)
                .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(PlannedLine { run_id: row.try_get("job_id")?, job_id: row.try_get("child_id")? });
        }
        Ok(lines)
    }

    async fn inbox_of(&self, root_id: &str) -> Result<Vec<InboxLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT user_id, created_at, seen_at, read_at, archived_at FROM notifications \
             WHERE job_id = $1 ORDER BY user_id",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(InboxLine {
                user_id: row.try_get("user_id")?,
                created_at: row.try_get("created_at")?,
                seen_at: row.try_get("seen_at")?,
                read_at: row.try_get("read_at")?,
                archived_at: row.try_get("archived_at")?,
            });
        }
        Ok(lines)
    }

    /// The runs of a root, oldest first.
    pub async fn runs_of(&self, root_id: &str) -> Result<Vec<RunLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT job_id, kind, state, reason, attempts, last_error, result, stream, stream_seq, created_at, \
                    updated_at \
             FROM job_runs WHERE root_id = $1 ORDER BY created_at, job_id",
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
                result: row.try_get("result")?,
                stream: row.try_get("stream")?,
                stream_seq: row.try_get("stream_seq")?,
                created_at: row.try_get("created_at")?,
                updated_at: row.try_get("updated_at")?,
            });
        }
        Ok(lines)
    }

    /// The deliveries of a root, in the order of planning.
    pub async fn ledger_of(&self, root_id: &str) -> Result<Vec<LedgerLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, run_id, user_id, channel, state, reason, overrode_quiet_hours, attempts, claims, provider, provider_id, \
                    answer, sent_at, delivered_at, held_until, not_after, created_at, updated_at \
             FROM deliveries WHERE job_id = $1 ORDER BY id",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        let mut failures = self.failures_of(root_id).await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            let id: String = row.try_get("id")?;
            lines.push(LedgerLine {
                failures: failures.remove(&id).unwrap_or_default(),
                id,
                run_id: row.try_get("run_id")?,
                user_id: row.try_get("user_id")?,
                channel: row.try_get("channel")?,
                state: row.try_get("state")?,
                reason: row.try_get("reason")?,
                overrode_quiet_hours: row.try_get("overrode_quiet_hours")?,
                attempts: row.try_get("attempts")?,
                claims: row.try_get("claims")?,
                provider: row.try_get("provider")?,
                provider_id: row.try_get("provider_id")?,
                answer: row.try_get("answer")?,
                sent_at: row.try_get("sent_at")?,
                delivered_at: row.try_get("delivered_at")?,
                held_until: row.try_get("held_until")?,
                not_after: row.try_get("not_after")?,
                created_at: row.try_get("created_at")?,
                updated_at: row.try_get("updated_at")?,
            });
        }
        Ok(lines)
    }

    async fn failures_of(&self, root_id: &str) -> Result<HashMap<String, Vec<AttemptLine>>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.delivery_id, a.at, a.answer FROM delivery_attempts a JOIN deliveries d ON d.id = a.delivery_id \
             WHERE d.job_id = $1 ORDER BY a.delivery_id, a.at",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        let mut failures: HashMap<String, Vec<AttemptLine>> = HashMap::new();
        for row in rows {
            let line = AttemptLine { at: row.try_get("at")?, answer: row.try_get("answer")? };
            failures.entry(row.try_get("delivery_id")?).or_default().push(line);
        }
        Ok(failures)
    }

    /// Counts of a root.
    pub async fn totals_of(&self, root_id: &str) -> Result<TrailTotals, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM notifications WHERE job_id = $1) AS inbox_rows, count(*) AS deliveries, \
                    count(*) FILTER (WHERE state NOT IN ('pending', 'held', 'sending')) AS ended, \
                    count(*) FILTER (WHERE channel = 'web_push' AND state = 'sent') AS pushes_sent \
             FROM deliveries WHERE job_id = $1",
        )
        .bind(root_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(TrailTotals {
            inbox_rows: row.try_get("inbox_rows")?,
            deliveries: row.try_get("deliveries")?,
            ended: row.try_get("ended")?,
            pushes_sent: row.try_get("pushes_sent")?,
        })
    }
}
