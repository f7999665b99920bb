//! Cancellations of tasks. One that may be under way is only asked for: its endpoint may complete it first.

use chrono::{DateTime, Utc};
use sqlx::Connection;

use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
    waiting::{WaitingRun, end_runs},
};
use crate::plan::Reason;

/// What a cancellation of a task came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskCancel {
    /// It waited, and has ended.
    Ended,
    /// It may be under way: it ends before its next attempt, or when its endpoint says so.
    Asked,
    /// It has ended before, in this state and for this reason.
    Over(String, Option<String>),
}

impl Store {
    /// Cancels a task. `waits`: its message is parked, so that it ends at once unless its endpoint is at work. `revived`: a
    /// dead one waits too, because it was redriven. Audited if it changes anything.
    pub async fn cancel_task(
        &self,
        run: &WaitingRun,
        waits: bool,
        revived: bool,
        act: &AuditEntry,
    ) -> Result<TaskCancel, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let found: Option<(String, Option<String>)> =
            sqlx::query_as("SELECT state, reason FROM job_runs WHERE job_id = $1 FOR UPDATE")
                .bind(&run.job_id)
                .fetch_optional(&mut *transaction)
                .await?;
        if let Some((state, reason)) = found.filter(|(state, _)| state != "open" && !(revived && state == "dead")) {
            return Ok(TaskCancel::Over(state, reason));
        }
        let under_way: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM job_tasks WHERE job_id = $1 AND open)")
            .bind(&run.job_id)
            .fetch_one(&mut *transaction)
            .await?;
        let ended = if waits && !under_way {
            end_runs(&mut transaction, &[run], Reason::Cancelled.name(), revived, act.at).await?
        } else {
            Vec::new()
        };
        let done = if ended.is_empty() {
            ask(&mut transaction, run, act.at).await?;
            TaskCancel::Asked
        } else {
            TaskCancel::Ended
        };
        audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        transaction.commit().await?;
        Ok(done)
    }
}

async fn ask(connection: &mut sqlx::PgConnection, run: &WaitingRun, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO job_runs AS r (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at, cancel_at) \
         VALUES ($1, $2, $3, $4, $5, 'open', $6, $6, $6) \
         ON CONFLICT (job_id) DO UPDATE SET cancel_at = COALESCE(r.cancel_at, EXCLUDED.cancel_at) \
         WHERE r.state = 'open'",
    )
    .bind(&run.job_id)
    .bind(&run.root_id)
    .bind(&run.kind)
    .bind(&run.stream)
    .bind(run.sequence)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}
