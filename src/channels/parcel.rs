use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

use crate::{kind::Lane, plan::Content};

/// One message to one address.
#[derive(Clone, Debug)]
pub struct Parcel<'a> {
    /// `deliveries.id`, constant across sends.
    pub id: &'a str,
    /// Published job.
    pub root_id: &'a str,
    /// Recipient's address.
    pub address: Address<'a>,
    /// Text to show.
    pub content: &'a Content,
    /// `users.locale` of the recipient; empty if unknown.
    pub locale: &'a str,
    /// Urgency.
    pub lane: Lane,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// Time until it is useless.
    pub ttl: Duration,
}

/// Destination. `Debug` hides it.
#[derive(Clone, Copy)]
pub enum Address<'a> {
    /// Web Push subscription of a browser.
    Subscription {
        /// URL at the push service.
        endpoint: &'a str,
        /// Public key, base64url.
        p256dh: &'a str,
        /// Shared secret, base64url.
        auth: &'a str,
    },
    /// E-mail address or telephone number (E.164).
    Plain(&'a str),
    /// Webhook endpoint.
    Webhook {
        /// URL.
        url: &'a str,
        /// Signing secrets, separated by blanks; several during a rotation.
        secrets: &'a str,
    },
}

impl fmt::Debug for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}
