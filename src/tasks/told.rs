//! The words of endpoints: a result with effects, progress, a failed attempt. Read strictly; errors name the field.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Bytes of a result.
pub const LARGEST_RESULT: usize = 32 * 1024;

/// Effects of one job.
pub const MOST_EFFECTS: usize = 100;

/// Characters of an endpoint's note or error. They are shown to operators.
const LONGEST_WORDS: usize = 200;

/// The body of a 200, and of `/done`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Kept with the run.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Jobs that follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<ToldEffect>,
}

/// A job that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldEffect {
    /// Its own id, unique among the effects of the job.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Its lane, if the kind has lanes. Defaults to `normal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// The job.
    pub job: Value,
    /// When it runs, RFC 3339. Defaults to at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// The body of `/progress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldProgress {
    /// 0 to 100.
    #[serde(default)]
    pub percent: Option<u8>,
    /// For people.
    #[serde(default)]
    pub note: Option<String>,
}

/// The body of `/failed`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldFailure {
    /// What is to follow.
    pub outcome: FailedAs,
    /// Seconds.
    #[serde(default)]
    pub after: Option<u32>,
    /// For people: no personal data.
    #[serde(default)]
    pub error: Option<String>,
}

/// As in `Carebell-Outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedAs {
    /// No retry mends it.
    Permanent,
    /// A failed attempt.
    Retry,
    /// Asked again later; burns no attempt.
    Later,
    /// Nothing is to be done.
    Skipped,
    /// Ended because it was cancelled.
    Cancelled,
}

/// Reads a result and its effects.
///
/// # Errors
/// Names the field and what was expected; never a value.
pub fn told(body: &[u8]) -> Result<Told, String> {
    let told: Told = read(body)?;
    let size = serde_json::to_vec(&told.result).map_or(usize::MAX, |bytes| bytes.len());
    if size > LARGEST_RESULT {
        return Err(format!("result: has {size} bytes; at most {LARGEST_RESULT} are kept"));
    }
    if told.effects.len() > MOST_EFFECTS {
        return Err(format!("effects: has {}; at most {MOST_EFFECTS} are possible", told.effects.len()));
    }
    Ok(told)
}

/// Reads progress.
///
/// # Errors
/// As [`told`].
pub fn progress(body: &[u8]) -> Result<ToldProgress, String> {
    let told: ToldProgress = if body.is_empty() { ToldProgress::default() } else { read(body)? };
    if told.percent.is_some_and(|percent| percent > 100) {
        return Err("percent: expected a whole number from 0 to 100".into());
    }
    words("note", told.note.as_deref())?;
    Ok(told)
}

/// Reads a failure.
///
/// # Errors
/// As [`told`].
pub fn failure(body: &[u8]) -> Result<ToldFailure, String> {
    let told: ToldFailure = read(body)?;
    words("error", told.error.as_deref())?;
    Ok(told)
}

fn words(field: &str, text: Option<&str>) -> Result<(), String> {
    let fits = |text: &str| text.chars().count() <= LONGEST_WORDS && !text.chars().any(char::is_control);
    let expected = || format!("{field}: expected one line of at most {LONGEST_WORDS} characters");
    if text.is_none_or(fits) { Ok(()) } else { Err(expected()) }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // Serde takes a list for an object whose fields it has in order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err("expected a JSON object".into());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = without_values(error.inner());
        if path == "." { why } else { format!("{path}: {why}") }
    })?;
    reader.end().map_err(|_| "there is more after the JSON object".to_owned())?;
    Ok(value)
}

/// The messages of serde repeat values, which may be personal.
fn without_values(error: &serde_json::Error) -> String {
    let at = format!("line {}, column {}", error.line(), error.column());
    let text = error.to_string();
    if error.is_eof() || error.is_syntax() {
        return format!("no JSON at {at}");
    }
    let text = text.split(" at line ").next().unwrap_or_default();
    match text.split_once(", expected ") {
        Some((found, expected)) if found.starts_with("invalid ") => format!("expected {expected} ({at})"),
        Some((found, expected)) if found.starts_with("unknown field") => {
            let name: String =
                found.chars().filter(|c| c.is_ascii_alphanumeric() || " _-`".contains(*c)).take(80).collect();
            format!("{name}, expected {expected} ({at})")
        }
        Some((_, expected)) => format!("expected {expected} ({at})"),
        None if text.starts_with("missing field") => text.to_owned(),
        None => format!("not as expected ({at})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn why(body: &str) -> String {
        told(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_result_and_its_effects_are_read() {
        let effect = json!({ "id": "critical", "kind": "notification", "lane": "critical", "job": {}, "at": null });
        let body = json!({ "result": { "value": 7 }, "effects": [effect] }).to_string();
        let told = told(body.as_bytes()).unwrap();
        assert_eq!(told.result, json!({ "value": 7 }));
        assert_eq!((told.effects[0].id.as_str(), told.effects[0].at.as_deref()), ("critical", None));
        assert_eq!(super::told(b"{}").unwrap(), Told::default());
    }

    #[test]
    fn errors_name_the_field_and_no_value() {
        for (body, expected) in [
            ("", "no JSON at line 1, column 0"),
            ("Rose takes", "no JSON at line 1"),
            ("{} {}", "there is more after the JSON object"),
            ("[1]", "expected a JSON object"),
            (r#"{"resullt": "Rose"}"#, "unknown field `resullt`, expected `result` or `effects`"),
            (r#"{"effects": "Rose"}"#, "effects: expected a sequence"),
            (r#"{"effects": [{"id": "a", "kind": 7, "job": {}}]}"#, "effects[0].kind: expected a string"),
            (r#"{"effects": [{"id": "a", "job": {}}]}"#, "effects[0]: missing field `kind`"),
        ] {
            let why = why(body);
            assert!(why.contains(expected), "{body}: {why}");
            assert!(!why.contains("Rose"), "{why}");
        }
        let large = json!({ "result": "x".repeat(LARGEST_RESULT) }).to_string();
        assert!(why(&large).starts_with("result: has 32770 bytes"), "{}", why(&large));
        let effect = json!({ "id": "a", "kind": "b", "job": {} });
        let many = json!({ "effects": vec![effect; 101] }).to_string();
        assert_eq!(why(&many), "effects: has 101; at most 100 are possible");
    }

    #[test]
    fn progress_and_failures_are_bounded() {
        assert_eq!(progress(b"").unwrap(), ToldProgress::default());
        assert_eq!(progress(br#"{"percent": 40}"#).unwrap().percent, Some(40));
        assert!(progress(br#"{"percent": 101}"#).unwrap_err().contains("0 to 100"));
        assert!(progress(br#"{"percent": -1}"#).unwrap_err().contains("percent: expected"));
        assert!(progress(br#"{"note": "a\nb"}"#).unwrap_err().contains("one line"));
        assert_eq!(failure(br#"{"outcome": "retry", "after": 5}"#).unwrap().after, Some(5));
        assert!(failure(br#"{"outcome": "done"}"#).unwrap_err().contains("`permanent`"));
        assert!(failure(b"{}").unwrap_err().contains("missing field `outcome`"));
    }
}
