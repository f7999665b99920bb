//! Nights with clock changes, in the zones where they are hardest.

use super::{Fold::*, Gap::*, *};

#[test]
fn new_york() {
    let spring = |gap| preview("30 2 * * *", "America/New_York", (gap, First), "2026-03-07", 3);
    let shifted = "2026-03-07T02:30:00-05:00
                   2026-03-08T03:00:00-04:00 moved 08 02:30:00
                   2026-03-09T02:30:00-04:00";
    assert_eq!(spring(Shift), lines(shifted));
    let skipped = "2026-03-07T02:30:00-05:00
                   - dropped 08 02:30:00
                   2026-03-09T02:30:00-04:00";
    assert_eq!(spring(Skip), lines(skipped));

    let autumn = |fold| preview("30 1 * * *", "America/New_York", (Shift, fold), "2026-10-31", 3);
    let first = "2026-10-31T01:30:00-04:00
                 2026-11-01T01:30:00-04:00
                 2026-11-02T01:30:00-05:00";
    assert_eq!(autumn(First), lines(first));
    assert_eq!(autumn(Second), lines(&first.replace("11-01T01:30:00-04:00", "11-01T01:30:00-05:00")));
    let both = "2026-10-31T01:30:00-04:00
                2026-11-01T01:30:00-04:00
                2026-11-01T01:30:00-05:00 repeated 01 01:30:00";
    assert_eq!(autumn(Both), lines(both));
}

#[test]
fn several_that_are_shifted_to_one_instant_are_one() {
    let many = preview("*/15 2,3 * * *", "America/New_York", (Shift, First), "2026-03-08", 3);
    let once = "2026-03-08T03:00:00-04:00 moved 08 02:00:00
                2026-03-08T03:15:00-04:00
                2026-03-08T03:30:00-04:00";
    assert_eq!(many, lines(once));
    let skipped = preview("*/15 2,3 * * *", "America/New_York", (Skip, First), "2026-03-08", 6);
    let told = "- dropped 08 02:00:00
                - dropped 08 02:15:00
                - dropped 08 02:30:00
                - dropped 08 02:45:00
                2026-03-08T03:00:00-04:00
                2026-03-08T03:15:00-04:00";
    assert_eq!(skipped, lines(told));
}

#[test]
fn a_bare_star_as_hour_is_elapsed_time() {
    for (gap, fold) in [(Shift, First), (Skip, Second), (Shift, Both)] {
        let spring = preview("30 * * * *", "America/New_York", (gap, fold), "2026-03-08T06:00:00Z", 3);
        let an_hour_apart = "2026-03-08T01:30:00-05:00
                             2026-03-08T03:30:00-04:00
                             2026-03-08T04:30:00-04:00";
        assert_eq!(spring, lines(an_hour_apart));
        let autumn = preview("30 * * * *", "America/New_York", (gap, fold), "2026-11-01T05:00:00Z", 3);
        let an_hour_apart = "2026-11-01T01:30:00-04:00
                             2026-11-01T01:30:00-05:00 repeated 01 01:30:00
                             2026-11-01T02:30:00-05:00";
        assert_eq!(autumn, lines(an_hour_apart));
    }
    let by_the_clock = preview("30 */1 * * *", "America/New_York", (Shift, First), "2026-03-08T06:00:00Z", 3);
    let moved = "2026-03-08T01:30:00-05:00
                 2026-03-08T03:00:00-04:00 moved 08 02:30:00
                 2026-03-08T03:30:00-04:00";
    assert_eq!(by_the_clock, lines(moved), "`*/1` restricts, and names hours of the day");
}

#[test]
fn london() {
    let spring = preview("15 1 * * *", "Europe/London", (Shift, First), "2026-03-28", 3);
    let moved = "2026-03-28T01:15:00+00:00
                 2026-03-29T02:00:00+01:00 moved 29 01:15:00
                 2026-03-30T01:15:00+01:00";
    assert_eq!(spring, lines(moved));
    let autumn = preview("0 1 * * *", "Europe/London", (Shift, Both), "2026-10-25", 3);
    let twice = "2026-10-25T01:00:00+01:00
                 2026-10-25T01:00:00+00:00 repeated 25 01:00:00
                 2026-10-26T01:00:00+00:00";
    assert_eq!(autumn, lines(twice));
}

#[test]
fn lord_howe_shifts_by_half_an_hour() {
    let spring = preview("*/15 2 * * *", "Australia/Lord_Howe", (Shift, First), "2026-10-04", 4);
    let moved = "2026-10-04T02:30:00+11:00 moved 04 02:00:00
                 2026-10-04T02:45:00+11:00
                 2026-10-05T02:00:00+11:00
                 2026-10-05T02:15:00+11:00";
    assert_eq!(spring, lines(moved));
    let autumn = preview("45 1 * * *", "Australia/Lord_Howe", (Shift, Second), "2026-04-04", 3);
    let second = "2026-04-04T01:45:00+11:00
                  2026-04-05T01:45:00+10:30
                  2026-04-06T01:45:00+10:30";
    assert_eq!(autumn, lines(second));
    let minutes = preview("0 * * * *", "Australia/Lord_Howe", (Shift, First), "2026-04-04T14:00:00Z", 3);
    let ticks = "2026-04-05T01:00:00+11:00
                 2026-04-05T02:00:00+10:30
                 2026-04-05T03:00:00+10:30";
    assert_eq!(minutes, lines(ticks), "minute 0 exists once; the ticks are 90 minutes apart");
}

#[test]
fn apia_lost_a_day() {
    let at_noon = |gap| preview("0 12 * * *", "Pacific/Apia", (gap, First), "2011-12-29", 3);
    let moved = "2011-12-29T12:00:00-10:00
                 2011-12-31T00:00:00+14:00 moved 30 12:00:00
                 2011-12-31T12:00:00+14:00";
    assert_eq!(at_noon(Shift), lines(moved));
    let dropped = "2011-12-29T12:00:00-10:00
                   - dropped 30 12:00:00
                   2011-12-31T12:00:00+14:00";
    assert_eq!(at_noon(Skip), lines(dropped));
    let apia = zone("Pacific/Apia").unwrap();
    let day = start_of_day(apia, "2011-12-30".parse().unwrap()).unwrap();
    assert_eq!(day, utc("2011-12-30T10:00:00Z"), "a day that was not begins with the next");
    let elapsed = preview("0 * 30 * *", "Pacific/Apia", (Shift, First), "2011-12-29", 1);
    assert_eq!(elapsed, lines("2012-01-30T00:00:00+14:00"), "no tick exists that day");
}

#[test]
fn kathmandu_once_set_its_clock_by_a_quarter() {
    let gap = preview("5 0 * * *", "Asia/Kathmandu", (Shift, First), "1985-12-31", 3);
    let moved = "1985-12-31T00:05:00+05:30
                 1986-01-01T00:15:00+05:45 moved 01 00:05:00
                 1986-01-02T00:05:00+05:45";
    assert_eq!(gap, lines(moved));
    let mondays = preview("0 3 * * 1", "Asia/Kathmandu", (Shift, First), "2026-03-01", 2);
    assert_eq!(mondays, lines("2026-03-02T03:00:00+05:45\n2026-03-09T03:00:00+05:45"));
    let day = start_of_day(zone("Asia/Kathmandu").unwrap(), "1986-01-01".parse().unwrap()).unwrap();
    assert_eq!(day, utc("1985-12-31T18:30:00Z"), "its midnight was lost");
}

#[test]
fn casablanca_sets_its_clock_back_for_ramadan() {
    let begins = preview("30 2 * * *", "Africa/Casablanca", (Shift, Both), "2026-02-15", 2);
    let twice = "2026-02-15T02:30:00+01:00
                 2026-02-15T02:30:00+00:00 repeated 15 02:30:00";
    assert_eq!(begins, lines(twice));
    let ends = preview("30 2 * * *", "Africa/Casablanca", (Shift, First), "2026-03-22", 2);
    let moved = "2026-03-22T03:00:00+01:00 moved 22 02:30:00
                 2026-03-23T02:30:00+01:00";
    assert_eq!(ends, lines(moved));
}

#[test]
fn troll_shifts_by_two_hours() {
    let spring = preview("30 1,2 * * *", "Antarctica/Troll", (Shift, First), "2026-03-29", 2);
    let moved = "2026-03-29T03:00:00+02:00 moved 29 01:30:00
                 2026-03-30T01:30:00+02:00";
    assert_eq!(spring, lines(moved));
    let autumn = preview("30 1,2 * * *", "Antarctica/Troll", (Shift, Both), "2026-10-25", 5);
    let in_order = "2026-10-25T01:30:00+02:00
                    2026-10-25T02:30:00+02:00
                    2026-10-25T01:30:00+00:00 repeated 25 01:30:00
                    2026-10-25T02:30:00+00:00 repeated 25 02:30:00
                    2026-10-26T01:30:00+00:00";
    assert_eq!(autumn, lines(in_order));
}

#[test]
fn a_midnight_that_is_lost() {
    let beirut = preview("0 0 * * *", "Asia/Beirut", (Shift, First), "2026-03-28", 3);
    let moved = "2026-03-28T00:00:00+02:00
                 2026-03-29T01:00:00+03:00 moved 29 00:00:00
                 2026-03-30T00:00:00+03:00";
    assert_eq!(beirut, lines(moved));
    let from_it = preview("0 0 * * *", "Asia/Beirut", (Shift, First), "2026-03-29", 1);
    assert_eq!(from_it, lines("2026-03-29T01:00:00+03:00 moved 29 00:00:00"), "a preview of that day begins with it");
    let havana = zone("America/Havana").unwrap();
    let day = start_of_day(havana, "2026-11-01".parse().unwrap()).unwrap();
    assert_eq!(day, utc("2026-11-01T04:00:00Z"), "of two midnights, the first");
}

#[test]
fn offsets_with_seconds() {
    let monrovia = preview("*/20 0 * * *", "Africa/Monrovia", (Shift, First), "1972-01-07", 4);
    let moved = "1972-01-07T00:44:30+00:00 moved 07 00:00:00
                 1972-01-08T00:00:00+00:00
                 1972-01-08T00:20:00+00:00
                 1972-01-08T00:40:00+00:00";
    assert_eq!(monrovia, lines(moved));
}

#[test]
fn from_within_a_fold_or_a_gap() {
    let zone = zone("America/New_York").unwrap();
    let half_past_one = |fold| calendar("30 1 * * *", zone, Rules { gap: Shift, fold });
    let (once, again, day_after) =
        (utc("2026-11-01T05:30:00Z"), utc("2026-11-01T06:30:00Z"), utc("2026-11-02T06:30:00Z"));
    let cases = [
        (First, "2026-11-01T05:29:59.999Z", once),
        (First, "2026-11-01T05:30:00Z", day_after),
        (First, "2026-11-01T06:10:00Z", day_after),
        (Second, "2026-11-01T05:10:00Z", again),
        (Second, "2026-11-01T06:29:59.5Z", again),
        (Second, "2026-11-01T06:30:00Z", day_after),
        (Both, "2026-11-01T05:30:00Z", again),
        (Both, "2026-11-01T06:30:00Z", day_after),
    ];
    for (fold, after, expected) in cases {
        assert_eq!(half_past_one(fold).next_after(utc(after)), Some(expected), "{fold:?} {after}");
    }
    let half_past_two = calendar("30 2 * * *", zone, Rules::default());
    let (after_gap, day_after) = (utc("2026-03-08T07:00:00Z"), utc("2026-03-09T06:30:00Z"));
    assert_eq!(half_past_two.next_after(utc("2026-03-08T06:59:59.999Z")), Some(after_gap));
    assert_eq!(half_past_two.next_after(after_gap), Some(day_after));
}

#[test]
fn far_apart() {
    let leap = preview("0 0 29 2 *", "America/New_York", (Shift, First), "2026-01-01", 2);
    assert_eq!(leap, lines("2028-02-29T00:00:00-05:00\n2032-02-29T00:00:00-05:00"));
    let lost = preview("30 2 8 3 *", "America/New_York", (Skip, First), "2026-01-01", 2);
    assert_eq!(lost, lines("- dropped 08 02:30:00\n2027-03-08T02:30:00-05:00"));
}
