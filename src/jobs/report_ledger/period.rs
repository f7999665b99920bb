//! The period of a report.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, SecondsFormat, Utc};

use crate::schedule::{Zone, start_of_day};

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Day,
    /// From Monday (ISO 8601).
    Week,
    Month,
}

/// Days of a zone's calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its begin.
    pub from: DateTime<Utc>,
    /// Its end, exclusive.
    pub until: DateTime<Utc>,
    /// For files: `day-2027-03-01`, `week-2027-W09`, `month-2027-03`.
    pub name: String,
    /// For people: `2027-03-01`, `2027-W09`, `2027-03`.
    pub label: String,
    /// The zone, and both instants in it.
    pub words: String,
}

impl Period {
    /// The last whole period before an instant. `None` beyond the years of calendars.
    pub fn before(at: DateTime<Utc>, length: Length, zone: Zone) -> Option<Self> {
        let today = at.with_timezone(&zone).date_naive();
        let (first, end, word, label): (NaiveDate, NaiveDate, _, _) = match length {
            Length::Day => {
                let first = today.checked_sub_days(Days::new(1))?;
                (first, today, "day", first.to_string())
            }
            Length::Week => {
                let end = today.checked_sub_days(Days::new(today.weekday().num_days_from_monday().into()))?;
                let first = end.checked_sub_days(Days::new(7))?;
                (first, end, "week", format!("{}-W{:02}", first.iso_week().year(), first.iso_week().week()))
            }
            Length::Month => {
                let end = today.with_day(1)?;
                let first = end.checked_sub_months(Months::new(1))?;
                (first, end, "month", format!("{}-{:02}", first.year(), first.month()))
            }
        };
        let (from, until) = (start_of_day(zone, first)?, start_of_day(zone, end)?);
        let local = |at: DateTime<Utc>| at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, true);
        let words = format!("{zone}, from {} until {}", local(from), local(until));
        Some(Self { from, until, name: format!("{word}-{label}"), label, words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::zone;

    #[test]
    fn it_is_the_last_whole_one_of_the_zones_calendar() {
        let of = |at: &str, length, name: &str| {
            let period = Period::before(at.parse().unwrap(), length, zone(name).unwrap()).unwrap();
            (period.name, period.from.to_rfc3339(), (period.until - period.from).num_hours())
        };
        let is = |name: &str, from: &str, hours| (name.to_owned(), from.replace('Z', "+00:00"), hours);
        for (at, length, zone, expected) in [
            ("2027-03-01T00:00:00Z", Length::Day, "UTC", is("day-2027-02-28", "2027-02-28T00:00:00Z", 24)),
            ("2027-03-01T23:59:59Z", Length::Day, "UTC", is("day-2027-02-28", "2027-02-28T00:00:00Z", 24)),
            ("2027-03-01T23:30:00Z", Length::Day, "Europe/Vienna", is("day-2027-03-01", "2027-02-28T23:00:00Z", 24)),
            // Clocks change: 23 and 25 hours.
            ("2027-03-29T01:00:00Z", Length::Day, "Europe/Vienna", is("day-2027-03-28", "2027-03-27T23:00:00Z", 23)),
            ("2027-11-01T01:00:00Z", Length::Day, "Europe/Vienna", is("day-2027-10-31", "2027-10-30T22:00:00Z", 25)),
            ("2027-01-04T00:00:00Z", Length::Week, "UTC", is("week-2026-W53", "2026-12-28T00:00:00Z", 168)),
            ("2027-01-10T23:00:00Z", Length::Week, "UTC", is("week-2026-W53", "2026-12-28T00:00:00Z", 168)),
            ("2027-03-01T05:00:00Z", Length::Month, "UTC", is("month-2027-02", "2027-02-01T00:00:00Z", 28 * 24)),
            (
                "2027-01-31T05:00:00Z",
                Length::Month,
                "Asia/Kolkata",
                is("month-2026-12", "2026-11-30T18:30:00Z", 31 * 24),
            ),
        ] {
            assert_eq!(of(at, length, zone), expected, "{at} {zone}");
        }
    }
}
