//! `notification`: one text to many people. Expands it to inbox rows and to one delivery per recipient × channel ×
//! address.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;
use serde_json::{Map, Value};

use crate::{
    job::{self, Context, Failure, Invalid, Job, Outcome},
    kind::{Kind, Lane},
    plan::{Channel, Content, InboxRow, NextJob, Plan, PlannedDelivery, Reason},
    store::Addresses,
    wire,
};

/// How long after it was published a notification is still worth sending.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// Limits of `proto/carebell/v1/jobs.proto`.
const LONGEST_TITLE: usize = 200;
const LONGEST_BODY: usize = 2000;
const LONGEST_URL: usize = 2000;
const LONGEST_TYPE: usize = 64;
const LONGEST_TAG: usize = 128;
const LARGEST_DATA: usize = 16 * 1024;

/// One text to many people.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    users: BTreeSet<String>,
    emails: BTreeSet<String>,
    phones: BTreeSet<String>,
    push: bool,
    content: Content,
}

impl Job for Notification {
    const KIND: Kind = Kind::notification("notification");

    type Wire = wire::Notification;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        if !wire.template.is_empty() {
            return Err(Invalid::new("template", "names a template that does not exist"));
        }
        let mut notification = Self {
            users: BTreeSet::new(),
            emails: BTreeSet::new(),
            phones: BTreeSet::new(),
            push: wants_push(&wire.channels)?,
            content: Content {
                kind: job::text("type", &wire.r#type, LONGEST_TYPE)?,
                title: job::text("title", &wire.title, LONGEST_TITLE)?,
                body: job::text("body", &wire.body, LONGEST_BODY)?,
                url: link(&wire.url)?,
                data: data(wire.data)?,
                tag: Some(job::text("dedupe_key", &wire.dedupe_key, LONGEST_TAG)?).filter(|tag| !tag.is_empty()),
            },
        };
        if notification.content.title.is_empty() {
            return Err(Invalid::new("title", "is required"));
        }
        if notification.content.kind.is_empty() {
            notification.content.kind = "GENERAL".into();
        }
        let kind = notification.content.kind.as_str().into();
        notification.content.data.entry("type").or_insert(kind);
        for recipient in wire.recipients {
            notification.add(recipient)?;
        }
        if notification.users.is_empty() && notification.emails.is_empty() && notification.phones.is_empty() {
            return Err(Invalid::new("recipients", "must name at least one"));
        }
        Ok(notification)
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let users: Vec<String> = self.users.iter().cloned().collect();
        let addresses = if users.is_empty() {
            Addresses::new()
        } else {
            cx.store.addresses(&users).await.map_err(Failure::reading)?
        };
        if addresses.is_empty() && self.emails.is_empty() && self.phones.is_empty() {
            return Ok(Outcome::Skipped(Reason::NoRecipients));
        }
        Ok(Outcome::Done(self.plan(cx, &addresses)))
    }
}

impl Notification {
    fn add(&mut self, recipient: wire::Recipient) -> Result<(), Invalid> {
        use wire::recipient::Recipient;
        match recipient.recipient {
            Some(Recipient::UserId(id)) => self.users.insert(job::id("recipients.user_id", id)?),
            Some(Recipient::Email(email)) => self.emails.insert(check_email(email)?),
            Some(Recipient::Phone(phone)) => self.phones.insert(check_phone(phone)?),
            None => return Err(Invalid::new("recipients", "must each have a user_id, an email or a phone")),
        };
        Ok(())
    }

    /// Every known user gets an inbox row, whatever the channels: it is what a push or a mail leads to.
    fn plan(self, cx: &Context, addresses: &Addresses) -> Plan {
        let new_id = || cx.random.uuid(cx.clock.now()).to_string();
        let lane = cx.meta.lane;
        let inbox = addresses.keys().map(|user_id| InboxRow { id: new_id(), user_id: user_id.clone() }).collect();
        let mut deliveries = Vec::new();
        if self.push && cx.channels.has(Channel::WebPush) {
            for (user_id, subscriptions) in addresses {
                deliveries.extend(subscriptions.iter().map(|subscription_id| PlannedDelivery {
                    id: new_id(),
                    user_id: user_id.clone(),
                    channel: Channel::WebPush,
                    address: subscription_id.clone(),
                    lane,
                    sender: Some(Channel::WebPush.kind()),
                }));
            }
        }
        let raw = |channel: Channel, address: &String| PlannedDelivery {
            id: new_id(),
            user_id: String::new(),
            channel,
            address: address.clone(),
            lane,
            sender: cx.channels.has(channel).then(|| channel.kind()),
        };
        deliveries.extend(self.emails.iter().map(|email| raw(Channel::Email, email)));
        deliveries.extend(self.phones.iter().map(|phone| raw(Channel::Sms, phone)));
        Plan { content: Some(self.content), inbox, deliveries, ..Plan::default() }
    }
}

/// The next stage of a job that tells these users something: `text`, in their inboxes and on their devices.
#[must_use]
pub(super) fn to_users(users: &[String], lane: Lane, text: wire::Notification) -> NextJob {
    use wire::recipient::Recipient;
    let recipients = users.iter().map(|user| wire::Recipient { recipient: Some(Recipient::UserId(user.clone())) });
    let notification = wire::Notification { recipients: recipients.collect(), ..text };
    NextJob { kind: Notification::KIND, lane, suffix: "notification", body: notification.encode_to_vec() }
}

/// No channels named = what the recipient prefers, which includes push.
fn wants_push(channels: &[i32]) -> Result<bool, Invalid> {
    let mut push = channels.is_empty();
    for channel in channels {
        match wire::Channel::try_from(*channel) {
            Err(_) | Ok(wire::Channel::Unspecified) => {
                return Err(Invalid::new("channels", "must hold only channels of the enum `Channel`"));
            }
            Ok(wire::Channel::Push) => push = true,
            Ok(_) => {}
        }
    }
    Ok(push)
}

/// A path of the application or an https URL. Anything else, `javascript:` for one, would be run where it is shown.
fn link(url: &str) -> Result<Option<String>, Invalid> {
    let url = job::text("url", url, LONGEST_URL)?;
    let is_path = url.starts_with('/') && !url.starts_with("//") && !url.starts_with("/\\");
    let is_https = || url::Url::parse(&url).is_ok_and(|url| url.scheme() == "https");
    match url.as_str() {
        "" => Ok(None),
        _ if is_path || is_https() => Ok(Some(url)),
        _ => Err(Invalid::new("url", "must be a path that begins with one `/`, or an https URL")),
    }
}

fn data(data: Option<prost_types::Struct>) -> Result<Map<String, Value>, Invalid> {
    let data = wire::struct_to_json(data.unwrap_or_default());
    let data = Value::Object(data);
    if data.to_string().len() > LARGEST_DATA {
        return Err(Invalid::new("data", "must be at most 16 KiB as JSON"));
    }
    if holds_nul(&data) {
        return Err(Invalid::new("data", "must not hold U+0000"));
    }
    match data {
        Value::Object(data) => Ok(data),
        _ => Ok(Map::new()),
    }
}

/// U+0000 is valid in protobuf and JSON, and refused by Postgres.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn check_email(email: String) -> Result<String, Invalid> {
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

fn check_phone(phone: String) -> Result<String, Invalid> {
    let digits = phone.strip_prefix('+').unwrap_or_default();
    let plausible =
        (7..=15).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit()) && !digits.starts_with('0');
    if plausible { Ok(phone) } else { Err(Invalid::new("recipients.phone", "must be E.164, such as +4366012345678")) }
}
