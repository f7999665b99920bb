//! Misbehaviour as a test asks for it over HTTP, for any receiver.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{
    phone_service::Behaviour as Phone,
    push_service::{Behaviour as Push, Reply},
    smtp_server::{Behaviour as Mail, Step},
    webhook_endpoint::Behaviour as Hook,
};

/// The most requests that a wish is for.
const MOST: usize = 1000;

/// `{"status": 503, "retryAfter": "60", "times": 2}`, `{"hang": true}`, `{"slowMs": 300}`, or `{}` for the usual.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    status: Option<u16>,
    retry_after: Option<String>,
    #[serde(default)]
    hang: bool,
    slow_ms: Option<u64>,
    /// For so many requests; without, until further notice.
    pub times: Option<usize>,
}

impl Wish {
    /// Reads a wish.
    ///
    /// # Errors
    /// Names the field and what it may hold.
    pub fn read(body: &Value) -> Result<Self, String> {
        let wish: Self = serde_json::from_value(body.clone()).map_err(|error| {
            format!(r#"{error}; expected {{"status": 503, "retryAfter": "60", "times": 2}}, {{"hang": true}} or {{"slowMs": 300}}"#)
        })?;
        if wish.status.is_some_and(|status| !(200..600).contains(&status)) {
            return Err("status: expected 200 to 599".to_owned());
        }
        if wish.times.is_some_and(|times| !(1..=MOST).contains(&times)) {
            return Err(format!("times: expected 1 to {MOST}"));
        }
        let kinds = [wish.status.is_some(), wish.hang, wish.slow_ms.is_some()].into_iter().filter(|is| *is).count();
        if kinds > 1 {
            return Err("expected one of status, hang and slowMs".to_owned());
        }
        if kinds == 0 && (wish.times.is_some() || wish.retry_after.is_some()) {
            return Err("times and retryAfter need a status, hang or slowMs".to_owned());
        }
        Ok(wish)
    }

    fn slow(&self) -> Option<Duration> {
        self.slow_ms.map(Duration::from_millis)
    }

    /// For the push service.
    #[must_use]
    pub fn push(&self) -> Option<Push> {
        let reply = |status| {
            let headers = self.retry_after.iter().map(|after| ("retry-after", after.clone())).collect();
            Push::Answer(Reply { status, headers, body: String::new() })
        };
        if self.hang { Some(Push::Hang) } else { self.status.map(reply).or(self.slow().map(Push::Slow)) }
    }

    /// For the mail server: a refused message, for good from 550 on.
    #[must_use]
    pub fn mail(&self) -> Option<Mail> {
        let refuse = |status: u16| {
            let reply = if (550..600).contains(&status) { "550 5.0.0 Refused" } else { "451 4.3.0 Try again later" };
            Mail::answer(Step::Message, reply)
        };
        let slow = |by| Mail::Slow { at: Step::Message, by };
        if self.hang { Some(Mail::Hang(Step::Message)) } else { self.status.map(refuse).or(self.slow().map(slow)) }
    }

    /// For the provider of messages and calls.
    #[must_use]
    pub fn phone(&self) -> Option<Phone> {
        let refuse = |status| Phone::Plain { status, body: String::new(), retry_after: self.retry_after.clone() };
        if self.hang { Some(Phone::Hang) } else { self.status.map(refuse).or(self.slow().map(Phone::Slow)) }
    }

    /// For the webhook's endpoint. It is never slow.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        let answer = |status| {
            let headers = self.retry_after.iter().map(|after| ("retry-after", after.clone())).collect();
            Hook::Answer(status, headers)
        };
        if self.hang { Some(Hook::Hang) } else { self.status.map(answer) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wish_is_one_behaviour() {
        assert_eq!(Wish::read(&json!({})), Ok(Wish::default()));
        assert!(Wish::read(&json!({ "status": 503, "retryAfter": "60", "times": 2 })).is_ok());
        for (body, expected) in [
            (json!({ "stauts": 503 }), "unknown field `stauts`"),
            (json!({ "status": 99 }), "200 to 599"),
            (json!({ "status": 503, "times": 0 }), "1 to 1000"),
            (json!({ "status": 503, "hang": true }), "one of"),
            (json!({ "times": 2 }), "need a status"),
            (json!([]), "expected"),
        ] {
            let why = Wish::read(&body).unwrap_err();
            assert!(why.contains(expected), "{body}: {why}");
        }
    }
}
