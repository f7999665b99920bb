//! What providers report later of deliveries that they took.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{Store, StoreError};
use crate::plan::{Channel, Report};

/// What a provider says of one delivery.
#[derive(Clone, Debug)]
pub struct Reported {
    /// `deliveries.id`.
    pub id: String,
    /// The channel that it was sent by.
    pub channel: Channel,
    /// What became of it.
    pub report: Report,
    /// Who says it.
    pub provider: String,
    /// The provider's own id of it.
    pub provider_id: String,
    /// In the provider's words: `deliveries.answer` where it came to nothing, or where nothing else was answered.
    pub words: String,
    /// The instant.
    pub now: DateTime<Utc>,
}

/// What a report has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The delivery is in this state now.
    Changed(&'static str),
    /// Nothing: the like of it is on record.
    Known,
    /// The ledger has no such delivery of this channel.
    Missing,
}

impl Store {
    /// Writes what a provider reports. Reports may come twice, in any order, and before the worker has recorded what it
    /// was answered: the ledger row ends the same ([`Report`]).
    ///
    /// A worker that still holds the claim counts as having recorded its outcome, so that it does not take its delivery
    /// for another's, and `record_deliveries` writes nothing over the report. One that waits for another attempt is not
    /// claimed any more: its message finds it ended.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is written.
    pub async fn record_report(&self, reported: &Reported) -> Result<Noted, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query("SELECT state, reason FROM deliveries WHERE id = $1 AND channel = $2 FOR UPDATE")
            .bind(&reported.id)
            .bind(reported.channel.name())
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(Noted::Missing) };
        let (state, reason): (String, Option<String>) = (row.try_get("state")?, row.try_get("reason")?);
        let Some((state, reason)) = reported.report.changes(&state, reason.as_deref()) else {
            return Ok(Noted::Known);
        };
        sqlx::query(
            "UPDATE deliveries SET state = $2, held_until = NULL, updated_at = $7, \
                    reason = CASE WHEN $3 IS NULL AND overrode_quiet_hours THEN 'quiet_hours_overridden' ELSE $3 END, \
                    provider = COALESCE(provider, $4), provider_id = COALESCE(provider_id, $5), \
                    answer = CASE WHEN $2 = 'failed' OR state <> 'sent' THEN $6 ELSE COALESCE(answer, $6) END, \
                    sent_at = CASE WHEN $2 = 'failed' THEN sent_at ELSE COALESCE(sent_at, $7) END, \
                    delivered_at = CASE WHEN $2 = 'delivered' THEN $7 ELSE delivered_at END, \
                    recorded_delivery = GREATEST(recorded_delivery, COALESCE(claim_delivery, 0)) \
             WHERE id = $1",
        )
        .bind(&reported.id)
        .bind(state)
        .bind(reason)
        .bind(&reported.provider)
        .bind(&reported.provider_id)
        .bind(&reported.words)
        .bind(reported.now)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Noted::Changed(state))
    }
}
