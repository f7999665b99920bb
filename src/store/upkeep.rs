//! Removal of what is old. Each function is one short transaction that bears repetition; what goes on meanwhile elsewhere
//! is passed over, and waits for nothing here but for one batch.
//!
//! The rows of a way go in this order: its deliveries, then its runs and its text together. So as long as there is a text
//! there is its run, under which nothing is planned again: a delivery never lacks its text.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row};

use super::{Store, StoreError};

/// Runs that one page looks at.
const PAGE: usize = 1000;

/// The most deliveries, marks or subscriptions of one statement.
const BATCH: usize = 2000;

/// A run that has ended long ago; `$2` and `$3` say since when. So are deliveries, but for their states.
const OVER: &str = "r.state <> 'open' AND NOT r.children_pending \
    AND r.updated_at < CASE r.state WHEN 'dead' THEN $3 ELSE $2 END";
const DELIVERED: &str = "d.state NOT IN ('pending', 'held', 'sending') \
    AND d.updated_at < CASE d.state WHEN 'dead' THEN $3 ELSE $2 END";

/// How far the runs were looked through, in the order in which they were first recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    created_at: DateTime<Utc>,
    job_id: String,
}

impl Seen {
    /// Nothing yet.
    #[must_use]
    pub fn nothing() -> Self {
        Self { created_at: DateTime::UNIX_EPOCH, job_id: String::new() }
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The roots of ways that are over.
    pub roots: Vec<String>,
    /// Where the next look begins; none where this was the last.
    pub next: Option<Seen>,
}

impl Store {
    /// The next ways that are over: all runs and deliveries have ended and were not written since `before`, or
    /// `dead_before` where they are dead, and no shortage refers to them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn ways_that_are_over(
        &self,
        seen: &Seen,
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<Page, StoreError> {
        // Subqueries with LIMIT, and not EXISTS: that may be answered by a hash of a whole table, which is wanted of the
        // few shortages alone.
        let text = format!(
            "SELECT p.created_at, p.job_id, p.root_id, \
                    (SELECT 1 FROM job_runs r WHERE r.root_id = p.root_id AND NOT ({OVER}) LIMIT 1) IS NULL \
                    AND (SELECT 1 FROM deliveries d WHERE d.job_id = p.root_id AND NOT ({DELIVERED}) LIMIT 1) IS NULL \
                    AND p.root_id NOT IN (SELECT job_id FROM refill_shortages) AS is_over \
             FROM (SELECT created_at, job_id, root_id FROM job_runs \
                   WHERE created_at < $2 AND created_at >= $1 AND (created_at, job_id) > ($1, $4) \
                   ORDER BY created_at, job_id LIMIT {PAGE}) AS p \
             ORDER BY p.created_at, p.job_id"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(seen.created_at)
            .bind(before)
            .bind(dead_before)
            .bind(&seen.job_id)
            .fetch_all(&self.pool)
            .await?;
        let mut roots = Vec::with_capacity(rows.len());
        for row in &rows {
            if row.try_get("is_over")? {
                roots.push(row.try_get("root_id")?);
            }
        }
        roots.sort_unstable();
        roots.dedup();
        let next = match rows.last() {
            Some(row) if rows.len() == PAGE => {
                Some(Seen { created_at: row.try_get("created_at")?, job_id: row.try_get("job_id")? })
            }
            _ => None,
        };
        Ok(Page { roots, next })
    }

    /// Removes deliveries of these ways, no more than a batch. Answers how many, and whether there may be more.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is removed.
    pub async fn remove_deliveries(
        &self,
        roots: &[String],
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<(u64, bool), StoreError> {
        let text = format!(
            "DELETE FROM deliveries WHERE ctid = ANY(ARRAY( \
                 SELECT d.ctid FROM deliveries d WHERE d.job_id = ANY($1) AND {DELIVERED} \
                 LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(roots).bind(before).bind(dead_before);
        let removed = query.execute(&self.pool).await?.rows_affected();
        Ok((removed, removed >= BATCH as u64))
    }

    /// Removes the runs and texts of these ways, as far as no delivery is left. Answers how many of each.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is removed.
    pub async fn remove_ways(
        &self,
        roots: &[String],
        before: DateTime<Utc>,
        dead_before: DateTime<Utc>,
    ) -> Result<(u64, u64), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let text = format!(
            "DELETE FROM job_runs WHERE ctid = ANY(ARRAY( \
                 SELECT r.ctid FROM job_runs r WHERE r.root_id = ANY($1) AND {OVER} \
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
        transaction.commit().await?;
        Ok((runs, contents))
    }

    /// Removes marks of instants before `before`, no more than a batch. Answers how many, and from which instant there
    /// may be more.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is removed.
    pub async fn remove_marks(
        &self,
        from: DateTime<Utc>,
        before: DateTime<Utc>,
    ) -> Result<(u64, Option<DateTime<Utc>>), StoreError> {
        // Marks are never updated, so that they need no lock, and the role no right to it.
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

    /// Removes addresses that belong to no user, are gone and were not written since `before`, no more than a batch.
    /// Answers how many, and whether there may be more.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is removed.
    pub async fn remove_raw_addresses(&self, before: DateTime<Utc>) -> Result<(u64, bool), StoreError> {
        let text = format!(
            "DELETE FROM user_addresses WHERE ctid = ANY(ARRAY( \
                 SELECT ctid FROM user_addresses WHERE user_id = '' AND state = 'gone' AND updated_at < $1 \
                 LIMIT {BATCH} FOR UPDATE SKIP LOCKED))"
        );
        let removed = sqlx::query(AssertSqlSafe(text)).bind(before).execute(&self.pool).await?.rows_affected();
        Ok((removed, removed >= BATCH as u64))
    }

    /// Removes the first of these subscriptions, as far as their users do not exist, no more than a batch. Answers how
    /// many were removed, and how many looked at.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is removed.
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
