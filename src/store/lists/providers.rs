//! What providers accepted lately, and which deliveries wait for them.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{
    super::{database::Store, error::StoreError},
    cursor::first_id_of,
    number,
};
use crate::plan::Channel;

/// The most deliveries that are looked at, the newest.
const SCAN: i64 = 20_000;

/// The most deliveries that wait, each with a look at its row.
const SCAN_HELD: i64 = 5_000;

/// Deliveries of one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderLine {
    /// Of its deliveries.
    pub channel: String,
    /// As in the ledger: a push service's host, or a name.
    pub provider: String,
    /// Accepted ones.
    pub accepted: u64,
    /// Refused, unanswered and dead ones.
    pub failed: u64,
    /// When it last accepted one.
    pub last_accepted: Option<DateTime<Utc>>,
}

/// Deliveries of a channel that wait for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The channel.
    pub channel: String,
    /// Why, such as `provider_down`.
    pub reason: String,
    /// Their number.
    pub count: u64,
    /// When the first of them goes on.
    pub next: Option<DateTime<Utc>>,
}

impl Store {
    /// What each provider did since an instant, by the newest 20,000 deliveries. Hosts of webhooks are left out: they may
    /// be personal.
    pub async fn providers_since(&self, since: DateTime<Utc>) -> Result<Vec<ProviderLine>, StoreError> {
        let rows = sqlx::query(
            "SELECT channel, provider, count(*) FILTER (WHERE state IN ('sent', 'delivered')) AS accepted, \
                    count(*) FILTER (WHERE state IN ('failed', 'unknown', 'dead')) AS failed, max(sent_at) AS last_accepted \
             FROM (SELECT channel, provider, state, sent_at FROM deliveries WHERE id >= $1 ORDER BY id DESC LIMIT $2) AS newest \
             WHERE provider IS NOT NULL AND channel <> $3 GROUP BY channel, provider ORDER BY channel, provider",
        )
        .bind(first_id_of(since))
        .bind(SCAN)
        .bind(Channel::Webhook.name())
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(ProviderLine {
                channel: row.try_get("channel")?,
                provider: row.try_get("provider")?,
                accepted: number(row.try_get("accepted")?),
                failed: number(row.try_get("failed")?),
                last_accepted: row.try_get("last_accepted")?,
            });
        }
        Ok(lines)
    }

    /// Deliveries that wait, by channel and reason: those among the newest 5,000 that had to.
    pub async fn held_deliveries(&self) -> Result<Vec<Holding>, StoreError> {
        let rows = sqlx::query(
            "SELECT line.channel, coalesce(line.reason, '') AS reason, count(*) AS count, min(line.held_until) AS next \
             FROM (SELECT delivery_id FROM unsent_deliveries WHERE state = 'held' ORDER BY delivery_id DESC LIMIT $1) AS seen \
             CROSS JOIN LATERAL (SELECT channel, reason, held_until FROM deliveries \
                 WHERE deliveries.id = seen.delivery_id AND deliveries.state = 'held' LIMIT 1) AS line \
             GROUP BY 1, 2 ORDER BY 1, 2",
        )
        .bind(SCAN_HELD)
        .fetch_all(&self.pool)
        .await?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            lines.push(Holding {
                channel: row.try_get("channel")?,
                reason: row.try_get("reason")?,
                count: number(row.try_get("count")?),
                next: row.try_get("next")?,
            });
        }
        Ok(lines)
    }
}
