use super::*;

/// The next instants in UTC from 2026-01-01, a Thursday.
fn from_2026(expression: &str, count: usize) -> Vec<String> {
    let calendar = calendar(expression, Zone::utc(), Rules::default());
    let occurrences = calendar.occurrences(utc("2026-01-01T00:00:00Z")).take(count);
    occurrences.map(|one| one.at.unwrap().format("%m-%d %H:%M:%S %a").to_string()).collect()
}

fn same(one: &str, other: &str) {
    assert_eq!(from_2026(one, 40), from_2026(other, 40), "{one} and {other}");
}

#[test]
fn fields_mean_what_cron_says() {
    assert_eq!(from_2026("30 9 * * *", 2), ["01-01 09:30:00 Thu", "01-02 09:30:00 Thu".replace("Thu", "Fri").as_str()]);
    assert_eq!(from_2026("0 3 * * 1", 2), ["01-05 03:00:00 Mon", "01-12 03:00:00 Mon"]);
    assert_eq!(from_2026("15 30 9 * * *", 1), ["01-01 09:30:15 Thu"], "seconds in front");
    assert_eq!(from_2026("*/20 0 0 1 1 *", 3), ["01-01 00:00:00 Thu", "01-01 00:00:20 Thu", "01-01 00:00:40 Thu"]);
    assert_eq!(from_2026("10-40/15 5 * * *", 3), ["01-01 05:10:00 Thu", "01-01 05:25:00 Thu", "01-01 05:40:00 Thu"]);
    same("0 9 * * 0", "0 9 * * 7");
    same("0 9 * * sun", "0 9 * * SUNDAY");
    same("0 9 * * 5-7", "0 9 * * 0,5,6");
    same("0 9 * * fri-sun", "0 9 * * 5-7");
    same("0 9 * * sun-tue", "0 9 * * 0-2");
    same("0 9 * * Sun-sun", "0 9 * * 0");
    same("0 9 * * */2", "0 9 * * 0,2,4,6");
    same("0 9 * * 1-7/2", "0 9 * * 1,3,5,7");
    same("0 9 * * 0-7", "0 9 * * *");
    same("0 9 1 jan,Jun,DECEMBER *", "0 9 1 1,6,12 *");
    same("0 9 1 feb-apr *", "0 9 1 2-4 *");
    same(" 0  9\t* * *\n", "0 9 * * *");
    same("00 09 01 01 *", "0 9 1 1 *");
    same("0 0 9 * * *", "0 9 * * *");
}

#[test]
fn either_day_is_enough_where_both_are_restricted() {
    let either = ["01-01 00:00:00 Thu", "01-05 00:00:00 Mon", "01-12 00:00:00 Mon", "01-15 00:00:00 Thu"];
    assert_eq!(from_2026("0 0 1,15 * 1", 4), either);
    assert_eq!(from_2026("0 0 1,15 * *", 2), ["01-01 00:00:00 Thu", "01-15 00:00:00 Thu"]);
    same("0 0 */1 * 1", "0 0 * * *");
    same("0 0 */2 * 1", "0 0 1-31/2 * mon");
    assert_eq!(from_2026("0 0 */2 * 1", 4)[..3], ["01-01 00:00:00 Thu", "01-03 00:00:00 Sat", "01-05 00:00:00 Mon"]);
    assert_eq!(from_2026("0 0 30 2 1", 1), ["02-02 00:00:00 Mon"], "Mondays of February remain");
}

#[test]
fn words() {
    same("@yearly", "0 0 1 1 *");
    same("@annually", "0 0 1 1 *");
    same("@Monthly", "0 0 1 * *");
    same("@weekly", "0 0 * * sun");
    same("@daily", "0 0 * * *");
    same("@midnight", "@daily");
    same("@HOURLY", "0 * * * *");
    assert_eq!(from_2026("@every 1h 30m", 2), ["01-01 00:00:00 Thu", "01-01 01:30:00 Thu"]);
    same("@every 90m", "@EVERY 1h 30m");
    assert_eq!(Expression::parse(" @every  90m").unwrap().to_string(), "@every 90m");
    assert_eq!(Expression::parse("0 9  * * MON").unwrap().to_string(), "0 9 * * MON");
}

#[test]
fn mistakes_name_their_field() {
    use Field::{DayOfMonth, DayOfWeek, Hour, Minute, Month, Second};
    let cases = [
        ("60 * * * *", Minute, "field 1 (minute): `60` is not between 0 and 59"),
        ("* 24 * * *", Hour, "field 2 (hour): `24`"),
        ("0 9am * * *", Hour, "`9am` is not a number; expected numbers from 0 to 23: for example `9`"),
        ("0 -9 * * *", Hour, "missing"),
        ("0 9 0 * *", DayOfMonth, "field 3 (day of month): `0`"),
        ("0 9 32 * *", DayOfMonth, "`32`"),
        ("0 9 L * *", DayOfMonth, "`L`"),
        ("0 9 15W * *", DayOfMonth, "`15W`"),
        ("0 9 * 13 *", Month, "field 4 (month): `13`"),
        ("0 9 * juni *", Month, "`juni` is neither a number nor the name of a month"),
        ("0 9 * mon *", Month, "`mon`"),
        ("0 9 * * 8", DayOfWeek, "field 5 (day of week): `8` is not between 0 and 7"),
        ("0 9 * * weekdays", DayOfWeek, "`weekdays`"),
        ("0 9 * * mon#2", DayOfWeek, "`mon#2`"),
        ("0 9 ? * mon", DayOfMonth, "`?` is not part of this dialect: write `*`"),
        ("0 22-5 * * *", Hour, "`22-5` runs backwards: write `22-23,0-5`"),
        ("0 9 * * fri-mon", DayOfWeek, "write `fri-7,1-mon`"),
        ("0 9 * * 6-0", DayOfWeek, "write `6-7`"),
        ("0 9 * nov-feb *", Month, "write `nov-12,1-feb`"),
        ("0 9 1-2-3 * *", DayOfMonth, "`2-3`"),
        ("*/0 * * * *", Minute, "is 0"),
        ("*/90 * * * *", Minute, "`*/90` is more than 60; longer intervals are written like `@every 90m`"),
        ("*/-5 * * * *", Minute, "is not a whole number"),
        ("*/ * * * *", Minute, "is not a whole number"),
        ("5/15 * * * *", Minute, "`5/15` has a step, but no range"),
        ("1,,2 * * * *", Minute, "empty part before, between or after commas"),
        (", * * * *", Minute, "empty part"),
        ("1-*/2 * * * *", Minute, "`*` stands alone"),
        ("99999999999999999999 * * * *", Minute, "is not between"),
        ("٣ * * * *", Minute, "`٣`"),
        ("60 * * * * *", Second, "field 1 (second)"),
        ("0 0 24 * * *", Hour, "field 3 (hour)"),
        ("0 0 30 2 *", DayOfMonth, "field 3 (day of month): it would never fire: no month of `2` has a day `30`"),
        ("0 0 31 4,6,9,11 *", DayOfMonth, "never fire"),
        ("0 0 0 30-31 feb *", DayOfMonth, "field 4 (day of month): it would never fire"),
    ];
    for (expression, field, expected) in cases {
        let error = Expression::parse(expression).unwrap_err();
        assert_eq!(error.field(), Some(field), "{expression}: {error}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(field.name()), "{expression}: {text}");
        assert!(text.contains("for example"), "{text}");
    }
}

#[test]
fn other_mistakes_say_what_is_expected() {
    let cases = [
        ("", "the expression is empty; expected five fields"),
        ("  \t", "empty"),
        ("*", "has 1 field; expected five fields"),
        ("0 9 * *", "has 4 fields"),
        ("0 0 9 * * * 2026", "has 7 fields"),
        ("@dayly", "did you mean `@daily`?"),
        ("@reboot", "there is no `@reboot`; expected @yearly, @annually"),
        ("@daily 5", "unexpected `5` after `@daily`"),
        ("@every", "needs an interval"),
        ("@every 90", "`90` is not a duration"),
        ("@every often", "`often` is not a duration"),
        ("@every 0s", "whole seconds"),
        ("@every 1500ms", "whole seconds"),
        ("@every 11000d", "whole seconds from 1s to 3650d"),
        ("@every 1M", "months or years"),
        ("@every 1 month", "months or years"),
        ("@every 2years", "months or years"),
    ];
    for (expression, expected) in cases {
        let error = Expression::parse(expression).unwrap_err();
        assert_eq!(error.field(), None);
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("expected"), "{expression}: {text}");
    }
    let long = Expression::parse(&"x".repeat(10_000)).unwrap_err().to_string();
    let long_field = Expression::parse(&format!("{} * * * *", "9".repeat(10_000))).unwrap_err().to_string();
    assert!(long.len() < 300 && long_field.len() < 300, "{long_field}");
}

#[test]
fn zones_by_name() {
    assert_eq!(zone("Europe/London").unwrap().name(), "Europe/London");
    assert_eq!(zone("europe/london").unwrap().name(), "Europe/London");
    assert_eq!(zone("UTC").unwrap(), Zone::utc());
    let cases = [
        ("America/New York", "did you mean America/New_York?"),
        ("New_York", "did you mean America/New_York?"),
        ("Europe/New_York", "did you mean America/New_York?"),
        ("Europe/Londn", "did you mean Europe/London?"),
        ("Amerika/New_York", "did you mean America/New_York?"),
        ("Asia/Katmando", "did you mean Asia/Katmandu?"),
        (" UTC", "did you mean UTC?"),
    ];
    for (name, expected) in cases {
        let error = zone(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    for name in ["", "+02:00", "nowhere at all", "\u{1F600}"] {
        let error = zone(name).unwrap_err().to_string();
        assert!(error.contains("expected an IANA name") && !error.contains("did you mean"), "{name}: {error}");
    }
}
