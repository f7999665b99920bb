use std::{fmt, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Redacted;

/// One push to one subscription.
#[derive(Clone, Copy)]
pub struct Push<'a> {
    /// URL. A secret.
    pub endpoint: &'a str,
    /// Public key, base64.
    pub p256dh: &'a str,
    /// Shared secret, base64.
    pub auth: &'a str,
    /// At most [`MAX_PLAINTEXT`](super::MAX_PLAINTEXT) bytes.
    pub payload: &'a [u8],
    /// How long to keep it for an offline browser, in whole seconds.
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
    pub(super) const fn name(self) -> &'static str {
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

    proptest! {
        #[test]
        fn a_topic_is_32_url_safe_characters_for_anything(identity in any::<String>()) {
            let topic = Topic::of(&identity);
            prop_assert_eq!(topic.as_str().len(), 32);
            prop_assert!(topic.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        }
    }
}
