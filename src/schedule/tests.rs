mod against_croner;
mod by_minutes;
mod dialect;
mod properties;
mod span;
mod zones;

use std::{fmt::Write, sync::LazyLock};

use chrono::{NaiveTime, Offset, TimeZone};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::clock::Random;

const ALL_RULES: [Rules; 6] = {
    const fn rules(gap: Gap, fold: Fold) -> Rules {
        Rules { gap, fold }
    }
    [
        rules(Gap::Shift, Fold::First),
        rules(Gap::Shift, Fold::Second),
        rules(Gap::Shift, Fold::Both),
        rules(Gap::Skip, Fold::First),
        rules(Gap::Skip, Fold::Second),
        rules(Gap::Skip, Fold::Both),
    ]
};

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn calendar(expression: &str, zone: Zone, rules: Rules) -> Calendar {
    Calendar::new(Expression::parse(expression).unwrap(), zone, rules, DateTime::UNIX_EPOCH)
}

/// The next occurrences, one per line: `2026-03-08T03:00:00-04:00 moved 02:30:00`.
fn preview(expression: &str, zone_name: &str, (gap, fold): (Gap, Fold), from: &str, count: usize) -> String {
    let zone = zone(zone_name).unwrap();
    let from = match from.parse() {
        Ok(date) => start_of_day(zone, date).unwrap(),
        Err(_) => utc(from),
    };
    let mut text = String::new();
    for occurrence in calendar(expression, zone, Rules { gap, fold }).occurrences(from).take(count) {
        match occurrence.at {
            Some(at) => write!(text, "{}", at.to_rfc3339()).unwrap(),
            None => text.push('-'),
        }
        if let Some(note) = occurrence.note {
            write!(text, " {} {}", note.name(), occurrence.local.format("%d %H:%M:%S")).unwrap();
        }
        text.push('\n');
    }
    text
}

fn lines(text: &str) -> String {
    text.trim().lines().flat_map(|line| [line.trim(), "\n"]).collect()
}

/// A clock change: the first instant under the new offset, and both offsets in seconds.
#[derive(Clone, Copy, Debug)]
struct Set {
    at: i64,
    before: i64,
    after: i64,
}

fn offset_of(zone: Zone, at: i64) -> i64 {
    let naive = DateTime::from_timestamp(at, 0).unwrap().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&naive).fix().local_minus_utc())
}

const DAY: i64 = 86_400;

/// Start of the tested period: searches that start before a clock change must not start before 1970.
const FIRST: i64 = 10 * DAY;

/// All zones with their clock changes from [`FIRST`] to 2040, probed every second day.
static ZONES: LazyLock<Vec<(Zone, Vec<Set>)>> = LazyLock::new(|| {
    let sets = |zone: Zone| {
        let (mut sets, mut before) = (Vec::new(), offset_of(zone, FIRST));
        for day in (FIRST / DAY..70 * 365).step_by(2) {
            let (mut old, mut new) = (day * DAY, (day + 2) * DAY);
            let after = offset_of(zone, new);
            if after == before {
                continue;
            }
            while new - old > 1 {
                let middle = i64::midpoint(old, new);
                *(if offset_of(zone, middle) == before { &mut old } else { &mut new }) = middle;
            }
            sets.push(Set { at: new, before, after });
            before = after;
        }
        sets
    };
    Zone::all().map(|zone| (zone, sets(zone))).collect()
});

/// A failing test prints the seed; put it here to repeat the run.
fn random(name: &str) -> StdRng {
    let bits = Random::system().uuid(DateTime::UNIX_EPOCH).as_u128();
    let seed = u64::try_from(bits & u128::from(u64::MAX)).unwrap();
    println!("{name}: seed {seed}");
    StdRng::seed_from_u64(seed)
}

fn expression_near(set: Set, random: &mut StdRng) -> String {
    let clock = DateTime::from_timestamp(set.at + [set.before, set.after].choose(random).unwrap(), 0).unwrap();
    let near = |random: &mut StdRng| (clock + TimeDelta::minutes(random.random_range(-100..100))).time();
    let hour = |time: NaiveTime| time.format("%-H").to_string();
    let minute = match random.random_range(0..7) {
        0 => "*/15".to_owned(),
        1 => "0,30".to_owned(),
        2 => "5-50/20".to_owned(),
        3 => "0".to_owned(),
        4 => clock.format("%-M").to_string(),
        _ => near(random).format("%-M").to_string(),
    };
    let hour = match random.random_range(0..10) {
        0 => "*".to_owned(),
        1 => "*/1".to_owned(),
        2 => "*/2".to_owned(),
        3 => "0,12,23".to_owned(),
        4 => "0-5".to_owned(),
        5 => format!("{},{},3", hour(near(random)), hour(near(random))),
        _ => hour(near(random)),
    };
    let shift = TimeDelta::days(random.random_range(-1..=1));
    let date = (clock + shift).date_naive();
    let day_of_month = *["*", "*", "*", "%-d", "%-d", "1-15", "*/2", "%-d,31"].choose(random).unwrap();
    let month = *["*", "*", "*", "%-m", "%b", "*/2"].choose(random).unwrap();
    let day_of_week = *["*", "*", "*", "%w", "%a", "mon-fri", "0,6", "7"].choose(random).unwrap();
    let days = date.format(&format!("{day_of_month} {month} {day_of_week}")).to_string();
    format!("{minute} {hour} {days}")
}

#[test]
fn no_clock_is_set_twice_within_the_days_that_a_search_looks_at() {
    for (zone, sets) in ZONES.iter() {
        for pair in sets.windows(2) {
            assert!(pair[1].at - pair[0].at > 5 * DAY, "{zone}: {pair:?}");
        }
        for set in sets {
            let fold = set.before - set.after;
            assert!((-24 * 3600..=8 * 3600).contains(&fold), "{zone}: {set:?}");
        }
    }
}

#[test]
fn intervals_are_counted_from_their_start() {
    let start = utc("2026-03-08T05:15:30.250Z");
    let every = Expression::parse("@every 90m").unwrap();
    assert!(every.is_interval());
    let calendar = Calendar::new(every, zone("America/New_York").unwrap(), Rules::default(), start);
    assert_eq!(calendar.next_after(utc("1971-01-01T00:00:00Z")), Some(start), "nothing before it");
    assert_eq!(calendar.next_after(start), Some(utc("2026-03-08T06:45:30.250Z")));
    assert_eq!(calendar.next_after(utc("2026-03-08T06:45:30.249Z")), Some(utc("2026-03-08T06:45:30.250Z")));
    assert_eq!(calendar.next_after(utc("2026-03-08T06:45:30.250Z")), Some(utc("2026-03-08T08:15:30.250Z")));
    let shown: Vec<_> = calendar.occurrences(start).take(3).map(|one| one.at.unwrap().to_rfc3339()).collect();
    let expected = ["2026-03-08T00:15:30.250-05:00", "2026-03-08T01:45:30.250-05:00", "2026-03-08T04:15:30.250-04:00"];
    assert_eq!(shown, expected, "elapsed time, over the lost hour");
    assert_eq!(calendar.next_after(utc("2099-12-31T23:30:00Z")), None, "as far as other expressions go");
}

#[test]
fn the_end_is_the_end_of_2099() {
    let daily = calendar("@daily", Zone::utc(), Rules::default());
    assert_eq!(daily.next_after(utc("2099-12-30T12:00:00Z")), Some(utc("2099-12-31T00:00:00Z")));
    assert_eq!(daily.next_after(utc("2099-12-31T00:00:00Z")), None);
    assert_eq!(daily.next_after(DateTime::<Utc>::MAX_UTC), None);
    assert_eq!(daily.next_after(DateTime::<Utc>::MIN_UTC), Some(utc("1970-01-01T00:00:00Z")));
    assert_eq!(daily.occurrences(DateTime::<Utc>::MIN_UTC).count(), 47_482, "each day of 130 years, then no more");
    let leap = calendar("0 0 29 2 *", zone("Pacific/Kiritimati").unwrap(), Rules::default());
    assert_eq!(leap.next_after(utc("2092-03-01T00:00:00Z")), Some(utc("2096-02-28T10:00:00Z")));
    assert_eq!(leap.next_after(utc("2096-02-28T10:00:00Z")), None);
    let west = calendar("0 20 31 12 *", zone("America/New_York").unwrap(), Rules::default());
    assert_eq!(west.next_after(utc("2099-06-01T00:00:00Z")), None, "2099 there, and 2100 in UTC");
    let every = Calendar::new(
        Expression::parse("@every 3650d").unwrap(),
        Zone::utc(),
        Rules::default(),
        DateTime::<Utc>::MIN_UTC,
    );
    assert!(every.next_after(utc("2026-01-01T00:00:00Z")).is_some());
    assert_eq!(every.next_after(DateTime::<Utc>::MAX_UTC), None);
}

/// Asserts nothing: debug builds are some twenty times slower.
#[test]
fn the_cost_of_the_next_instant_is_printed() {
    let start = utc("2026-03-01T00:00:00Z");
    for expression in
        ["0 8 * * *", "30 2 * * *", "*/5 * * * *", "0 9 * * 1-5", "0 0 1,15 * 1", "0 0 29 2 *", "@every 90m"]
    {
        let began = std::time::Instant::now();
        let calendar = calendar(expression, zone("America/New_York").unwrap(), Rules::default());
        let parsed = began.elapsed();
        let (mut at, mut count) = (start, 0_u32);
        let began = std::time::Instant::now();
        while count < 300
            && let Some(next) = calendar.next_after(at)
        {
            (at, count) = (next, count + 1);
        }
        println!("{expression:16} parsed in {parsed:?}, next_after {:?}", began.elapsed() / count);
    }
}
