use chrono::{DateTime, Utc};

use super::twiml::Spoken;

/// An accepted message or call.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// Its id: `SM…` or `CA…`.
    pub sid: String,
    /// Recipient, as in the request.
    pub to: String,
    /// Sender: number, name or service id.
    pub from: String,
    /// Text of a message; empty for a call.
    pub body: String,
    /// Speech of a call.
    pub spoken: Option<Spoken>,
    /// Seconds that it may wait for its phone.
    pub validity: Option<u32>,
    /// URL for status callbacks.
    pub status_callback: Option<String>,
    /// When it was accepted.
    pub received: DateTime<Utc>,
}
