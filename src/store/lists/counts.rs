//! How runs ended, from `outcome_counts`. It lags behind by the five seconds in which a worker adds up.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use sqlx::Row;

use super::{
    super::{database::Store, error::StoreError},
    number,
    states::OldWord,
};
use crate::plan::JobOutcome;

/// Runs of a queue that ended alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeCount {
    /// Durable name.
    pub queue: String,
    /// As in the log line of a run.
    pub outcome: String,
    /// Their number.
    pub count: u64,
}

/// Runs that came to nothing alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureCount {
    /// Durable name: of a delivery, it has the channel.
    pub queue: String,
    /// `failed`, `unknown`, `expired`, `skipped` or `dead`.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
    /// Their number.
    pub count: u64,
}

/// Jobs that ended within a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Its begin.
    pub at: DateTime<Utc>,
    /// Those that completed.
    pub completed: u64,
    /// Those that failed.
    pub failed: u64,
}

impl Minute {
    /// Both together.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.completed + self.failed
    }
}

/// Jobs that ended, completed or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throughput {
    /// In the last full minute.
    pub per_minute: u64,
    /// In the last sixty full minutes.
    pub per_hour: u64,
    /// Each of these minutes, the oldest first.
    pub minutes: Vec<Minute>,
    /// End of the last of them.
    pub as_of: DateTime<Utc>,
}

/// Jobs of a queue that ended, completed or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRate {
    /// In the last full minute.
    pub per_minute: u64,
    /// In the last sixty full minutes.
    pub per_hour: u64,
}

impl Store {
    /// How runs ended since the minute of an instant, of one queue or of all.
    pub async fn outcome_counts(
        &self,
        queue: Option<&str>,
        since: DateTime<Utc>,
    ) -> Result<Vec<OutcomeCount>, StoreError> {
        let rows = sqlx::query(
            "SELECT queue, outcome, sum(count)::bigint AS count FROM outcome_counts \
             WHERE minute >= $1 AND ($2::text IS NULL OR queue = $2) GROUP BY queue, outcome ORDER BY queue, outcome",
        )
        .bind(minute_of(since))
        .bind(queue)
        .fetch_all(&self.pool)
        .await?;
        let mut counts = Vec::with_capacity(rows.len());
        for row in rows {
            counts.push(OutcomeCount {
                queue: row.try_get("queue")?,
                outcome: row.try_get("outcome")?,
                count: number(row.try_get("count")?),
            });
        }
        Ok(counts)
    }

    /// How many jobs ended per minute, of one queue or of all.
    pub async fn throughput(&self, queue: Option<&str>, now: DateTime<Utc>) -> Result<Throughput, StoreError> {
        let end = minute_of(now);
        let begin = end - TimeDelta::hours(1);
        let rows = sqlx::query(
            "SELECT minute, coalesce(sum(count) FILTER (WHERE outcome = ANY($4)), 0)::bigint AS completed, \
                    coalesce(sum(count) FILTER (WHERE outcome = ANY($5)), 0)::bigint AS failed \
             FROM outcome_counts WHERE minute >= $1 AND minute < $2 AND ($3::text IS NULL OR queue = $3) \
             GROUP BY minute",
        )
        .bind(begin)
        .bind(end)
        .bind(queue)
        .bind(names(|outcome| OldWord::of_end(outcome) == Some(OldWord::Completed)))
        .bind(names(|outcome| OldWord::of_end(outcome) == Some(OldWord::Failed)))
        .fetch_all(&self.pool)
        .await?;
        let empty = |minute| Minute { at: begin + TimeDelta::minutes(minute), completed: 0, failed: 0 };
        let mut minutes: BTreeMap<DateTime<Utc>, Minute> =
            (0..60).map(empty).map(|minute| (minute.at, minute)).collect();
        for row in rows {
            let at = row.try_get("minute")?;
            let (completed, failed) = (number(row.try_get("completed")?), number(row.try_get("failed")?));
            minutes.insert(at, Minute { at, completed, failed });
        }
        Ok(Throughput {
            per_minute: minutes.values().next_back().map_or(0, Minute::ended),
            per_hour: minutes.values().map(Minute::ended).sum(),
            minutes: minutes.into_values().collect(),
            as_of: end,
        })
    }

    /// How many jobs ended in each queue.
    pub async fn ended_by_queue(&self, now: DateTime<Utc>) -> Result<BTreeMap<String, QueueRate>, StoreError> {
        let end = minute_of(now);
        let rows = sqlx::query(
            "SELECT queue, coalesce(sum(count) FILTER (WHERE minute >= $3), 0)::bigint AS per_minute, \
                    sum(count)::bigint AS per_hour \
             FROM outcome_counts WHERE minute >= $1 AND minute < $2 AND outcome = ANY($4) GROUP BY queue",
        )
        .bind(end - TimeDelta::hours(1))
        .bind(end)
        .bind(end - TimeDelta::minutes(1))
        .bind(names(|outcome| OldWord::of_end(outcome).is_some()))
        .fetch_all(&self.pool)
        .await?;
        let mut rates = BTreeMap::new();
        for row in rows {
            let (per_minute, per_hour) = (number(row.try_get("per_minute")?), number(row.try_get("per_hour")?));
            rates.insert(row.try_get("queue")?, QueueRate { per_minute, per_hour });
        }
        Ok(rates)
    }

    /// What failed, expired, was skipped or given up since the minute of an instant, the most frequent first.
    pub async fn failures_since(&self, since: DateTime<Utc>) -> Result<Vec<FailureCount>, StoreError> {
        let rows = sqlx::query(
            "SELECT queue, outcome, nullif(reason, '') AS reason, sum(count)::bigint AS count FROM outcome_counts \
             WHERE minute >= $1 AND outcome = ANY($2) GROUP BY queue, outcome, reason \
             ORDER BY sum(count) DESC, queue, outcome, reason",
        )
        .bind(minute_of(since))
        .bind(names(|outcome| outcome.is_failure() || outcome == JobOutcome::Skipped))
        .fetch_all(&self.pool)
        .await?;
        let mut failures = Vec::with_capacity(rows.len());
        for row in rows {
            failures.push(FailureCount {
                queue: row.try_get("queue")?,
                outcome: row.try_get("outcome")?,
                reason: row.try_get("reason")?,
                count: number(row.try_get("count")?),
            });
        }
        Ok(failures)
    }
}

fn names(which: fn(JobOutcome) -> bool) -> Vec<&'static str> {
    JobOutcome::ALL.into_iter().filter(|outcome| which(*outcome)).map(JobOutcome::name).collect()
}

fn minute_of(instant: DateTime<Utc>) -> DateTime<Utc> {
    instant.duration_trunc(TimeDelta::minutes(1)).unwrap_or(instant)
}
