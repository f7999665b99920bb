//! A few days of a zone, with at most one clock change.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Utc};

use super::zone::Zone;

/// Midnight, or the first instant after it if the clock skips it. `None` outside the years 1970 to 2099.
#[must_use]
pub fn start_of_day(zone: Zone, date: NaiveDate) -> Option<DateTime<Utc>> {
    if !(1970..2100).contains(&date.year()) {
        return None;
    }
    let midnight = date.and_time(NaiveTime::MIN);
    let near = midnight.and_utc();
    let view = View::new(zone, near - FARTHEST, near + FARTHEST);
    Some(match view.change {
        Some(ClockChange { at, before, after }) if midnight >= civil(at, before) => at.max(near - after),
        _ => near - view.offset,
    })
}

/// More than any UTC offset and any clock change.
pub(super) const FARTHEST: TimeDelta = TimeDelta::hours(24);

pub(super) fn civil(at: DateTime<Utc>, offset: TimeDelta) -> NaiveDateTime {
    at.naive_utc() + offset
}

#[derive(Debug)]
pub(super) struct View {
    /// In force at its beginning.
    pub(super) offset: TimeDelta,
    pub(super) change: Option<ClockChange>,
}

/// A clock set forward or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockChange {
    pub(super) at: DateTime<Utc>,
    pub(super) before: TimeDelta,
    pub(super) after: TimeDelta,
}

impl View {
    /// `to` is at most four days after `from`. Since 1970 no zone has changed its offset twice within six days
    /// (tested), so different offsets mean one change, equal ones none.
    pub(super) fn new(zone: Zone, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let (before, after) = (offset(zone, from), offset(zone, to));
        if before == after {
            return Self { offset: before, change: None };
        }
        let (mut old, mut new) = (from.timestamp(), to.timestamp());
        while new - old > 1 {
            let middle = old + (new - old) / 2;
            let changed = DateTime::from_timestamp(middle, 0).is_some_and(|at| offset(zone, at) != before);
            *(if changed { &mut new } else { &mut old }) = middle;
        }
        let change = DateTime::from_timestamp(new, 0).map(|at| ClockChange { at, before, after });
        Self { offset: before, change }
    }
}

/// How far a zone's clock is ahead of UTC.
fn offset(zone: Zone, at: DateTime<Utc>) -> TimeDelta {
    let offset = zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    TimeDelta::seconds(i64::from(offset.local_minus_utc()))
}
