//! Living processes, and what they do.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use sqlx::{Row, postgres::PgRow, types::Json};

use super::{
    super::{database::Store, error::StoreError},
    number,
};

/// A worker that has not written for this long counts as lost.
const LOST_AFTER: TimeDelta = TimeDelta::minutes(1);

/// A process of `carebell run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLine {
    /// Its name in claims.
    pub id: String,
    /// Its machine or pod.
    pub host: String,
    /// Of the program.
    pub version: String,
    /// As in `carebell run --only`.
    pub duties: Vec<String>,
    /// Begin of the process.
    pub started_at: DateTime<Utc>,
    /// Its last sign of life.
    pub seen_at: DateTime<Utc>,
    /// Whether that is over a minute ago.
    pub is_lost: bool,
    /// Runs in progress.
    pub busy: u64,
    /// Runs that ended since its start.
    pub processed: u64,
    /// Of these, those that failed.
    pub failed: u64,
    /// Runs in progress that began first, at most 50.
    pub running: Vec<RunningLine>,
}

/// A run in progress, as of its worker's last sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunningLine {
    /// Its job; empty if its message is unreadable.
    pub job_id: String,
    /// Durable name.
    pub queue: String,
    /// When it began.
    pub since: DateTime<Utc>,
}

impl WorkerLine {
    /// `lost`, `idle` or `busy`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match (self.is_lost, self.busy) {
            (true, _) => "lost",
            (false, 0) => "idle",
            (false, _) => "busy",
        }
    }
}

impl Store {
    /// All workers on record, in the order of their starts. They stay for a day after they were lost.
    pub async fn workers(&self, now: DateTime<Utc>) -> Result<Vec<WorkerLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, host, version, duties, started_at, seen_at, busy, processed, failed, running FROM workers \
             WHERE seen_at > $1 ORDER BY started_at, id",
        )
        .bind(now - TimeDelta::days(1))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(read(row, now)?)).collect()
    }
}

fn read(row: &PgRow, now: DateTime<Utc>) -> Result<WorkerLine, sqlx::Error> {
    let seen_at: DateTime<Utc> = row.try_get("seen_at")?;
    Ok(WorkerLine {
        id: row.try_get("id")?,
        host: row.try_get("host")?,
        version: row.try_get("version")?,
        duties: row.try_get("duties")?,
        started_at: row.try_get("started_at")?,
        seen_at,
        is_lost: now - seen_at > LOST_AFTER,
        busy: number(row.try_get::<i32, _>("busy")?.into()),
        processed: number(row.try_get("processed")?),
        failed: number(row.try_get("failed")?),
        running: row.try_get::<Json<Vec<RunningLine>>, _>("running")?.0,
    })
}
