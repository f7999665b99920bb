//! `notification`: one text for many people. Expands to inbox rows and one delivery per recipient × channel × address.

mod texts;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;
use serde_json::{Map, Value};

use self::texts::{Template, Texts};
use crate::{
    channels::gateway::is_e164,
    job::{self, Context, Failure, Invalid, Job, Outcome},
    kind::{Kind, Lane},
    plan::{Channel, Content, InboxRow, NextJob, Plan, PlannedDelivery, Reason, Unsent},
    store::Person,
    templates::{LONGEST_BODY, LONGEST_TITLE},
    wire,
};

/// An older notification is not worth sending.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// Channels for a bare number. The first is the default.
const BY_PHONE: [Channel; 3] = [Channel::Sms, Channel::WhatsApp, Channel::Voice];

/// Limits of `proto/carebell/v1/jobs.proto`.
const LONGEST_URL: usize = 2000;
const LONGEST_TYPE: usize = 64;
const LONGEST_TAG: usize = 128;
const LARGEST_JSON: usize = 16 * 1024;

/// One text for many people.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    users: BTreeSet<String>,
    emails: BTreeSet<String>,
    phones: BTreeSet<String>,
    /// Named by the job; `None` follows the recipients' preferences.
    channels: Option<BTreeSet<Channel>>,
    content: Content,
    /// The source of title and body, unless the job has them.
    template: Option<Template>,
}

impl Job for Notification {
    const KIND: Kind = Kind::notification("notification");

    type Wire = wire::Notification;

    fn parse(mut wire: Self::Wire) -> Result<Self, Invalid> {
        let template = Template::parse(&mut wire)?;
        let needs_title = !template.as_ref().is_some_and(Template::stands_alone);
        let mut notification = Self {
            users: BTreeSet::new(),
            emails: BTreeSet::new(),
            phones: BTreeSet::new(),
            channels: channels(&wire.channels)?,
            content: Content {
                locale: String::new(),
                kind: job::text("type", &wire.r#type, LONGEST_TYPE)?,
                title: job::text("title", &wire.title, LONGEST_TITLE)?,
                body: job::text("body", &wire.body, LONGEST_BODY)?,
                url: link(&wire.url)?,
                data: json("data", wire.data)?,
                tag: Some(job::text("dedupe_key", &wire.dedupe_key, LONGEST_TAG)?).filter(|tag| !tag.is_empty()),
            },
            template,
        };
        if needs_title && notification.content.title.is_empty() {
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
        let people = match cx.recipients.take() {
            Some(known) => known,
            None if users.is_empty() => BTreeMap::new(),
            None => cx.reads.people(users, &self.content.kind).await.map_err(Failure::reading)?,
        };
        let plan = self.plan(cx, &people)?;
        if plan.inbox.is_empty() && plan.deliveries.is_empty() {
            return Ok(Outcome::Skipped(Reason::NoRecipients));
        }
        Ok(Outcome::Done(plan))
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

    /// Every known user gets an inbox row, since pushes and mails link to it.
    fn plan(mut self, cx: &Context, people: &BTreeMap<String, Person>) -> Result<Plan, Failure> {
        let mut texts = Texts::new(self.content.clone(), self.template.take(), cx)?;
        let (mut inbox, mut deliveries) = (Vec::new(), Vec::new());
        let mut at_once = HashMap::new();
        for (user_id, person) in people {
            let locale = texts.locale(&person.locale)?;
            for channel in Channel::ALL {
                if let Some(unsent) = self.unsent_to(person, channel, cx) {
                    let addresses = person.addresses(channel);
                    // A missing browser is normal and needs no record.
                    if addresses.is_empty() && channel != Channel::WebPush && self.is_asked_for(person, channel) {
                        let nowhere = (user_id.as_str(), channel, "");
                        deliveries.push(self.delivery(cx, nowhere, &locale, unsent.or(Some(Unsent::NoAddress))));
                    }
                    for address in addresses {
                        let delivery = self.delivery(cx, (user_id.as_str(), channel, address), &locale, unsent);
                        if channel == Channel::WebPush && unsent.is_none() {
                            at_once.extend(person.at_once(address).map(|known| (delivery.id.clone(), known)));
                        }
                        deliveries.push(delivery);
                    }
                }
            }
            inbox.push(InboxRow { id: new_id(cx), user_id: user_id.clone(), locale });
        }
        // A bare number gets a text message by default.
        let raw = self.emails.iter().map(|email| (email, &[Channel::Email][..]));
        let raw = raw.chain(self.phones.iter().map(|phone| (phone, &BY_PHONE[..])));
        for (address, ways) in raw {
            let usual = ways[0];
            let wanted = |way: &Channel| self.channels.as_ref().map_or(*way == usual, |named| named.contains(way));
            let chosen: Vec<Channel> = ways.iter().copied().filter(wanted).collect();
            let locale = texts.locale("")?;
            if chosen.is_empty() {
                deliveries.push(self.delivery(cx, ("", usual, address), &locale, Some(Unsent::NotNamed)));
            }
            for channel in chosen {
                let unsent = (!cx.channels.has(channel)).then_some(Unsent::NoChannel);
                deliveries.push(self.delivery(cx, ("", channel, address), &locale, unsent));
            }
        }
        Ok(Plan { contents: texts.contents(), inbox, deliveries, at_once, ..Plan::default() })
    }

    /// Whether to reach a user by a channel, or only record why not. A missing channel that nobody asked for needs no
    /// record.
    #[expect(clippy::option_option, reason = "three answers: no, yes, and yes but")]
    fn unsent_to(&self, person: &Person, channel: Channel, cx: &Context) -> Option<Option<Unsent>> {
        let named = self.names(channel);
        if self.channels.is_some() && !named {
            return None;
        }
        let asked_for = self.is_asked_for(person, channel);
        match (person.preferences.want(channel, named), cx.channels.has(channel)) {
            (true, true) => Some(None),
            (true, false) => asked_for.then_some(Some(Unsent::NoChannel)),
            (false, _) => named.then_some(Some(Unsent::NotOptedIn)),
        }
    }

    /// Whether the job or the recipient asked for this channel.
    fn is_asked_for(&self, person: &Person, channel: Channel) -> bool {
        self.names(channel) || person.preferences.channels.is_some()
    }

    fn names(&self, channel: Channel) -> bool {
        self.channels.as_ref().is_some_and(|named| named.contains(&channel))
    }

    fn delivery(
        &self,
        cx: &Context,
        (user_id, channel, address): (&str, Channel, &str),
        locale: &str,
        unsent: Option<Unsent>,
    ) -> PlannedDelivery {
        PlannedDelivery {
            id: new_id(cx),
            user_id: user_id.to_owned(),
            channel,
            address: address.to_owned(),
            locale: locale.to_owned(),
            lane: cx.meta.lane,
            named: self.names(channel),
            unsent,
        }
    }
}

fn new_id(cx: &Context) -> String {
    cx.random.uuid(cx.clock.now()).to_string()
}

/// A notification to these users. `text` names a template and its variables.
pub(super) fn to_users(
    cx: &Context,
    users: &[String],
    lane: Lane,
    text: wire::Notification,
) -> Result<NextJob, Failure> {
    use wire::recipient::Recipient;
    let recipients = users.iter().map(|user| wire::Recipient { recipient: Some(Recipient::UserId(user.clone())) });
    let notification = wire::Notification { recipients: recipients.collect(), ..texts::stand_in(text, cx)? };
    Ok(NextJob { kind: Notification::KIND, lane, suffix: "notification", body: notification.encode_to_vec() })
}

/// The inbox is no channel: its rows are always written.
fn channels(named: &[i32]) -> Result<Option<BTreeSet<Channel>>, Invalid> {
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

fn json(field: &'static str, data: Option<prost_types::Struct>) -> Result<Map<String, Value>, Invalid> {
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
    if is_e164(&phone) {
        Ok(phone)
    } else {
        Err(Invalid::new("recipients.phone", "must be E.164, such as +4366012345678"))
    }
}
