//! `outcome_counts` and `workers`, as a worker writes them.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
};
use crate::telemetry::tally::RunningJob;

static ADD_OUTCOME_COUNTS: NamedSql = NamedSql::new(include_str!("sql/add_outcome_counts.sql"));

/// Runs that ended alike in one minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRow {
    /// Its begin.
    pub minute: DateTime<Utc>,
    /// Durable name.
    pub queue: String,
    /// How they ended.
    pub outcome: &'static str,
    /// Why; empty for no reason.
    pub reason: &'static str,
    /// Their number.
    pub count: i64,
}

/// What a worker says of itself.
#[derive(Clone, Copy, Debug)]
pub struct WorkerReport<'a> {
    /// Its name in claims.
    pub id: &'a str,
    /// Its machine or pod.
    pub host: &'a str,
    /// As in `carebell run --only`.
    pub duties: &'a [&'static str],
    /// Begin of the process.
    pub started_at: DateTime<Utc>,
    /// Now.
    pub seen_at: DateTime<Utc>,
    /// Runs in progress.
    pub busy: usize,
    /// Runs that ended.
    pub processed: u64,
    /// Of these, those that failed.
    pub failed: u64,
    /// Runs in progress that began first.
    pub running: &'a [RunningJob],
    /// Number of this write. One that was written before changes no count.
    pub batch: i64,
}

rows! {
    struct Counted<'q> {
        minute: DateTime<Utc>,
        queue: &'q str,
        outcome: &'q str,
        reason: &'q str,
        count: i64,
    }
}

impl Store {
    /// Adds to the counts, and notes that the worker lives. The same batch twice counts once.
    pub async fn add_outcome_counts(&self, report: &WorkerReport<'_>, counts: &[CountRow]) -> Result<(), StoreError> {
        self.keyed.execute(statement(report, counts)?).await
    }

    /// Takes a worker that stops off the list.
    pub async fn remove_worker(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM workers WHERE id = $1").bind(id).execute(&self.pool).await?;
        Ok(())
    }
}

fn statement<'q>(report: &WorkerReport<'q>, counts: &'q [CountRow]) -> Result<Statement<'q>, StoreError> {
    let of = |row: &'q CountRow| Counted {
        minute: row.minute,
        queue: &row.queue,
        outcome: row.outcome,
        reason: row.reason,
        count: row.count,
    };
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    ADD_OUTCOME_COUNTS
        .bind()
        .rows("counts", counts.iter().map(of))
        .value("id", report.id)
        .value("host", report.host)
        .value("version", env!("CARGO_PKG_VERSION"))
        .value("duties", report.duties)
        .value("started_at", report.started_at)
        .value("seen_at", report.seen_at)
        .value("busy", i32::try_from(report.busy).unwrap_or(i32::MAX))
        .value("processed", number(report.processed))
        .value("failed", number(report.failed))
        .value("running", report.running.iter().map(running).collect::<Value>())
        .value("batch", report.batch)
        .statement()
}

fn running(job: &RunningJob) -> Value {
    json!({ "job_id": job.job_id, "queue": job.queue.durable(), "since": job.since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_names_what_is_bound() {
        let report = WorkerReport {
            id: "one",
            host: "here",
            duties: &["pipeline"],
            started_at: DateTime::UNIX_EPOCH,
            seen_at: DateTime::UNIX_EPOCH,
            busy: 0,
            processed: 0,
            failed: 0,
            running: &[],
            batch: 1,
        };
        assert!(statement(&report, &[]).is_ok());
    }
}
