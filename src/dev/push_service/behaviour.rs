//! How the service may be told to misbehave.

use std::time::Duration;

/// What a well-formed push meets instead of a prompt 201. Malformed ones are refused in any case.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answered with this; accepted if it is a success.
    Answer(Reply),
    /// Accepted at once, answered after this long.
    Slow(Duration),
    /// Neither accepted nor answered.
    Hang,
    /// Accepted, but the answer is lost: what a sender cannot tell from [`Behaviour::Hang`].
    Swallow,
}

impl Behaviour {
    /// An answer with this status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(Reply { status, headers: Vec::new(), body: String::new() })
    }

    /// An answer that asks to wait: `Retry-After` in seconds or as an HTTP-date.
    pub fn retry_after(status: u16, value: impl Into<String>) -> Self {
        Self::Answer(Reply { status, headers: vec![("retry-after", value.into())], body: String::new() })
    }

    /// An answer that leads elsewhere.
    pub fn redirect(location: impl Into<String>) -> Self {
        Self::Answer(Reply { status: 307, headers: vec![("location", location.into())], body: String::new() })
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status; a success means that the push is accepted.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(&'static str, String)>,
    /// The body as text; may be empty.
    pub body: String,
}
