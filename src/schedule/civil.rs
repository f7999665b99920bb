//! Wraps the `cron` crate, which gets civil time as if it were UTC: given a zone, it would drop skipped times and
//! double repeated ones.
//!
//! Its seconds come first, Sunday is 1, 0 is refused, and a day must match both day-of-month and day-of-week. So it
//! gets lists of numbers, and two schedules when either field is enough.

use std::fmt::Write as _;

use chrono::{NaiveDateTime, TimeZone, Utc};
use cron::Schedule;

use super::values::Values;

#[derive(Clone, Debug)]
pub(super) struct Civil {
    schedule: Schedule,
    /// The days of the week, if days of the month (in `schedule`) are restricted too.
    or: Option<Schedule>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CronFields {
    pub(super) second: Values,
    pub(super) minute: Values,
    pub(super) hour: Values,
    pub(super) day_of_month: Values,
    pub(super) month: Values,
    pub(super) day_of_week: Values,
}

impl Civil {
    /// `None` if the crate refuses the translation, which should not happen.
    pub(super) fn new(fields: &CronFields) -> Option<Self> {
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

    /// The first civil time after `local`, up to the end of 2100.
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
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{}", value + shift);
    }
    text
}
