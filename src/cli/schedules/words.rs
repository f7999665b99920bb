use std::{fmt::Write as _, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::{
    schedule,
    store::{ScheduleRow, ScheduleSpec},
};

pub(super) fn table(schedules: &[ScheduleRow]) -> String {
    if schedules.is_empty() {
        return "no schedules\n".to_owned();
    }
    let widest = |column: fn(&ScheduleRow) -> &str| {
        schedules.iter().map(|row| column(row).chars().count()).max().unwrap_or(0).clamp(4, 40)
    };
    let (names, kinds) = (widest(|row| &row.spec.name), widest(|row| &row.spec.kind));
    let (expressions, zones) = (widest(|row| &row.spec.expression), widest(|row| &row.spec.zone));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<names$}  {:<kinds$}  {:<expressions$}  {:<zones$}  {:<25}  {:>6}  {:>6}",
        "name", "kind", "when", "zone", "next", "fired", "missed"
    );
    for row in schedules {
        let ScheduleSpec { name, kind, expression, zone, paused, .. } = &row.spec;
        let next = match row.next.at {
            _ if *paused => "paused".to_owned(),
            None => "none left".to_owned(),
            Some(at) => local(at, zone),
        };
        let (fired, missed) = (row.fired, row.missed_count);
        let _ = writeln!(
            text,
            "{name:<names$}  {kind:<kinds$}  {expression:<expressions$}  {zone:<zones$}  {next:<25}  {fired:>6}  {missed:>6}"
        );
    }
    text
}

pub(super) fn in_words(row: &ScheduleRow, upcoming: &[DateTime<Utc>]) -> String {
    let spec = &row.spec;
    let mut text = format!("schedule {}\n", spec.name);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    let with_lane = spec.lane.as_ref().map(|lane| format!(", lane {lane}")).unwrap_or_default();
    line("publishes", format!("{}{with_lane}: {}", spec.kind, spec.payload));
    line(
        "when",
        format!("{} in {}; lost times {}, repeated times {}", spec.expression, spec.zone, spec.gap, spec.fold),
    );
    let seconds = |seconds: i64| humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
    let limit = if spec.missed == "all" { format!(" up to {}", spec.missed_limit) } else { String::new() };
    let window = if spec.missed == "skip" {
        String::new()
    } else {
        format!(", not later than {}", seconds(spec.missed_seconds))
    };
    line("missed", format!("{}{limit}{window}", spec.missed));
    if spec.jitter_seconds > 0 {
        line("jitter", format!("up to {}", seconds(spec.jitter_seconds)));
    }
    if let Some(expiry) = spec.expiry_seconds {
        line("expires", format!("{} after its instant", seconds(expiry)));
    }
    line("from", local(spec.starts_at, &spec.zone));
    if let Some(end) = spec.ends_at {
        line("until", local(end, &spec.zone));
    }
    if let Some(owner) = &spec.owner {
        line("owner", owner.clone());
    }
    line("fired", format!("{}, and {} missed", row.fired, row.missed_count));
    if let Some((at, job)) = row.last_at.zip(row.last_job_id.as_ref()) {
        line("last", format!("{}, job {job}", local(at, &spec.zone)));
    }
    if let Some(note) = &row.last_note {
        line("note", note.clone());
    }
    line("made", format!("{} by {}", instant(row.created.at), row.created.by));
    line("changed", format!("{} by {}", instant(row.changed.at), row.changed.by));
    if let Some(due) = row.next.due.filter(|due| !spec.paused && Some(*due) != row.next.at) {
        line("due", format!("{}, including jitter", local(due, &spec.zone)));
    }
    match (spec.paused, upcoming) {
        (true, _) => line("next", "paused".into()),
        (false, []) => line("next", "none left".into()),
        (false, [first, more @ ..]) => {
            line("next", local(*first, &spec.zone));
            for at in more {
                line("", local(*at, &spec.zone));
            }
        }
    }
    text
}

pub(super) fn local(at: DateTime<Utc>, zone: &str) -> String {
    match schedule::zone(zone) {
        Ok(zone) => at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, false),
        Err(_) => instant(at),
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
