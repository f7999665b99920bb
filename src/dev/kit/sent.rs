//! What was sent to whom, decrypted.

use chrono::{DateTime, Utc};
use mail_parser::MessageParser;
use serde_json::{Value, json};

use super::Kit;
use crate::dev::phone_service::Spoken;

impl Kit {
    /// All that the receivers took since the last reset, by channel in the order of their arrival.
    pub(super) fn sent(&self, user: Option<&str>, channel: Option<&str>) -> Vec<Value> {
        let at = |received: DateTime<Utc>| self.clock.of_machine(received);
        let pushes = self.receivers.push.received().into_iter().map(|push| {
            let text = push.json();
            json!({
                "channel": "web_push", "user": push.name.to_lowercase(), "at": at(push.received), "ttl": push.ttl,
                "urgency": push.urgency, "topic": push.topic, "title": text["title"], "body": text["body"],
                "url": text["url"], "data": text["data"],
            })
        });
        let mails = self.receivers.mail.received().into_iter().map(|mail| {
            let parsed = MessageParser::default().parse(&mail.message);
            let parsed = parsed.as_ref();
            json!({
                "channel": "email", "user": parsed.and(mail.to.first()).and_then(|to| self.user_of(to)), "to": mail.to,
                "title": parsed.and_then(|mail| mail.subject()),
                "body": parsed.and_then(|mail| mail.body_text(0)),
                "html": parsed.and_then(|mail| mail.body_html(0)),
            })
        });
        let phones = self.receivers.phone.received().into_iter().map(|message| {
            let channel = match &message.spoken {
                Some(_) => "voice",
                None if message.to.starts_with("whatsapp:") => "whatsapp",
                None => "sms",
            };
            let to = message.to.trim_start_matches("whatsapp:").to_owned();
            json!({
                "channel": channel, "user": self.user_of(&to), "to": to, "at": at(message.received),
                "body": message.spoken.as_ref().map_or_else(|| message.body.clone(), Spoken::text),
            })
        });
        let hooks = self.receivers.hook.received().into_iter().map(|hook| {
            json!({
                "channel": "webhook", "user": hook.name.to_lowercase(), "title": hook.body["data"]["title"],
                "body": hook.body["data"]["body"], "data": hook.body["data"]["data"], "request": hook.body,
            })
        });
        let is_meant = |sent: &Value| {
            user.is_none_or(|user| sent["user"] == user) && channel.is_none_or(|channel| sent["channel"] == channel)
        };
        pushes.chain(mails).chain(phones).chain(hooks).filter(is_meant).collect()
    }

    /// Who has this address beside Web Push.
    fn user_of(&self, address: &str) -> Option<String> {
        let member = self.members.iter().find(|member| member.has(address))?;
        Some(member.name.to_lowercase())
    }
}
