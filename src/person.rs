//! A recipient: how to reach a person, and by which channels they want to be reached.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use aws_lc_rs::digest;

use crate::{plan::Channel, preferences::Preferences};

/// The recipients of one notification who exist, by user id.
pub type People = BTreeMap<String, Person>;

/// A Web Push subscription as the browser gave it. All three parts are secrets of the user.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The push service's URL for this browser.
    pub endpoint: String,
    /// The browser's public key, base64url.
    pub p256dh: String,
    /// The shared secret, base64url.
    pub auth: String,
}

impl Subscription {
    /// Tells one state of the row from another: the SHA-256 of its parts, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let Self { endpoint, p256dh, auth } = self;
        let hash = digest::digest(&digest::SHA256, format!("{endpoint} {p256dh} {auth}").as_bytes());
        hash.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
            // A String takes whatever is written to it.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription(…)")
    }
}

/// A user who receives a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// `users.locale`; empty if it is null.
    pub locale: String,
    /// Their preferences for this type of notification. Quiet hours are checked when it is sent.
    pub preferences: Preferences,
    /// Their Web Push subscriptions, each with its id.
    pub subscriptions: Vec<(String, Subscription)>,
    /// Their other usable addresses. A webhook stands here by its id.
    pub addresses: Vec<(Channel, String)>,
}

impl Person {
    /// The person's addresses for a channel, as the ledger names them.
    #[must_use]
    pub fn addresses(&self, channel: Channel) -> Vec<&str> {
        if channel == Channel::WebPush {
            return self.subscriptions.iter().map(|(id, _)| id.as_str()).collect();
        }
        self.addresses.iter().filter(|(of, _)| *of == channel).map(|(_, address)| address.as_str()).collect()
    }

    /// Everything that a direct send to the subscription `id` needs.
    #[must_use]
    pub fn push_target(&self, id: &str) -> Option<PushTarget> {
        let (_, subscription) = self.subscriptions.iter().find(|(known, _)| known == id)?;
        let (preferences, locale) = (self.preferences.clone(), self.locale.clone());
        Some(PushTarget { subscription: subscription.clone(), preferences, locale })
    }
}

/// The data that a claim reads for a push, known to the job that planned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushTarget {
    /// The subscription to send to.
    pub subscription: Subscription,
    /// The recipient's preferences.
    pub preferences: Preferences,
    /// `users.locale`; empty if it is unknown.
    pub locale: String,
}
