//! When a schedule is due: an expression, a time zone, and what to do where that zone's clock skips or repeats an hour.
//!
//! Pure: it reads no clock and knows no database. [`Expression`] says which civil times are meant, by way of the `cron`
//! crate; [`Calendar`] makes instants of them. `docs/SCHEDULES.md` has the dialect and the rules.

mod civil;
mod error;
mod expression;
mod field;
mod near;
mod quiet;
mod search;
mod span;
#[cfg(test)]
mod tests;
mod zone;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;

pub(crate) use self::near::nearest;
pub use self::{
    error::ExpressionError,
    expression::Expression,
    field::Field,
    quiet::quiet_until,
    span::{DayPart, day_parts},
    zone::{ZoneError, start_of_day, zone},
};
use self::{
    expression::When,
    search::{Found, Position, Search},
};

/// The first instant that is not answered: 2100-01-01T00:00:00Z. The tz database that is built in has no changes of clocks
/// from there on, and an instant that is an hour off is worse than none.
pub const END: DateTime<Utc> = unix(4_102_444_800);

/// The `cron` crate begins with 1970, which no zone enters earlier than this.
const EARLIEST: DateTime<Utc> = unix(-86_400);

const fn unix(seconds: i64) -> DateTime<Utc> {
    match DateTime::from_timestamp(seconds, 0) {
        Some(at) => at,
        None => DateTime::UNIX_EPOCH,
    }
}

/// What becomes of a civil time that the clock skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gap {
    /// It happens at the first instant after the gap; several of them at once.
    #[default]
    Shift,
    /// It does not happen.
    Skip,
}

impl Gap {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shift => "shift",
            Self::Skip => "skip",
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Shift, Self::Skip].into_iter().find(|gap| gap.name() == text)
    }
}

/// What becomes of a civil time that the clock shows twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fold {
    /// It happens the first time.
    #[default]
    First,
    /// It happens the second time.
    Second,
    /// It happens both times.
    Both,
}

impl Fold {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Both => "both",
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::First, Self::Second, Self::Both].into_iter().find(|fold| fold.name() == text)
    }
}

/// The rules of a schedule. An expression whose hour is a bare `*` is under none: it has every tick that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For lost times.
    pub gap: Gap,
    /// For repeated times.
    pub fold: Fold,
}

/// What a rule did to an occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Its civil time was lost; it happens right after the gap.
    Moved,
    /// Its civil time has happened already, under the offset of before.
    Repeated,
    /// Its civil time was lost, and it does not happen.
    Dropped,
}

impl Note {
    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Repeated => "repeated",
            Self::Dropped => "dropped",
        }
    }
}

/// One occurrence, as a preview shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// When it happens; `None` if it is dropped.
    pub at: Option<DateTime<Tz>>,
    /// The civil time that was asked for. Of several that are moved to one instant, the first.
    pub local: NaiveDateTime,
    /// What a rule did to it.
    pub note: Option<Note>,
}

/// All instants of a schedule.
#[derive(Clone, Debug)]
pub struct Calendar {
    expression: Expression,
    zone: Tz,
    rules: Rules,
    start: DateTime<Utc>,
}

impl Calendar {
    /// Intervals (`@every`) are counted from `start`, which is the first of their instants. Other expressions do not
    /// depend on it, and have instants before it too.
    #[must_use]
    pub fn new(expression: Expression, zone: Tz, rules: Rules, start: DateTime<Utc>) -> Self {
        Self { expression, zone, rules, start }
    }

    /// The first instant after a given one. `None` where there is none before [`END`].
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.found(Position::after(after.max(EARLIEST)), false).map(|found| found.at)
    }

    /// All occurrences from an instant on, this included, with those that are dropped.
    #[must_use]
    pub fn occurrences(&self, from: DateTime<Utc>) -> Occurrences<'_> {
        let before = from.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(EARLIEST);
        Occurrences { calendar: self, position: Some(Position::after(before.max(EARLIEST))) }
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

    /// Of `@every`.
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
    /// `None` after the last.
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
