//! The inverse of a search: all times of day whose instants lie within a span. A database finds due times by it.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

use super::{
    view::{ClockChange, FARTHEST, View, civil},
    zone::Zone,
};

/// Times of one day that share an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayPart {
    /// In the zone.
    pub day: NaiveDate,
    /// First time.
    pub first: NaiveTime,
    /// Last time, inclusive, to the microsecond.
    pub last: NaiveTime,
    /// How far the zone's clock is ahead of UTC.
    pub offset: TimeDelta,
    /// Lower bound of instants: the end of the gap, for skipped times.
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

/// All civil times with instants after `after` and not after `until`, ordered, each in one part, by the rules `shift`
/// and `first`.
#[must_use]
pub fn day_parts(zone: Zone, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DayPart> {
    let mut parts = Vec::new();
    let mut from = after;
    while from < until {
        let to = until.min(from + STEP);
        let view = View::new(zone, from - FARTHEST, to);
        match view.change {
            None => {
                let (first, last) = (civil(from, view.offset) + MICROSECOND, civil(to, view.offset));
                parts.extend(Stretch { first, last, offset: view.offset, not_before: from }.days());
            }
            Some(ClockChange { at, before, after: offset }) => {
                // Civil times before the clock's reading at the change use the old offset, others the new one. That
                // clamps skipped times to the change and omits repeated ones.
                let clock = civil(at, before);
                if from < at {
                    let first = civil(from, before) + MICROSECOND;
                    let last = civil(to, before).min(clock - MICROSECOND);
                    parts.extend(Stretch { first, last, offset: before, not_before: from }.days());
                }
                if at <= to {
                    let first = if from < at { clock } else { clock.max(civil(from, offset) + MICROSECOND) };
                    parts.extend(Stretch { first, last: civil(to, offset), offset, not_before: at }.days());
                }
            }
        }
        from = to;
    }
    parts
}

/// The civil times that may stand for an instant, by whatever rule for skipped and repeated hours: what the clock shows,
/// and in the hour after a change also what it would show without it.
#[must_use]
pub fn clock_readings(zone: Zone, at: DateTime<Utc>) -> Vec<NaiveDateTime> {
    let view = View::new(zone, at - FARTHEST, at);
    let Some(ClockChange { at: changed, before, after }) = view.change else { return vec![civil(at, view.offset)] };
    let shown = civil(at, after);
    if at - changed < (after - before).abs() { vec![shown, civil(at, before)] } else { vec![shown] }
}

/// Civil times under one offset, both ends inclusive. Empty if `last` is before `first`.
struct Stretch {
    first: NaiveDateTime,
    last: NaiveDateTime,
    offset: TimeDelta,
    not_before: DateTime<Utc>,
}

impl Stretch {
    fn days(self) -> impl Iterator<Item = DayPart> {
        let (first_day, last_day) = (self.first.date(), self.last.date());
        first_day.iter_days().take_while(move |day| self.first <= self.last && *day <= last_day).map(move |day| {
            DayPart {
                day,
                first: if day == first_day { self.first.time() } else { NaiveTime::MIN },
                last: if day == last_day { self.last.time() } else { NaiveTime::MIN - MICROSECOND },
                offset: self.offset,
                not_before: self.not_before,
            }
        })
    }
}
