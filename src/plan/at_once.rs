//! What a notification knows of a push that its own worker may send at once (`pipeline/at_once.rs`).

use std::fmt;

use crate::preferences::Preferences;

/// A Web Push subscription, as the browser gave it. All three parts are secrets of the user's.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The push service's URL for this browser.
    pub endpoint: String,
    /// The browser's public key, base64url.
    pub p256dh: String,
    /// The shared secret, base64url.
    pub auth: String,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription(…)")
    }
}

/// What a claim would read of a planned push, read a moment before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtOnce {
    /// Where it goes.
    pub subscription: Subscription,
    /// What the recipient wants.
    pub preferences: Preferences,
    /// `users.locale`; empty where that is not known.
    pub locale: String,
}
