use std::collections::BTreeMap;

use axum::http::{
    HeaderMap, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::DateTime;
use url::{Url, form_urlencoded};

use super::{Received, twiml};

/// In characters.
const LONGEST_BODY: usize = 1600;
const LONGEST_TWIML: usize = 4000;

/// In seconds.
const VALIDITY: std::ops::RangeInclusive<u32> = 1..=14_400;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// HTTP status of the answer.
    pub status: u16,
    /// The API's error code.
    pub code: u32,
    /// The broken rule.
    pub why: String,
}

impl Violation {
    /// Answered with this status and code.
    pub fn new(status: u16, code: u32, why: impl Into<String>) -> Self {
        Self { status, code, why: why.into() }
    }
}

pub struct Request<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub account: &'a str,
    pub token: &'a str,
}

type Fields = BTreeMap<String, String>;

pub fn account_path(account: &str) -> String {
    format!("/2010-04-01/Accounts/{account}.json")
}

pub fn credentials(headers: &HeaderMap, account: &str, token: &str) -> Result<(), Violation> {
    let credentials = STANDARD.encode(format!("{account}:{token}"));
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if given == format!("Basic {credentials}") {
        return Ok(());
    }
    Err(Violation::new(401, 20_003, "not the account's credentials"))
}

/// Checks a request. Id and time are left to the caller.
pub fn verify(request: &Request<'_>) -> Result<Received, Violation> {
    let prefix = format!("/2010-04-01/Accounts/{}/", request.account);
    let resource = request.path.strip_prefix(&prefix).ok_or_else(|| Violation::new(404, 20_404, "no such account"))?;
    credentials(request.headers, request.account, request.token)?;
    if request.method != Method::POST {
        return Err(Violation::new(405, 20_004, "only POST is served"));
    }
    let kind = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind != "application/x-www-form-urlencoded" {
        return Err(Violation::new(400, 20_001, "the body is not a form"));
    }
    let mut fields = Fields::new();
    for (name, value) in form_urlencoded::parse(request.body).into_owned() {
        if fields.insert(name.clone(), value).is_some() {
            return Err(Violation::new(400, 20_001, format!("{name} comes twice")));
        }
    }
    let received = match resource {
        "Messages.json" => message(&mut fields)?,
        "Calls.json" => call(&mut fields)?,
        _ => return Err(Violation::new(404, 20_404, "no such resource")),
    };
    match fields.into_keys().next() {
        Some(name) => Err(Violation::new(400, 20_001, format!("{name} is not a field of this resource"))),
        None => Ok(received),
    }
}

fn message(fields: &mut Fields) -> Result<Received, Violation> {
    let to = required(fields, "To", 21_604)?;
    let whatsapp = to.starts_with("whatsapp:");
    let number = to.strip_prefix("whatsapp:").unwrap_or(&to);
    if !is_number(number) {
        return Err(Violation::new(400, 21_211, format!("'{to}' is not a number")));
    }
    let from = match (fields.remove("From"), fields.remove("MessagingServiceSid")) {
        (Some(from), None) => {
            let name = from.strip_prefix("whatsapp:").unwrap_or(&from);
            let is_right = if whatsapp { is_number(name) } else { is_number(name) || is_name(name) };
            if !is_right || from.starts_with("whatsapp:") != whatsapp {
                return Err(Violation::new(400, 21_212, format!("'{from}' is not a sender for '{to}'")));
            }
            from
        }
        (None, Some(service)) if service.len() == 34 && service.starts_with("MG") => service,
        _ => return Err(Violation::new(400, 21_603, "either From or MessagingServiceSid is required")),
    };
    let body = required(fields, "Body", 21_602)?;
    if body.chars().count() > LONGEST_BODY {
        return Err(Violation::new(400, 21_617, "the body has more than 1600 characters"));
    }
    let validity = match fields.remove("ValidityPeriod").map(|text| text.parse::<u32>()) {
        None => None,
        Some(Ok(seconds)) if VALIDITY.contains(&seconds) => Some(seconds),
        Some(_) => {
            return Err(Violation::new(400, 21_624, "ValidityPeriod is not a number of seconds from 1 to 14400"));
        }
    };
    Ok(Received { body, validity, ..received(to, from, status_callback(fields)?) })
}

fn call(fields: &mut Fields) -> Result<Received, Violation> {
    let to = required(fields, "To", 21_201)?;
    let from = required(fields, "From", 21_213)?;
    if !is_number(&to) {
        return Err(Violation::new(400, 21_217, format!("'{to}' is not a number")));
    }
    if !is_number(&from) {
        return Err(Violation::new(400, 21_212, format!("'{from}' is not a number")));
    }
    let instructions = required(fields, "Twiml", 21_205)?;
    if instructions.chars().count() > LONGEST_TWIML {
        return Err(Violation::new(400, 21_205, "Twiml has more than 4000 characters"));
    }
    let spoken = twiml::read(&instructions).map_err(|why| Violation::new(400, 12_100, why))?;
    Ok(Received { spoken: Some(spoken), ..received(to, from, status_callback(fields)?) })
}

fn received(to: String, from: String, status_callback: Option<String>) -> Received {
    Received {
        sid: String::new(),
        to,
        from,
        body: String::new(),
        spoken: None,
        validity: None,
        status_callback,
        received: DateTime::UNIX_EPOCH,
    }
}

fn status_callback(fields: &mut Fields) -> Result<Option<String>, Violation> {
    let Some(text) = fields.remove("StatusCallback") else { return Ok(None) };
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(text)),
        _ => Err(Violation::new(400, 21_609, "StatusCallback is not a URL")),
    }
}

fn required(fields: &mut Fields, name: &str, code: u32) -> Result<String, Violation> {
    let value = fields.remove(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| Violation::new(400, code, format!("{name} is required")))
}

/// E.164, checked independently of the product.
fn is_number(text: &str) -> bool {
    let digits: Vec<Option<u32>> = text.chars().skip(1).map(|c| c.to_digit(10)).collect();
    text.starts_with('+')
        && (7..16).contains(&digits.len())
        && digits.iter().all(Option::is_some)
        && digits[0] != Some(0)
}

/// A short code, or a name of up to eleven characters.
fn is_name(text: &str) -> bool {
    let is_code = (3..=8).contains(&text.len()) && text.chars().all(|c| c.is_ascii_digit());
    is_code || (text.len() <= 11 && text.chars().any(|c| c.is_ascii_alphabetic()))
}
