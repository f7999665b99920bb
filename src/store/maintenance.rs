//! Removal of old rows. Each function is one short, repeatable transaction that skips locked rows.
//!
//! Of a root, deliveries go first, then runs and texts together, so that no delivery lacks its text.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row, postgres::PgRow};

use super::{database::Store, error::StoreError};

const PAGE: usize = 1000;

/// Deliveries, marks or subscriptions per statement.
const BATCH: usize = 2000;

/// A run that ended before `$2`, or `$3` if dead.
const RUN_IS_OVER: &str = "r.state <> 'open' AND NOT r.children_pending \
    AND r.updated_at < CASE r.state WHEN 'dead' THEN $3 ELSE $2 END";
/// A delivery that ended before `$2`, or `$3` if dead.
const DELIVERY_IS_OVER: &str = "d.state NOT IN ('pending', 'held', 'sending') \
    AND d.updated_at < CASE d.state WHEN 'dead' THEN $3 ELSE $2 END";

/// Position among the runs, in the order of their creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneCursor {
    created_at: DateTime<Utc>,
    job_id: String,
}

impl PruneCursor {
    /// Before the first run.
    #[must_use]
    pub fn start() -> Self {
        Self { created_at: DateTime::UNIX_EPOCH, job_id: String::new() }
    }
}

/// Jobs of a kind that were created before are more than are kept. `None`: there are not so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surplus {
    /// Of those that are done, skipped or expired.
    pub ended: Option<DateTime<Utc>>,
    /// Of dead ones.
    pub dead: Option<DateTime<Utc>>,
}

/// Finished roots of one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedRoots {
    /// Roots.
    pub roots: Vec<String>,
    /// Begin of the next page; none after the last.
    pub next: Option<PruneCursor>,
}

impl FinishedRoots {
    fn read(rows: &[PgRow]) -> Result<Self, StoreError> {
        let mut roots = Vec::with_capacity(rows.len());
        for row in rows {
            if row.try_get("is_over")? {
                roots.push(row.try_get("root_id")?);
            }
        }
        roots.sort_unstable();
        roots.dedup();
        let next = match rows.last() {
            Some(row) if rows.len() == PAGE => {
                Some(PruneCursor { created_at: row.try_get("created_at")?, job_id: row.try_get("job_id")? })
            }
            _ => None,
        };
        Ok(Self { roots, next })
    }
}

/// A page of runs, and whether all of their roots is over. Subqueries with LIMIT, as EXISTS may hash a whole table. Only
/// shortages are few enough for that.
fn finished(runs: &str, roots: &str) -> String {
    format!(
        "SELECT p.created_at, p.job_id, p.root_id, \
                {roots} \
                AND (SELECT 1 FROM job_runs r WHERE r.root_id = p.root_id AND NOT ({RUN_IS_OVER}) LIMIT 1) IS NULL \
                AND (SELECT 1 FROM deliveries d WHERE d.job_id = p.root_id AND NOT ({DELIVERY_IS_OVER}) LIMIT 1) IS NULL \
                AND p.root_id NOT IN (SELECT job_id FROM refill_shortages) AS is_over \
         FROM (SELECT created_at, job_id, root_id, kind FROM job_runs \
               WHERE created_at < greatest($2, $3) AND created_at >= $1 AND (created_at, job_id) > ($1, $4) {runs} \
               ORDER BY created_at, job_id LIMIT {PAGE}) AS p \
         ORDER BY p.created_at, p.job_id"
    )
}

impl Store {
    /// The next finished roots, but none of these kinds. All their runs and deliveries ended and were last written before
    /// `before`, or `dead_before` if dead, and no shortage refers to them.
    pub async fn finished_roots(
        &self,
        from: &PruneCursor,
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
        but: &[String],
    ) -> Result<FinishedRoots, StoreError> {
        // Of a run that followed, the root's kind counts.
        let of_kind =
            "($5 = '{}' OR coalesce((SELECT r.kind FROM job_runs r WHERE r.job_id = p.root_id), p.kind) <> ALL ($5))";
        let text = finished("", of_kind);
        let query = sqlx::query(AssertSqlSafe(text)).bind(from.created_at).bind(before).bind(dead_before);
        FinishedRoots::read(&query.bind(&from.job_id).bind(but).fetch_all(&self.pool).await?)
    }

    /// As [`Self::finished_roots`], of one kind.
    pub async fn finished_roots_of(
        &self,
        kind: &str,
        from: &PruneCursor,
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<FinishedRoots, StoreError> {
        let text = finished("AND kind = $5 AND job_id = root_id", "true");
        let query = sqlx::query(AssertSqlSafe(text)).bind(from.created_at).bind(before).bind(dead_before);
        FinishedRoots::read(&query.bind(&from.job_id).bind(kind).fetch_all(&self.pool).await?)
    }

    /// Until when jobs of a kind are more than the newest `last` (of those that ended well) and `dead_last`.
    pub async fn surplus(&self, kind: &str, last: Option<u32>, dead_last: Option<u32>) -> Result<Surplus, StoreError> {
        let until = async |last: Option<u32>, states: &[&str]| -> Result<Option<DateTime<Utc>>, StoreError> {
            let Some(last) = last else { return Ok(None) };
            // The last one that is kept, not the first that goes: what was created in the same instant stays.
            let newest = sqlx::query_scalar(
                "SELECT created_at FROM job_runs WHERE kind = $1 AND job_id = root_id AND state = ANY ($2) \
                 ORDER BY created_at DESC OFFSET $3 LIMIT 1",
            );
            let newest = newest.bind(kind).bind(states).bind(i64::from(last) - 1);
            Ok(newest.fetch_optional(&self.pool).await?)
        };
        Ok(Surplus {
            ended: until(last, &["done", "skipped", "expired"]).await?,
            dead: until(dead_last, &["dead"]).await?,
        })
    }

    /// Removes a batch of these roots' deliveries. Answers their number, and whether more may be left.
    pub async fn remove_deliveries(
        &self,
        roots: &[String],
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<(u64, bool), StoreError> {
        let text = format!(
            "DELETE FROM deliveries WHERE ctid = ANY(ARRAY( \
                 SELECT d.ctid FROM deliveries d WHERE d.job_id = ANY($1) AND {DELIVERY_IS_OVER} \
                 LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(roots).bind(before).bind(dead_before);
        let removed = query.execute(&self.pool).await?.rows_affected();
        Ok((removed, removed >= BATCH as u64))
    }

    /// Removes runs and texts of roots without deliveries. Answers how many of each.
    pub async fn remove_runs(
        &self,
        roots: &[String],
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<(u64, u64), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let text = format!(
            "DELETE FROM job_runs WHERE ctid = ANY(ARRAY( \
                 SELECT r.ctid FROM job_runs r WHERE r.root_id = ANY($1) AND {RUN_IS_OVER} \
                     AND (SELECT 1 FROM deliveries d WHERE d.job_id = r.root_id LIMIT 1) IS NULL \
                 FOR UPDATE SKIP LOCKED))"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(roots).bind(before).bind(dead_before);
        let runs = query.execute(&mut *transaction).await?.rows_affected();
        let contents = sqlx::query(
            "DELETE FROM contents c WHERE c.job_id = ANY($1) \
                 AND (SELECT 1 FROM deliveries d WHERE d.job_id = c.job_id LIMIT 1) IS NULL \
                 AND (SELECT 1 FROM job_runs r WHERE r.root_id = c.job_id LIMIT 1) IS NULL",
        )
        .bind(roots)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        sqlx::query(
            "DELETE FROM job_tasks t WHERE t.job_id = ANY($1) \
                 AND (SELECT 1 FROM job_runs r WHERE r.job_id = t.job_id LIMIT 1) IS NULL",
        )
        .bind(roots)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok((runs, contents))
    }

    /// Removes a batch of marks of instants before `before`. Answers how many, and from where more may be left.
    pub async fn remove_marks(
        &self,
        from: DateTime<Utc>,
        before: DateTime<Utc>,
    ) -> Result<(u64, Option<DateTime<Utc>>), StoreError> {
        // Marks are never updated, so they need no lock, and the role needs no UPDATE.
        let text = format!(
            "DELETE FROM reminder_marks WHERE ctid = ANY(ARRAY( \
                 SELECT ctid FROM reminder_marks \
                 WHERE instant AT TIME ZONE 'UTC' >= $1 AT TIME ZONE 'UTC' \
                   AND instant AT TIME ZONE 'UTC' < $2 AT TIME ZONE 'UTC' AND created_at < $2 \
                 ORDER BY instant AT TIME ZONE 'UTC' LIMIT {BATCH})) RETURNING instant"
        );
        let query = sqlx::query_scalar(AssertSqlSafe(text)).bind(from).bind(before);
        let instants: Vec<DateTime<Utc>> = query.fetch_all(&self.pool).await?;
        let more = instants.iter().max().copied().filter(|_| instants.len() == BATCH);
        Ok((instants.len() as u64, more))
    }

    /// Removes a batch of delayed jobs that were written, and were due, before `before`. Answers how many, and whether more
    /// may be left.
    pub async fn remove_delayed_jobs(&self, before: DateTime<Utc>) -> Result<(u64, bool), StoreError> {
        let text = format!(
            "DELETE FROM delayed_jobs WHERE ctid = ANY(ARRAY( \
                 SELECT ctid FROM delayed_jobs WHERE keep_until < $1 \
                 LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let removed = sqlx::query(AssertSqlSafe(text)).bind(before).execute(&self.pool).await?.rows_affected();
        Ok((removed, removed >= BATCH as u64))
    }

    /// Removes a batch of counts of minutes before `before`. Answers how many, and whether more may be left.
    pub async fn remove_outcome_counts(&self, before: DateTime<Utc>) -> Result<(u64, bool), StoreError> {
        let text = format!(
            "DELETE FROM outcome_counts WHERE ctid = ANY(ARRAY( \
                 SELECT ctid FROM outcome_counts WHERE minute < $1 LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let removed = sqlx::query(AssertSqlSafe(text)).bind(before).execute(&self.pool).await?.rows_affected();
        Ok((removed, removed >= BATCH as u64))
    }

    /// Removes workers last seen before `before`. Answers how many.
    pub async fn remove_workers(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let removed = sqlx::query("DELETE FROM workers WHERE seen_at < $1").bind(before).execute(&self.pool).await?;
        Ok(removed.rows_affected())
    }

    /// Removes a batch of raw addresses that are gone, last written before `before`. Answers how many, and whether more
    /// may be left.
    pub async fn remove_raw_addresses(&self, before: DateTime<Utc>) -> Result<(u64, bool), StoreError> {
        let text = format!(
            "DELETE FROM user_addresses WHERE ctid = ANY(ARRAY( \
                 SELECT ctid FROM user_addresses WHERE user_id = '' AND state = 'gone' AND updated_at < $1 \
                 LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let removed = sqlx::query(AssertSqlSafe(text)).bind(before).execute(&self.pool).await?.rows_affected();
        Ok((removed, removed >= BATCH as u64))
    }

    /// Removes a batch of these subscriptions unless their users exist by now. Answers how many were removed and
    /// examined.
    pub async fn remove_orphaned_subscriptions(&self, ids: &[String]) -> Result<(u64, usize), StoreError> {
        let ids = &ids[..ids.len().min(BATCH)];
        let removed = sqlx::query(
            "DELETE FROM push_subscriptions WHERE ctid = ANY(ARRAY( \
                 SELECT s.ctid FROM push_subscriptions s WHERE s.id = ANY($1) \
                     AND NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id) FOR UPDATE OF s SKIP LOCKED))",
        )
        .bind(ids)
        .execute(&self.pool)
        .await?;
        Ok((removed.rows_affected(), ids.len()))
    }
}
