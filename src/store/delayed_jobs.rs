//! `delayed_jobs`: which message of a delayed job counts.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};

use super::{
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
};
use crate::meta::IntakePosition;

static DELAY_JOBS: NamedSql = NamedSql::new(include_str!("sql/delay_jobs.sql"));
static CANCEL_DELAYED_JOBS: NamedSql = NamedSql::new(include_str!("sql/cancel_delayed_jobs.sql"));

/// The wish of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayStep {
    /// To wait.
    Wait,
    /// To run: the job is due.
    Run,
    /// To take the job back.
    Cancel,
}

impl DelayStep {
    /// The state that it leads to.
    const fn state(self) -> &'static str {
        match self {
            Self::Wait => "waiting",
            Self::Run => "fired",
            Self::Cancel => "cancelled",
        }
    }
}

/// A message about a delayed job.
#[derive(Clone, Debug)]
pub struct DelayAsk {
    /// The step.
    pub step: DelayStep,
    /// The job's id.
    pub job_id: String,
    /// Its application; empty if there is only one.
    pub application: String,
    /// Its kind; empty if unknown.
    pub kind: &'static str,
    /// Its lane, if the kind has some.
    pub lane: Option<&'static str>,
    /// When it is due.
    pub due: Option<DateTime<Utc>>,
    /// Bytes of its body.
    pub size: usize,
    /// The message's position in the application's stream.
    pub position: IntakePosition,
    /// The time.
    pub now: DateTime<Utc>,
}

/// Whether a message counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DelayAnswer {
    /// It does. Also the position of the waiting job that it replaced or cancelled.
    Taken(Option<IntakePosition>),
    /// It does, and has begun to run before.
    Again,
    /// A later message replaced it, or it has run.
    Replaced,
    /// A later message cancelled it.
    Cancelled,
}

/// The waiting jobs of an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelayedCount {
    /// Their number, with the reminders that are not due.
    pub jobs: u64,
    /// The KiB that they take, each at least one. A reminder that is not due counts as one.
    pub room: u64,
}

/// A delayed job that still waits after its instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverdueJob {
    /// Its id.
    pub job_id: String,
    /// The message that counts.
    pub position: IntakePosition,
    /// Its instant.
    pub due: DateTime<Utc>,
}

/// A delayed job, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedLine {
    /// Its id.
    pub job_id: String,
    /// Its application; empty if there is only one.
    pub application: String,
    /// Its kind; empty if it was cancelled before it was known.
    pub kind: String,
    /// Its lane, if the kind has some.
    pub lane: Option<String>,
    /// `waiting`, `fired` or `cancelled`.
    pub state: String,
    /// When it is due.
    pub due: Option<DateTime<Utc>>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
}

rows! {
    struct DelayRow<'q> {
        job_id: &'q str,
        application: &'q str,
        kind: &'static str,
        lane: Option<&'static str>,
        state: &'static str,
        due_at: Option<DateTime<Utc>>,
        size: i32,
        stream: &'q str,
        created: DateTime<Utc>,
        sequence: i64,
        now: DateTime<Utc>,
    }
}

impl<'q> DelayRow<'q> {
    fn of(ask: &'q DelayAsk) -> Self {
        Self {
            job_id: &ask.job_id,
            application: &ask.application,
            kind: ask.kind,
            lane: ask.lane,
            state: ask.step.state(),
            due_at: ask.due,
            size: i32::try_from(ask.size).unwrap_or(i32::MAX),
            stream: &ask.position.stream,
            created: ask.position.created,
            sequence: ask.position.sequence,
            now: ask.now,
        }
    }
}

impl Store {
    /// Notes messages about delayed jobs, whatever the order in which they come. Answers in the order asked.
    pub async fn delay(&self, asks: &[DelayAsk]) -> Result<Vec<DelayAnswer>, StoreError> {
        let last = last_of_each(asks);
        let mut sorted: Vec<&DelayAsk> = last.values().copied().collect();
        sorted.sort_unstable_by(|a, b| a.job_id.cmp(&b.job_id));
        let (cancelled, others): (Vec<&DelayAsk>, Vec<_>) =
            sorted.into_iter().partition(|ask| ask.step == DelayStep::Cancel);
        let mut answers: HashMap<String, DelayAnswer> = HashMap::with_capacity(last.len());
        for (sql, asks) in [(&DELAY_JOBS, others), (&CANCEL_DELAYED_JOBS, cancelled)] {
            if asks.is_empty() {
                continue;
            }
            for row in self.keyed.fetch_all(statement(sql, asks.into_iter())?).await? {
                let job_id: String = row.try_get("job_id")?;
                let step = last.get(job_id.as_str()).map(|ask| ask.step);
                let answer = read(&row, step)?;
                answers.insert(job_id, answer);
            }
        }
        Ok(asks.iter().map(|ask| answer(ask, &last, &answers)).collect())
    }

    /// The delayed job of this id, whatever its state.
    pub async fn delayed_job(&self, job_id: &str) -> Result<Option<DelayedLine>, StoreError> {
        let text =
            "SELECT job_id, application, kind, lane, state, due_at, updated_at FROM delayed_jobs WHERE job_id = $1";
        let row = sqlx::query(text).bind(job_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(line).transpose()
    }

    /// The waiting jobs that are due first, of one application or of all.
    pub async fn delayed_jobs(&self, application: Option<&str>, limit: i64) -> Result<Vec<DelayedLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT job_id, application, kind, lane, state, due_at, updated_at FROM delayed_jobs \
             WHERE state = 'waiting' AND ($1::text IS NULL OR application = $1) ORDER BY due_at, job_id LIMIT $2",
        )
        .bind(application)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(line).collect()
    }

    /// Takes a waiting job back by hand. Returns its position; `None` if no such job waits.
    pub async fn cancel_delayed(&self, job_id: &str, now: DateTime<Utc>) -> Result<Option<IntakePosition>, StoreError> {
        let row = sqlx::query(
            "UPDATE delayed_jobs SET state = 'cancelled', updated_at = $2 WHERE job_id = $1 AND state = 'waiting' \
             RETURNING stream, stream_created, stream_seq",
        )
        .bind(job_id)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(position).transpose()
    }

    /// The message of a delayed job that was taken back.
    pub async fn cancelled_delay(&self, job_id: &str) -> Result<Option<IntakePosition>, StoreError> {
        let text =
            "SELECT stream, stream_created, stream_seq FROM delayed_jobs WHERE job_id = $1 AND state = 'cancelled'";
        let row = sqlx::query(text).bind(job_id).fetch_optional(&self.pool).await?;
        row.as_ref().map(position).transpose()
    }

    /// Waiting jobs that were due before `before`, the latest first, from a place in that order on: rows whose job died
    /// before it ran stay until they are pruned.
    pub async fn overdue_delayed_jobs(
        &self,
        before: DateTime<Utc>,
        after: Option<&OverdueJob>,
        limit: i64,
    ) -> Result<Vec<OverdueJob>, StoreError> {
        let rows = sqlx::query(
            "SELECT job_id, stream, stream_created, stream_seq, due_at FROM delayed_jobs \
             WHERE state = 'waiting' AND due_at < $1 AND ($2::timestamptz IS NULL OR (due_at, job_id) < ($2, $3)) \
             ORDER BY due_at DESC, job_id DESC LIMIT $4",
        )
        .bind(before)
        .bind(after.map(|after| after.due))
        .bind(after.map(|after| after.job_id.as_str()))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let read = |row: &PgRow| {
            Ok(OverdueJob { job_id: row.try_get("job_id")?, position: position(row)?, due: row.try_get("due_at")? })
        };
        rows.iter().map(read).collect()
    }

    /// How many jobs of each application wait, and the room that they take.
    pub async fn count_delayed(&self) -> Result<HashMap<String, DelayedCount>, StoreError> {
        let rows = sqlx::query(
            "SELECT application, sum(jobs)::bigint AS jobs, sum(room)::bigint AS room FROM ( \
                 SELECT application, count(*) AS jobs, sum(greatest(1, (size + 1023) / 1024)) AS room \
                 FROM delayed_jobs WHERE state = 'waiting' GROUP BY application \
                 UNION ALL \
                 SELECT CASE WHEN job_id LIKE '~%' THEN split_part(job_id, '~', 2) ELSE '' END, count(*), count(*) \
                 FROM job_runs WHERE state = 'open' AND reason = 'not_due' GROUP BY 1 \
             ) AS waiting GROUP BY application",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut counts = HashMap::with_capacity(rows.len());
        for row in rows {
            let number = |name| row.try_get::<i64, _>(name).map(|number| u64::try_from(number).unwrap_or(0));
            counts.insert(row.try_get("application")?, DelayedCount { jobs: number("jobs")?, room: number("room")? });
        }
        Ok(counts)
    }
}

fn read(row: &PgRow, step: Option<DelayStep>) -> Result<DelayAnswer, StoreError> {
    let state: Option<String> = row.try_get("state")?;
    Ok(match (row.try_get("is_taken")?, state.as_deref()) {
        (true, Some("waiting")) => DelayAnswer::Taken(Some(position(row)?)),
        (true, Some("fired")) if step == Some(DelayStep::Run) => DelayAnswer::Again,
        (true, _) => DelayAnswer::Taken(None),
        (false, Some("cancelled")) => DelayAnswer::Cancelled,
        (false, _) => DelayAnswer::Replaced,
    })
}

fn position(row: &PgRow) -> Result<IntakePosition, StoreError> {
    Ok(IntakePosition {
        created: row.try_get("stream_created")?,
        sequence: row.try_get("stream_seq")?,
        stream: row.try_get("stream")?,
    })
}

fn line(row: &PgRow) -> Result<DelayedLine, StoreError> {
    Ok(DelayedLine {
        job_id: row.try_get("job_id")?,
        application: row.try_get("application")?,
        kind: row.try_get("kind")?,
        lane: row.try_get("lane")?,
        state: row.try_get("state")?,
        due: row.try_get("due_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

/// The last message of each id: once it is written, no earlier one counts. Of equal ones the run, which may follow the
/// wait.
fn last_of_each(asks: &[DelayAsk]) -> HashMap<&str, &DelayAsk> {
    let mut last: HashMap<&str, &DelayAsk> = HashMap::with_capacity(asks.len());
    for ask in asks {
        let kept = last.entry(&ask.job_id).or_insert(ask);
        let is_run = ask.step == DelayStep::Run;
        if ask.position > kept.position || (ask.position == kept.position && is_run) {
            *kept = ask;
        }
    }
    last
}

fn answer(ask: &DelayAsk, last: &HashMap<&str, &DelayAsk>, answers: &HashMap<String, DelayAnswer>) -> DelayAnswer {
    let written = last.get(ask.job_id.as_str());
    match (written, answers.get(&ask.job_id)) {
        // Asked again after a lost answer, it finds itself.
        (Some(written), Some(DelayAnswer::Taken(replaced))) if written.position == ask.position => {
            DelayAnswer::Taken(replaced.clone().filter(|replaced| *replaced != ask.position))
        }
        (Some(written), Some(answer)) if written.position == ask.position => answer.clone(),
        (Some(written), _) if written.step == DelayStep::Cancel => DelayAnswer::Cancelled,
        _ => DelayAnswer::Replaced,
    }
}

fn statement<'q>(
    sql: &'static NamedSql,
    asks: impl Iterator<Item = &'q DelayAsk>,
) -> Result<Statement<'q>, StoreError> {
    sql.bind().rows("asks", asks.map(DelayRow::of)).statement()
}

#[cfg(test)]
mod tests {
    use super::{CANCEL_DELAYED_JOBS, DELAY_JOBS, statement};

    #[test]
    fn the_statements_name_what_is_bound() {
        for sql in [&DELAY_JOBS, &CANCEL_DELAYED_JOBS] {
            assert!(statement(sql, std::iter::empty()).is_ok());
        }
    }
}
