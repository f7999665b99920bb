//! Parses the fields of a notification, within the limits of `proto/carebell/v1/jobs.proto`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    channels::gateway::is_e164,
    job::{Invalid, field},
    plan::Channel,
    wire,
};

const LONGEST_URL: usize = 2000;
const LARGEST_JSON: usize = 16 * 1024;

/// The inbox is no channel: its rows are always written.
pub(super) fn channels(named: &[i32]) -> Result<Option<BTreeSet<Channel>>, Invalid> {
    let mut channels = BTreeSet::new();
    for channel in named {
        channels.extend(match wire::Channel::try_from(*channel) {
            Err(_) | Ok(wire::Channel::Unspecified) => {
                return Err(Invalid::new(
                    "channels",
                    "must contain only in_app, web_push, email, sms, whatsapp, voice, webhook",
                ));
            }
            Ok(wire::Channel::InApp) => None,
            Ok(wire::Channel::WebPush) => Some(Channel::WebPush),
            Ok(wire::Channel::Email) => Some(Channel::Email),
            Ok(wire::Channel::Sms) => Some(Channel::Sms),
            Ok(wire::Channel::Whatsapp) => Some(Channel::WhatsApp),
            Ok(wire::Channel::Voice) => Some(Channel::Voice),
            Ok(wire::Channel::Webhook) => Some(Channel::Webhook),
        });
    }
    Ok((!named.is_empty()).then_some(channels))
}

/// Anything else, such as `javascript:`, might be executed.
pub(super) fn link(url: &str) -> Result<Option<String>, Invalid> {
    let url = field::text("url", url, LONGEST_URL)?;
    // As it is sent: percent-encoded, a letter of another script takes up to twelve characters.
    let base = url::Url::parse("https://a.example/").ok();
    let encoded = base.and_then(|base| base.join(&url).ok()).map_or(0, |url| url.as_str().len());
    if encoded > LONGEST_URL + 20 {
        return Err(Invalid::new("url", format!("must be at most {LONGEST_URL} characters, percent-encoded")));
    }
    let is_path = url.starts_with('/') && !url.starts_with("//") && !url.starts_with("/\\");
    let is_https = || url::Url::parse(&url).is_ok_and(|url| url.scheme() == "https");
    match url.as_str() {
        "" => Ok(None),
        _ if is_path || is_https() => Ok(Some(url)),
        _ => Err(Invalid::new("url", "must be a path that begins with one `/`, or an https URL")),
    }
}

pub(super) fn json(field: &'static str, data: Option<prost_types::Struct>) -> Result<Map<String, Value>, Invalid> {
    let data = wire::struct_to_json(data.unwrap_or_default());
    let data = Value::Object(data);
    if data.to_string().len() > LARGEST_JSON {
        return Err(Invalid::new(field, "must be at most 16 KiB as JSON"));
    }
    if let Some(path) = inexact(&data) {
        let problem = format!(
            "must not hold whole numbers beyond ±9007199254740991, and {field}{path} is one: numbers have 53 bits, so \
             send it as a string"
        );
        return Err(Invalid::new(field, problem));
    }
    if holds_nul(&data) {
        return Err(Invalid::new(field, "must not hold U+0000"));
    }
    match data {
        Value::Object(data) => Ok(data),
        _ => Ok(Map::new()),
    }
}

/// The path of the first whole number that `google.protobuf.Struct` may have changed: it holds doubles. Keys that are no
/// plain names are not repeated, since they may be personal.
fn inexact(value: &Value) -> Option<String> {
    const FIRST_INEXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            (number.fract() == 0.0 && number.abs() >= FIRST_INEXACT).then(String::new)
        }
        Value::Array(items) => (0..).zip(items).find_map(|(index, item): (usize, _)| {
            let path = inexact(item)?;
            Some(format!("[{index}]{path}"))
        }),
        Value::Object(fields) => fields.iter().find_map(|(key, item)| {
            let path = inexact(item)?;
            let is_plain = (1..=40).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
                && !key.as_bytes().windows(4).any(|run| run.iter().all(u8::is_ascii_digit));
            let key = if is_plain { key.as_str() } else { "…" };
            Some(format!(".{key}{path}"))
        }),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

/// Protobuf and JSON allow U+0000, Postgres refuses it.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A quoted local part and an address in brackets (RFC 5321 §4.1.2) are let through: the channel knows what it can send
/// to, and says `invalid_address` where it cannot.
pub(super) fn email(email: String) -> Result<String, Invalid> {
    let is_quoted = |local: &str| local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let has_no_other = |local: &str| !local.chars().any(|c| c.is_whitespace() || "<>,;\"@".contains(c));
    let is_domain = |domain: &str| {
        let is_literal = domain.starts_with('[') && domain.ends_with(']');
        (is_literal || domain.contains('.')) && !domain.starts_with('.') && has_no_other(domain)
    };
    let plausible = email.len() <= 254
        && !email.contains(char::is_control)
        && email.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && (is_quoted(local) || has_no_other(local)) && is_domain(domain)
        });
    if plausible {
        Ok(email)
    } else {
        Err(Invalid::new("recipients.email", "must be an address such as ana@example.org"))
    }
}

pub(super) fn phone(phone: String) -> Result<String, Invalid> {
    if is_e164(&phone) {
        Ok(phone)
    } else {
        Err(Invalid::new("recipients.phone", "must be E.164, such as +4366012345678"))
    }
}
