//! Judges the responses of providers. Only the status and the API's code are kept.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    Account,
    client::{NoReply, Reply},
};
use crate::channels::{Answer, outbound::retry_after};

/// `deliveries.reason` of a number that doesn't exist or can't receive.
pub const INVALID_NUMBER: &str = "invalid_number";

/// `deliveries.reason` of a recipient who answered STOP.
pub const OPTED_OUT: &str = "opted_out";

/// Wait after a 429 without Retry-After.
const DEFAULT_WAIT: Duration = Duration::from_mins(1);

/// Codes about the request, not the account.
const OF_THE_REQUEST: std::ops::Range<u64> = 21_000..22_000;

const LONGEST_ID: usize = 64;

/// Judges a response.
///
/// | response | outcome |
/// |---|---|
/// | 2xx with a `sid` | accepted |
/// | 429 | later |
/// | 400 with a code of [`gone`] | invalid number |
/// | other 4xx | permanent |
/// | 401, 403, 404, 405, 410, 3xx | down: the account or its URL is wrong, for every message |
/// | 503, and any 5xx with an API error code | down: not accepted |
/// | other 5xx, and 2xx without a `sid` | unknown: a proxy may answer for an API that accepted it |
/// | none, before the request went out | down |
/// | none, after it | unknown |
pub fn judge(reply: Result<Reply, NoReply>, account: &Account, note: Option<&str>, now: DateTime<Utc>) -> Answer {
    let reply = match reply {
        Ok(reply) => reply,
        Err(NoReply::NotSent { why, timed_out }) => return Answer::Down { why, after: None, timed_out },
        Err(NoReply::Lost(why)) => return Answer::Unknown { why },
    };
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let code = body.get("code").and_then(Value::as_u64);
    let status = reply.status;
    let said = code.map_or_else(|| status.to_string(), |code| format!("{status}, error {code}"));
    let after = reply.retry_after.as_deref().and_then(|value| retry_after(value, now));
    let down = |why| Answer::Down { why, after, timed_out: false };
    match status {
        200..=299 => match body.get("sid").and_then(Value::as_str).filter(|id| is_id(id)) {
            Some(id) => Answer::Accepted {
                answer: note.map_or_else(|| status.to_string(), |note| format!("{status}, {note}")),
                provider_id: Some(id.to_owned()),
            },
            None => Answer::Unknown { why: format!("answered {status} without the id of a message") },
        },
        429 => Answer::Later { after: after.unwrap_or(DEFAULT_WAIT), answer: said },
        403 if code.is_some_and(|code| OF_THE_REQUEST.contains(&code)) => permanent(&said),
        401 | 403 => down(format!("refuses the account ({said}); see {}", account.variable)),
        300..=399 | 404 | 405 | 410 => {
            down(format!("does not know this account or API ({said}); see {}", account.variable))
        }
        408 | 425 => Answer::Retry { why: format!("answered {said}"), after },
        400..=499 => match code.and_then(gone) {
            Some(reason) => Answer::Gone { answer: said, reason },
            None => permanent(&said),
        },
        503 | 501 | 505 => down(format!("answered {said}")),
        500.. if code.is_some() => down(format!("answered {said}")),
        _ => Answer::Unknown { why: format!("answered {said}") },
    }
}

fn permanent(said: &str) -> Answer {
    Answer::Permanent { why: format!("refuses the message ({said})") }
}

pub fn gone(code: u64) -> Option<&'static str> {
    match code {
        // Invalid 'To' number; not valid for a call; not a mobile number.
        21_211 | 21_217 | 21_614 => Some(INVALID_NUMBER),
        21_610 => Some(OPTED_OUT),
        _ => None,
    }
}

pub fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Channel;

    fn account() -> Account {
        let url = ("SMS_PROVIDER_URL", "https://AC1:secret@api.twilio.com");
        Account::parse(Channel::Sms, url, ("SMS_FROM", "Carebell")).unwrap()
    }

    fn judged(status: u16, retry_after: Option<&str>, body: &str) -> Answer {
        let reply = Reply { status, retry_after: retry_after.map(str::to_owned), body: body.into() };
        judge(Ok(reply), &account(), Some("2 segments"), "2026-10-25T00:30:00Z".parse().unwrap())
    }

    fn error(code: u32) -> String {
        format!(r#"{{"code": {code}, "message": "The number +4366012345678 …", "status": 400}}"#)
    }

    #[test]
    fn each_answer_has_one_meaning() {
        let sid = r#"{"sid": "SM0123", "status": "queued"}"#;
        assert_eq!(
            judged(201, None, sid),
            Answer::Accepted { answer: "201, 2 segments".into(), provider_id: Some("SM0123".into()) }
        );
        for body in ["", "<html>", "{}", r#"{"sid": 7}"#, r#"{"sid": "a b\n"}"#] {
            assert!(matches!(judged(201, None, body), Answer::Unknown { .. }), "{body}");
        }
        let minute = Duration::from_mins(1);
        let later = |after| Answer::Later { after, answer: "429, error 20429".into() };
        assert_eq!(judged(429, None, &error(20_429)), later(minute));
        assert_eq!(judged(429, Some("7"), &error(20_429)), later(Duration::from_secs(7)));
        for (code, reason) in
            [(21_211, "invalid_number"), (21_217, "invalid_number"), (21_614, "invalid_number"), (21_610, "opted_out")]
        {
            assert_eq!(judged(400, None, &error(code)), Answer::Gone { answer: format!("400, error {code}"), reason });
        }
        for (status, body) in
            [(400, error(21_606)), (400, "no JSON".into()), (422, String::new()), (403, error(21_215))]
        {
            assert!(matches!(judged(status, None, &body), Answer::Permanent { .. }), "{status}");
        }
        for (status, body) in [
            (401, error(20_003)),
            (403, String::new()),
            (404, error(20_404)),
            (302, String::new()),
            (503, String::new()),
            (500, error(20_500)),
        ] {
            assert!(matches!(judged(status, None, &body), Answer::Down { timed_out: false, .. }), "{status}");
        }
        for status in [500, 502, 504, 520] {
            assert!(matches!(judged(status, None, "<html>Bad gateway"), Answer::Unknown { .. }), "{status}");
        }
        assert!(matches!(judged(503, Some("9"), ""), Answer::Down { after: Some(nine), .. } if nine.as_secs() == 9));
    }

    #[test]
    fn nothing_that_the_provider_says_is_repeated_but_its_numbers() {
        for status in [201, 400, 401, 403, 404, 429, 500, 503] {
            let shown = format!("{:?}", judged(status, None, &error(21_606)));
            assert!(!shown.contains("66012345678") && !shown.contains("secret"), "{shown}");
        }
        assert!(format!("{:?}", judged(401, None, &error(20_003))).contains("see SMS_PROVIDER_URL"));
    }
}
