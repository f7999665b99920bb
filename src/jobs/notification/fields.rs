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
                return Err(Invalid::new("channels", "must contain only values of the enum `Channel`"));
            }
            Ok(wire::Channel::InApp) => None,
            Ok(wire::Channel::Push) => Some(Channel::WebPush),
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
    if holds_nul(&data) {
        return Err(Invalid::new(field, "must not hold U+0000"));
    }
    match data {
        Value::Object(data) => Ok(data),
        _ => Ok(Map::new()),
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

pub(super) fn email(email: String) -> Result<String, Invalid> {
    let plausible = email.len() <= 254
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.contains('.') && !domain.contains('@') && !domain.starts_with('.')
        })
        && !email.chars().any(|c| c.is_control() || c.is_whitespace() || "<>,;\"".contains(c));
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
