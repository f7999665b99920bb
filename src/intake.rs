//! The boundary: which streams hold what applications wrote, and which of it is believed.
//!
//! An application can publish any bytes with any headers to an intake stream, and to no other. A message there may set
//! the headers in [`ALLOWED`]; every other header of Carebell, and every header that would schedule or erase messages,
//! makes the job dead. What Carebell publishes for itself is in streams of its own, whose headers are trusted.
//! `docs/SECURITY_MODEL.md` says who is trusted with what.

use async_nats::{HeaderMap, HeaderValue};

use crate::{
    cut, header,
    job::Invalid,
    kind::JOBS,
    meta::{LONGEST_JOB_ID, OWN, is_any_id, is_job_id, scoped},
    near::nearest,
    plan::DeadReason,
};

/// The intake stream of an installation with one application.
pub const STREAM: &str = "JOBS";

/// Begins the name of an application's own intake stream.
const OF_APPLICATION: &str = "INTAKE_";

/// Begins the subjects of that stream, before the application's name.
pub const INTAKE: &str = "intake.";

/// The headers of Carebell that a producer may set.
pub const ALLOWED: [&str; 7] =
    [header::JOB_ID, header::AT, header::NOT_AFTER, header::ATTEMPTS, header::BACKOFF, header::TIMEOUT, header::NOTIFY];

/// How much of a foreign header's name is repeated, in bytes.
const LONGEST_NAME: usize = 64;

/// Whether applications can publish to a stream.
#[must_use]
pub fn is_intake(stream: &str) -> bool {
    stream == STREAM || stream.starts_with(OF_APPLICATION)
}

/// The application that publishes to an intake stream; empty in an installation with one application.
#[must_use]
pub fn application(stream: &str) -> &str {
    stream.strip_prefix(OF_APPLICATION).unwrap_or_default()
}

/// The stream of an application that is kept apart.
#[must_use]
pub fn stream_of(application: &str) -> String {
    format!("{OF_APPLICATION}{application}")
}

/// The part of a subject that says what an application asks for: `later.notification.bulk`, `cancel`. `None` for subjects
/// that no application publishes to.
#[must_use]
pub fn asked(subject: &str) -> Option<&str> {
    let of_application = || Some(subject.strip_prefix(INTAKE)?.split_once('.')?.1);
    subject.strip_prefix(JOBS).or_else(of_application)
}

/// A message that cannot be read, or not be believed. It becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The dead letter's reason.
    pub reason: DeadReason,
    /// Names the header or field; never repeats a value.
    pub why: String,
}

impl From<Invalid> for Unreadable {
    fn from(invalid: Invalid) -> Self {
        Self { reason: DeadReason::Undecodable, why: invalid.to_string() }
    }
}

/// Checks the headers of a message in `stream`: in an intake, that it sets no other than it may; elsewhere, that
/// Carebell wrote it.
///
/// # Errors
/// Names the header.
pub fn check(stream: &str, headers: Option<&HeaderMap>) -> Result<(), Unreadable> {
    let refused = match headers {
        _ if !is_intake(stream) => ours(headers),
        Some(headers) => strangers(headers),
        None => None,
    };
    refused.map_or(Ok(()), |why| Err(Unreadable { reason: DeadReason::Permanent, why }))
}

/// Whether a producer may set a header.
#[must_use]
pub fn may_set(name: &str) -> bool {
    refusal(name, &[HeaderValue::from("x")]).is_none()
}

fn ours(headers: Option<&HeaderMap>) -> Option<String> {
    let is_ours = headers.is_some_and(|headers| headers.get(header::JOB_ID).is_some());
    // A producer can have the server's acknowledgement sent to any subject (the reply subject of its publish).
    (!is_ours).then(|| format!("Carebell did not write this message: it has no {}", header::JOB_ID))
}

fn strangers(headers: &HeaderMap) -> Option<String> {
    headers.iter().find_map(|(name, values)| refusal(name.as_ref(), values))
}

fn refusal(name: &str, values: &[HeaderValue]) -> Option<String> {
    if begins_with(name, "carebell") {
        return match ALLOWED.contains(&name) {
            true if values.len() == 1 => None,
            true => Some(format!("the header {name} is there {} times; expected once", values.len())),
            false => Some(format!("a producer may not set the header {}{}", shown(name), meant(name))),
        };
    }
    let orders = begins_with(name, "nats-schedule") || name.eq_ignore_ascii_case("nats-rollup");
    orders.then(|| format!("a producer may not set the header {}", shown(name)))
}

/// Whether a header that an application wrote is copied to another stream, where it would be trusted.
#[must_use]
pub fn is_kept(name: &str, values: &[HeaderValue]) -> bool {
    !begins_with(name, "carebell") || (ALLOWED.contains(&name) && values.len() == 1)
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

fn shown(name: &str) -> String {
    let kept = cut::beginning(name, LONGEST_NAME, char::len_utf8);
    let rest = if kept.len() < name.len() { "…" } else { "" };
    format!("{}{rest}", kept.escape_debug())
}

/// The header that was probably meant.
fn meant(name: &str) -> String {
    nearest(name, ALLOWED).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// The job id of a message: `Carebell-Job-Id`, else `Nats-Msg-Id`, else made of stream and sequence.
///
/// # Errors
/// If what the message names is not an id that its writer may choose.
pub fn job_id(headers: Option<&HeaderMap>, stream: &str, sequence: i64) -> Result<String, Invalid> {
    let header = |name| headers.and_then(|headers| headers.get(name)).map(HeaderValue::as_str);
    let named = [(header::JOB_ID, header(header::JOB_ID)), (header::MSG_ID, header(header::MSG_ID))];
    match named.into_iter().find_map(|(name, id)| Some((name, id?))) {
        Some((name, id)) => checked_id(name, id, stream),
        None => Ok(default_id(stream, sequence)),
    }
}

/// The root id that a message names; never one that a producer names.
///
/// # Errors
/// If it is not an id.
pub fn root_id(headers: Option<&HeaderMap>, stream: &str) -> Result<Option<String>, Invalid> {
    let Some(id) = headers.filter(|_| !is_intake(stream)).and_then(|headers| headers.get(header::ROOT_ID)) else {
        return Ok(None);
    };
    checked_id(header::ROOT_ID, id.as_str(), stream).map(Some)
}

/// The id of a message that names none.
#[must_use]
pub fn default_id(stream: &str, sequence: i64) -> String {
    match application(stream) {
        "" => format!("{stream}{OWN}{sequence}"),
        application => scoped(application, &format!("{OWN}{sequence}")),
    }
}

/// The id in a header of a message, with its application.
///
/// # Errors
/// If its writer may not choose it.
pub fn checked_id(name: &'static str, id: &str, stream: &str) -> Result<String, Invalid> {
    let is_right = if is_intake(stream) { is_job_id(id) } else { is_any_id(id) };
    let expected = || format!("must be 1 to {LONGEST_JOB_ID} of the characters A-Z a-z 0-9 _ : . -");
    if is_right { Ok(scoped(application(stream), id)) } else { Err(Invalid::new(name, expected())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, *value);
        }
        headers
    }

    fn refused(name: &str) -> Option<String> {
        check(STREAM, Some(&headers(&[(name, "x")]))).err().map(|unreadable| {
            assert_eq!(unreadable.reason, DeadReason::Permanent);
            unreadable.why
        })
    }

    #[test]
    fn what_a_producer_may_set_is_taken() {
        let others =
            ["Content-Type", "traceparent", "tracestate", "Nats-Msg-Id", "Nats-Expected-Stream", "X-Request-Id"];
        for name in ALLOWED.into_iter().chain(others) {
            assert_eq!(refused(name), None, "{name}");
        }
        assert_eq!(check("INTAKE_app", None), Ok(()));
    }

    #[test]
    fn every_other_header_is_named() {
        for (name, expected) in [
            ("Carebell-Root-Id", "a producer may not set the header Carebell-Root-Id"),
            ("Carebell-Att", "a producer may not set the header Carebell-Att"),
            ("carebell-not-after", "set the header carebell-not-after; did you mean Carebell-Not-After?"),
            ("Carebell_Job_Id", "did you mean Carebell-Job-Id?"),
            ("CAREBELL", "a producer may not set the header CAREBELL"),
            ("Carebell-Dead-Reason", "a producer may not set"),
            ("Nats-Rollup", "a producer may not set the header Nats-Rollup"),
            ("nats-rollup", "a producer may not set the header nats-rollup"),
            ("Nats-Schedule", "a producer may not set"),
            ("Nats-Schedule-Target", "a producer may not set"),
            ("Nats-Schedule-Source", "a producer may not set"),
            ("NATS-SCHEDULER", "a producer may not set"),
        ] {
            let why = refused(name);
            assert!(why.as_ref().is_some_and(|why| why.contains(expected)), "{name}: {why:?}");
        }
        let twice = headers(&[("Carebell-Timeout", "1m"), ("Carebell-Timeout", "5m")]);
        let why = check(STREAM, Some(&twice)).unwrap_err().why;
        assert_eq!(why, "the header Carebell-Timeout is there 2 times; expected once");
        let long = refused(&format!("Carebell-{}", "x".repeat(100_000))).unwrap();
        assert!(long.len() < 120 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn ids_of_carebell_cannot_be_chosen() {
        for id in ["care~reminder.medication:metformin:2026-03-08T07:00:00Z:0", "JOBS~17", "dose-1~notification"] {
            for name in [header::JOB_ID, header::MSG_ID] {
                assert_eq!(job_id(Some(&headers(&[(name, id)])), STREAM, 1).unwrap_err().field, name);
                assert_eq!(job_id(Some(&headers(&[(name, id)])), "WORK", 1).unwrap(), id);
            }
        }
        assert_eq!(job_id(None, STREAM, 17).unwrap(), "JOBS~17");
        assert_eq!(job_id(None, "INTAKE_app", 17).unwrap(), "~app~~17");
        assert_eq!(job_id(Some(&headers(&[(header::JOB_ID, "17")])), "INTAKE_app", 1).unwrap(), "~app~17");
        assert!(job_id(Some(&headers(&[(header::JOB_ID, "~other~17")])), "INTAKE_app", 1).is_err());
        let root = headers(&[(header::ROOT_ID, "another-s")]);
        assert_eq!(root_id(Some(&root), STREAM), Ok(None));
        assert_eq!(root_id(Some(&root), "INTAKE_app"), Ok(None));
        assert_eq!(root_id(Some(&root), "WORK"), Ok(Some("another-s".into())));
    }

    #[test]
    fn what_an_application_asks_for_does_not_depend_on_its_account() {
        assert_eq!(asked("jobs.later.notification.bulk"), Some("later.notification.bulk"));
        assert_eq!(asked("intake.app-1.cancel"), Some("cancel"));
        for other in ["work.notification.bulk", "intake.app", "resume.jobs.x", "jobs"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn what_carebell_did_not_write_is_not_taken_for_its_own() {
        for headers in [None, Some(headers(&[])), Some(headers(&[("Nats-Msg-Id", "a")]))] {
            let why = check("DELIVERIES", headers.as_ref()).unwrap_err().why;
            assert_eq!(why, "Carebell did not write this message: it has no Carebell-Job-Id");
        }
        assert_eq!(check("WORK", Some(&headers(&[("Carebell-Job-Id", "a"), ("Carebell-Root-Id", "a")]))), Ok(()));
    }

    proptest! {
        /// Whatever passes holds nothing of Carebell's but what is on the list, in its one spelling.
        #[test]
        fn what_passes_says_only_what_a_producer_may_say(
            names in prop::collection::vec("[Cc][Aa]rebell[-_]?([Jj]ob-[Ii]d|[Rr]oot-[Ii]d|[Nn]ot-[Aa]fter|[a-z-]{0,12})|[Nn][Aa][Tt][Ss]-([Rr]ollup|[Ss]chedule(-[Nn]ext|r)?|[a-z-]{1,12})", 0..6),
        ) {
            let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
            let found = headers(&pairs);
            if check(STREAM, Some(&found)).is_ok() {
                for name in &names {
                    let lower = name.to_lowercase();
                    prop_assert!(!lower.starts_with("carebell") || ALLOWED.contains(&name.as_str()), "{name}");
                    prop_assert!(!lower.starts_with("nats-schedule") && lower != "nats-rollup", "{name}");
                    prop_assert!(is_kept(name, &[HeaderValue::from("x")]), "{name}");
                }
            }
        }

        #[test]
        fn any_name_is_read_or_refused(name in "\\PC{1,200}") {
            let _ = refusal(&name, &[HeaderValue::from("x")]);
            let _ = is_kept(&name, &[]);
        }
    }
}
