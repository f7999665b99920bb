//! What Carebell's own tables say about one user, one care record, and the workers. `care/explain.rs` reads the care
//! tables.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;

use super::{
    care_reminders::CareKind,
    database::Store,
    error::StoreError,
    people::{read_channels, read_quiet_hours},
};
use crate::{meta::scoped, preferences::Preferences};

/// A reminder planned from a care record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReminderLine {
    /// Lead in minutes.
    pub lead_minutes: i32,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// When it was published, or passed over for a later one of the same instant.
    pub published_at: Option<DateTime<Utc>>,
}

/// A sent reminder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkLine {
    /// Lead in minutes.
    pub lead_minutes: i32,
    /// The job that owns it.
    pub job_id: String,
}

/// A user's browsers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionCount {
    /// Those with no known problem.
    pub usable: i64,
    /// Those that Carebell marked as malformed, and passes over until they change.
    pub malformed: i64,
    /// The problems of these.
    pub problems: Vec<String>,
}

/// Addresses of a user in `user_addresses` that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressLine {
    /// Channel.
    pub channel: String,
    /// `active` or `gone`.
    pub state: String,
    /// Why it is gone.
    pub reason: Option<String>,
    /// How many.
    pub count: i64,
}

/// Signs of life of workers and schedulers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// Last complete look of a scheduler at the care tables.
    pub care_looked_at: Option<DateTime<Utc>>,
    /// Last commit of a worker that only shows that it is there.
    pub sign_of_life: Option<DateTime<Utc>>,
    /// Last job that was recorded.
    pub last_run: Option<DateTime<Utc>>,
    /// Care reminders a minute or more past their instant and not published.
    pub overdue: i64,
}

impl Store {
    /// Planned reminders of one instant of a care record, the shortest lead first.
    pub async fn reminders_of(
        &self,
        kind: CareKind,
        record_id: &str,
        instant: DateTime<Utc>,
    ) -> Result<Vec<ReminderLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT lead_minutes, due_at, published_at FROM care_reminders \
             WHERE kind = $1 AND instant = $2 AND record_id = $3 ORDER BY lead_minutes",
        )
        .bind(kind.name())
        .bind(instant)
        .bind(record_id)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(ReminderLine {
                lead_minutes: row.try_get("lead_minutes")?,
                due_at: row.try_get("due_at")?,
                published_at: row.try_get("published_at")?,
            });
        }
        Ok(lines)
    }

    /// Marks of one instant of a care record, the shortest lead first.
    pub async fn marks_of(
        &self,
        kind: CareKind,
        record_id: &str,
        instant: DateTime<Utc>,
    ) -> Result<Vec<MarkLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT lead_minutes, job_id FROM reminder_marks \
             WHERE kind = $1 AND record_id = $2 AND instant = $3 ORDER BY lead_minutes",
        )
        .bind(kind.name())
        .bind(record_id)
        .bind(instant)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(MarkLine { lead_minutes: row.try_get("lead_minutes")?, job_id: row.try_get("job_id")? });
        }
        Ok(lines)
    }

    /// Roots of the newest inbox rows of a user, at most `most`.
    pub async fn inbox_since(
        &self,
        user_id: &str,
        since: DateTime<Utc>,
        most: i64,
    ) -> Result<Vec<(String, DateTime<Utc>)>, StoreError> {
        let rows = sqlx::query(
            "SELECT application, job_id, created_at FROM notifications WHERE user_id = $1 AND created_at >= $2 \
             ORDER BY created_at DESC, id DESC LIMIT $3",
        )
        .bind(user_id)
        .bind(since)
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        let mut roots = Vec::with_capacity(rows.len());
        for row in rows {
            roots.push((scoped(row.try_get("application")?, row.try_get("job_id")?), row.try_get("created_at")?));
        }
        Ok(roots)
    }

    /// A user's browsers. A malformed one that was corrected counts as malformed until the next push: to compare, one
    /// would have to read its secrets.
    pub async fn subscriptions_of(&self, user_id: &str) -> Result<SubscriptionCount, StoreError> {
        let row = sqlx::query(
            "SELECT count(*) FILTER (WHERE problem IS NULL) AS usable, count(problem) AS malformed, \
                    COALESCE(array_agg(DISTINCT problem) FILTER (WHERE problem IS NOT NULL), '{}') AS problems \
             FROM push_subscriptions WHERE user_id = $1",
        )
        .bind(user_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(SubscriptionCount {
            usable: row.try_get("usable")?,
            malformed: row.try_get("malformed")?,
            problems: row.try_get("problems")?,
        })
    }

    /// A user's addresses in `user_addresses`, counted.
    pub async fn addresses_of(&self, user_id: &str) -> Result<Vec<AddressLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT channel, state, reason, count(*) AS count FROM user_addresses WHERE user_id = $1 \
             GROUP BY channel, state, reason ORDER BY channel, state, reason",
        )
        .bind(user_id)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(AddressLine {
                channel: row.try_get("channel")?,
                state: row.try_get("state")?,
                reason: row.try_get("reason")?,
                count: row.try_get("count")?,
            });
        }
        Ok(lines)
    }

    /// A user's preferences for a type of notification, or for all. `zone` is the user's own.
    pub async fn preferences_of(&self, user_id: &str, kind: &str, zone: &str) -> Result<Preferences, StoreError> {
        let row = sqlx::query(
            "SELECT COALESCE(t.channels, d.channels) AS channels, COALESCE(t.quiet_from, d.quiet_from) AS quiet_from, \
                    COALESCE(t.quiet_to, d.quiet_to) AS quiet_to, COALESCE(t.quiet_zone, d.quiet_zone) AS quiet_zone, \
                    $3::text AS timezone \
             FROM (SELECT $1::text AS id) AS u \
             LEFT JOIN preferences t ON t.user_id = u.id AND t.type = $2 \
             LEFT JOIN preferences d ON d.user_id = u.id AND d.type = '*'",
        )
        .bind(user_id)
        .bind(kind)
        .bind(zone)
        .fetch_one(&self.pool)
        .await?;
        Ok(Preferences { channels: read_channels(&row)?, quiet: read_quiet_hours(&row)? })
    }

    /// Signs of life.
    pub async fn liveness(&self, now: DateTime<Utc>) -> Result<Liveness, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT looked_at FROM scheduler_state WHERE part = 'care') AS care_looked_at, \
                    (SELECT looked_at FROM scheduler_state WHERE part = 'sign_of_life') AS sign_of_life, \
                    (SELECT max(created_at) FROM job_runs) AS last_run, \
                    (SELECT count(*) FROM care_reminders WHERE published_at IS NULL AND due_at <= $1) AS overdue",
        )
        .bind(now - TimeDelta::minutes(1))
        .fetch_one(&self.pool)
        .await?;
        Ok(Liveness {
            care_looked_at: row.try_get("care_looked_at")?,
            sign_of_life: row.try_get("sign_of_life")?,
            last_run: row.try_get("last_run")?,
            overdue: row.try_get("overdue")?,
        })
    }
}
