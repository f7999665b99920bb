//! Recurring schedules: an expression, a time zone, and rules for skipped and repeated hours (`docs/SCHEDULES.md`).
//!
//! Pure: no clock, no database. [`Expression`] matches civil times, [`Calendar`] turns them into instants.

mod civil;
mod data;
mod error;
mod expression;
mod field;
mod quiet;
mod rules;
mod search;
mod span;
#[cfg(test)]
mod tests;
mod values;
mod view;
mod zone;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

pub use self::{
    data::ZoneData,
    error::ExpressionError,
    expression::Expression,
    field::Field,
    quiet::quiet_until,
    rules::{Fold, Gap, Note, Rules},
    span::{DayPart, clock_readings, day_parts},
    view::start_of_day,
    zone::{UnknownZone, Zone, ZoneError, ZoneOffset, zone},
};
use self::{
    expression::When,
    search::{Found, Position, Search},
};

/// 2100-01-01T00:00:00Z: the built-in tz database has no clock changes after it.
pub const END: DateTime<Utc> = unix(4_102_444_800);

/// The `cron` crate starts with 1970, which no zone enters earlier.
const EARLIEST: DateTime<Utc> = unix(-86_400);

const fn unix(seconds: i64) -> DateTime<Utc> {
    match DateTime::from_timestamp(seconds, 0) {
        Some(at) => at,
        None => DateTime::UNIX_EPOCH,
    }
}

/// An occurrence in a preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// `None` if dropped.
    pub at: Option<DateTime<Zone>>,
    /// The civil time asked for; the first if several move to one instant.
    pub local: NaiveDateTime,
    /// Effect of a rule on it.
    pub note: Option<Note>,
}

/// All instants of a schedule.
#[derive(Clone, Debug)]
pub struct Calendar {
    expression: Expression,
    zone: Zone,
    rules: Rules,
    start: DateTime<Utc>,
}

impl Calendar {
    /// Intervals (`@every`) count from `start`, their first instant. Other expressions ignore it.
    #[must_use]
    pub fn new(expression: Expression, zone: Zone, rules: Rules, start: DateTime<Utc>) -> Self {
        Self { expression, zone, rules, start }
    }

    /// The first instant after `after` and before [`END`].
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.found(Position::after(after.max(EARLIEST)), false).map(|found| found.at)
    }

    /// All occurrences at or after `from`, including dropped ones.
    #[must_use]
    pub fn occurrences(&self, from: DateTime<Utc>) -> Occurrences<'_> {
        let before = from.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(EARLIEST);
        Occurrences { calendar: self, position: Some(Position::after(before.max(EARLIEST))) }
    }

    /// Occurrences from `from` on until `count` happen, dropped ones included, and how many happen: fewer if there are
    /// no more until the end of 2099.
    #[must_use]
    pub fn first(&self, from: DateTime<Utc>, count: u32) -> (Vec<Occurrence>, u32) {
        let (mut shown, mut happening) = (Vec::new(), 0);
        for occurrence in self.occurrences(from) {
            happening += u32::from(occurrence.at.is_some());
            shown.push(occurrence);
            if happening == count {
                break;
            }
        }
        (shown, happening)
    }

    fn found(&self, position: Position, with_dropped: bool) -> Option<Found> {
        if position.instant() >= END {
            return None;
        }
        let found = match &self.expression.when {
            When::Civil { times, every_hour } => {
                let search =
                    Search { times, zone: self.zone, rules: self.rules, every_hour: *every_hour, with_dropped };
                search.next(position)
            }
            When::Every(interval) => self.tick_after(position.instant(), *interval),
        };
        found.filter(|found| found.at < END)
    }

    fn tick_after(&self, after: DateTime<Utc>, interval: TimeDelta) -> Option<Found> {
        let at = if after < self.start {
            self.start
        } else {
            let ticks = (after - self.start).num_seconds() / interval.num_seconds() + 1;
            let since = TimeDelta::try_seconds(ticks.checked_mul(interval.num_seconds())?)?;
            self.start.checked_add_signed(since)?
        };
        Some(Found { at, local: at.with_timezone(&self.zone).naive_local(), note: None })
    }
}

/// See [`Calendar::occurrences`].
#[derive(Clone, Debug)]
pub struct Occurrences<'a> {
    calendar: &'a Calendar,
    position: Option<Position>,
}

impl Iterator for Occurrences<'_> {
    type Item = Occurrence;

    fn next(&mut self) -> Option<Occurrence> {
        let found = self.calendar.found(self.position.take()?, true)?;
        self.position = Some(Position::behind(&found));
        let at = (found.note != Some(Note::Dropped)).then(|| found.at.with_timezone(&self.calendar.zone));
        Some(Occurrence { at, local: found.local, note: found.note })
    }
}
