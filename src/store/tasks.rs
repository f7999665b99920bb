//! `job_tasks`: what endpoints are working at.
//!
//! `tasks/state.rs` decides what a row means; [`Store::change_task`] has it decide under the row's lock.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};

use super::{
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
};

static RECORD_PROGRESS: NamedSql = NamedSql::new(include_str!("sql/record_progress.sql"));

/// Tokens of earlier requests that are still known.
const KEPT_TOKENS: usize = 8;

/// A completed task is woken by the worker that took its completion. When others do.
const WOKEN_AFTER: TimeDelta = TimeDelta::seconds(2);

/// Forgets a row without a run so long after its deadline.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::days(1);

/// Rows that one statement closes.
const CLOSED_TOGETHER: i64 = 5000;

/// `job_tasks.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Its request may be under way.
    Sending,
    /// Its endpoint has answered 202.
    Accepted,
    /// It is done: its result and its effects are to be committed, or were.
    Completed,
    /// The attempt has failed.
    Failed,
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Sending, Self::Accepted, Self::Completed, Self::Failed];

    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Accepted => "accepted",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// Job id.
    pub job_id: String,
    /// Kind.
    pub kind: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// Stream of the message that began the attempt.
    pub stream: String,
    /// Its sequence there.
    pub sequence: i64,
    /// State.
    pub state: TaskState,
    /// Whether the attempt goes on, or its end is not committed.
    pub is_open: bool,
    /// SHA-256 of each token of this attempt.
    pub tokens: Vec<Vec<u8>>,
    /// Those of attempts before.
    pub old_tokens: Vec<Vec<u8>>,
    /// When the attempt ends at the latest.
    pub deadline: DateTime<Utc>,
    /// Until when the endpoint may be silent.
    pub heartbeat_at: DateTime<Utc>,
    /// Progress.
    pub percent: Option<i16>,
    /// The endpoint's words about it.
    pub note: Option<String>,
    /// Of a completed or failed one: what is to follow.
    pub answer: Option<Value>,
    /// Whether the job's run has ended.
    pub is_over: bool,
    /// When people asked to cancel the job.
    pub cancel_at: Option<DateTime<Utc>>,
}

/// A task about to be sent.
#[derive(Clone, Debug)]
pub struct NewTask<'a> {
    /// Job id.
    pub job_id: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Number of the attempt.
    pub attempt: u32,
    /// Stream and sequence of its message.
    pub position: (&'a str, i64),
    /// SHA-256 of the token, if it gets one.
    pub token: Option<&'a [u8]>,
    /// When the attempt ends at the latest.
    pub deadline: DateTime<Utc>,
    /// Time.
    pub now: DateTime<Utc>,
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskChange {
    /// Its endpoint has accepted it, and may be silent until then.
    Accepted(DateTime<Utc>),
    /// It is done, and this is to be committed.
    Completed(Value),
    /// The attempt has failed, and this is to be recorded.
    Failed(Value),
    /// The attempt is over, and burns none: the endpoint wants to be asked later.
    Released,
}

/// Progress of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskProgress {
    /// Job id.
    pub job_id: String,
    /// Percent; never less than before.
    pub percent: Option<i16>,
    /// The endpoint's words; the last stay.
    pub note: Option<String>,
    /// Until when it may be silent now.
    pub heartbeat_at: DateTime<Utc>,
}

/// A parked job whose task has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedTask {
    /// Job id.
    pub job_id: String,
    /// Stream of the message that was parked.
    pub stream: String,
    /// Its sequence there.
    pub sequence: i64,
}

rows! {
    struct ProgressRow<'q> {
        job_id: &'q str,
        percent: Option<i16>,
        note: Option<&'q str>,
        heartbeat_at: DateTime<Utc>,
    }
}

const COLUMNS: &str = "t.job_id, t.kind, t.attempt, t.stream, t.stream_seq, t.state, t.open, t.tokens, t.old_tokens, \
                       t.deadline, t.heartbeat_at, t.percent, t.note, t.answer, \
                       COALESCE(r.state <> 'open', false) AS is_over, r.cancel_at \
                       FROM job_tasks t LEFT JOIN job_runs r ON r.job_id = t.job_id";

impl Store {
    /// The task of a job.
    pub async fn task(&self, job_id: &str) -> Result<Option<TaskRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} WHERE t.job_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(job_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(read).transpose()
    }

    /// Notes a task before its request, unless `most` others of its kind are open: then `false`. A token of the same
    /// attempt stays valid, because its request may have been taken.
    pub async fn open_task(&self, task: &NewTask<'_>, most: Option<u32>) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        if let Some(most) = most {
            // Counting and adding are one act, for all workers.
            sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('job_tasks ' || $1, 0))")
                .bind(task.kind)
                .execute(&mut *transaction)
                .await?;
            let open: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM job_tasks \
                 WHERE open AND kind = $1 AND job_id <> $2 AND state IN ('sending', 'accepted')",
            )
            .bind(task.kind)
            .bind(task.job_id)
            .fetch_one(&mut *transaction)
            .await?;
            if open >= i64::from(most) {
                return Ok(false);
            }
        }
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "INSERT INTO job_tasks AS t (job_id, kind, attempt, stream, stream_seq, state, open, tokens, old_tokens, \
                                         deadline, heartbeat_at, created_at, changed_at) \
             VALUES ($1, $2, $3, $4, $5, 'sending', true, $6, '{{}}', $7, $7, $8, $8) \
             ON CONFLICT (job_id) DO UPDATE SET \
                 kind = EXCLUDED.kind, attempt = EXCLUDED.attempt, stream = EXCLUDED.stream, \
                 stream_seq = EXCLUDED.stream_seq, state = 'sending', open = true, \
                 tokens = CASE WHEN t.open THEN (EXCLUDED.tokens || t.tokens)[1:{KEPT_TOKENS}] ELSE EXCLUDED.tokens END, \
                 old_tokens = CASE WHEN t.open THEN t.old_tokens \
                                   ELSE (t.tokens || t.old_tokens)[1:{KEPT_TOKENS}] END, \
                 deadline = EXCLUDED.deadline, heartbeat_at = EXCLUDED.heartbeat_at, percent = NULL, note = NULL, \
                 answer = NULL, cancel_told_at = NULL, changed_at = EXCLUDED.changed_at",
        )))
        .bind(task.job_id)
        .bind(task.kind)
        .bind(i32::try_from(task.attempt).unwrap_or(i32::MAX))
        .bind(task.position.0)
        .bind(task.position.1)
        .bind(task.token.into_iter().collect::<Vec<_>>())
        .bind(task.deadline)
        .bind(task.now)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Has `decide` look at the task of a job, and writes what it wants.
    pub async fn change_task<T>(
        &self,
        job_id: &str,
        now: DateTime<Utc>,
        decide: impl FnOnce(Option<&TaskRow>) -> (T, Option<TaskChange>) + Send,
    ) -> Result<T, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let text = format!("SELECT {COLUMNS} WHERE t.job_id = $1 FOR UPDATE OF t");
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(job_id).fetch_optional(&mut *transaction).await?;
        let row = row.as_ref().map(read).transpose()?;
        let (answer, change) = decide(row.as_ref());
        if let Some(change) = change {
            write(&mut transaction, job_id, change, now).await?;
        }
        transaction.commit().await?;
        Ok(answer)
    }

    /// Records the progress of tasks that are under way, each once.
    pub async fn record_progress(&self, progress: &[TaskProgress]) -> Result<(), StoreError> {
        self.keyed.execute(record(progress)?).await
    }

    /// Closes tasks whose runs have ended, forgets those that have no run long after their deadlines, and answers how many
    /// are under way by kind.
    pub async fn close_tasks(&self, now: DateTime<Utc>) -> Result<Vec<(String, i64)>, StoreError> {
        // Each worker does this. None waits for another.
        sqlx::query(
            "UPDATE job_tasks SET open = false WHERE job_id IN ( \
                 SELECT t.job_id FROM job_tasks t JOIN job_runs r ON r.job_id = t.job_id \
                 WHERE t.open AND r.state <> 'open' ORDER BY t.job_id LIMIT $1 FOR UPDATE OF t SKIP LOCKED)",
        )
        .bind(CLOSED_TOGETHER)
        .execute(&self.pool)
        .await?;
        sqlx::query(
            "DELETE FROM job_tasks WHERE job_id IN ( \
                 SELECT t.job_id FROM job_tasks t \
                 WHERE t.open AND t.deadline < $1 AND (SELECT 1 FROM job_runs r WHERE r.job_id = t.job_id) IS NULL \
                 ORDER BY t.job_id LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now - FORGOTTEN_AFTER)
        .bind(CLOSED_TOGETHER)
        .execute(&self.pool)
        .await?;
        let open = sqlx::query_as(
            "SELECT kind, count(*) FROM job_tasks WHERE open AND state IN ('sending', 'accepted') GROUP BY kind",
        );
        Ok(open.fetch_all(&self.pool).await?)
    }

    /// Where the message of a waiting run was parked from.
    pub async fn parked_task(&self, job_id: &str) -> Result<Option<ParkedTask>, StoreError> {
        let row = sqlx::query("SELECT job_id, stream, stream_seq FROM job_runs WHERE job_id = $1 AND state = 'open'");
        let row = row.bind(job_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(parked).transpose()
    }

    /// Waiting runs whose tasks ended a while ago.
    pub async fn unwoken_tasks(&self, now: DateTime<Utc>) -> Result<Vec<ParkedTask>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.job_id, r.stream, r.stream_seq FROM job_tasks t JOIN job_runs r ON r.job_id = t.job_id \
             WHERE t.open AND t.state IN ('completed', 'failed') AND t.changed_at < $1 AND r.state = 'open' \
               AND r.reason IN ('accepted', 'retry_later') \
             ORDER BY t.changed_at LIMIT 1000",
        )
        .bind(now - WOKEN_AFTER)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(parked).collect()
    }

    /// Accepted tasks that are cancelled, and whose endpoints have not been told: job ids and kinds. They count as told.
    pub async fn cancelled_tasks(
        &self,
        kinds: &[&str],
        now: DateTime<Utc>,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let told = sqlx::query_as(
            "UPDATE job_tasks SET cancel_told_at = $2 WHERE job_id IN ( \
                 SELECT t.job_id FROM job_tasks t JOIN job_runs r ON r.job_id = t.job_id \
                 WHERE t.open AND t.state = 'accepted' AND t.cancel_told_at IS NULL AND t.kind = ANY($1) \
                   AND r.state = 'open' AND r.cancel_at IS NOT NULL \
                 ORDER BY t.job_id LIMIT 100 FOR UPDATE OF t SKIP LOCKED) \
             RETURNING job_id, kind",
        );
        Ok(told.bind(kinds).bind(now).fetch_all(&self.pool).await?)
    }
}

async fn write(
    connection: &mut PgConnection,
    job_id: &str,
    change: TaskChange,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let statement = match change {
        TaskChange::Accepted(heartbeat_at) => {
            sqlx::query("UPDATE job_tasks SET state = 'accepted', heartbeat_at = $3, changed_at = $2 WHERE job_id = $1")
                .bind(job_id)
                .bind(now)
                .bind(heartbeat_at)
        }
        TaskChange::Completed(answer) => {
            sqlx::query("UPDATE job_tasks SET state = 'completed', answer = $3, changed_at = $2 WHERE job_id = $1")
                .bind(job_id)
                .bind(now)
                .bind(answer)
        }
        TaskChange::Failed(answer) => {
            sqlx::query("UPDATE job_tasks SET state = 'failed', answer = $3, changed_at = $2 WHERE job_id = $1")
                .bind(job_id)
                .bind(now)
                .bind(answer)
        }
        TaskChange::Released => {
            sqlx::query("UPDATE job_tasks SET open = false, changed_at = $2 WHERE job_id = $1").bind(job_id).bind(now)
        }
    };
    statement.execute(connection).await?;
    Ok(())
}

fn record(progress: &[TaskProgress]) -> Result<Statement<'_>, StoreError> {
    let rows = progress.iter().map(|progress| ProgressRow {
        job_id: &progress.job_id,
        percent: progress.percent,
        note: progress.note.as_deref(),
        heartbeat_at: progress.heartbeat_at,
    });
    RECORD_PROGRESS.bind().rows("progress", rows).statement()
}

fn read(row: &PgRow) -> Result<TaskRow, StoreError> {
    let state: String = row.try_get("state")?;
    Ok(TaskRow {
        job_id: row.try_get("job_id")?,
        kind: row.try_get("kind")?,
        attempt: u32::try_from(row.try_get::<i32, _>("attempt")?).unwrap_or(0),
        stream: row.try_get("stream")?,
        sequence: row.try_get("stream_seq")?,
        state: TaskState::ALL.into_iter().find(|known| known.name() == state).unwrap_or(TaskState::Failed),
        is_open: row.try_get("open")?,
        tokens: row.try_get("tokens")?,
        old_tokens: row.try_get("old_tokens")?,
        deadline: row.try_get("deadline")?,
        heartbeat_at: row.try_get("heartbeat_at")?,
        percent: row.try_get("percent")?,
        note: row.try_get("note")?,
        answer: row.try_get("answer")?,
        is_over: row.try_get("is_over")?,
        cancel_at: row.try_get("cancel_at")?,
    })
}

fn parked(row: &PgRow) -> Result<ParkedTask, StoreError> {
    Ok(ParkedTask {
        job_id: row.try_get("job_id")?,
        stream: row.try_get("stream")?,
        sequence: row.try_get("stream_seq")?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(super::record(&[]).is_ok());
    }
}
