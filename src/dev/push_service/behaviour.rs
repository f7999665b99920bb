//! Misbehaviour on demand.

use std::time::Duration;

/// Reaction to a valid push instead of a prompt 201.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answer this; a success accepts the push.
    Answer(Reply),
    /// Accept; answer after this delay.
    Slow(Duration),
    /// Neither accept nor answer.
    Hang,
    /// Accept, but lose the answer. To a sender, like [`Behaviour::Hang`].
    Swallow,
}

impl Behaviour {
    /// An answer with only this status.
    pub fn status(status: u16) -> Self {
        Self::Answer(Reply { status, headers: Vec::new(), body: String::new() })
    }

    /// An answer with `Retry-After`: seconds or an HTTP-date.
    pub fn retry_after(status: u16, value: impl Into<String>) -> Self {
        Self::Answer(Reply { status, headers: vec![("retry-after", value.into())], body: String::new() })
    }

    /// A redirect.
    pub fn redirect(location: impl Into<String>) -> Self {
        Self::Answer(Reply { status: 307, headers: vec![("location", location.into())], body: String::new() })
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status. A success accepts the push.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(&'static str, String)>,
    /// Body; may be empty.
    pub body: String,
}
