use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{super::span, properties::place, *};

fn instants(zone: Zone, time: NaiveTime, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let parts = span::day_parts(zone, after, until);
    parts.iter().filter(|part| (part.first..=part.last).contains(&time)).map(|part| part.instant(time)).collect()
}

#[test]
fn on_the_known_nights() {
    let cases = [
        ("America/New_York", "2026-03-07T12:00:00Z", "01:59:59", "2026-03-08T06:59:59Z"),
        ("America/New_York", "2026-03-07T12:00:00Z", "02:00:00", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-03-07T12:00:00Z", "02:30:00", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-03-07T12:00:00Z", "03:00:00", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-03-07T12:00:00Z", "03:30:00", "2026-03-08T07:30:00Z"),
        ("America/New_York", "2026-10-31T12:00:00Z", "00:30:00", "2026-11-01T04:30:00Z"),
        ("America/New_York", "2026-10-31T12:00:00Z", "01:30:00", "2026-11-01T05:30:00Z"),
        ("America/New_York", "2026-10-31T12:00:00Z", "02:00:00", "2026-11-01T07:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T12:00:00Z", "02:15:00", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T12:00:00Z", "02:30:00", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T12:00:00Z", "01:45:00", "2026-04-04T14:45:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T12:00:00Z", "02:00:00", "2026-04-04T15:30:00Z"),
        ("UTC", "2026-04-04T12:00:00Z", "12:00:00", "2026-04-05T12:00:00Z"),
    ];
    for (name, after, time, expected) in cases {
        let after = utc(after);
        let found = instants(zone(name).unwrap(), time.parse().unwrap(), after, after + TimeDelta::hours(24));
        assert_eq!(found, [utc(expected)], "{time} in {name}");
    }
}

/// Apia had no 30 December 2011: its times happen when the clock shows the 31st.
#[test]
fn on_a_day_that_is_lost() {
    let apia = zone("Pacific/Apia").unwrap();
    let eight = NaiveTime::from_hms_opt(8, 0, 0).unwrap();
    let found = instants(apia, eight, utc("2011-12-29T00:00:00Z"), utc("2012-01-01T00:00:00Z"));
    let expected = ["2011-12-29T18:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T18:00:00Z", "2011-12-31T18:00:00Z"];
    assert_eq!(found, expected.map(utc));
    let parts = span::day_parts(apia, utc("2011-12-30T09:59:59Z"), utc("2011-12-30T10:00:00Z"));
    let days: Vec<_> = parts.iter().map(|part| part.day.to_string()).collect();
    assert_eq!(days, ["2011-12-29", "2011-12-30", "2011-12-31"], "its last second, the whole day, the first instant");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn spans_have_the_instants_of_the_expressions(
        (zone, after) in place(), minute in 0..1440_u32, long in 1..100_000_i64,
    ) {
        let after = after.max(EARLIEST + TimeDelta::days(3));
        let time = NaiveTime::from_hms_opt(minute / 60, minute % 60, 0).unwrap();
        let until = after + TimeDelta::seconds(long * 4);
        let calendar = calendar(&time.format("%-M %-H * * *").to_string(), zone, Rules::default());
        let expected: BTreeSet<_> = calendar.occurrences(after).filter_map(|one| one.at).map(|at| at.to_utc())
            .skip_while(|at| *at <= after).take_while(|at| *at <= until).collect();
        let found: BTreeSet<_> = instants(zone, time, after, until).into_iter().collect();
        prop_assert_eq!(found, expected, "{} in {} after {}", time, zone, after);
    }

    #[test]
    fn spans_that_meet_are_one(
        (zone, after) in place(), first in 1..100_000_i64, second in 1..100_000_i64, minute in 0..1440_u32,
    ) {
        let time = NaiveTime::from_hms_opt(minute / 60, minute % 60, 30).unwrap();
        let (middle, until) = (after + TimeDelta::seconds(first), after + TimeDelta::seconds(first + second));
        let mut apart = instants(zone, time, after, middle);
        apart.extend(instants(zone, time, middle, until));
        prop_assert_eq!(apart, instants(zone, time, after, until));
    }
}
