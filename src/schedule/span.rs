//! The inverse of a search: all times of day whose instants lie within a span. Lets a database find due times among
//! very many.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::zone::{Change, FARTHEST, View, civil};

/// Times of one day that share an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayPart {
    /// The day, in the zone.
    pub day: NaiveDate,
    /// The first time.
    pub first: NaiveTime,
    /// The last time, inclusive, to the microsecond.
    pub last: NaiveTime,
    /// How far the zone's clock is ahead of UTC.
    pub offset: TimeDelta,
    /// No instant is earlier: the end of the gap, for skipped times.
    pub not_before: DateTime<Utc>,
}

impl DayPart {
    /// The instant of a time in this part.
    #[must_use]
    pub fn instant(&self, time: NaiveTime) -> DateTime<Utc> {
        (self.day.and_time(time).and_utc() - self.offset).max(self.not_before)
    }
}

/// A view spans at most four days, including a look back for a repeated hour.
const STEP: TimeDelta = TimeDelta::hours(48);

const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);

/// All civil times with instants after `after` and not after `until`, ordered, each in one part. A skipped time happens
/// right after the gap, a repeated one the first time (rules `shift` and `first`).
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
                // Civil times before the clock's reading at the change use the old offset, others the new one. That
                // clamps skipped times to the change and leaves repeated times out.
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

/// Splits civil times, both ends inclusive, into days.
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
