use std::{collections::BTreeMap, fmt::Write as _};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::edit;
use crate::{
    dead_letter::{Letter, dead_header::RAW_HEADERS},
    show,
    text::shorten,
};

/// In characters.
const WIDEST_ERROR: usize = 80;

#[derive(Debug, Default)]
pub(super) struct ReasonCounts(BTreeMap<String, u64>);

impl ReasonCounts {
    pub(super) fn count(&mut self, letter: &Letter) {
        *self.0.entry(letter.reason.clone()).or_default() += 1;
    }
}

pub(super) fn whole_to_json(letter: &Letter) -> Value {
    let mut whole = show::letter(letter);
    let headers = own_headers(letter).into_iter().map(|(name, value)| (name, Value::from(value)));
    whole["headers"] = Value::Object(headers.collect());
    whole["body"] = edit::to_json(letter).unwrap_or(Value::Null);
    whole["body_base64"] = STANDARD.encode(&letter.body).into();
    whole
}

pub(super) fn table(letters: &[Letter], totals: &ReasonCounts) -> String {
    let mut text = String::new();
    let count: u64 = totals.0.values().sum();
    if count == 0 {
        return "no dead letters\n".to_owned();
    }
    let (kinds, jobs) = (widest(letters, |letter| &letter.kind), widest(letters, |letter| &letter.job_id));
    let _ = writeln!(
        text,
        "{:>7}  {:<20}  {:<kinds$}  {:<12}  {:<jobs$}  error",
        "letter", "died", "kind", "reason", "job"
    );
    for letter in letters {
        let (number, died) = (letter.number, letter.last.to_rfc3339_opts(SecondsFormat::Secs, true));
        let Letter { kind, reason, job_id, .. } = letter;
        let error = shorten(&letter.error, WIDEST_ERROR);
        let _ = writeln!(text, "{number:>7}  {died:<20}  {kind:<kinds$}  {reason:<12}  {job_id:<jobs$}  {error}");
    }
    let reasons: Vec<String> = totals.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let more = match usize::try_from(count).unwrap_or(usize::MAX) - letters.len() {
        0 => String::new(),
        left => format!("; {left} older ones not shown"),
    };
    let _ = writeln!(text, "{count} in all: {}{more}", reasons.join(", "));
    text
}

fn widest(letters: &[Letter], column: impl Fn(&Letter) -> &String) -> usize {
    letters.iter().map(|letter| column(letter).chars().count()).max().unwrap_or(0).clamp(4, 60)
}

pub(super) fn whole(letter: &Letter) -> String {
    let Letter { number, kind, job_id, reason, error, attempts, stream, sequence, original_subject, .. } = letter;
    let mut text = format!("dead letter {number}: {kind} {job_id}\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    let times = if *attempts == 1 { "failure" } else { "failures" };
    line("reason", &format!("{reason} after {attempts} {times}"));
    line("error", error);
    if let Some(first) = letter.first {
        line("first", &instant(first));
    }
    line("last", &instant(letter.last));
    line("was", &format!("{original_subject} ({stream} #{sequence})"));
    if letter.root_id != *job_id {
        line("of job", &letter.root_id);
    }
    if letter.redrives > 0 {
        line(
            "redriven",
            &format!(
                "{} before",
                if letter.redrives == 1 { "once".into() } else { format!("{} times", letter.redrives) }
            ),
        );
    }
    let _ = writeln!(text, "headers");
    for (name, value) in own_headers(letter) {
        let _ = writeln!(text, "  {name}: {value}");
    }
    let _ = writeln!(text, "body, {} bytes", letter.body.len());
    match (edit::to_json(letter), std::str::from_utf8(&letter.body)) {
        (Ok(body), _) => {
            let pretty = serde_json::to_string_pretty(&body).unwrap_or_default();
            let _ = writeln!(text, "  {}", pretty.replace('\n', "\n  "));
        }
        (Err(why), Ok(words)) if !words.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
            let _ = writeln!(text, "  {}\n  ({why})", words.replace('\n', "\n  "));
        }
        (Err(why), _) => {
            let _ = writeln!(text, "  base64: {}\n  ({why})", STANDARD.encode(&letter.body));
        }
    }
    text
}

/// Headers that the job came with.
fn own_headers(letter: &Letter) -> Vec<(String, String)> {
    let headers = letter.headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| (name.to_owned(), value.as_str().to_owned()))
    });
    let mut own: Vec<_> = headers
        .filter(|(name, _)| name == RAW_HEADERS || !name.starts_with("Nats-") && !name.starts_with("Carebell-Dead-"))
        .collect();
    own.sort();
    own
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
