//! Web Push (RFC 8030).
//!
//! [`WebPush::payload`] turns a [`Note`] into JSON for all browsers (`payload.rs`). [`WebPush::send`] then
//!
//! 1. validates the endpoint (`endpoint.rs`) against the allowed push services (`allowed.rs`), so that subscribers
//!    can't aim our requests at the internal network;
//! 2. encrypts the payload for that browser (`seal.rs`, RFC 8291);
//! 3. takes a signed token (`vapid.rs`, RFC 8292), one per push service and half a day;
//! 4. posts it (`request.rs`) over the one connection to that push service (`client.rs`, `hosts.rs`);
//! 5. judges the response (`answer.rs`); a 401 is retried once with a fresh token.
//!
//! A push with the same [`Topic`] replaces an undelivered earlier one. Notifications with the same tag replace each
//! other on the device.
//!
//! Endpoints, keys, tokens and payloads never leave this module. Its errors and debug forms show at most a host and a
//! hash, and it logs nothing.

mod allowed;
mod answer;
mod client;
mod endpoint;
mod hosts;
mod library;
mod payload;
mod request;
mod seal;
mod sender;
mod settings;
mod vapid;

use std::{fmt, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::Instant;

pub use allowed::AllowList;
pub use answer::{Answer, DEFAULT_WAIT};
pub use endpoint::{Endpoint, Redacted, Refused};
pub use payload::{MAX_PAYLOAD, Note};
pub use seal::{MAX_PLAINTEXT, SealError, SubscriberKeys, seal};
pub use settings::{DEFAULT_TIMEOUT, Settings};
pub use vapid::{KeyPair, generate_keys};

use client::{Client, NoReply, Reply};
use payload::App;
use request::{Envelope, request};
use vapid::Vapid;

use crate::{
    channels::{SettingsError, outbound},
    clock::Clock,
};

/// Built-in push services without a wildcard.
const SOME_BUILT_IN: [&str; 3] = ["fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com"];

/// The channel. Create one per process: it owns its connections and tokens.
pub struct WebPush {
    allowed: AllowList,
    app: Option<App>,
    clock: Clock,
    vapid: Vapid,
    client: Client,
}

impl WebPush {
    /// Checks the settings and reads the extra roots. Connects to nothing.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let vapid = Vapid::new(&settings.keys, &settings.subject, clock.clone())?;
        if settings.app_url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
            return Err(SettingsError::new("APP_URL", "should be an http or https URL, as https://app.example.org"));
        }
        let allowed = AllowList::new(settings.allowed_hosts);
        let client = Client::new(&allowed, settings.ca_file.as_deref(), settings.timeout, clock.clone())?;
        Ok(Self { allowed, app: settings.app_url.map(App::new), clock, vapid, client })
    }

    /// Public key for subscribing, base64url without padding.
    pub fn public_key(&self) -> &str {
        self.vapid.public_key()
    }

    /// Checks the operator's push services. Returns each `host:port`, with an error if unreachable.
    pub async fn reach_named(&self) -> Vec<(String, Option<String>)> {
        let named = self.allowed.named().iter().map(ToString::to_string);
        join_all(named.map(async |place| {
            let failed = self.client.reach(&format!("https://{place}/")).await.err();
            (place, failed.map(|NoReply(why)| why))
        }))
        .await
    }

    /// The first built-in push service that responds, or the first error.
    pub async fn reach_built_in(&self) -> Result<&'static str, String> {
        let mut first = None;
        let mut attempts: FuturesUnordered<_> = SOME_BUILT_IN
            .iter()
            .map(async |host| (*host, self.client.reach(&format!("https://{host}/")).await))
            .collect();
        while let Some((host, reached)) = attempts.next().await {
            match reached {
                Ok(()) => return Ok(host),
                Err(NoReply(why)) => first = first.or(Some(format!("{host}: {why}"))),
            }
        }
        Err(first.unwrap_or_default())
    }

    /// JSON of a notification, at most [`MAX_PAYLOAD`] bytes; links are resolved against `APP_URL`.
    pub fn payload(&self, note: &Note<'_>) -> Vec<u8> {
        payload::build(note, self.app.as_ref())
    }

    /// Sends one push. Takes at most the timeout plus a second (twice that after a 401), plus the time of 100 others
    /// ahead at the same push service.
    ///
    /// A future dropped early leaves open whether the push was accepted.
    pub async fn send(&self, push: &Push<'_>) -> Answer {
        self.try_send(push).await.unwrap_or_else(|never_sent| never_sent)
    }

    async fn try_send(&self, push: &Push<'_>) -> Result<Answer, Answer> {
        let started = Instant::now();
        let endpoint = Endpoint::parse(push.endpoint, &self.allowed).map_err(bad_subscription)?;
        let body = sealed(push)?;
        let authorization = self.vapid.authorization(endpoint.origin()).map_err(failed)?;
        let answer = self.post(push, started, &endpoint, &body, &authorization).await?;
        if !matches!(answer, Answer::Unauthorized { .. }) {
            return Ok(answer);
        }
        let renewed = self.vapid.renew(endpoint.origin(), &authorization).map_err(failed)?;
        self.post(push, started, &endpoint, &body, &renewed).await
    }

    async fn post(
        &self,
        push: &Push<'_>,
        started: Instant,
        endpoint: &Endpoint,
        body: &Bytes,
        authorization: &str,
    ) -> Result<Answer, Answer> {
        let make = || {
            request(&Envelope {
                endpoint,
                // Waiting must not carry the push past the job's expiry.
                ttl: push.ttl.saturating_sub(started.elapsed()),
                urgency: push.urgency,
                topic: &push.topic,
                body,
                authorization,
            })
        };
        let reply = self.client.exchange(endpoint, make).await.map_err(bad_subscription)?;
        Ok(self.judge(reply))
    }

    fn judge(&self, reply: Result<Reply, NoReply>) -> Answer {
        match reply {
            Ok(Reply { status, retry_after, why }) => {
                let wait = retry_after.and_then(|value| outbound::retry_after(&value, self.clock.now()));
                Answer::judge(status, wait, why)
            }
            Err(NoReply(why)) => failed(why),
        }
    }
}

impl fmt::Debug for WebPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPush").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

fn sealed(push: &Push<'_>) -> Result<Bytes, Answer> {
    let keys = SubscriberKeys::parse(push.p256dh, push.auth);
    keys.and_then(|keys| seal::seal(&keys, push.payload)).map(Bytes::from).map_err(|error| match error {
        SealError::PublicKey | SealError::Secret => bad_subscription(error),
        SealError::TooLong => Answer::TooLarge { status: None },
        SealError::Internal => failed(error),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn bad_subscription(why: impl ToString) -> Answer {
    Answer::BadSubscription { why: why.to_string() }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn failed(why: impl ToString) -> Answer {
    Answer::Failed { status: None, why: why.to_string(), after: None }
}

/// One push to one subscription.
#[derive(Clone, Copy)]
pub struct Push<'a> {
    /// URL at the push service. A secret.
    pub endpoint: &'a str,
    /// The browser's public key, base64.
    pub p256dh: &'a str,
    /// Secret shared with the browser, base64.
    pub auth: &'a str,
    /// At most [`MAX_PLAINTEXT`] bytes; [`WebPush::payload`] stays below.
    pub payload: &'a [u8],
    /// How long to keep it for an offline browser; whole seconds, rounded down.
    pub ttl: Duration,
    /// Whether to wake the device.
    pub urgency: Urgency,
    /// Constant across sends of a delivery, so that only the latest is kept.
    pub topic: Topic,
}

impl fmt::Debug for Push<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("endpoint", &Redacted::of(self.endpoint))
            .field("ttl", &self.ttl)
            .field("urgency", &self.urgency)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// Importance relative to the device's battery (RFC 8030 §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Only on power and Wi-Fi: advertisements.
    VeryLow,
    /// On power or Wi-Fi: news.
    Low,
    /// On power, or on a battery that isn't low: chats, calendars.
    #[default]
    Normal,
    /// Also on a low battery: urgent reminders.
    High,
}

impl Urgency {
    /// Value of the header.
    const fn name(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Collapse key: a push replaces an undelivered one with the same topic (RFC 8030 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Topic([u8; 32]);

impl Topic {
    /// The first 32 characters of the id's SHA-256 in base64url. Push services refuse longer ones.
    pub fn of(identity: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, identity.as_bytes());
        let mut text = [b'A'; 32];
        // 24 bytes are 32 characters.
        let written = URL_SAFE_NO_PAD.encode_slice(&hash.as_ref()[..24], &mut text);
        debug_assert_eq!(written, Ok(32));
        Self(text)
    }

    /// Value of the header.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default() // Base64 is ASCII.
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn a_topic_is_the_beginning_of_a_hash() {
        // sha256("delivery-1") in base64url, cut.
        let whole = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, b"delivery-1"));
        assert_eq!(Topic::of("delivery-1").as_str(), &whole[..32]);
        assert_ne!(Topic::of("delivery-1"), Topic::of("delivery-2"));
    }

    #[test]
    fn debug_forms_hold_no_secret() {
        let push = Push {
            endpoint: "https://fcm.googleapis.com/fcm/send/secret-path",
            p256dh: "secret-key",
            auth: "secret-auth",
            payload: b"secret-payload",
            ttl: Duration::from_mins(1),
            urgency: Urgency::High,
            topic: Topic::of("x"),
        };
        let shown = format!("{push:?}");
        assert!(shown.contains("fcm.googleapis.com#") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn an_app_url_that_is_no_web_address_names_its_variable() {
        let mut settings = Settings::new(generate_keys().unwrap(), "mailto:ops@carebell.example");
        settings.app_url = Some(Url::parse("ftp://app.example").unwrap());
        assert_eq!(WebPush::new(settings, Clock::system()).unwrap_err().variable(), "APP_URL");
    }

    proptest! {
        #[test]
        fn a_topic_is_32_url_safe_characters_for_anything(identity in any::<String>()) {
            let topic = Topic::of(&identity);
            prop_assert_eq!(topic.as_str().len(), 32);
            prop_assert!(topic.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        }
    }
}
