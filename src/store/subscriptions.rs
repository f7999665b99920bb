//! `push_subscriptions`: browsers of users.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{database::Store, error::StoreError};

/// Counts of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// Those whose user does not exist.
    pub orphans: i64,
    /// All of them.
    pub subscriptions: i64,
    /// Whether any user exists.
    pub has_users: bool,
}

impl Store {
    /// Counts subscriptions, and those created before `before` whose user does not exist.
    pub async fn count_orphaned_subscriptions(&self, before: DateTime<Utc>) -> Result<Orphans, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM push_subscriptions) AS subscriptions, EXISTS (SELECT FROM users) AS has_users, \
                    (SELECT count(*) FROM push_subscriptions s WHERE s.created_at < $1 \
                     AND NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id)) AS orphans",
        )
        .bind(before)
        .fetch_one(&self.pool)
        .await?;
        Ok(Orphans {
            orphans: row.try_get("orphans")?,
            subscriptions: row.try_get("subscriptions")?,
            has_users: row.try_get("has_users")?,
        })
    }

    /// At most `most` ids of subscriptions created before `before` whose user does not exist.
    pub async fn orphaned_subscriptions(&self, before: DateTime<Utc>, most: i64) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT s.id FROM push_subscriptions s WHERE s.created_at < $1 \
                 AND NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id) ORDER BY s.id LIMIT $2",
        )
        .bind(before)
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }
}
