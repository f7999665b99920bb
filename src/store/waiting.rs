//! Jobs that wait, ended by people before they run.
//!
//! A run is ended by its own row. A commit writes the same row, so one of both is first, and the other changes nothing.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use super::{
    audit::{self, AuditEntry},
    database::Store,
    deliveries::LIST_AS_UNSENT,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
};
use crate::{
    meta::{NO_MESSAGE, OWN},
    plan::Reason,
};

static END_WAITING_RUNS: NamedSql = NamedSql::new(include_str!("sql/end_waiting_runs.sql"));

/// The end of the ids of notifications, and their kind.
const NOTIFICATION: &str = "notification";

/// Begin the kinds that plan a notification once they are done.
const REMINDERS: [&str; 2] = ["reminder.", "alert."];

/// A run that may not have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRun {
    /// Job id.
    pub job_id: String,
    /// Root.
    pub root_id: String,
    /// Kind; empty if unknown.
    pub kind: String,
    /// Its message's stream; empty if unknown.
    pub stream: String,
    /// The message's sequence; 0 if unknown.
    pub sequence: i64,
}

/// How far a job had come when it was cancelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cancellation {
    /// Runs that this ended.
    pub runs: Vec<String>,
    /// Deliveries that this ended.
    pub deliveries: i64,
    /// Deliveries that are being sent.
    pub sending: i64,
    /// Deliveries that were sent.
    pub sent: i64,
    /// State and reason of the root's run, which may have ended before. `None` without one.
    pub root: Option<(String, Option<String>)>,
}

impl Cancellation {
    /// Whether it ended anything.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.runs.is_empty() || self.deliveries > 0
    }
}

rows! {
    struct WaitingRow<'q> {
        job_id: &'q str,
        root_id: &'q str,
        kind: &'q str,
        stream: &'q str,
        sequence: i64,
    }
}

impl Store {
    /// Cancels a root job and what followed from it and has not begun. `waits`: a job without a record waits, and gets
    /// one. `revived`: a dead one waits too, because it was redriven. Audited if anything was ended.
    pub async fn cancel_waiting(
        &self,
        root: &WaitingRun,
        waits: bool,
        revived: bool,
        act: &AuditEntry,
    ) -> Result<Cancellation, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let mut done = Cancellation::default();
        let end = Reason::Cancelled.name();
        if waits || run_of(&mut transaction, &root.job_id).await?.is_some() {
            done.runs = end_runs(&mut transaction, &[root], end, revived, act.at).await?;
        }
        // Read after the statement above has waited for a commit under way.
        done.root = run_of(&mut transaction, &root.job_id).await?;
        let is_done = done.root.as_ref().is_some_and(|(state, _)| state == "done");
        let kind = if is_done { kind_of(&mut transaction, &root.job_id).await? } else { None };
        if kind.is_some_and(|kind| REMINDERS.iter().any(|family| kind.starts_with(family))) {
            let next = WaitingRun {
                job_id: format!("{}{OWN}{NOTIFICATION}", root.root_id),
                kind: NOTIFICATION.to_owned(),
                ..root.clone()
            };
            done.runs.extend(end_runs(&mut transaction, &[&next], end, revived, act.at).await?);
        }
        done.deliveries = end_deliveries(&mut transaction, &root.root_id, end, act.at).await?;
        let row = sqlx::query(
            "SELECT count(*) FILTER (WHERE state = 'sending') AS sending, \
                    count(*) FILTER (WHERE state IN ('sent', 'delivered')) AS sent FROM deliveries WHERE job_id = $1",
        )
        .bind(&root.root_id)
        .fetch_one(&mut *transaction)
        .await?;
        (done.sending, done.sent) = (row.try_get("sending")?, row.try_get("sent")?);
        if done.is_any() {
            audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        }
        transaction.commit().await?;
        Ok(done)
    }

    /// States and reasons of these runs and deliveries, as far as they are on record.
    pub async fn states_of(&self, ids: &[&str]) -> Result<HashMap<String, (String, Option<String>)>, StoreError> {
        let rows: Vec<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT job_id, state, reason FROM job_runs WHERE job_id = ANY($1) \
             UNION ALL SELECT id, state, reason FROM deliveries WHERE id = ANY($1)",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(id, state, reason)| (id, (state, reason))).collect())
    }

    /// Of these jobs, those that people have cancelled, or that were called off.
    pub async fn cancelled_among(&self, job_ids: &[&str]) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT job_id FROM job_runs WHERE job_id = ANY($1) AND state = 'skipped' AND reason = $2 \
             UNION ALL SELECT id FROM deliveries WHERE id = ANY($1) AND state = 'skipped' AND reason = $2",
        );
        Ok(ids.bind(job_ids).bind(Reason::Cancelled.name()).fetch_all(&self.pool).await?)
    }
}

async fn kind_of(connection: &mut PgConnection, job_id: &str) -> Result<Option<String>, StoreError> {
    let kind = sqlx::query_scalar("SELECT kind FROM job_runs WHERE job_id = $1");
    Ok(kind.bind(job_id).fetch_optional(connection).await?)
}

async fn run_of(connection: &mut PgConnection, job_id: &str) -> Result<Option<(String, Option<String>)>, StoreError> {
    let run = sqlx::query_as("SELECT state, reason FROM job_runs WHERE job_id = $1");
    Ok(run.bind(job_id).fetch_optional(connection).await?)
}

pub(super) async fn end_runs(
    connection: &mut PgConnection,
    runs: &[&WaitingRun],
    reason: &str,
    revived: bool,
    now: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    let rows = end(runs, reason, revived, now)?.fetch_all(connection).await?;
    Ok(rows.iter().map(|row| row.try_get("job_id")).collect::<Result<_, _>>()?)
}

/// Ends those of these deliveries that have not begun. Their ids.
pub(super) async fn end_these_deliveries(
    connection: &mut PgConnection,
    ids: &[String],
    now: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    let ended = sqlx::query_scalar(AssertSqlSafe(format!(
        "WITH locked AS (SELECT id FROM deliveries WHERE id = ANY($1) AND state IN ('pending', 'held') \
                         ORDER BY id FOR UPDATE), \
         written AS (UPDATE deliveries d SET state = 'skipped', reason = $2, held_until = NULL, updated_at = $3 \
                     FROM locked WHERE d.id = locked.id AND d.state IN ('pending', 'held') RETURNING d.*), \
         listed AS ({LIST_AS_UNSENT}) \
         SELECT id FROM written",
    )));
    Ok(ended.bind(ids).bind(Reason::Cancelled.name()).bind(now).fetch_all(connection).await?)
}

/// Rows are locked in the order of claims. One that is claimed meanwhile is `sending` by then, and stays.
async fn end_deliveries(
    connection: &mut PgConnection,
    root_id: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<i64, StoreError> {
    let ended = sqlx::query_scalar(AssertSqlSafe(format!(
        "WITH locked AS (SELECT id FROM deliveries WHERE job_id = $1 AND state IN ('pending', 'held') \
                         ORDER BY id FOR UPDATE), \
         written AS (UPDATE deliveries d SET state = 'skipped', reason = $2, held_until = NULL, updated_at = $3 \
                     FROM locked WHERE d.id = locked.id AND d.state IN ('pending', 'held') RETURNING d.*), \
         listed AS ({LIST_AS_UNSENT}) \
         SELECT count(*) FROM written",
    )));
    Ok(ended.bind(root_id).bind(reason).bind(now).fetch_one(connection).await?)
}

fn end<'q>(
    runs: &[&'q WaitingRun],
    reason: &str,
    revived: bool,
    now: DateTime<Utc>,
) -> Result<Statement<'q>, StoreError> {
    let rows = runs.iter().map(|run| WaitingRow {
        job_id: &run.job_id,
        root_id: &run.root_id,
        kind: &run.kind,
        stream: &run.stream,
        sequence: run.sequence,
    });
    END_WAITING_RUNS
        .bind()
        .rows("runs", rows)
        .value("reason", reason)
        .value("revived", revived)
        .value("now", now)
        .statement()
}

impl WaitingRun {
    /// A root of which no message is known.
    #[must_use]
    pub fn root(job_id: &str) -> Self {
        let (job_id, stream) = (job_id.to_owned(), String::new());
        Self { root_id: job_id.clone(), job_id, kind: String::new(), stream, sequence: NO_MESSAGE }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(super::end(&[], "cancelled", false, chrono::DateTime::UNIX_EPOCH).is_ok());
    }
}
