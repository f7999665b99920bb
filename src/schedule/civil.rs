//! The `cron` crate, and the only place that names it. It is asked about civil time alone, carried as if it were UTC:
//! given a zone, it leaves lost times out and doubles repeated ones, whatever a schedule's rule says.
//!
//! Its dialect differs from the standard one: seconds come first, Sunday is 1 and 0 is refused, and a day has to satisfy
//! day-of-month and day-of-week both. So it is given plain lists of numbers, and two schedules where either is enough.

use std::fmt::Write as _;

use chrono::{NaiveDateTime, TimeZone, Utc};
use cron::Schedule;

use super::field::Values;

/// The civil times that an expression matches.
#[derive(Clone, Debug)]
pub(super) struct Civil {
    schedule: Schedule,
    /// Where day-of-month and day-of-week are both restricted: the days of the week. The other has those of the month.
    or: Option<Schedule>,
}

/// What the six fields say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) second: Values,
    pub(super) minute: Values,
    pub(super) hour: Values,
    pub(super) day_of_month: Values,
    pub(super) month: Values,
    pub(super) day_of_week: Values,
}

impl Civil {
    /// `None` if the crate refuses the translation, which it does not for values within their bounds.
    pub(super) fn new(fields: &Fields) -> Option<Self> {
        let schedule = |day_of_month: &str, day_of_week: &str| {
            let (second, minute) = (list(fields.second, 0), list(fields.minute, 0));
            let (hour, month) = (list(fields.hour, 0), list(fields.month, 0));
            format!("{second} {minute} {hour} {day_of_month} {month} {day_of_week}").parse().ok()
        };
        let (day_of_month, day_of_week) = (list(fields.day_of_month, 0), list(fields.day_of_week, 1));
        if fields.day_of_month.unrestricted || fields.day_of_week.unrestricted {
            return Some(Self { schedule: schedule(&day_of_month, &day_of_week)?, or: None });
        }
        Some(Self { schedule: schedule(&day_of_month, "*")?, or: Some(schedule("*", &day_of_week)?) })
    }

    /// The first civil time after this one, up to the end of the year 2100, which is as far as the crate looks.
    pub(super) fn next_after(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let next = next_of(&self.schedule, local);
        match self.or.as_ref().and_then(|or| next_of(or, local)) {
            Some(other) => Some(next.map_or(other, |next| next.min(other))),
            None => next,
        }
    }
}

fn next_of(schedule: &Schedule, local: NaiveDateTime) -> Option<NaiveDateTime> {
    schedule.after(&Utc.from_utc_datetime(&local)).next().map(|next| next.naive_utc())
}

fn list(values: Values, shift: u32) -> String {
    if values.unrestricted {
        return "*".to_owned();
    }
    let mut text = String::new();
    for value in values.iter() {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}{}", value + shift);
    }
    text
}
