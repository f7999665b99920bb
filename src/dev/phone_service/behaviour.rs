//! Misbehaviour on demand.

use std::time::Duration;

/// Reaction to a valid request instead of a prompt 201.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Refuse with an API error.
    Error {
        /// HTTP status.
        status: u16,
        /// The API's error code.
        code: u32,
        /// Retry-After header.
        retry_after: Option<String>,
    },
    /// Refuse like a proxy in front of the API.
    Plain {
        /// HTTP status.
        status: u16,
        /// Body.
        body: String,
        /// Retry-After header.
        retry_after: Option<String>,
    },
    /// Accept; answer 201 with an unreadable body.
    Garbage,
    /// Accept; answer after this delay.
    Slow(Duration),
    /// Neither accept nor answer.
    Hang,
    /// Accept; break the connection.
    Lost,
}

impl Behaviour {
    /// A refusal with an API error.
    pub fn error(status: u16, code: u32) -> Self {
        Self::Error { status, code, retry_after: None }
    }

    /// A plain answer with this status.
    pub fn status(status: u16) -> Self {
        Self::Plain { status, body: String::new(), retry_after: None }
    }

    /// An API error with Retry-After, in seconds.
    pub fn later(seconds: &str) -> Self {
        Self::Error { status: 429, code: 20_429, retry_after: Some(seconds.to_owned()) }
    }
}
