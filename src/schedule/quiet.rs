use chrono::{DateTime, Days, NaiveDateTime, NaiveTime, TimeZone, Utc, offset::LocalResult};

use super::{
    view::{FARTHEST, View},
    zone::Zone,
};

/// The end of the quiet hours around `now`, if any. They last over midnight unless `to` is after `from`.
///
/// They begin the first time the clock shows `from` and end the last time it shows `to`. The end of a gap stands for
/// its skipped times.
#[must_use]
pub fn quiet_until(from: NaiveTime, to: NaiveTime, zone: Zone, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let today = zone.from_utc_datetime(&now.naive_utc()).date_naive();
    let nights = u64::from(to <= from);
    // If a clock is set back over midnight, tomorrow's may have begun.
    let days = [today.checked_sub_days(Days::new(1)), Some(today), today.checked_add_days(Days::new(1))];
    days.into_iter().flatten().find_map(|day| {
        let begin = instants(zone, day.and_time(from)).0;
        let end = instants(zone, day.checked_add_days(Days::new(nights))?.and_time(to)).1;
        (begin <= now && now < end).then_some(end)
    })
}

/// The first and last instant at which the clock shows `civil`.
fn instants(zone: Zone, civil: NaiveDateTime) -> (DateTime<Utc>, DateTime<Utc>) {
    match zone.from_local_datetime(&civil) {
        LocalResult::Single(at) => (at.to_utc(), at.to_utc()),
        LocalResult::Ambiguous(first, last) => (first.to_utc(), last.to_utc()),
        LocalResult::None => {
            let near = civil.and_utc();
            let after = View::new(zone, near - FARTHEST, near + FARTHEST).change.map_or(near, |change| change.at);
            (after, after)
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Timelike};
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> NaiveTime {
        NaiveTime::parse_from_str(text, "%H:%M").unwrap()
    }

    fn until(from: &str, to: &str, zone: &str, now: &str) -> Option<String> {
        let end = quiet_until(time(from), time(to), zone.parse().unwrap(), now.parse().unwrap());
        end.map(|end| end.format("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    #[test]
    fn they_last_over_midnight_and_through_nights_in_which_clocks_change() {
        let vienna = "Europe/Vienna";
        for (from, to, now, end) in [
            ("22:00", "07:00", "2027-03-01T20:59:59Z", None),
            ("22:00", "07:00", "2027-03-01T21:00:00Z", Some("2027-03-02T06:00:00Z")),
            ("22:00", "07:00", "2027-03-02T05:59:59Z", Some("2027-03-02T06:00:00Z")),
            ("22:00", "07:00", "2027-03-02T06:00:00Z", None),
            ("13:00", "15:00", "2027-03-01T12:30:00Z", Some("2027-03-01T14:00:00Z")),
            ("13:00", "15:00", "2027-03-01T22:30:00Z", None),
            ("22:00", "07:00", "2027-03-27T22:00:00Z", Some("2027-03-28T05:00:00Z")),
            ("22:00", "07:00", "2027-10-30T22:00:00Z", Some("2027-10-31T06:00:00Z")),
            // End in the skipped hour: at its end.
            ("22:00", "02:30", "2027-03-28T00:59:00Z", Some("2027-03-28T01:00:00Z")),
            ("22:00", "02:30", "2027-03-28T01:00:00Z", None),
            // End in the repeated hour: the second time.
            ("22:00", "02:30", "2027-10-31T00:45:00Z", Some("2027-10-31T01:30:00Z")),
            ("22:00", "02:30", "2027-10-31T01:30:00Z", None),
            // Begin in the repeated hour: the first time.
            ("02:30", "05:00", "2027-10-31T00:29:00Z", None),
            ("02:30", "05:00", "2027-10-31T01:10:00Z", Some("2027-10-31T04:00:00Z")),
        ] {
            assert_eq!(until(from, to, vienna, now).as_deref(), end, "{from} to {to} at {now}");
        }
        assert_eq!(
            until("22:00", "07:00", "Pacific/Auckland", "2027-03-01T12:00:00Z").unwrap(),
            "2027-03-01T18:00:00Z"
        );
    }

    proptest! {
        // 1970-01-10 to 2040: later, a zone's table may end within a window.
        #[test]
        fn whoever_looks_at_the_clock_agrees(from in 0..1440_u32, to in 0..1440_u32,
                                             seconds in 777_600..2_208_988_800_i64,
                                             zone in prop::sample::select(Zone::all().collect::<Vec<_>>())) {
            prop_assume!(from != to);
            let at = |minute: u32| NaiveTime::from_hms_opt(minute / 60, minute % 60, 0).unwrap();
            let now = DateTime::from_timestamp(seconds, 0).unwrap();
            let end = quiet_until(at(from), at(to), zone, now);
            if let Some(end) = end {
                prop_assert!(end > now && end <= now + TimeDelta::hours(50));
                prop_assert_eq!(quiet_until(at(from), at(to), zone, end - TimeDelta::nanoseconds(1)).map(|_| ()), Some(()));
            }
            // The wall clock is ambiguous around a change.
            let still = View::new(zone, now - FARTHEST * 2, now + FARTHEST * 2 - TimeDelta::seconds(1)).change.is_none();
            if still {
                let local = zone.from_utc_datetime(&now.naive_utc()).time().num_seconds_from_midnight();
                let (from, to) = (from * 60, to * 60);
                let quiet = if from < to { (from..to).contains(&local) } else { local >= from || local < to };
                prop_assert_eq!(end.is_some(), quiet);
            }
        }
    }
}
