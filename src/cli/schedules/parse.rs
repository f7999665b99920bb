use chrono::{DateTime, NaiveDate, Utc};

use super::super::failed::Failed;
use crate::schedule::{self, Fold, Gap, Zone};

/// An instant, or a date as its midnight in the zone.
pub(super) fn parse_from(option: &str, text: &str, zone: Zone) -> Result<DateTime<Utc>, Failed> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        let midnight = schedule::start_of_day(zone, date);
        return midnight.ok_or_else(|| Failed(format!("{option} must be in the years 1970 to 2099, but is {date}")));
    }
    DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).map_err(|_| {
        Failed(format!(
            "{option} is {text:?}; expected a date such as 2026-03-07, or an instant such as 2026-03-07T09:00:00Z"
        ))
    })
}

pub(super) fn parse_gap(text: &str) -> Result<Gap, String> {
    Gap::parse(text).ok_or_else(|| "expected shift or skip".into())
}

pub(super) fn parse_fold(text: &str) -> Result<Fold, String> {
    Fold::parse(text).ok_or_else(|| "expected first, second or both".into())
}
