use proptest::prelude::*;

use super::*;

fn part(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("*".to_owned()),
        3 => (low..=high).prop_map(|value| value.to_string()),
        1 => (1..=high).prop_map(|step| format!("*/{step}")),
        2 => (low..=high, low..=high).prop_map(|(one, other)| format!("{}-{}", one.min(other), one.max(other))),
        1 => proptest::collection::vec(low..=high, 1..4).prop_map(|values| {
            values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }),
    ]
}

fn five_fields() -> impl Strategy<Value = String> {
    let fields = (part(0, 59), part(0, 23), part(1, 28), part(1, 12), part(0, 7));
    fields.prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"))
}

fn expression() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => five_fields(),
        1 => (part(0, 59), five_fields()).prop_map(|(second, rest)| format!("{second} {rest}")),
        1 => (1_u32..100_000).prop_map(|seconds| format!("@every {seconds}s")),
    ]
}

/// A zone and an instant, mostly within two days of a clock change.
pub(super) fn place() -> impl Strategy<Value = (Zone, DateTime<Utc>)> {
    let nanos = prop_oneof![Just(0_u32), 0..1_000_000_000_u32];
    (0..ZONES.len(), any::<prop::sample::Index>(), -2 * DAY..2 * DAY, FIRST..4_000_000_000_i64, nanos).prop_map(
        |(number, index, near, anywhere, nanos)| {
            let (zone, sets) = &ZONES[number];
            let seconds = if sets.is_empty() { anywhere } else { sets[index.index(sets.len())].at + near };
            (*zone, DateTime::from_timestamp(seconds, nanos).unwrap())
        },
    )
}

fn rules() -> impl Strategy<Value = Rules> {
    proptest::sample::select(&ALL_RULES[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn instants_only_grow(text in expression(), (zone, after) in place(), rules in rules()) {
        let calendar = calendar(&text, zone, rules);
        let mut last = after;
        for _ in 0..8 {
            let Some(next) = calendar.next_after(last) else { break };
            prop_assert!(next > last, "{text} in {zone}: {next} after {last}");
            let between = last + (next - last) / 3;
            prop_assert_eq!(calendar.next_after(between), Some(next), "{} in {}: after {}", &text, zone, between);
            last = next;
        }
    }

    #[test]
    fn a_preview_shows_what_a_scheduler_does(text in expression(), (zone, from) in place(), rules in rules()) {
        let calendar = calendar(&text, zone, rules);
        let shown: Vec<_> = calendar.occurrences(from).take(20).collect();
        let happening = shown.iter().filter_map(|one| one.at).map(|at| at.to_utc());
        let mut last = from - TimeDelta::nanoseconds(1);
        for next in happening {
            prop_assert!(next >= from);
            prop_assert_eq!(calendar.next_after(last), Some(next), "{} in {} after {}", &text, zone, last);
            last = next;
        }
        for one in &shown {
            prop_assert_eq!(one.at.is_none(), one.note == Some(Note::Dropped));
            let moved = one.at.is_some_and(|at| at.naive_local() != one.local);
            prop_assert_eq!(moved, one.note == Some(Note::Moved));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>(), zone_name in any::<String>()) {
        if let Err(error) = Expression::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
        if let Err(error) = zone(&zone_name) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_fields_are_read_or_refused(text in "([0-9*/,a-z?L#-]{1,6} ){3,6}[0-9*/,-]{1,5}", at in 0..4_000_000_000_i64) {
        match Expression::parse(&text) {
            Err(error) => prop_assert!(error.to_string().contains("expected"), "{error}"),
            Ok(expression) => {
                let calendar = Calendar::new(expression, Zone::utc(), Rules::default(), DateTime::UNIX_EPOCH);
                let first = calendar.next_after(DateTime::UNIX_EPOCH);
                prop_assert!(first.is_some(), "{text} never fires");
                let after = DateTime::from_timestamp(at, 0).unwrap();
                prop_assert!(calendar.next_after(after).is_none_or(|next| next > after));
            }
        }
    }
}
