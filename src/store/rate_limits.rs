//! `rate_limits`: bookings of rate-limited queues, by the database's clock, which all processes share.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;

use super::{database::Store, error::StoreError};

/// A booking of a queue's next time slots, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookAsk {
    /// Length of all slots.
    pub time: Duration,
    /// Latest begin of the first slot, from now.
    pub horizon: Duration,
    /// Age up to which unused slots can be made up for.
    pub saved: Duration,
    /// Latest booking, from now. Later rows come from another clock or rate and are cut to this.
    pub furthest: Duration,
}

/// Outcome of a booking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booked {
    /// Whether it was granted.
    pub granted: bool,
    /// End of all bookings, and of the granted slots.
    pub free_at: DateTime<Utc>,
    /// The same, from now by the database's clock. Negative if past.
    pub ahead: TimeDelta,
}

impl Store {
    /// Books slots in one short statement, so that no caller holds the row while it works or dies.
    pub async fn book_slots(&self, queue: &str, ask: &BookAsk) -> Result<Booked, StoreError> {
        // Reads the clock under the row's lock, so that it never goes back between callers.
        let row = sqlx::query(
            "INSERT INTO rate_limits AS r (queue, free_at, asked_at, granted) \
             SELECT $1::text, now + $2::interval, now, true FROM (SELECT clock_timestamp() AS now) AS clock \
             ON CONFLICT (queue) DO UPDATE SET (free_at, asked_at, granted) = ( \
                 SELECT CASE WHEN start <= now + $3::interval THEN start + $2::interval ELSE start END, now, \
                        start <= now + $3::interval \
                 FROM (SELECT now, least(greatest(r.free_at, now - $4::interval), now + $5::interval) AS start \
                       FROM (SELECT clock_timestamp() AS now) AS clock) AS asked) \
             RETURNING granted, free_at, (extract(epoch FROM free_at - asked_at) * 1000000)::bigint AS ahead",
        )
        .bind(queue)
        .bind(interval(ask.time))
        .bind(interval(ask.horizon))
        .bind(interval(ask.saved))
        .bind(interval(ask.furthest))
        .fetch_one(&self.pool)
        .await?;
        Ok(Booked {
            granted: row.try_get("granted")?,
            free_at: row.try_get("free_at")?,
            ahead: TimeDelta::microseconds(row.try_get("ahead")?),
        })
    }

    /// Gives back slots that end at `free_at`, unless later ones were booked since.
    pub async fn give_slots_back(&self, queue: &str, free_at: DateTime<Utc>, time: Duration) -> Result<(), StoreError> {
        sqlx::query("UPDATE rate_limits SET free_at = free_at - $3::interval WHERE queue = $1 AND free_at = $2")
            .bind(queue)
            .bind(free_at)
            .bind(interval(time))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// In microseconds: the encoding refuses anything finer.
fn interval(time: Duration) -> TimeDelta {
    TimeDelta::microseconds(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}
