//! What people read of care records: names cut to size, instants on the clocks of the place of care, links.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use url::Url;

use crate::job;

/// The most characters of a name in a text. Care tables know no limits; a notification does.
const LONGEST_NAME: usize = 200;

/// A name, title or place from the care tables, cut to a length that every text has room for.
#[must_use]
pub fn name(text: &str) -> String {
    job::shorten(text.trim(), LONGEST_NAME)
}

/// A path of the application with an id as its query.
#[must_use]
pub fn link(path: &str, id: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("id", id).finish();
    format!("{path}?{query}")
}

/// A link that can be followed from outside of the application: one that is a path is resolved against its URL, where
/// that is known.
#[must_use]
pub fn absolute<'a>(link: &'a str, app_url: Option<&Url>) -> Cow<'a, str> {
    match app_url.filter(|_| link.starts_with('/')).and_then(|base| base.join(link).ok()) {
        Some(url) => Cow::Owned(url.into()),
        None => Cow::Borrowed(link),
    }
}

/// An instant for programs: RFC 3339 in UTC, to the millisecond.
#[must_use]
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The time zone of this IANA name. UTC where there is none; texts then say so.
#[must_use]
pub fn zone(name: &str) -> Tz {
    name.trim().parse().unwrap_or(Tz::UTC)
}

/// When something begins: `at 14:30`, or `on Tue 3 Mar at 14:30` where that is not the day of `now`.
#[must_use]
pub fn at(start: DateTime<Utc>, zone: Tz, now: DateTime<Utc>) -> String {
    let start = start.with_timezone(&zone);
    format!("{}at {}{}", other_day(&start, now), start.format("%H:%M"), utc(zone))
}

/// From when to when: `from 22:00 to 06:00`, with the day where it is not that of `now`, and with both days where a
/// clock alone would not tell when it ends.
#[must_use]
pub fn span(start: DateTime<Utc>, end: DateTime<Utc>, zone: Tz, now: DateTime<Utc>) -> String {
    let (start, end) = (start.with_timezone(&zone), end.with_timezone(&zone));
    if end - start < TimeDelta::hours(24) {
        let (day, utc) = (other_day(&start, now), utc(zone));
        return format!("{day}from {} to {}{utc}", start.format("%H:%M"), end.format("%H:%M"));
    }
    format!("from {} to {}{}", start.format("%a %-d %b %H:%M"), end.format("%a %-d %b %H:%M"), utc(zone))
}

/// `on Tue 3 Mar ` where that is not the day of `now` there. A text is read later too, so it never says "tomorrow".
fn other_day(local: &DateTime<Tz>, now: DateTime<Utc>) -> String {
    if local.date_naive() == now.with_timezone(&local.timezone()).date_naive() {
        return String::new();
    }
    format!("on {} ", local.format("%a %-d %b"))
}

fn utc(zone: Tz) -> &'static str {
    if zone == Tz::UTC { " UTC" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc_instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_is_told_on_the_clocks_of_its_place() {
        let now = "2027-03-01T08:00:00Z";
        let cases = [
            (now, "2027-03-01T13:30:00Z", "Europe/Vienna", "at 14:30"),
            (now, "2027-03-01T13:30:00Z", "America/New_York", "at 08:30"),
            (now, "2027-03-01T13:30:00Z", "UTC", "at 13:30 UTC"),
            (now, "2027-03-01T13:30:00Z", "Vienna, I think", "at 13:30 UTC"),
            (now, "2027-03-01T13:30:00Z", "", "at 13:30 UTC"),
            (now, "2027-03-03T13:30:00Z", "Europe/Vienna", "on Wed 3 Mar at 14:30"),
            // The day is that of the place: tomorrow already, or still today.
            (now, "2027-03-01T13:30:00Z", "Pacific/Auckland", "on Tue 2 Mar at 02:30"),
            (now, "2027-03-02T01:30:00Z", "America/New_York", "at 20:30"),
            // The hour that is left out in spring.
            (now, "2027-03-28T00:30:00Z", "Europe/Vienna", "on Sun 28 Mar at 01:30"),
            (now, "2027-03-28T01:30:00Z", "Europe/Vienna", "on Sun 28 Mar at 03:30"),
        ];
        for (now, start, name, expected) in cases {
            assert_eq!(at(utc_instant(start), zone(name), utc_instant(now)), expected, "{start} {name}");
        }
    }

    #[test]
    fn a_span_names_days_where_a_clock_alone_would_mislead() {
        let now = utc_instant("2027-03-01T08:00:00Z");
        let cases = [
            ("2027-03-01T21:00:00Z", "2027-03-02T05:00:00Z", "Europe/Vienna", "from 22:00 to 06:00"),
            ("2027-03-01T21:00:00Z", "2027-03-02T05:00:00Z", "?", "from 21:00 to 05:00 UTC"),
            ("2027-03-03T07:00:00Z", "2027-03-03T15:00:00Z", "Europe/Vienna", "on Wed 3 Mar from 08:00 to 16:00"),
            ("2027-03-01T21:00:00Z", "2027-03-02T21:00:00Z", "UTC", "from Mon 1 Mar 21:00 to Tue 2 Mar 21:00 UTC"),
        ];
        for (start, end, name, expected) in cases {
            assert_eq!(span(utc_instant(start), utc_instant(end), zone(name), now), expected, "{start} {name}");
        }
    }

    #[test]
    fn an_id_cannot_leave_its_place_in_a_link() {
        assert_eq!(link("/shifts", "a&b=c d#e"), "/shifts?id=a%26b%3Dc+d%23e");
    }
}
