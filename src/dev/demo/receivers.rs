//! The family's receivers, strict and over TLS.

use std::{fs, io, net::SocketAddr, path::Path};

use mail_parser::MessageParser;
use serde_json::Value;

use super::{error::DemoError, screen::Step};
use crate::{
    channels::web_push,
    clock::Clock,
    dev::{
        phone_service::{Behaviour, PhoneService},
        push_service::{PushService, ReceivedPush},
        smtp_server::{Protection, SmtpServer},
        webhook_endpoint::WebhookEndpoint,
        wish::Wish,
    },
    store::{DemoAddress, DemoMember},
};

/// Members, each with a channel beside Web Push.
const FAMILY: [(&str, Beside); 4] =
    [("Ana", Beside::Nothing), ("Ben", Beside::Mail), ("Chloe", Beside::Text), ("Dan", Beside::Webhook)];

#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Mail,
    Text,
    Webhook,
}

/// Size of the family.
pub const MEMBERS: usize = FAMILY.len();

/// Of one reminder: four pushes, a mail, a text message, a webhook request.
pub const DELIVERIES: usize = MEMBERS + 3;

pub struct Receivers {
    pub push: PushService,
    pub mail: SmtpServer,
    pub phone: PhoneService,
    pub hook: WebhookEndpoint,
    clock: Clock,
    printed: Printed,
}

/// Number of items already printed.
#[derive(Default)]
struct Printed {
    pushes: usize,
    mails: usize,
    texts: usize,
    hooks: usize,
}

/// Number of items received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    pub pushes: usize,
    pub mails: usize,
    pub texts: usize,
    pub hooks: usize,
}

impl Receivers {
    pub async fn start(clock: Clock) -> io::Result<Self> {
        Ok(Self {
            push: PushService::start().await?,
            mail: SmtpServer::start(Protection::Tls, None).await?,
            phone: PhoneService::start().await?,
            hook: WebhookEndpoint::start().await?,
            clock,
            printed: Printed::default(),
        })
    }

    /// Subscribes the members.
    pub fn subscribe(&self) -> Vec<DemoMember> {
        let member = |(name, beside): (&str, Beside)| {
            let subscription = self.push.subscribe(name);
            let beside = match beside {
                Beside::Nothing => None,
                Beside::Mail => Some(DemoAddress::Email(format!("{}@example.org", name.to_lowercase()))),
                Beside::Text => Some(DemoAddress::Sms("+4366012345678".into())),
                Beside::Webhook => {
                    let (url, secret) = self.hook.subscribe(name);
                    Some(DemoAddress::Webhook { url, secret })
                }
            };
            DemoMember {
                name: name.to_owned(),
                endpoint: subscription.endpoint,
                p256dh: subscription.p256dh,
                auth: subscription.auth,
                beside,
            }
        };
        FAMILY.into_iter().map(member).collect()
    }

    /// Variables for a worker. Writes CA files into the directory.
    pub fn environment(&self, directory: &Path) -> Result<Vec<(&'static str, String)>, DemoError> {
        let keys = web_push::generate_keys().map_err(|_| "the system provides no randomness for keys")?;
        let mut environment = vec![
            ("VAPID_PUBLIC_KEY", keys.public),
            ("VAPID_PRIVATE_KEY", keys.private),
            ("VAPID_SUBJECT", "mailto:ops@example.org".to_owned()),
            ("WEB_PUSH_ALLOWED_HOSTS", self.push.host_port()),
            ("SMTP_URL", self.mail.url()),
            ("SMTP_FROM", "Carebell <care@example.org>".to_owned()),
            ("SMS_PROVIDER_URL", self.phone.url()),
            ("SMS_FROM", "Carebell".to_owned()),
            // The worker chooses the port.
            ("PUBLIC_URL", "https://carebell.example.org".to_owned()),
            ("PUBLIC_PORT", "0".to_owned()),
            ("WEBHOOK_ALLOWED_HOSTS", self.hook.host_port()),
        ];
        for (variable, pem) in [
            ("WEB_PUSH_CA_FILE", self.push.ca_pem()),
            ("SMTP_CA_FILE", self.mail.ca_pem()),
            ("PROVIDER_CA_FILE", self.phone.ca_pem()),
            ("WEBHOOK_CA_FILE", self.hook.ca_pem()),
        ] {
            let file = directory.join(format!("{}.pem", variable.to_lowercase()));
            fs::write(&file, pem)?;
            environment.push((variable, file.display().to_string()));
        }
        Ok(environment)
    }

    /// Sends callbacks to the worker's port.
    pub fn worker_listens_at(&self, port: u16) {
        self.phone.callbacks_go_to(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// Makes the SMS provider fail or work again.
    pub fn fail_texts(&self, fail: bool) {
        self.phone.behave_always(fail.then(|| Behaviour::status(503)));
    }

    /// Makes a channel's receiver answer as `{"status": 503, "retryAfter": "60", "times": 2}` or `{"hang": true}` says;
    /// without `times` until further notice, and `{}` ends that.
    ///
    /// # Errors
    /// Names the field and what it may hold.
    pub fn behave(&self, channel: &str, wish: &Value) -> Result<(), String> {
        let wish = Wish::read(wish)?;
        match channel {
            "web_push" => {
                for (name, _) in FAMILY {
                    match (wish.push(), wish.times) {
                        (Some(behaviour), Some(times)) => self.push.behave_times(name, times, behaviour),
                        (behaviour, _) => self.push.behave_always(name, behaviour),
                    }
                }
            }
            "email" => match (wish.mail(), wish.times) {
                (Some(behaviour), Some(times)) => self.mail.behave_times(times, behaviour),
                (behaviour, _) => self.mail.behave_always(behaviour),
            },
            "sms" | "whatsapp" | "voice" => match (wish.phone(), wish.times) {
                (Some(behaviour), Some(times)) => self.phone.behave(times, behaviour),
                (behaviour, _) => self.phone.behave_always(behaviour),
            },
            "webhook" => {
                for (name, _) in FAMILY {
                    match (wish.hook(), wish.times) {
                        (Some(behaviour), Some(times)) => {
                            (0..times).for_each(|_| self.hook.behave(name, behaviour.clone()));
                        }
                        (behaviour, _) => self.hook.behave_always(name, behaviour),
                    }
                }
            }
            _ => {
                return Err(
                    "expected web_push, email, sms, whatsapp, voice (one provider serves these three) or webhook"
                        .into(),
                );
            }
        }
        Ok(())
    }

    /// Forgets what came and what was planned.
    pub fn forget(&self) {
        self.push.forget();
        self.mail.forget();
        self.phone.forget();
        self.hook.forget();
    }

    pub fn arrivals(&self) -> Arrivals {
        Arrivals {
            pushes: self.push.counts().accepted,
            mails: self.mail.counts().accepted,
            texts: self.phone.counts().accepted,
            hooks: self.hook.received().len(),
        }
    }

    /// Items received since the last call. Reports text messages as delivered.
    pub async fn news(&mut self) -> Vec<Step> {
        let mut news = Vec::new();
        let step = |at, who: &str, what| Step { at, who: who.to_owned(), what };
        let now = self.clock.now();
        let pushes = self.push.received();
        for push in &pushes[self.printed.pushes..] {
            let text = push.json();
            let read = |field: &str| text.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            let words = format!("{} reads: {} — {}", push.name, read("title"), read("body"));
            news.push(step(push.received, "push arrived", words));
        }
        let mails = self.mail.received();
        for mail in &mails[self.printed.mails..] {
            let words = format!("{} reads: {}", mail.to.join(", "), readable(&mail.message));
            news.push(step(now, "mail arrived", words));
        }
        let texts = self.phone.received();
        for text in &texts[self.printed.texts..] {
            news.push(step(text.received, "text arrived", format!("Chloe reads: {}", one_line(&text.body))));
            // A worker that is down misses it, as in production; the delivery stays `sent`.
            let _ = self.phone.report(text, "delivered", None).await;
        }
        let hooks = self.hook.received();
        for hook in &hooks[self.printed.hooks..] {
            let title = hook.body["data"]["title"].as_str().unwrap_or_default();
            news.push(step(
                now,
                "webhook called",
                format!("{}'s endpoint reads: {title}; the signature is right", hook.name),
            ));
        }
        self.printed = Printed { pushes: pushes.len(), mails: mails.len(), texts: texts.len(), hooks: hooks.len() };
        news
    }

    /// Rules that requests broke.
    pub fn complaints(&self) -> Vec<String> {
        let pushes = self.push.rejected().into_iter().map(|refused| format!("the push service refused: {refused:?}"));
        let mails = self.mail.violations().into_iter().map(|rule| format!("the mail server refused: {rule}"));
        let texts = self.phone.rejected().into_iter().map(|rule| format!("the SMS provider refused: {rule:?}"));
        let hooks = self.hook.rejected().into_iter().map(|rule| format!("the webhook refused: {rule}"));
        pushes.chain(mails).chain(texts).chain(hooks).collect()
    }
}

/// Pushes whose topic had already arrived at the device.
pub fn doubled(received: &[ReceivedPush]) -> usize {
    let distinct: std::collections::HashSet<_> = received.iter().map(|push| (&push.name, &push.topic)).collect();
    received.len() - distinct.len()
}

/// Subject and text of a mail, decoded.
fn readable(message: &[u8]) -> String {
    let Some(mail) = MessageParser::default().parse(message) else { return "a message that is no mail".to_owned() };
    let text = mail.body_text(0).unwrap_or_default();
    // The text of the notification stands before the link and the small print.
    let body: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let subject = mail.subject().unwrap_or("no subject");
    let first = body.iter().find(|line| **line != subject).copied().unwrap_or_default();
    format!("{subject} — {first}")
}

/// The lines of a text in one.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" — ")
}
