//! Each header that is read from a message, where, and who is believed: a header that a stranger writes is an input.

use std::collections::{BTreeMap, BTreeSet};

use carebell::{header, intake};

use super::{circles::code, rust_files};

/// Headers by the names of their constants, and the files below `src/` that read them.
const READ: &[(&str, &[&str])] = &[
    // Of applications: `intake::ALLOWED`, the format and the trace.
    ("AT", &["pipeline/message.rs"]),
    ("ATTEMPTS", &["pipeline/message.rs", "dead_letter/letters.rs"]),
    ("BACKOFF", &["pipeline/message.rs"]),
    ("CONTENT_TYPE", &["pipeline/message.rs", "acts/predict.rs", "streams/queued.rs"]),
    (
        "JOB_ID",
        &[
            "intake.rs",
            "pipeline/later.rs",
            "dead_letter/letters.rs",
            "dead_letter/overdue.rs",
            "dead_letter/parked.rs",
            "streams/upgrade.rs",
        ],
    ),
    ("MSG_ID", &["intake.rs", "streams/upgrade.rs"]),
    ("NOTIFY", &["effects/events.rs", "pipeline/message.rs", "streams/queued.rs"]),
    ("NOT_AFTER", &["acts/predict.rs", "dead_letter/wake.rs", "pipeline/message.rs", "streams/queued.rs"]),
    ("TIMEOUT", &["pipeline/message.rs"]),
    ("TRACEPARENT", &["effects/publish.rs"]),
    ("TRACESTATE", &["effects/publish.rs"]),
    // Of Carebell: read only in streams that no application can publish to.
    ("DELAYED_BY", &["pipeline/message.rs"]),
    ("DUE", &["pipeline/message.rs"]),
    ("WAITS", &["pipeline/message.rs", "dead_letter/parked.rs"]),
    ("PARKED_AS", &["pipeline/message.rs"]),
    ("ZONE_DATA", &["dead_letter/overdue.rs"]),
    ("ROOT_ID", &["intake.rs", "dead_letter/letters.rs", "streams/upgrade.rs"]),
    // Of a dead letter.
    ("ERROR", &["dead_letter/letters.rs"]),
    ("FIRST", &["dead_letter/letters.rs"]),
    ("LAST", &["dead_letter/letters.rs"]),
    ("REASON", &["dead_letter/letters.rs"]),
    ("REDRIVES", &["dead_letter/letters.rs"]),
    ("SUBJECT", &["dead_letter/letters.rs"]),
    // Of the server. What an application publishes has them only if `intake::check` let them pass.
    ("MSG_SIZE", &["dead_letter/letters.rs"]),
    ("SCHEDULE", &["dead_letter/overdue.rs", "dead_letter/sweep.rs", "dead_letter/wake.rs", "streams/upgrade.rs"]),
    ("SCHEDULER", &["pipeline/message.rs", "dead_letter/undrawn.rs", "streams/upgrade.rs"]),
    (
        "SCHEDULE_TARGET",
        &[
            "dead_letter/overdue.rs",
            "dead_letter/parked.rs",
            "dead_letter/taken_back.rs",
            "dead_letter/wake.rs",
            "streams/upgrade.rs",
        ],
    ),
];

/// What stands before the name where a header is read.
const READERS: [&str; 6] = ["get(", "header(", "wish(", "text(", "instant(", "text.get("];

fn reads() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in rust_files() {
        let path = path.to_string_lossy().into_owned();
        if path.starts_with("dev")
            || path.starts_with("channels")
            || path.starts_with("callbacks")
            || path.starts_with("admin")
        {
            continue; // HTTP.
        }
        let text = code(&text);
        for (at, _) in text.match_indices("header::") {
            let before = text[..at].trim_end_matches(|c: char| c.is_alphanumeric() || c == '_');
            if !READERS.iter().any(|reader| before.ends_with(reader)) {
                continue;
            }
            let name: String =
                text[at + "header::".len()..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            found.entry(name).or_default().insert(path.clone());
        }
    }
    found
}

#[test]
fn each_header_that_is_read_is_known_with_its_readers() {
    let known =
        READ.iter().map(|(name, files)| ((*name).to_owned(), files.iter().map(|file| (*file).to_owned()).collect()));
    assert_eq!(reads(), known.collect::<BTreeMap<_, BTreeSet<_>>>());
}

/// A name spelt out would be passed over by the test above.
#[test]
fn headers_are_named_by_their_constants() {
    for (path, text) in rust_files() {
        let path = path.to_string_lossy().into_owned();
        let defines = ["header.rs", "dead_letter.rs", "dead_letter/redrive.rs"].contains(&&*path);
        if defines || path.starts_with("dev") || path.starts_with("cli") || path.starts_with("doctor") {
            continue;
        }
        for (number, line) in code(&text).lines().enumerate() {
            let spelt = ["\"Carebell-", "\"carebell-", "\"Nats-", "\"traceparent", "\"tracestate"];
            let is_prefix = line.contains("starts_with(") || line.contains("begins_with(");
            assert!(is_prefix || !spelt.iter().any(|name| line.contains(name)), "{path}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn what_a_stranger_may_set_is_the_list_of_the_intake() {
    for name in intake::ALLOWED {
        assert!(intake::may_set(name), "{name}");
    }
    for name in [
        header::ROOT_ID,
        header::DELAYED_BY,
        header::PARKED_AS,
        header::ZONE_DATA,
        header::SCHEDULE,
        header::SCHEDULE_TARGET,
        header::SCHEDULER,
    ] {
        assert!(!intake::may_set(name), "{name}");
    }
}
