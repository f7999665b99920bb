//! Parked deliveries that people wake, and the messages of dead ones.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
};

/// A delivery that may be claimed from now on, and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WokenDelivery {
    /// `deliveries.id`.
    pub id: String,
    /// Root.
    pub root_id: String,
    /// Of its messages.
    pub subject: String,
    /// Expiry.
    pub not_after: DateTime<Utc>,
    /// W3C trace context.
    pub trace: Option<String>,
    /// Sequence of its last claim.
    pub claim_sequence: Option<i64>,
    /// When its wait would have ended.
    pub waited_until: Option<DateTime<Utc>>,
}

/// The message of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimLine {
    /// `deliveries.id`.
    pub id: String,
    /// Of its messages.
    pub subject: Option<String>,
    /// Expiry.
    pub not_after: DateTime<Utc>,
    /// Sequence of its last claim.
    pub claim_sequence: Option<i64>,
}

impl Store {
    /// Lets those of these deliveries that are parked be claimed from now on, each on record.
    pub async fn wake_deliveries(
        &self,
        ids: &[&str],
        act: impl Fn(&WokenDelivery) -> AuditEntry,
        now: DateTime<Utc>,
    ) -> Result<Vec<WokenDelivery>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query(
            "WITH locked AS (SELECT id, held_until FROM deliveries \
                             WHERE id = ANY($1) AND state = 'held' AND subject IS NOT NULL ORDER BY id FOR UPDATE) \
             UPDATE deliveries d SET held_until = least(d.held_until, $2), updated_at = $2 FROM locked \
             WHERE d.id = locked.id \
             RETURNING d.id, d.job_id, d.subject, d.not_after, d.trace, d.claim_seq, locked.held_until AS waited_until",
        )
        .bind(ids)
        .bind(now)
        .fetch_all(&mut *transaction)
        .await?;
        let mut woken = Vec::with_capacity(rows.len());
        for row in rows {
            woken.push(WokenDelivery {
                id: row.try_get("id")?,
                root_id: row.try_get("job_id")?,
                subject: row.try_get("subject")?,
                not_after: row.try_get("not_after")?,
                trace: row.try_get("trace")?,
                claim_sequence: row.try_get("claim_seq")?,
                waited_until: row.try_get("waited_until")?,
            });
        }
        if !woken.is_empty() {
            audit::insert(&mut transaction, &woken.iter().map(act).collect::<Vec<_>>()).await?;
        }
        transaction.commit().await?;
        Ok(woken)
    }

    /// Messages and expiries of those of these jobs that are deliveries.
    pub async fn claims_of(&self, ids: &[&str]) -> Result<Vec<ClaimLine>, StoreError> {
        let rows = sqlx::query("SELECT id, subject, not_after, claim_seq FROM deliveries WHERE id = ANY($1)");
        let mut lines = Vec::new();
        for row in rows.bind(ids).fetch_all(&self.pool).await? {
            lines.push(ClaimLine {
                id: row.try_get("id")?,
                subject: row.try_get("subject")?,
                not_after: row.try_get("not_after")?,
                claim_sequence: row.try_get("claim_seq")?,
            });
        }
        Ok(lines)
    }
}
