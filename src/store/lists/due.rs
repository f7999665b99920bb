//! What is due soon: delayed jobs, schedules, and reminders planned from care records.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{
    super::{care_reminders::CareKind, database::Store, error::StoreError},
    Counted, EXACT_UP_TO,
    jobs::queue_of,
    number,
};

/// What is due before an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The first hundred, the next one first.
    pub lines: Vec<DueLine>,
    /// Delayed jobs.
    pub delayed: Counted,
    /// Schedules that are not paused.
    pub schedules: Counted,
    /// Reminders.
    pub reminders: Counted,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueLine {
    /// `delayed`, `schedule` or `care`.
    pub source: String,
    /// Its job's kind.
    pub kind: String,
    /// Job, schedule's name or care record.
    pub id: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// Begins with a bounded part of each source, by its index.
const SOURCES: &str = "WITH delayed AS (SELECT 'delayed' AS source, kind, job_id AS id, due_at AS at FROM delayed_jobs \
        WHERE state = 'waiting' AND due_at < $1 ORDER BY due_at LIMIT $2), \
    planned AS (SELECT 'schedule' AS source, kind, name AS id, due_at AS at FROM schedules \
        WHERE NOT paused AND due_at IS NOT NULL AND due_at < $1 ORDER BY due_at LIMIT $2), \
    care AS (SELECT 'care' AS source, kinds.kind, of_kind.record_id AS id, of_kind.due_at AS at \
        FROM unnest($3::text[]) AS kinds(kind) CROSS JOIN LATERAL ( \
            SELECT record_id, due_at FROM care_reminders c \
            WHERE c.kind = kinds.kind AND published_at IS NULL AND due_at < $1 ORDER BY due_at LIMIT $2) AS of_kind)";

impl Store {
    /// What is due before an instant.
    pub async fn due_before(&self, until: DateTime<Utc>) -> Result<Due, StoreError> {
        let kinds: Vec<&str> = CareKind::ALL.into_iter().map(CareKind::name).collect();
        let counts = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SOURCES} SELECT (SELECT count(*) FROM delayed) AS delayed, (SELECT count(*) FROM planned) AS planned, \
                              (SELECT count(*) FROM care) AS care"
        )))
        .bind(until)
        .bind(i64::try_from(EXACT_UP_TO).unwrap_or(i64::MAX) + 1)
        .bind(&kinds)
        .fetch_one(&self.pool)
        .await?;
        let counted = |name| {
            let seen = number(counts.try_get(name)?);
            Ok::<_, StoreError>(Counted { number: seen.min(EXACT_UP_TO), is_exact: seen <= EXACT_UP_TO })
        };
        Ok(Due {
            delayed: counted("delayed")?,
            schedules: counted("planned")?,
            reminders: counted("care")?,
            lines: self.first_due(until, &kinds).await?,
        })
    }

    /// Delayed jobs that wait, by the queue that they go to.
    pub async fn delayed_by_queue(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let rows = sqlx::query(
            "SELECT kind, lane, count(*) AS count FROM delayed_jobs WHERE state = 'waiting' GROUP BY kind, lane",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut counts = BTreeMap::new();
        for row in rows {
            let (kind, lane): (String, Option<String>) = (row.try_get("kind")?, row.try_get("lane")?);
            if let Some(queue) = queue_of(&kind, lane.as_deref()) {
                *counts.entry(queue).or_default() += number(row.try_get("count")?);
            }
        }
        Ok(counts)
    }

    async fn first_due(&self, until: DateTime<Utc>, kinds: &[&str]) -> Result<Vec<DueLine>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SOURCES} SELECT source, kind, id, at FROM ( \
                 SELECT * FROM delayed UNION ALL SELECT * FROM planned UNION ALL SELECT * FROM care) AS due \
             ORDER BY at, source, id LIMIT 100"
        )))
        .bind(until)
        .bind(100_i64)
        .bind(kinds)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(DueLine {
                source: row.try_get("source")?,
                kind: row.try_get("kind")?,
                id: row.try_get("id")?,
                at: row.try_get("at")?,
            });
        }
        Ok(lines)
    }
}
