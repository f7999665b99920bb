//! `maintenance.prune`: removes old, finished records from Carebell's own tables.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    plan::Maintenance,
    wire,
};

/// Default age of removed records.
const KEEP_DAYS: i32 = 90;

/// Job ids may be published again after a weekend without a worker.
const LEAST_DAYS: i32 = 7;

const MOST_DAYS: i32 = 36_500;

/// Minimum age of removed dead jobs: a day more than the stream `DEAD_LETTERS` keeps letters, since a redriven delivery
/// needs its row.
const KEEP_DEAD: TimeDelta = TimeDelta::days(91);

/// A week can be compared with the same day of the last.
const KEEP_COUNTS: TimeDelta = TimeDelta::days(8);

/// A lost worker is shown for this long.
const KEEP_WORKERS: TimeDelta = TimeDelta::days(1);

/// Another job comes each day.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(6);

/// Removes old records.
#[derive(Clone, Debug, PartialEq)]
pub struct Prune {
    keep: TimeDelta,
}

impl Job for Prune {
    const KIND: Kind = Kind::maintenance("maintenance.prune");

    type Wire = wire::Prune;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        let days = match wire.keep_days {
            0 => KEEP_DAYS,
            days @ LEAST_DAYS..=MOST_DAYS => days,
            _ => {
                let expected = format!("must be {LEAST_DAYS} to {MOST_DAYS} days, or 0 for {KEEP_DAYS}");
                return Err(Invalid::new("keep_days", expected));
            }
        };
        Ok(Self { keep: TimeDelta::days(days.into()) })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let now = cx.clock.now();
        Ok(Outcome::Maintenance(Maintenance::Prune {
            before: now - self.keep,
            dead_before: now - self.keep.max(KEEP_DEAD),
            counts_before: now - KEEP_COUNTS,
            workers_before: now - KEEP_WORKERS,
        }))
    }
}
