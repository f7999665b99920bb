//! `operations`: acts on all that a filter finds, and who carries them out.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};

use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
    waiting::{self, WaitingRun},
};
use crate::{meta::IntakePosition, plan::Reason};

/// How long a holder may be silent, in seconds, until another one goes on.
const LEASE: i32 = 30;

const COLUMNS: &str = "id, act, filter, counted, reason, actor, state, done, skipped, failed, note, cursor, fence, \
                       started_at, updated_at, ended_at";

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRow {
    /// Its number.
    pub id: i64,
    /// `retry`, `cancel`, `discard` or `empty`.
    pub act: String,
    /// What it acts on.
    pub filter: Value,
    /// What the filter found when it began.
    pub counted: i64,
    /// For the colleagues.
    pub reason: String,
    /// Who began it.
    pub actor: String,
    /// `running`, `done`, `cancelled` or `failed`.
    pub state: String,
    /// How far it is.
    pub progress: Progress,
    /// Number of leases so far.
    pub fence: i64,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Last write.
    pub updated_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

impl OperationRow {
    /// Whether it goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// How far an operation is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Jobs acted on.
    pub done: i64,
    /// Jobs passed over, by reason.
    pub skipped: BTreeMap<String, i64>,
    /// Jobs of which it failed, by error.
    pub failed: BTreeMap<String, i64>,
    /// Why it waits or failed.
    pub note: Option<String>,
    /// Where it goes on.
    pub cursor: Value,
}

/// An operation to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOperation {
    /// `retry`, `cancel`, `discard` or `empty`.
    pub act: &'static str,
    /// What it acts on.
    pub filter: Value,
    /// What the filter finds.
    pub counted: i64,
    /// For the colleagues.
    pub reason: String,
    /// Who begins it.
    pub actor: String,
    /// Where it begins.
    pub cursor: Value,
}

/// Jobs that an operation ends.
#[derive(Clone, Debug, Default)]
pub struct ToEnd {
    /// Runs, with their messages if these are known.
    pub runs: Vec<WaitingRun>,
    /// Whether a dead one waits again.
    pub revived: bool,
    /// Deliveries.
    pub deliveries: Vec<String>,
    /// Delayed jobs.
    pub delayed: Vec<String>,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub struct EndedNow {
    /// Ids of jobs that this ended.
    pub ended: HashSet<String>,
    /// Ids of jobs that are cancelled by now.
    pub cancelled: HashSet<String>,
    /// Positions of the delayed ones.
    pub parked: Vec<IntakePosition>,
}

impl Store {
    /// Begins an operation, on record. Its number.
    pub async fn begin_operation(
        &self,
        new: &NewOperation,
        act: impl FnOnce(i64) -> AuditEntry,
        now: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO operations (act, filter, counted, reason, actor, state, cursor, started_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $7) RETURNING id",
        )
        .bind(new.act)
        .bind(&new.filter)
        .bind(new.counted)
        .bind(&new.reason)
        .bind(&new.actor)
        .bind(&new.cursor)
        .bind(now)
        .fetch_one(&mut *transaction)
        .await?;
        audit::insert(&mut transaction, &[act(id)]).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Operations, newest first: those before `before`, at most `limit`.
    pub async fn operations(&self, before: i64, limit: i64) -> Result<Vec<OperationRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM operations WHERE id < $1 ORDER BY id DESC LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).bind(before).bind(limit).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// One operation.
    pub async fn operation(&self, id: i64) -> Result<Option<OperationRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM operations WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// Takes an operation that nobody carries out, the oldest or this one. `None` if there is none.
    pub async fn lease_operation(&self, only: Option<i64>, holder: &str) -> Result<Option<OperationRow>, StoreError> {
        let text = format!(
            "UPDATE operations SET fence = fence + 1, holder = $1, leased_until = now() + make_interval(secs => {LEASE}) \
             WHERE id = (SELECT id FROM operations WHERE state = 'running' AND ($2::bigint IS NULL OR id = $2) \
                         AND (leased_until IS NULL OR leased_until < now()) \
                         ORDER BY updated_at LIMIT 1 FOR UPDATE SKIP LOCKED) \
             RETURNING {COLUMNS}"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(holder).bind(only).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// Gives up the lease, so that another one goes on at once.
    pub async fn release_operation(&self, id: i64, fence: i64) -> Result<(), StoreError> {
        let text = "UPDATE operations SET leased_until = NULL WHERE id = $1 AND fence = $2";
        sqlx::query(text).bind(id).bind(fence).execute(&self.pool).await?;
        Ok(())
    }

    /// Notes how far an operation is, and keeps the lease. With a state it ends, on record. False if it was cancelled, or
    /// another one holds it.
    pub async fn advance_operation(
        &self,
        row: &OperationRow,
        progress: &Progress,
        end: Option<(&str, &AuditEntry)>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let kept = advance(&mut transaction, row, progress, end.map(|(state, _)| state), now).await?;
        if kept && let Some((_, act)) = end {
            audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        }
        transaction.commit().await?;
        Ok(kept)
    }

    /// Cancels a running operation, on record. False if none runs under this number.
    pub async fn cancel_operation(&self, id: i64, act: &AuditEntry) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let cancelled = sqlx::query(
            "UPDATE operations SET state = 'cancelled', updated_at = $2, ended_at = $2 WHERE id = $1 AND state = 'running'",
        )
        .bind(id)
        .bind(act.at)
        .execute(&mut *transaction)
        .await?;
        if cancelled.rows_affected() == 0 {
            return Ok(false);
        }
        audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Ends jobs that have not begun, together with the operation's progress. `None` if it was cancelled, or another one
    /// holds it: then nothing is ended.
    pub async fn end_for_operation(
        &self,
        row: &OperationRow,
        jobs: &ToEnd,
        progress: impl FnOnce(&EndedNow) -> (Progress, Vec<AuditEntry>),
        now: DateTime<Utc>,
    ) -> Result<Option<EndedNow>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let mut done = EndedNow::default();
        // Holds off a cancellation and another holder until this is over.
        let held =
            sqlx::query("SELECT 1 FROM operations WHERE id = $1 AND fence = $2 AND state = 'running' FOR UPDATE");
        if held.bind(row.id).bind(row.fence).fetch_optional(&mut *transaction).await?.is_none() {
            return Ok(None);
        }
        let runs: Vec<&WaitingRun> = jobs.runs.iter().collect();
        if !runs.is_empty() {
            let reason = Reason::Cancelled.name();
            done.ended.extend(waiting::end_runs(&mut transaction, &runs, reason, jobs.revived, now).await?);
        }
        if !jobs.deliveries.is_empty() {
            done.ended.extend(waiting::end_these_deliveries(&mut transaction, &jobs.deliveries, now).await?);
        }
        if !jobs.delayed.is_empty() {
            let rows = sqlx::query(
                "WITH locked AS (SELECT job_id FROM delayed_jobs WHERE job_id = ANY($1) AND state = 'waiting' \
                                 ORDER BY job_id FOR UPDATE) \
                 UPDATE delayed_jobs d SET state = 'cancelled', updated_at = $2 FROM locked \
                 WHERE d.job_id = locked.job_id RETURNING d.job_id, stream, stream_created, stream_seq",
            )
            .bind(&jobs.delayed)
            .bind(now)
            .fetch_all(&mut *transaction)
            .await?;
            for row in &rows {
                done.ended.insert(row.try_get("job_id")?);
                done.parked.push(IntakePosition {
                    created: row.try_get("stream_created")?,
                    sequence: row.try_get("stream_seq")?,
                    stream: row.try_get("stream")?,
                });
            }
        }
        let run_ids: Vec<&str> = jobs.runs.iter().map(|run| run.job_id.as_str()).collect();
        done.cancelled = cancelled(&mut transaction, &run_ids, &jobs.deliveries).await?;
        let (progress, acts) = progress(&done);
        advance(&mut transaction, row, &progress, None, now).await?;
        if !acts.is_empty() {
            audit::insert(&mut transaction, &acts).await?;
        }
        transaction.commit().await?;
        Ok(Some(done))
    }

    /// Of these jobs, those on which this operation has acted before.
    pub async fn acted_on(&self, operation: i64, job_ids: &[&str]) -> Result<HashSet<String>, StoreError> {
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT job_id FROM audit_log WHERE detail ? 'operation' AND detail ->> 'operation' = $1 AND job_id = ANY($2)",
        )
        .bind(operation.to_string())
        .bind(job_ids)
        .fetch_all(&self.pool)
        .await?;
        Ok(found.into_iter().collect())
    }

    /// Of these dead letters, those on which this operation has acted before.
    pub async fn acted_on_letters(&self, operation: i64, numbers: &[u64]) -> Result<HashSet<u64>, StoreError> {
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT detail ->> 'letter' FROM audit_log WHERE action LIKE 'dead_letter.%' AND detail ->> 'letter' = ANY($2) \
             AND detail ->> 'operation' = $1",
        )
        .bind(operation.to_string())
        .bind(numbers.iter().map(ToString::to_string).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(found.iter().filter_map(|number| number.parse().ok()).collect())
    }
}

async fn cancelled(
    connection: &mut PgConnection,
    runs: &[&str],
    deliveries: &[String],
) -> Result<HashSet<String>, StoreError> {
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT job_id FROM job_runs WHERE job_id = ANY($1) AND state = 'skipped' AND reason = $3 \
         UNION ALL SELECT id FROM deliveries WHERE id = ANY($2) AND state = 'skipped' AND reason = $3",
    )
    .bind(runs)
    .bind(deliveries)
    .bind(Reason::Cancelled.name())
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().collect())
}

async fn advance(
    connection: &mut PgConnection,
    row: &OperationRow,
    progress: &Progress,
    end: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let text = format!(
        "UPDATE operations SET done = $3, skipped = $4, failed = $5, note = $6, cursor = $7, updated_at = $8, \
             leased_until = now() + make_interval(secs => {LEASE}), state = COALESCE($9, state), \
             ended_at = CASE WHEN $9 IS NOT NULL THEN $8 END \
         WHERE id = $1 AND fence = $2 AND state = 'running'"
    );
    let written = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(row.id)
        .bind(row.fence)
        .bind(progress.done)
        .bind(Json(&progress.skipped))
        .bind(Json(&progress.failed))
        .bind(&progress.note)
        .bind(&progress.cursor)
        .bind(now)
        .bind(end)
        .execute(connection)
        .await?;
    Ok(written.rows_affected() > 0)
}

fn read(row: &PgRow) -> Result<OperationRow, StoreError> {
    let (Json(skipped), Json(failed)) = (row.try_get("skipped")?, row.try_get("failed")?);
    Ok(OperationRow {
        id: row.try_get("id")?,
        act: row.try_get("act")?,
        filter: row.try_get("filter")?,
        counted: row.try_get("counted")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        state: row.try_get("state")?,
        progress: Progress {
            done: row.try_get("done")?,
            skipped,
            failed,
            note: row.try_get("note")?,
            cursor: row.try_get("cursor")?,
        },
        fence: row.try_get("fence")?,
        started_at: row.try_get("started_at")?,
        updated_at: row.try_get("updated_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}
