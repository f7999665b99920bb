//! `job_runs` and `job_children`: look-ups, and unpublished messages.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{commit::Child, database::Store, error::StoreError};
use crate::meta::NO_MESSAGE;

/// A question about one job.
#[derive(Clone, Debug)]
pub struct RunAsk {
    /// Job id.
    pub job_id: String,
}

/// The record of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// `open`, `done`, `skipped`, `expired` or `dead`.
    pub state: String,
    /// Why it was skipped or is dead.
    pub reason: Option<String>,
    /// Stream of `sequence`.
    pub stream: String,
    /// Sequence under which the state was written.
    pub sequence: i64,
    /// Recorded failures.
    pub attempts: i32,
    /// Delivery count at the last failure or release of that sequence.
    pub recorded_delivery: i64,
    /// Last error.
    pub last_error: Option<String>,
    /// Whether children may be unpublished.
    pub children_pending: bool,
    /// First record.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
    /// When people asked to cancel it, if it is a task.
    pub cancel_at: Option<DateTime<Utc>>,
}

/// The rest of a committed run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingChildren {
    /// Messages that may be unpublished.
    pub children: Vec<Child>,
    /// The last claim of a direct send that its worker may be sending.
    pub claimed_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Records of jobs, in the order asked.
    pub async fn look_up_runs(&self, asks: &[RunAsk]) -> Result<Vec<Option<RunRecord>>, StoreError> {
        let ids: Vec<&str> = asks.iter().map(|ask| ask.job_id.as_str()).collect();
        let statement = sqlx::query(
            "SELECT job_id, state, reason, stream, stream_seq, attempts, recorded_delivery, last_error, \
                    children_pending, created_at, updated_at, cancel_at \
             FROM job_runs WHERE job_id = ANY($1)",
        )
        .bind(&ids);
        let rows = self.keyed.fetch_all(statement).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            let record = RunRecord {
                state: row.try_get("state")?,
                reason: row.try_get("reason")?,
                stream: row.try_get("stream")?,
                sequence: row.try_get("stream_seq")?,
                attempts: row.try_get("attempts")?,
                recorded_delivery: row.try_get("recorded_delivery")?,
                last_error: row.try_get("last_error")?,
                children_pending: row.try_get("children_pending")?,
                created_at: row.try_get("created_at")?,
                updated_at: row.try_get("updated_at")?,
                cancel_at: row.try_get("cancel_at")?,
            };
            found.insert(row.try_get::<String, _>("job_id")?, record);
        }
        Ok(asks.iter().map(|ask| found.get(&ask.job_id).cloned()).collect())
    }

    /// Messages that a committed run planned and that may be unpublished. Includes direct sends claimed before
    /// `claimed_before`.
    pub async fn pending_children(
        &self,
        job_id: &str,
        claimed_before: DateTime<Utc>,
    ) -> Result<PendingChildren, StoreError> {
        let rows = sqlx::query(
            "SELECT c.child_id AS id, c.root_id, c.subject, c.body, c.not_after, c.trace, c.at, c.is_json, r.created_at \
             FROM job_children c LEFT JOIN job_runs r USING (job_id) WHERE c.job_id = $1",
        )
        .bind(job_id)
        .fetch_all(&self.pool)
        .await?;
        let mut children = Vec::with_capacity(rows.len());
        for row in rows {
            let is_json = row.try_get("is_json")?;
            children.push(Child {
                job_id: row.try_get("id")?,
                root_id: row.try_get("root_id")?,
                subject: row.try_get("subject")?,
                body: row.try_get("body")?,
                not_after: row.try_get("not_after")?,
                trace: row.try_get("trace")?,
                due: if is_json { None } else { row.try_get("created_at")? },
                at: row.try_get("at")?,
                is_json,
            });
        }
        let claimed_at = self.pending_deliveries(job_id, claimed_before, &mut children).await?;
        Ok(PendingChildren { children, claimed_at })
    }

    /// The notification planned with this root's reminder, if it has messages to publish.
    pub async fn pending_combined_run(&self, root_id: &str) -> Result<Option<String>, StoreError> {
        let found = sqlx::query_scalar(
            "SELECT job_id FROM job_runs WHERE root_id = $1 AND stream_seq = $2 AND children_pending",
        );
        Ok(found.bind(root_id).bind(NO_MESSAGE).fetch_optional(&self.pool).await?)
    }

    /// Records that all children of these runs are published.
    pub async fn children_published(&self, job_ids: &[String]) -> Result<Vec<()>, StoreError> {
        // Without waiting for the disk. If a crash loses the record, reconciliation repairs it.
        let statement = sqlx::query(
            "WITH soon AS (SELECT set_config('synchronous_commit', 'off', true)), \
             gone AS (DELETE FROM job_children WHERE job_id = ANY($1)) \
             UPDATE job_runs SET children_pending = false FROM soon WHERE job_id = ANY($1) AND children_pending",
        );
        self.keyed.execute(statement.bind(job_ids)).await?;
        Ok(vec![(); job_ids.len()])
    }

    /// Runs with children pending since before `before`.
    pub async fn runs_with_old_children(&self, before: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT job_id FROM job_runs WHERE children_pending AND updated_at < $1 ORDER BY updated_at LIMIT 1000",
        )
        .bind(before)
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }
}
