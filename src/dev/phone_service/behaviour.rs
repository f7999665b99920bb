//! How the service may be told to misbehave.

use std::time::Duration;

/// What a well-formed request meets instead of a prompt 201. Malformed ones are refused in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Refused in the API's own words.
    Error {
        /// The HTTP status.
        status: u16,
        /// The API's code, in the JSON body.
        code: u32,
        /// The Retry-After header.
        retry_after: Option<String>,
    },
    /// Answered with this, not in the API's words, and not accepted: as by a proxy in front of it.
    Plain {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
        /// The Retry-After header.
        retry_after: Option<String>,
    },
    /// Accepted, and answered 201 with a body that is not the API's.
    Garbage,
    /// Accepted at once, answered after this long.
    Slow(Duration),
    /// Neither accepted nor answered.
    Hang,
    /// Accepted, and the connection broken instead of an answer.
    Lost,
}

impl Behaviour {
    /// A refusal in the API's own words.
    pub fn error(status: u16, code: u32) -> Self {
        Self::Error { status, code, retry_after: None }
    }

    /// An answer of this status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Plain { status, body: String::new(), retry_after: None }
    }

    /// The API's wish for patience, in seconds.
    pub fn later(seconds: &str) -> Self {
        Self::Error { status: 429, code: 20_429, retry_after: Some(seconds.to_owned()) }
    }
}
