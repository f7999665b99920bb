//! Saved schedules under new rules of time zones: what was reckoned by older ones is reckoned anew.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Scheduler, timing::Timing};
use crate::{
    schedule::ZoneData,
    store::{NextInstant, ScheduleRow},
};

/// Schedules per transaction.
const BATCH: usize = 500;

/// More than rules change a zone's offset. An instant that by the new rules has passed meanwhile is late, not lost.
const FARTHEST: TimeDelta = TimeDelta::hours(3);

impl Scheduler {
    /// Reckons the next instants of schedules that older rules have set. Returns how many have moved.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn reckon_anew(&self, data: &ZoneData) -> Result<usize, String> {
        let mut moved = 0;
        loop {
            let older = self.store.schedules_of_older_zones(&data.version, BATCH).await;
            let older = older.map_err(|error| error.to_string())?;
            if older.rows.is_empty() {
                return Ok(moved);
            }
            let next: Vec<(String, NextInstant)> =
                older.rows.iter().map(|row| (row.id.clone(), reckon(row).unwrap_or(row.next))).collect();
            for (row, (_, next)) in older.rows.iter().zip(&next).filter(|(row, (_, next))| row.next != *next) {
                let (name, was, is) = (&row.spec.name, shown(row.next.at), shown(next.at));
                tracing::warn!(schedule = name, was, is, "the rules of its time zone have changed ({data})");
                moved += 1;
            }
            older.reckoned(&data.version, &next).await.map_err(|error| error.to_string())?;
        }
    }
}

/// `None` for one that cannot be read, which is told of when it is due, or that stays.
fn reckon(row: &ScheduleRow) -> Option<NextInstant> {
    let timing = Timing::read(&row.spec).ok()?;
    // A row that makes the calendar panic must not stop other schedules.
    catch_unwind(AssertUnwindSafe(|| by_rules(row, &timing))).ok().flatten()
}

fn by_rules(row: &ScheduleRow, timing: &Timing) -> Option<NextInstant> {
    if timing.next_from(row.next.at?) == row.next {
        return None;
    }
    let after_last = row.last_at.map(|last| last + TimeDelta::nanoseconds(1));
    let near = row.next.at? - FARTHEST;
    Some(timing.next_from(near.max(row.changed.at).max(after_last.unwrap_or(near))))
}

fn shown(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339())
}
