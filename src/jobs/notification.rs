//! `notification`: one text for many people. Expands to inbox rows and one delivery per recipient × channel × address.

mod fields;
mod texts;

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;

use self::texts::{Template, Texts};
use crate::{
    job::{Context, Failure, Invalid, Job, Outcome, field},
    kind::{Kind, Lane},
    person::{People, Person},
    plan::{Channel, Content, InboxRow, NextJob, Plan, PlannedDelivery, Reason, Unsent},
    templates::{LONGEST_BODY, LONGEST_TITLE},
    wire,
};

/// An older notification is not worth sending.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// Channels for a bare number. The first is the default.
const BY_PHONE: [Channel; 3] = [Channel::Sms, Channel::WhatsApp, Channel::Voice];

/// Limits of `proto/carebell/v1/jobs.proto`.
const LONGEST_TYPE: usize = 64;
const LONGEST_TAG: usize = 128;

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

/// The use of a channel for one user.
enum Usage {
    /// Send to each address.
    Send,
    /// Only record why nothing is sent.
    Record(Unsent),
    /// Nobody asked for the channel, so it needs no record.
    Ignore,
}

#[derive(Clone, Copy)]
struct Destination<'a> {
    /// Empty for a bare address or number.
    user_id: &'a str,
    channel: Channel,
    address: &'a str,
}

impl Job for Notification {
    const KIND: Kind = Kind::notification("notification");

    type Wire = wire::Notification;

    fn parse(mut wire: Self::Wire) -> Result<Self, Invalid> {
        let template = Template::parse(&mut wire)?;
        let mut notification = Self {
            users: BTreeSet::new(),
            emails: BTreeSet::new(),
            phones: BTreeSet::new(),
            channels: fields::channels(&wire.channels)?,
            content: Content {
                locale: String::new(),
                kind: field::text("type", &wire.r#type, LONGEST_TYPE)?,
                title: field::text("title", &wire.title, LONGEST_TITLE)?,
                body: field::text("body", &wire.body, LONGEST_BODY)?,
                url: fields::link(&wire.url)?,
                data: fields::json("data", wire.data)?,
                tag: Some(field::text("dedupe_key", &wire.dedupe_key, LONGEST_TAG)?).filter(|tag| !tag.is_empty()),
            },
            template,
        };
        if notification.template.is_none() && notification.content.title.is_empty() {
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
        let read;
        let people = match &cx.recipients {
            Some(known) => known,
            None if users.is_empty() => &People::new(),
            None => {
                read = cx.reads.people(users, &self.content.kind).await.map_err(Failure::reading)?;
                &read
            }
        };
        let plan = self.plan(cx, people)?;
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
            Some(Recipient::UserId(id)) => self.users.insert(field::id("recipients.user_id", id)?),
            Some(Recipient::Email(email)) => self.emails.insert(fields::email(email)?),
            Some(Recipient::Phone(phone)) => self.phones.insert(fields::phone(phone)?),
            None => return Err(Invalid::new("recipients", "must each have a user_id, an email or a phone")),
        };
        Ok(())
    }

    /// Every known user gets an inbox row, since pushes and mails link to it.
    fn plan(mut self, cx: &Context, people: &People) -> Result<Plan, Failure> {
        let mut texts = Texts::new(self.content.clone(), self.template.take(), cx)?;
        let (mut inbox, mut deliveries) = (Vec::new(), Vec::new());
        let mut push_targets = HashMap::new();
        for (user_id, person) in people {
            let locale = texts.locale(&person.locale)?;
            let before = deliveries.len();
            for channel in Channel::ALL {
                let unsent = match self.usage(person, channel, cx) {
                    Usage::Send => None,
                    Usage::Record(unsent) => Some(unsent),
                    Usage::Ignore => continue,
                };
                let addresses = person.addresses(channel);
                // A missing browser is normal. It needs a record only if nothing else is sent.
                if addresses.is_empty() && channel != Channel::WebPush && self.is_asked_for(person, channel) {
                    let nowhere = Destination { user_id, channel, address: "" };
                    deliveries.push(self.delivery(cx, nowhere, &locale, unsent.or(Some(Unsent::NoAddress))));
                }
                for address in addresses {
                    let delivery = self.delivery(cx, Destination { user_id, channel, address }, &locale, unsent);
                    if channel == Channel::WebPush && unsent.is_none() {
                        push_targets.extend(person.push_target(address).map(|target| (delivery.id.clone(), target)));
                    }
                    deliveries.push(delivery);
                }
            }
            if deliveries[before..].iter().all(|row: &PlannedDelivery| row.unsent.is_some()) {
                let is_recorded = deliveries.len() > before;
                if let Some((channel, unsent)) = self.unreached(person, is_recorded, cx) {
                    let nowhere = Destination { user_id, channel, address: "" };
                    deliveries.push(self.delivery(cx, nowhere, &locale, Some(unsent)));
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
                deliveries.push(self.delivery(
                    cx,
                    Destination { user_id: "", channel: usual, address },
                    &locale,
                    Some(Unsent::NotNamed),
                ));
            }
            for channel in chosen {
                let unsent = (!cx.channels.has(channel)).then_some(Unsent::NoChannel);
                deliveries.push(self.delivery(cx, Destination { user_id: "", channel, address }, &locale, unsent));
            }
        }
        let unknown = self.users.iter().filter(|user| !people.contains_key(*user));
        if let Some(locale) = deliveries.first().map(|row| row.locale.clone()) {
            for user_id in unknown {
                let nowhere = Destination { user_id, channel: Channel::WebPush, address: "" };
                deliveries.push(self.delivery(cx, nowhere, &locale, Some(Unsent::UnknownUser)));
            }
        }
        Ok(Plan { contents: texts.contents(), inbox, deliveries, push_targets, ..Plan::default() })
    }

    fn usage(&self, person: &Person, channel: Channel, cx: &Context) -> Usage {
        let named = self.names(channel);
        if self.channels.is_some() && !named {
            return Usage::Ignore;
        }
        match (person.preferences.want(channel, named), cx.channels.has(channel)) {
            (true, true) => Usage::Send,
            (true, false) if self.is_asked_for(person, channel) => Usage::Record(Unsent::NoChannel),
            (false, _) if named => Usage::Record(Unsent::NotOptedIn),
            _ => Usage::Ignore,
        }
    }

    /// The record of a person to whom nothing is sent. `is_recorded`: a channel that was asked for has its reason.
    fn unreached(&self, person: &Person, is_recorded: bool, cx: &Context) -> Option<(Channel, Unsent)> {
        let wanted = |channel: &Channel| matches!(self.usage(person, *channel, cx), Usage::Send);
        if self.channels.as_ref().is_some_and(BTreeSet::is_empty) {
            return Some((Channel::WebPush, Unsent::InboxOnly));
        }
        if wanted(&Channel::WebPush) {
            return Some((Channel::WebPush, Unsent::NoSubscription));
        }
        if is_recorded {
            return None;
        }
        // Push is the channel of those who chose none, so it stands for all.
        Some(match Channel::ALL.into_iter().find(wanted) {
            Some(channel) => (channel, Unsent::NoAddress),
            None if person.preferences.channels.is_some() => (Channel::WebPush, Unsent::OptedOut),
            None => (Channel::WebPush, Unsent::NoChannel),
        })
    }

    /// Whether the job or the recipient asked for this channel.
    fn is_asked_for(&self, person: &Person, channel: Channel) -> bool {
        self.names(channel) || person.preferences.channels.is_some()
    }

    fn names(&self, channel: Channel) -> bool {
        self.channels.as_ref().is_some_and(|named| named.contains(&channel))
    }

    fn delivery(&self, cx: &Context, to: Destination<'_>, locale: &str, unsent: Option<Unsent>) -> PlannedDelivery {
        PlannedDelivery {
            id: new_id(cx),
            user_id: to.user_id.to_owned(),
            channel: to.channel,
            address: to.address.to_owned(),
            locale: locale.to_owned(),
            lane: cx.meta.lane,
            named: self.names(to.channel),
            unsent,
        }
    }
}

fn new_id(cx: &Context) -> String {
    cx.random.uuid(cx.clock.now()).to_string()
}

/// Checks the channels that a reminder names for its notification.
pub(super) fn check_channels(named: &[i32]) -> Result<(), Invalid> {
    fields::channels(named).map(drop)
}

/// A notification to these users. `text` names a template and its variables.
pub(super) fn to_users(users: &[String], lane: Lane, text: wire::Notification) -> NextJob {
    use wire::recipient::Recipient;
    let recipients = users.iter().map(|user| wire::Recipient { recipient: Some(Recipient::UserId(user.clone())) });
    let notification = wire::Notification { recipients: recipients.collect(), ..text };
    let body = notification.encode_to_vec();
    NextJob { kind: Notification::KIND, lane, suffix: "notification", body, recipients: None }
}
