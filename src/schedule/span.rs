//! The other way round: not the next instant of an expression, but all times of day whose instants lie within a span. For
//! whoever has very many times of day, and asks a database which of them are due.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::zone::{Change, FARTHEST, View, civil};

/// Times of one day whose instants follow by one reckoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayPart {
    /// The day, in the zone.
    pub day: NaiveDate,
    /// The first of them.
    pub first: NaiveTime,
    /// The last of them, this included; times are told apart to the microsecond.
    pub last: NaiveTime,
    /// How far the zone's clock is ahead of UTC.
    pub offset: TimeDelta,
    /// No instant is before this one. Where the clock skips times, it is the first instant after the gap.
    pub not_before: DateTime<Utc>,
}

impl DayPart {
    /// The instant of a time of this part.
    #[must_use]
    pub fn instant(&self, time: NaiveTime) -> DateTime<Utc> {
        (self.day.and_time(time).and_utc() - self.offset).max(self.not_before)
    }
}

/// A view may span four days, and looks back for a change whose repeated hour is not over yet.
const STEP: TimeDelta = TimeDelta::hours(48);

const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// All civil times whose instants are after one instant and not after another, by the rules `shift` and `first`: what a
/// clock skips happens at the first instant after the gap, what it shows twice happens the first time. In order, and
/// each civil time in one part.
#[must_use]
pub fn day_parts(zone: Tz, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DayPart> {
    let mut parts = Vec::new();
    let mut from = after;
    while from < until {
        let to = until.min(from + STEP);
        let view = View::new(zone, from - FARTHEST, to);
        match view.change {
            None => {
                let times = (civil(from, view.offset) + MICROSECOND, civil(to, view.offset));
                add(&mut parts, times, view.offset, from);
            }
            Some(Change { at, before, after: offset }) => {
                // Civil times before what the clock shows when it is set are told by the old offset, all others by the
                // new: those that were skipped would be before the change, and those of the old offset are not again.
                let clock = civil(at, before);
                if from < at {
                    add(
                        &mut parts,
                        (civil(from, before) + MICROSECOND, civil(to, before).min(clock - MICROSECOND)),
                        before,
                        from,
                    );
                }
                if at <= to {
                    let first = if from < at { clock } else { clock.max(civil(from, offset) + MICROSECOND) };
                    add(&mut parts, (first, civil(to, offset)), offset, at);
                }
            }
        }
        from = to;
    }
    parts
}

/// Cuts civil times, both ends included, into days.
fn add(
    parts: &mut Vec<DayPart>,
    (first, last): (NaiveDateTime, NaiveDateTime),
    offset: TimeDelta,
    not_before: DateTime<Utc>,
) {
    if last < first {
        return;
    }
    for day in first.date().iter_days().take_while(|day| *day <= last.date()) {
        let end = NaiveTime::MIN - MICROSECOND;
        parts.push(DayPart {
            day,
            first: if day == first.date() { first.time() } else { NaiveTime::MIN },
            last: if day == last.date() { last.time() } else { end },
            offset,
            not_before,
        });
    }
}
