use std::{fmt, time::Duration};

/// Wait after a 429 or 406 without Retry-After.
pub const DEFAULT_WAIT: Duration = Duration::from_mins(1);

/// Bytes of a body that are read.
pub const MAX_BODY: usize = 512;

/// Outcome of one push. `why` holds no endpoint, key or token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// 2xx.
    Accepted {
        /// Mostly 201.
        status: u16,
    },
    /// The subscription is dead.
    Gone {
        /// 404 or 410.
        status: u16,
    },
    /// The subscription was made with another key. Permanent.
    Forbidden {
        /// 403.
        status: u16,
        /// Service's text.
        why: String,
    },
    /// 401, even with a fresh token. Permanent, and ours to fix (keys, clock).
    Unauthorized {
        /// 401.
        status: u16,
        /// Service's text.
        why: String,
    },
    /// 400, redirects and unknown statuses: permanent, and ours to fix.
    Rejected {
        /// HTTP status.
        status: u16,
        /// Service's text.
        why: String,
    },
    /// 413, or too long to be sent. Permanent, and ours to fix.
    TooLarge {
        /// 413; `None` if not sent.
        status: Option<u16>,
    },
    /// 429, or 406 of WNS. Burns no attempt.
    Later {
        /// 429 or 406.
        status: u16,
        /// Retry-After (RFC 9110 §10.2.3), from 1 s to a day, or [`DEFAULT_WAIT`].
        after: Duration,
    },
    /// 5xx, 408, 425, a timeout, or no connection: retry.
    Failed {
        /// `None` without a response.
        status: Option<u16>,
        /// The service's text, or the error.
        why: String,
        /// Retry-After, from 1 s to a day.
        after: Option<Duration>,
    },
    /// The browser has removed the subscription, and says so in its endpoint: not sent.
    Removed,
    /// The endpoint's host or port is not allowed: not sent. Permanent, until the operator allows it.
    NotAllowed {
        /// Fault.
        why: String,
    },
    /// Malformed endpoint or keys: permanent, not sent.
    BadSubscription {
        /// Fault.
        why: String,
    },
}

impl PushOutcome {
    /// Judges a status (RFC 8030 §5, and the practice of the services).
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

    /// Name for metrics and records.
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
            Self::Removed => "removed",
            Self::NotAllowed { .. } => "not_allowed",
            Self::BadSubscription { .. } => "bad_subscription",
        }
    }

    /// HTTP status, if any.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Accepted { status }
            | Self::Gone { status }
            | Self::Forbidden { status, .. }
            | Self::Unauthorized { status, .. }
            | Self::Rejected { status, .. }
            | Self::Later { status, .. } => Some(*status),
            Self::TooLarge { status } | Self::Failed { status, .. } => *status,
            Self::Removed | Self::NotAllowed { .. } | Self::BadSubscription { .. } => None,
        }
    }

    /// Whether we have to fix something.
    pub fn is_our_fault(&self) -> bool {
        match self {
            Self::Unauthorized { .. } | Self::Rejected { .. } | Self::TooLarge { .. } => true,
            Self::Accepted { .. }
            | Self::Gone { .. }
            | Self::Forbidden { .. }
            | Self::Later { .. }
            | Self::Failed { .. }
            | Self::Removed
            | Self::NotAllowed { .. }
            | Self::BadSubscription { .. } => false,
        }
    }
}

impl fmt::Display for PushOutcome {
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
            Self::Removed => f.write_str("the browser has removed the subscription"),
            Self::NotAllowed { why } => write!(f, "not allowed: {why}"),
            Self::BadSubscription { why } => write!(f, "unusable subscription: {why}"),
        }
    }
}

/// A body's text, if safe: a short line of printable ASCII without links, endpoint paths, keys or tokens, which
/// services like to echo.
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
            let outcome = PushOutcome::judge(status, None, None);
            assert_eq!((outcome.label(), outcome.status(), outcome.is_our_fault()), (label, Some(status), ours));
            assert!(outcome.to_string().contains(&status.to_string()), "{outcome}");
        }
    }

    #[test]
    fn what_the_service_asks_for_is_kept() {
        assert_eq!(
            PushOutcome::judge(429, Some(secs(7)), None),
            PushOutcome::Later { status: 429, after: Duration::from_secs(7) }
        );
        assert_eq!(PushOutcome::judge(406, None, None), PushOutcome::Later { status: 406, after: DEFAULT_WAIT });
        let PushOutcome::Failed { after, why, .. } = PushOutcome::judge(503, Some(secs(9)), Some("busy".to_owned()))
        else {
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
