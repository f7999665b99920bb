//! Reads for people: what became of a job.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Row;

use super::{AuditEntry, Store, StoreError};

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
    /// What its work came to, where that is kept.
    pub result: Option<Value>,
    /// The stream that its message was in.
    pub stream: String,
    /// The message's sequence there.
    pub stream_seq: i64,
    /// When it was first recorded.
    pub created_at: DateTime<Utc>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// A job that a run planned, and that is not known to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedLine {
    /// The run.
    pub run_id: String,
    /// The job that follows from it.
    pub job_id: String,
}

/// One inbox row, without what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxLine {
    /// Whose inbox.
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

/// All that is on record of one job and of what followed from it. Holds ids, and nothing that a person wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// The job that an application published.
    pub root_id: String,
    /// The runs, in the order in which they were first recorded.
    pub runs: Vec<RunLine>,
    /// What is still to be published.
    pub planned: Vec<PlannedLine>,
    /// The inbox rows, by user.
    pub inbox: Vec<InboxLine>,
    /// The deliveries, in the order in which they were planned.
    pub deliveries: Vec<LedgerLine>,
    /// What was done to any of them by hand.
    pub audit: Vec<AuditEntry>,
}

impl Way {
    /// The way of a job of which nothing is on record.
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
    /// Whom it is for; empty for an address that belongs to no user.
    pub user_id: String,
    /// By which way.
    pub channel: String,
    /// The state.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Whether it was sent in the person's quiet hours, because it is critical.
    pub overrode_quiet_hours: bool,
    /// Recorded failures.
    pub attempts: i32,
    /// How often it was taken for sending.
    pub claims: i32,
    /// Recorded failures, in the order in which they happened.
    pub failures: Vec<AttemptLine>,
    /// Who was asked: a push service's host, or a provider's name.
    pub provider: Option<String>,
    /// The provider's own id of it.
    pub provider_id: Option<String>,
    /// What the other side answered.
    pub answer: Option<String>,
    /// When the provider took charge of it.
    pub sent_at: Option<DateTime<Utc>>,
    /// When the provider reported that it reached the device.
    pub delivered_at: Option<DateTime<Utc>>,
    /// Until when it waits, where it is held.
    pub held_until: Option<DateTime<Utc>>,
    /// When it stops being of use.
    pub not_after: DateTime<Utc>,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// One recorded failure of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLine {
    /// When.
    pub at: DateTime<Utc>,
    /// What went wrong.
    pub answer: String,
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
    /// Web Pushes that were accepted.
    pub pushes_sent: i64,
}

impl Store {
    /// The way of a job, by its id or that of any job that followed from it. None where nothing is on record.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn way_of(&self, id: &str) -> Result<Option<Way>, StoreError> {
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
        Ok(Some(Way { root_id, runs, planned, inbox, deliveries, audit }))
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

    /// The runs of one way, in the order in which they were first recorded.
    ///
    /// # Errors
    /// If the database does not answer.
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

    /// The deliveries of one way, in the order in which they were planned.
    ///
    /// # Errors
    /// If the database does not answer.
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

    /// How much there is of one way.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn totals_of(&self, root_id: &str) -> Result<Totals, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM notifications WHERE job_id = $1) AS inbox_rows, count(*) AS deliveries, \
                    count(*) FILTER (WHERE state NOT IN ('pending', 'held', 'sending')) AS ended, \
                    count(*) FILTER (WHERE channel = 'web_push' AND state = 'sent') AS pushes_sent \
             FROM deliveries WHERE job_id = $1",
        )
        .bind(root_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(Totals {
            inbox_rows: row.try_get("inbox_rows")?,
            deliveries: row.try_get("deliveries")?,
            ended: row.try_get("ended")?,
            pushes_sent: row.try_get("pushes_sent")?,
        })
    }
}
