use std::{
    fmt::{Display, Formatter, Result as FmtResult},
    str::FromStr,
    time::Duration,
};

use chrono::{DateTime, TimeDelta};

use super::{
    civil::{Civil, CronFields},
    error::{ExpressionError, shown},
    field::Field,
    values::Values,
};
use crate::near::nearest;

/// An expression that fires at least once.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    pub(super) when: When,
}

#[derive(Clone, Debug)]
pub(super) enum When {
    Civil {
        times: Box<Civil>,
        /// The hour is a bare `*`: elapsed time, not an hour of the day.
        every_hour: bool,
    },
    /// By time elapsed since the schedule's start.
    Every(TimeDelta),
}

const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const EVERY: &str = "@every";

/// A longer interval is a mistake in the unit.
const LONGEST: Duration = Duration::from_hours(3650 * 24);

const FIVE_FIELDS: &str = "expected five fields (minute, hour, day of month, month, day of week), for example \
                           `0 9 * * 1-5`, or six with seconds in front";

impl Expression {
    /// Parses five fields, six with seconds in front, `@daily` and its siblings, or `@every 90m`. See
    /// `docs/SCHEDULES.md`.
    ///
    /// # Errors
    /// None of these, or never fires (30 February). Names the field and the expected values.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let when = match words.first() {
            None => return Err(ExpressionError::whole("the expression is empty", FIVE_FIELDS)),
            Some(word) if word.starts_with('@') => by_word(&word.to_lowercase(), &words[1..])?,
            Some(_) => by_fields(&words)?,
        };
        Ok(Self { text: words.join(" "), when })
    }

    /// Whether it is an interval (`@every`).
    #[must_use]
    pub fn is_interval(&self) -> bool {
        matches!(self.when, When::Every(_))
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        Self::parse(text)
    }
}

/// As written, with single spaces.
impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(&self.text)
    }
}

/// Equal if written alike.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

fn by_word(word: &str, rest: &[&str]) -> Result<When, ExpressionError> {
    if word == EVERY {
        return every(&rest.join(" "));
    }
    let names = || WORDS.iter().map(|(name, _)| *name);
    let Some((_, fields)) = WORDS.iter().find(|(name, _)| *name == word) else {
        let problem = match nearest(word, names().chain([EVERY])) {
            Some(near) => format!("there is no `{}` (did you mean `{near}`?)", shown(word)),
            None => format!("there is no `{}`", shown(word)),
        };
        let names: Vec<_> = names().collect();
        let expected = format!("expected {}, or an interval such as `@every 90m`", names.join(", "));
        return Err(ExpressionError::whole(problem, expected));
    };
    if let Some(more) = rest.first() {
        return Err(ExpressionError::whole(
            format!("unexpected `{}` after `{word}`", shown(more)),
            format!("expected `{word}` alone"),
        ));
    }
    by_fields(&fields.split_whitespace().collect::<Vec<_>>())
}

fn every(text: &str) -> Result<When, ExpressionError> {
    let wrong = |problem: String| {
        let expected = "expected `@every` with a duration in whole seconds from 1s to 3650d, for example `@every 90m` \
                        or `@every 1h 30m`";
        ExpressionError::whole(problem, expected)
    };
    if text.is_empty() {
        return Err(wrong("`@every` needs an interval".into()));
    }
    let Ok(interval) = humantime::parse_duration(text) else {
        return Err(wrong(format!("`{}` is not a duration", shown(text))));
    };
    // To humantime, a month is 30.44 days, and `1M` is one letter from `1m`.
    let calendar = |unit: &str| unit.starts_with('M') || unit.starts_with("mo") || unit.starts_with('y');
    if text.split(|c: char| !c.is_alphabetic()).any(calendar) {
        return Err(wrong(format!(
            "`{}` counts months or years, which have no fixed length: `@monthly` and `@yearly` follow the calendar",
            shown(text)
        )));
    }
    if interval.subsec_nanos() > 0 || interval.is_zero() || interval > LONGEST {
        return Err(wrong(format!("`{}` is not in whole seconds from 1s to 3650d", shown(text))));
    }
    let interval = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    Ok(When::Every(TimeDelta::seconds(interval)))
}

fn by_fields(words: &[&str]) -> Result<When, ExpressionError> {
    let seconds = match words.len() {
        5 => 0,
        6 => 1,
        other => {
            let fields = if other == 1 { "field" } else { "fields" };
            return Err(ExpressionError::whole(format!("the expression has {other} {fields}"), FIVE_FIELDS));
        }
    };
    let read = |field: Field, at: usize| Values::parse(field, at + 1, words[at]);
    let fields = CronFields {
        second: if seconds == 1 { read(Field::Second, 0)? } else { Values::ZERO },
        minute: read(Field::Minute, seconds)?,
        hour: read(Field::Hour, seconds + 1)?,
        day_of_month: read(Field::DayOfMonth, seconds + 2)?,
        month: read(Field::Month, seconds + 3)?,
        day_of_week: read(Field::DayOfWeek, seconds + 4)?,
    };
    let times =
        Civil::new(&fields).ok_or_else(|| ExpressionError::whole("the expression is not understood", FIVE_FIELDS))?;
    if times.next_after(DateTime::UNIX_EPOCH.naive_utc()).is_none() {
        let (days, months) = (shown(words[seconds + 2]), shown(words[seconds + 3]));
        let problem = format!("it would never fire: no month of `{months}` has a day `{days}`");
        return Err(ExpressionError::in_field(seconds + 3, Field::DayOfMonth, &problem));
    }
    Ok(When::Civil { times: Box::new(times), every_hour: fields.hour.unrestricted })
}
