//! Reads for people: the trail of a job.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::Row;

use super::{audit::AuditEntry, database::Store, error::StoreError};
use crate::meta::split;

/// A line of `job_runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLine {
    /// Job id.
    pub job_id: String,
    /// Kind.
    pub kind: String,
    /// As in `RunRecord::state`.
    pub state: String,
    /// Reason of the state.
    pub reason: Option<String>,
    /// Recorded failures.
    pub attempts: i32,
    /// Last error.
    pub last_error: Option<String>,
    /// Result, if any.
    pub result: Option<Value>,
    /// Stream of its message.
    pub stream: String,
    /// Sequence in that stream.
    pub stream_seq: i64,
    /// First record.
    pub created_at: DateTime<Utc>,
    /// Last write.
    pub updated_at: DateTime<Utc>,
    /// When people asked to cancel it, if it is a task.
    pub cancel_at: Option<DateTime<Utc>>,
    /// What its endpoint has said, if it is a task that may take long.
    pub task: Option<TaskLine>,
}

/// What the endpoint of a task has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLine {
    /// `job_tasks.state`.
    pub state: String,
    /// Percent.
    pub percent: Option<i16>,
    /// Its words.
    pub note: Option<String>,
    /// When the attempt ends at the latest.
    pub deadline: DateTime<Utc>,
}

/// A planned job not known to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedLine {
    /// Run.
    pub run_id: String,
    /// Job.
    pub job_id: String,
}

/// An inbox row, without text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxLine {
    /// Recipient.
    pub user_id: String,
    /// When written.
    pub created_at: DateTime<Utc>,
    /// When the user saw it in the list.
    pub seen_at: Option<DateTime<Utc>>,
    /// When opened.
    pub read_at: Option<DateTime<Utc>>,
    /// When put away.
    pub archived_at: Option<DateTime<Utc>>,
}

/// All records of a root job and its descendants: ids, no personal text.
#[derive(Clone, Debug, PartialEq)]
pub struct Trail {
    /// The job that an application published.
    pub root_id: String,
    /// Oldest first.
    pub runs: Vec<RunLine>,
    /// Jobs to publish.
    pub planned: Vec<PlannedLine>,
    /// By user.
    pub inbox: Vec<InboxLine>,
    /// In the order of planning.
    pub deliveries: Vec<LedgerLine>,
    /// Manual actions.
    pub audit: Vec<AuditEntry>,
}

impl Trail {
    /// An empty trail.
    #[must_use]
    pub fn of(root_id: &str) -> Self {
        let root_id = root_id.to_owned();
        Self { root_id, runs: vec![], planned: vec![], inbox: vec![], deliveries: vec![], audit: vec![] }
    }
}

/// A ledger line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    /// `deliveries.id`, also its job id.
    pub id: String,
    /// Notification's run.
    pub run_id: String,
    /// The recipient; empty for a raw address.
    pub user_id: String,
    /// Channel.
    pub channel: String,
    /// State.
    pub state: String,
    /// Reason of the state.
    pub reason: Option<String>,
    /// Whether it was sent in quiet hours because it is critical.
    pub overrode_quiet_hours: bool,
    /// Recorded failures.
    pub attempts: i32,
    /// Claims.
    pub claims: i32,
    /// Recorded failures, oldest first.
    pub failures: Vec<AttemptLine>,
    /// A push service's host, or a name.
    pub provider: Option<String>,
    /// Provider's message id.
    pub provider_id: Option<String>,
    /// Provider's answer.
    pub answer: Option<String>,
    /// When the provider accepted it.
    pub sent_at: Option<DateTime<Utc>>,
    /// When the provider reported delivery.
    pub delivered_at: Option<DateTime<Utc>>,
    /// When a hold ends.
    pub held_until: Option<DateTime<Utc>>,
    /// Expiry.
    pub not_after: DateTime<Utc>,
    /// When planned.
    pub created_at: DateTime<Utc>,
    /// Last write.
    pub updated_at: DateTime<Utc>,
}

/// A recorded failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLine {
    /// Time.
    pub at: DateTime<Utc>,
    /// Error.
    pub answer: String,
}

/// Counts of one root job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrailTotals {
    /// Inbox rows.
    pub inbox_rows: i64,
    /// Planned deliveries.
    pub deliveries: i64,
    /// Ended deliveries, successful or not.
    pub ended: i64,
    /// Accepted Web Pushes.
    pub pushes_sent: i64,
}

impl Store {
    /// The root of a job, by its id or any descendant's.
    pub async fn root_of(&self, id: &str) -> Result<Option<String>, StoreError> {
        let root = sqlx::query_scalar(
            "SELECT root_id FROM (SELECT root_id FROM job_runs WHERE job_id = $1 OR root_id = $1 \
             UNION ALL SELECT job_id FROM deliveries WHERE id = $1 OR job_id = $1 \
             UNION ALL SELECT root_id FROM job_children WHERE child_id = $1 \
             UNION ALL SELECT $1 FROM notifications WHERE job_id = $2 AND application = $3 \
             UNION ALL SELECT root_id FROM audit_log WHERE root_id = $1) AS found LIMIT 1",
        )
        .bind(id)
        .bind(split(id).1)
        .bind(split(id).0)
        .fetch_optional(&self.pool)
        .await?;
        Ok(root)
    }

    /// The trail of a job, by its id or any descendant's.
    pub async fn trail_of(&self, id: &str) -> Result<Option<Trail>, StoreError> {
        let Some(root_id) = self.root_of(id).await? else { return Ok(None) };
        let runs = self.runs_of(&root_id).await?;
        let planned = self.planned_of(&root_id).await?;
        let inbox = self.inbox_of(&root_id, None).await?;
        let deliveries = self.ledger_of(&root_id).await?;
        let audit = self.audit_of(&root_id).await?;
        Ok(Some(Trail { root_id, runs, planned, inbox, deliveries, audit }))
    }

    /// Planned jobs of a root not known to be published.
    pub async fn planned_of(&self, root_id: &str) -> Result<Vec<PlannedLine>, StoreError> {
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

    /// Inbox rows of a root, of one user or of all.
    pub async fn inbox_of(&self, root_id: &str, user_id: Option<&str>) -> Result<Vec<InboxLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT user_id, created_at, seen_at, read_at, archived_at FROM notifications \
             WHERE job_id = $1 AND application = $2 AND ($3::text IS NULL OR user_id = $3) ORDER BY user_id",
        )
        .bind(split(root_id).1)
        .bind(split(root_id).0)
        .bind(user_id)
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

    /// Runs of a root, oldest first.
    pub async fn runs_of(&self, root_id: &str) -> Result<Vec<RunLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.job_id, r.kind, r.state, r.reason, r.attempts, r.last_error, r.result, r.stream, r.stream_seq, \
                    r.created_at, r.updated_at, r.cancel_at, t.state AS task, t.percent, t.note, t.deadline \
             FROM job_runs r LEFT JOIN job_tasks t ON t.job_id = r.job_id \
             WHERE r.root_id = $1 ORDER BY r.created_at, r.job_id",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            let task = match row.try_get::<Option<String>, _>("task")? {
                None => None,
                Some(state) => Some(TaskLine {
                    state,
                    percent: row.try_get("percent")?,
                    note: row.try_get("note")?,
                    deadline: row.try_get("deadline")?,
                }),
            };
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
                cancel_at: row.try_get("cancel_at")?,
                task,
            });
        }
        Ok(lines)
    }

    /// Deliveries of a root, in the order of planning.
    pub async fn ledger_of(&self, root_id: &str) -> Result<Vec<LedgerLine>, StoreError> {
        self.ledger(root_id, None).await
    }

    /// Deliveries of a root to one user, in the order of planning.
    pub async fn ledger_of_user(&self, root_id: &str, user_id: &str) -> Result<Vec<LedgerLine>, StoreError> {
        self.ledger(root_id, Some(user_id)).await
    }

    async fn ledger(&self, root_id: &str, user_id: Option<&str>) -> Result<Vec<LedgerLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, run_id, user_id, channel, state, reason, overrode_quiet_hours, attempts, claims, provider, provider_id, \
                    answer, sent_at, delivered_at, held_until, not_after, created_at, updated_at \
             FROM deliveries WHERE job_id = $1 AND ($2::text IS NULL OR user_id = $2) ORDER BY id",
        )
        .bind(root_id)
        .bind(user_id)
        .fetch_all(&self.pool)
        .await?;
        let mut failures = self.failures_of(root_id, user_id).await?;
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

    async fn failures_of(
        &self,
        root_id: &str,
        user_id: Option<&str>,
    ) -> Result<HashMap<String, Vec<AttemptLine>>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.delivery_id, a.at, a.answer FROM delivery_attempts a JOIN deliveries d ON d.id = a.delivery_id \
             WHERE d.job_id = $1 AND ($2::text IS NULL OR d.user_id = $2) ORDER BY a.delivery_id, a.at",
        )
        .bind(root_id)
        .bind(user_id)
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
            "SELECT (SELECT count(*) FROM notifications WHERE job_id = $2 AND application = $3) AS inbox_rows, \
                    count(*) AS deliveries, \
                    count(*) FILTER (WHERE state NOT IN ('pending', 'held', 'sending')) AS ended, \
                    count(*) FILTER (WHERE channel = 'web_push' AND state = 'sent') AS pushes_sent \
             FROM deliveries WHERE job_id = $1",
        )
        .bind(root_id)
        .bind(split(root_id).1)
        .bind(split(root_id).0)
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
