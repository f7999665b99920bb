//! Web Push: one subscription, one send, one classification.
//!
//! A push starts as a [`Note`], which [`WebPush::payload`] turns into one JSON for all browsers (`payload.rs`). To send
//! it, [`WebPush::send`]
//!
//! 1. parses the subscription's endpoint (`endpoint.rs`) and holds it against the list of push services (`allowed.rs`):
//!    it is user input, and without the list a subscriber could aim our requests at anything inside the network;
//! 2. seals the payload for that browser alone (`seal.rs`, RFC 8291);
//! 3. takes a signed token of who we are (`vapid.rs`, RFC 8292), one per push service and half a day;
//! 4. posts it (`request.rs`, RFC 8030) over the one connection to that push service (`client.rs`, `hosts.rs`), whose
//!    address was checked by the resolver that the connection uses (`resolve.rs`);
//! 5. judges the answer (`answer.rs`); a 401 gets one more try with a fresh token.
//!
//! Retrying is the caller's. A push that is sent again with the same [`Topic`] replaces the earlier one where that has
//! not been delivered yet, and notifications of one tag replace each other on the device.
//!
//! What never leaves this module: endpoints, keys, tokens and payloads. Its errors and debug forms show a host and a
//! hash at most, and it logs nothing.

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

/// Built-in push services that have a name of their own, without a wildcard.
const SOME_BUILT_IN: [&str; 3] = ["fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com"];

/// The channel. Cheap to share by reference; keep one a process, since connections and tokens are its own.
pub struct WebPush {
    allowed: AllowList,
    app: Option<App>,
    clock: Clock,
    vapid: Vapid,
    client: Client,
}

impl WebPush {
    /// Checks the settings and reads the extra roots. Connects to nothing.
    ///
    /// # Errors
    /// The first setting that is malformed, by the name of its environment variable.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let vapid = Vapid::new(&settings.keys, &settings.subject, clock.clone())?;
        if settings.app_url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
            return Err(SettingsError::new("APP_URL", "should be an http or https URL, as https://app.example.org"));
        }
        let allowed = AllowList::new(settings.allowed_hosts);
        let client = Client::new(&allowed, settings.ca_file.as_deref(), settings.timeout, clock.clone())?;
        Ok(Self { allowed, app: settings.app_url.map(App::new), clock, vapid, client })
    }

    /// The public key that browsers subscribe with, as base64url without padding.
    pub fn public_key(&self) -> &str {
        self.vapid.public_key()
    }

    /// The push services that the operator named, as `host:port`, each with why it cannot be reached, where it cannot.
    pub async fn reach_named(&self) -> Vec<(String, Option<String>)> {
        let named = self.allowed.named().iter().map(ToString::to_string);
        join_all(named.map(async |place| {
            let failed = self.client.reach(&format!("https://{place}/")).await.err();
            (place, failed.map(|NoReply(why)| why))
        }))
        .await
    }

    /// Whether any of the built-in push services can be reached; which, or why the first cannot.
    ///
    /// # Errors
    /// If none can be.
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

    /// The JSON of a notification, at most [`MAX_PAYLOAD`] bytes; its links are resolved against `APP_URL`.
    pub fn payload(&self, note: &Note<'_>) -> Vec<u8> {
        payload::build(note, self.app.as_ref())
    }

    /// Sends one push and says what became of it. Takes at most the timeout of the settings and a second (twice that
    /// after a 401), and however long 100 others to the same push service are in front.
    ///
    /// Dropping the future before it is done leaves open whether the push was accepted.
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
                // What is left of it: time spent waiting must not carry the push past the job's expiry.
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
    /// The push service's URL for this subscription, as the browser reported it. A secret.
    pub endpoint: &'a str,
    /// The browser's public key, base64.
    pub p256dh: &'a str,
    /// The secret shared with the browser, base64.
    pub auth: &'a str,
    /// At most [`MAX_PLAINTEXT`] bytes; what [`WebPush::payload`] makes is shorter.
    pub payload: &'a [u8],
    /// How long the push service may keep it for a browser that is offline: the time left until the job expires. Whole
    /// seconds are sent, rounded down.
    pub ttl: Duration,
    /// Whether to wake the device for it.
    pub urgency: Urgency,
    /// The same for each send of one delivery, so that the push service keeps only the latest.
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

/// How much a device's battery matters against it (RFC 8030 §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Only on power and Wi-Fi: advertisements.
    VeryLow,
    /// On power or Wi-Fi: news.
    Low,
    /// On power, or on battery that is not low: chats, calendars.
    #[default]
    Normal,
    /// Also on a low battery: reminders that cannot wait.
    High,
}

impl Urgency {
    /// The header's value.
    const fn name(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// What a push service collapses by: of two undelivered pushes with one topic, the later stays (RFC 8030 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Topic([u8; 32]);

impl Topic {
    /// Derives it from an identity, such as a delivery's id: exactly 32 characters of the url-safe base64 alphabet, the
    /// beginning of its SHA-256. Longer ones are refused, and 32 is what every push service takes.
    pub fn of(identity: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, identity.as_bytes());
        let mut text = [b'A'; 32];
        // 24 bytes are 32 characters.
        let written = URL_SAFE_NO_PAD.encode_slice(&hash.as_ref()[..24], &mut text);
        debug_assert_eq!(written, Ok(32));
        Self(text)
    }

    /// The header's value.
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
        // sha256("delivery-1") in url-safe base64, cut.
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
