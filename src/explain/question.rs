//! A question, checked before anything is read.

use chrono::{DateTime, Datelike, NaiveDateTime, TimeDelta, Utc};

use crate::{
    cut,
    job::{Invalid, field},
    meta::is_any_id,
    schedule::{Zone, day_parts},
    text::visible,
};

/// Somebody, and whatever they may have been told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `users.id`.
    pub user_id: String,
    /// The notification.
    pub about: About,
}

/// What somebody may have been told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// One dose.
    Dose {
        /// `medications.id`.
        medication_id: String,
        /// When it is to be taken.
        at: DoseTime,
    },
    /// An appointment, by its id.
    Appointment(String),
    /// A caregiver's shift, by its id.
    Shift(String),
    /// A job, by its id or that of a job that followed from it.
    Job(String),
    /// Everything in this time.
    Last(TimeDelta),
}

/// The time of a dose as somebody names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoseTime {
    /// With an offset from UTC.
    Instant(DateTime<Utc>),
    /// On the care recipient's clocks.
    Clock(NaiveDateTime),
}

/// A civil time that a clock skips or shows twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddHour {
    /// The clock is set forward over it: its dose is due when the gap ends.
    Skipped,
    /// The clock shows it twice: the first time counts.
    Repeated,
}

/// Longest time that [`About::Last`] looks back: rows are kept for 90 days.
const LONGEST: TimeDelta = TimeDelta::days(90);

/// Characters of a refused value that are repeated.
const SHOWN: usize = 64;

impl Question {
    /// Checks the ids.
    ///
    /// # Errors
    /// Names the field.
    pub fn new(user_id: String, about: About) -> Result<Self, Invalid> {
        let user_id = field::id("user", user_id)?;
        let about = match about {
            About::Dose { medication_id, at } => {
                About::Dose { medication_id: field::id("medication", medication_id)?, at }
            }
            About::Appointment(id) => About::Appointment(field::id("appointment", id)?),
            About::Shift(id) => About::Shift(field::id("shift", id)?),
            About::Job(id) if is_any_id(&id) => About::Job(id),
            About::Job(_) => {
                return Err(Invalid::new("job", "must be 1 to 192 of the characters A-Z a-z 0-9 _ : . - ~"));
            }
            About::Last(time) if (TimeDelta::zero()..=LONGEST).contains(&time) => About::Last(time),
            About::Last(_) => return Err(Invalid::new("since", "must be at most 90 days")),
        };
        Ok(Self { user_id, about })
    }
}

impl DoseTime {
    /// Parses RFC 3339, or the same without an offset.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        if let Ok(at) = DateTime::parse_from_rfc3339(trimmed) {
            return Ok(Self::Instant(at.to_utc()));
        }
        let clock = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f"];
        let at = clock.iter().find_map(|form| NaiveDateTime::parse_from_str(trimmed, form).ok());
        if let Some(at) = at.filter(|at| (1970..=9999).contains(&at.year())) {
            return Ok(Self::Clock(at));
        }
        Err(format!(
            "`{}` is no time: expected an instant such as 2026-12-01T09:00:00+01:00, or 2026-12-01T09:00 on the care \
             recipient's clocks",
            visible(&cut::with_ellipsis(trimmed, SHOWN, cut::one))
        ))
    }

    /// The instant by the scheduler's rules, and whether a clock change makes its hour odd.
    #[must_use]
    pub fn instant(self, zone: Zone) -> (DateTime<Utc>, Option<OddHour>) {
        let clock = match self {
            Self::Instant(at) => return (at, None),
            Self::Clock(clock) => clock,
        };
        let (near, day) = (clock.and_utc(), TimeDelta::hours(26));
        let parts = day_parts(zone, near - day, near + day);
        let part = parts
            .iter()
            .find(|part| part.day == clock.date() && part.first <= clock.time() && clock.time() <= part.last);
        let Some(part) = part else { return (near, None) };
        let at = part.instant(clock.time());
        let shown = at.with_timezone(&zone).naive_local();
        if shown != clock {
            return (at, Some(OddHour::Skipped));
        }
        let is_repeated = |later: TimeDelta| (at + later).with_timezone(&zone).naive_local() == clock;
        let repeats = [30, 60, 120].map(TimeDelta::minutes).into_iter().any(is_repeated);
        (at, repeats.then_some(OddHour::Repeated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vienna() -> Zone {
        "Europe/Vienna".parse().unwrap()
    }

    #[test]
    fn a_time_with_an_offset_is_an_instant_and_one_without_is_on_the_clocks() {
        let at: DateTime<Utc> = "2026-12-01T08:00:00Z".parse().unwrap();
        for text in ["2026-12-01T09:00:00+01:00", " 2026-12-01T08:00:00Z", "2026-12-01T08:00:00.000Z"] {
            assert_eq!(DoseTime::parse(text).unwrap().instant(vienna()), (at, None), "{text}");
        }
        for text in ["2026-12-01T09:00", "2026-12-01 09:00:00", "2026-12-01T09:00:00.000"] {
            assert_eq!(DoseTime::parse(text).unwrap().instant(vienna()), (at, None), "{text}");
        }
        for text in ["", "09:00", "tomorrow", "2026-12-01", "2026-13-01T09:00", "2026-12-01T09:00:00+99:00"] {
            let why = DoseTime::parse(text).unwrap_err();
            assert!(why.contains("is no time: expected"), "{why}");
        }
        assert!(DoseTime::parse(&"\u{1b}x".repeat(500)).unwrap_err().len() < 700);
    }

    #[test]
    fn hours_that_do_not_exist_or_come_twice_are_those_of_the_scheduler() {
        for (clock, expected, odd) in [
            ("2027-03-28T02:30", "2027-03-28T01:00:00Z", Some(OddHour::Skipped)),
            ("2027-10-31T02:30", "2027-10-31T00:30:00Z", Some(OddHour::Repeated)),
            ("2027-10-31T03:30", "2027-10-31T02:30:00Z", None),
        ] {
            let (at, found) = DoseTime::parse(clock).unwrap().instant(vienna());
            assert_eq!((at, found), (expected.parse().unwrap(), odd), "{clock}");
        }
    }

    #[test]
    fn odd_ids_are_refused_by_their_field() {
        let ask = |user: &str, about| Question::new(user.into(), about).unwrap_err().to_string();
        assert!(ask("", About::Shift("x".into())).contains("`user`"));
        assert!(ask("a\0", About::Shift("x".into())).contains("`user`"));
        assert!(ask("ana", About::Appointment("x".repeat(101))).contains("`appointment`"));
        assert!(ask("ana", About::Job("dose 1; DROP".into())).contains("`job`"));
        assert!(ask("ana", About::Last(TimeDelta::days(91))).contains("`since`"));
    }
}
