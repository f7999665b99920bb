//! `carebell schedules preview` needs no server, variable or file.

use std::process::Command;

use serde_json::{Value, json};

fn preview(args: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carebell"));
    let output = command.env_clear().args(["schedules", "preview"]).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn as_json(args: &[&str]) -> Value {
    let (well, said, error) = preview(&[args, &["--json"]].concat());
    assert!(well, "{error}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn the_lost_hour() {
    let args = ["30 2 * * *", "--tz", "America/New_York", "--from", "2026-03-07", "-n", "3"];
    let (well, said, error) = preview(&args);
    assert!(well && error.is_empty(), "{error}");
    let expected = "2026-03-07T02:30:00-05:00  Sat\n\
                    2026-03-08T03:00:00-04:00  Sun  (moved) 2026-03-08T02:30:00 is skipped by the clock\n\
                    2026-03-09T02:30:00-04:00  Mon\n";
    assert_eq!(said, expected);
    let expected = json!([
        { "at": "2026-03-07T02:30:00-05:00", "local": "2026-03-07T02:30:00", "note": null },
        { "at": "2026-03-08T03:00:00-04:00", "local": "2026-03-08T02:30:00", "note": "moved" },
        { "at": "2026-03-09T02:30:00-04:00", "local": "2026-03-09T02:30:00", "note": null },
    ]);
    assert_eq!(as_json(&args), expected);
    let skipped = as_json(&[&args[..], &["--gap", "skip"]].concat());
    let dropped = json!({ "at": null, "local": "2026-03-08T02:30:00", "note": "dropped" });
    assert_eq!((skipped.as_array().unwrap().len(), &skipped[1]), (4, &dropped), "a dropped one does not count");
    let (_, said, _) = preview(&[&args[..], &["--gap", "skip"]].concat());
    let line = "-                          Sun  (dropped) 2026-03-08T02:30:00 is skipped by the clock\n";
    assert!(said.contains(line), "{said}");
}

#[test]
fn the_repeated_hour() {
    let args = ["30 1 * * *", "--tz", "America/New_York", "--from", "2026-10-31", "-n", "3"];
    let at = |occurrences: Value| -> Vec<String> {
        occurrences.as_array().unwrap().iter().map(|one| one["at"].as_str().unwrap().to_owned()).collect()
    };
    let once = ["2026-10-31T01:30:00-04:00", "2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"];
    assert_eq!(at(as_json(&args)), once);
    let both = as_json(&[&args[..], &["--fold", "both"]].concat());
    let repeated = json!({ "at": "2026-11-01T01:30:00-05:00", "local": "2026-11-01T01:30:00", "note": "repeated" });
    assert_eq!(both[2], repeated);
    let second = at(as_json(&[&args[..], &["--fold", "second"]].concat()));
    assert_eq!(second[1], "2026-11-01T01:30:00-05:00");
}

#[test]
fn where_it_begins() {
    let mondays = as_json(&["0 3 * * 1", "--tz", "Asia/Kathmandu", "--from", "2026-03-02T03:00:00+05:45", "-n", "2"]);
    assert_eq!(mondays[0]["at"], "2026-03-02T03:00:00+05:45", "the very instant is included");
    assert_eq!(mondays[1]["at"], "2026-03-09T03:00:00+05:45");
    let (_, said, _) = preview(&["0 3 * * 1", "--tz", "Asia/Kathmandu"]);
    assert!(said.lines().count() == 10 && said.lines().all(|line| line.ends_with("Mon")), "from now on: {said}");
    let every = as_json(&["@every 90m", "--tz", "UTC", "--from", "2026-01-01T00:15:00Z", "-n", "2"]);
    assert_eq!(
        (&every[0]["at"], &every[1]["at"]),
        (&json!("2026-01-01T00:15:00+00:00"), &json!("2026-01-01T01:45:00+00:00"))
    );
    let (well, said, error) = preview(&["@yearly", "--tz", "UTC", "--from", "2098-05-01"]);
    assert!(well && said.lines().count() == 1 && error.contains("only 1 until the end of 2099"), "{said}{error}");
    let seconds = as_json(&["@daily", "--tz", "Africa/Monrovia", "--from", "1970-01-01", "-n", "1"]);
    assert_eq!(seconds[0]["local"], "1970-01-01T00:00:00");
    assert_eq!(seconds[0]["at"], "1970-01-01T00:00:30-00:44", "the instant is right although the offset has seconds");
}

#[test]
fn mistakes_say_where_and_what_instead() {
    let cases: [(&[&str], &str); 8] = [
        (&["0 25 * * *", "--tz", "UTC"], "field 2 (hour): `25` is not between 0 and 23"),
        (&["0 0 30 2 *", "--tz", "UTC"], "would never fire"),
        (&["0 9 * * *", "--tz", "America/New York"], "did you mean America/New_York?"),
        (&["0 9 * * *", "--tz", "UTC", "--from", "tomorrow"], "expected a date such as"),
        (&["0 9 * * *", "--tz", "UTC", "--from", "2100-01-01"], "1970 to 2099"),
        (&["0 9 * * *", "--tz", "UTC", "--from", "+262142-12-31"], "1970 to 2099"),
        (&["0 9 * * *", "--tz", "UTC", "--gap", "drop"], "expected shift or skip"),
        (&["0 9 * * *"], "--tz <ZONE>"),
    ];
    for (args, expected) in cases {
        let (well, said, error) = preview(args);
        assert!(!well && said.is_empty() && error.contains(expected), "{args:?}: {error}");
    }
}
