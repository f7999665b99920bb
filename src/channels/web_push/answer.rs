//! What an answer of a push service means. Judging is here, acting upon it is the caller's.

use std::{fmt, time::Duration};

/// How long to wait after a 429 or 406 that does not say.
pub const DEFAULT_WAIT: Duration = Duration::from_mins(1);

/// Bytes of an answer's body that are looked at.
pub const MAX_BODY: usize = 512;

/// The outcome of one push. `why` is for people; it holds no endpoint, key or token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 2xx: the push service took charge of it.
    Accepted {
        /// 200 to 299; most services say 201.
        status: u16,
    },
    /// 404 or 410: the subscription is dead. Delete it.
    Gone {
        /// 404 or 410.
        status: u16,
    },
    /// 403: permanent for this subscription, which was made with another key.
    Forbidden {
        /// 403.
        status: u16,
        /// The service's own words, where they are fit to be kept.
        why: String,
    },
    /// 401, also with a fresh token. Permanent, and ours to mend (keys, clock).
    Unauthorized {
        /// 401.
        status: u16,
        /// The service's own words, where they are fit to be kept.
        why: String,
    },
    /// 400, redirects and whatever else is not known to pass: permanent, and ours to mend.
    Rejected {
        /// Any status that no other variant stands for.
        status: u16,
        /// The service's own words, where they are fit to be kept.
        why: String,
    },
    /// 413, or found too long before it was sent (`status` is then `None`). Permanent, and ours to mend.
    TooLarge {
        /// 413; `None` where nothing was sent.
        status: Option<u16>,
    },
    /// 429, and 406 of WNS: not before `after`. No attempt is burnt.
    Later {
        /// 429 or 406.
        status: u16,
        /// What Retry-After asks for (RFC 9110 §10.2.3), from 1 s to a day; [`DEFAULT_WAIT`] where it asks for nothing.
        after: Duration,
    },
    /// 5xx, 408, 425, a timeout, no connection: retry with backoff, or after `after` where the service said so.
    Failed {
        /// `None` where no answer came.
        status: Option<u16>,
        /// The service's own words, or what broke on the way to it.
        why: String,
        /// What Retry-After asks for, from 1 s to a day.
        after: Option<Duration>,
    },
    /// The endpoint is not allowed or the keys are broken: permanent, and never sent.
    BadSubscription {
        /// Which part of the subscription is wrong, and how.
        why: String,
    },
}

impl Answer {
    /// Judges an answer by its status (RFC 8030 §5, and what the services in use do beyond it).
    pub fn judge(status: u16, retry_after: Option<Duration>, why: Option<String>) -> Self {
        let text = move || why.unwrap_or_else(|| format!("the push service answered {status}"));
        match status {
            200..=299 => Self::Accepted { status },
            401 => Self::Unauthorized { status, why: text() },
            403 => Self::Forbidden { status, why: text() },
            404 | 410 => Self::Gone { status },
            406 | 429 => Self::Later { status, after: retry_after.unwrap_or(DEFAULT_WAIT) },
            413 => Self::TooLarge { status: Some(status) },
            408 | 425 | 500.. => Self::Failed { status: Some(status), why: text(), after: retry_after },
            _ => Self::Rejected { status, why: text() },
        }
    }

    /// The name in metrics and records; never changes.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Gone { .. } => "gone",
            Self::Forbidden { .. } => "forbidden",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Rejected { .. } => "rejected",
            Self::TooLarge { .. } => "too_large",
            Self::Later { .. } => "later",
            Self::Failed { .. } => "failed",
            Self::BadSubscription { .. } => "bad_subscription",
        }
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Accepted { status }
            | Self::Gone { status }
            | Self::Forbidden { status, .. }
            | Self::Unauthorized { status, .. }
            | Self::Rejected { status, .. }
            | Self::Later { status, .. } => Some(*status),
            Self::TooLarge { status } | Self::Failed { status, .. } => *status,
            Self::BadSubscription { .. } => None,
        }
    }

    /// Whether somebody on our side has to mend something: raise an alert.
    pub fn is_our_fault(&self) -> bool {
        match self {
            Self::Unauthorized { .. } | Self::Rejected { .. } | Self::TooLarge { .. } => true,
            Self::Accepted { .. }
            | Self::Gone { .. }
            | Self::Forbidden { .. }
            | Self::Later { .. }
            | Self::Failed { .. }
            | Self::BadSubscription { .. } => false,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { status } => write!(f, "accepted ({status})"),
            Self::Gone { status } => write!(f, "the subscription is gone ({status})"),
            Self::Forbidden { status, why } => write!(f, "forbidden ({status}): {why}"),
            Self::Unauthorized { status, why } => write!(f, "unauthorized ({status}): {why}"),
            Self::Rejected { status, why } => write!(f, "rejected ({status}): {why}"),
            Self::TooLarge { status: Some(status) } => write!(f, "too large ({status})"),
            Self::TooLarge { status: None } => f.write_str("too large to be sent"),
            Self::Later { status, after } => write!(f, "not before {} s from now ({status})", after.as_secs()),
            Self::Failed { status: Some(status), why, .. } => write!(f, "failed ({status}): {why}"),
            Self::Failed { status: None, why, .. } => write!(f, "failed: {why}"),
            Self::BadSubscription { why } => write!(f, "unusable subscription: {why}"),
        }
    }
}

/// What may be kept of an answer's body: a short line of printable ASCII, and only if it holds nothing that looks like
/// a link, an endpoint's path, a key or a token, which services like to echo.
pub fn reason(body: &[u8], endpoint: &url::Url) -> Option<String> {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_BODY)]);
    let printable: String = text.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
    let line = printable.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_+/=:.%~".contains(c);
    let long_word = line.split(|c| !is_word(c)).any(|word| word.len() > 20);
    let segments = endpoint.path_segments().into_iter().flatten().chain(endpoint.query());
    let echoed = segments.filter(|segment| segment.len() >= 4).any(|segment| line.contains(segment));
    if line.is_empty() || line.contains("//") || long_word || echoed {
        return None;
    }
    Some(line.chars().take(120).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_status_has_its_meaning() {
        for (status, label, ours) in [
            (200, "accepted", false),
            (201, "accepted", false),
            (202, "accepted", false),
            (204, "accepted", false),
            (301, "rejected", true),
            (307, "rejected", true),
            (400, "rejected", true),
            (401, "unauthorized", true),
            (403, "forbidden", false),
            (404, "gone", false),
            (405, "rejected", true),
            (406, "later", false),
            (408, "failed", false),
            (410, "gone", false),
            (413, "too_large", true),
            (425, "failed", false),
            (429, "later", false),
            (500, "failed", false),
            (502, "failed", false),
            (503, "failed", false),
            (599, "failed", false),
        ] {
            let answer = Answer::judge(status, None, None);
            assert_eq!((answer.label(), answer.status(), answer.is_our_fault()), (label, Some(status), ours));
            assert!(answer.to_string().contains(&status.to_string()), "{answer}");
        }
    }

    #[test]
    fn what_the_service_asks_for_is_kept() {
        assert_eq!(
            Answer::judge(429, Some(secs(7)), None),
            Answer::Later { status: 429, after: Duration::from_secs(7) }
        );
        assert_eq!(Answer::judge(406, None, None), Answer::Later { status: 406, after: DEFAULT_WAIT });
        let Answer::Failed { after, why, .. } = Answer::judge(503, Some(secs(9)), Some("busy".to_owned())) else {
            panic!()
        };
        assert_eq!((after, why.as_str()), (Some(secs(9)), "busy"));
    }

    #[test]
    fn a_reason_is_kept_only_if_it_cannot_hold_a_secret() {
        let endpoint = "https://push.example/send/abcd1234?q=word".parse().unwrap();
        for (body, kept) in [
            (r#"{"reason":"VapidPkHashMismatch"}"#, Some(r#"{"reason":"VapidPkHashMismatch"}"#)),
            ("too\r\n  many\u{7}requests", Some("too many requests")),
            ("", None),
            ("see https://push.example/x", None),
            ("no such subscription: abcd1234", None),
            ("bad query q=word", None),
            ("token eyJhbGciOiJFUzI1NiIsInR5cCI6 refused", None),
        ] {
            assert_eq!(reason(body.as_bytes(), &endpoint).as_deref(), kept, "{body}");
        }
        assert_eq!(reason("word ".repeat(500).as_bytes(), &"https://a.example/".parse().unwrap()).unwrap().len(), 120);
        assert!(reason(&[0xff; 2000], &endpoint).is_none());
    }
}
