//! `rate_limits`: how far the slots of each limited queue are booked, by the one clock that all processes share.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;

use super::{Store, StoreError};

/// A wish to book the next slots of a queue, all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookAsk {
    /// How long the slots take together.
    pub time: Duration,
    /// The first slot must begin no later than this from now.
    pub horizon: Duration,
    /// Slots that nobody booked may be made up for if they are no older than this.
    pub saved: Duration,
    /// Nothing can be booked for later than this from now. A row that says so was written by another clock, or under
    /// another rate, and counts as this.
    pub furthest: Duration,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booked {
    /// Whether the slots are the caller's.
    pub granted: bool,
    /// Where the queue is booked to from now on. Slots that were granted end here.
    pub free_at: DateTime<Utc>,
    /// The same, from the instant at which the database answered. Negative where it is past.
    pub ahead: TimeDelta,
}

impl Store {
    /// Books the next slots of a queue. One short statement: nobody holds the row while they think or die.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn book_slots(&self, queue: &str, ask: &BookAsk) -> Result<Booked, StoreError> {
        // The clock is read under the lock of the row, so that it does not go back from one caller to the next.
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

    /// Gives back the last of the slots that end at `free_at`, unless somebody has booked others after them.
    ///
    /// # Errors
    /// If the database does not answer.
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

/// To the microsecond: Postgres counts no finer, and its encoding refuses what is.
fn interval(time: Duration) -> TimeDelta {
    TimeDelta::microseconds(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}
