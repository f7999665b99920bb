//! How the server may be told to misbehave.

use std::time::Duration;

/// A step of a session, at whose answer something else may happen than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The greeting, before any command.
    Greeting,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, before the message.
    Data,
    /// The message, after its final dot.
    Message,
}

/// What a client meets at a step in place of the usual answer. A client that breaks a rule is refused in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Refused with this line. After 421 the connection is closed too (RFC 5321 §3.8).
    Answer {
        /// Where.
        at: Step,
        /// Code, enhanced code, text.
        reply: String,
    },
    /// The connection is closed without an answer.
    Close(Step),
    /// No answer, ever.
    Hang(Step),
    /// The usual answer, after this long.
    Slow {
        /// Where.
        at: Step,
        /// How much later.
        by: Duration,
    },
    /// The mail is accepted, and the connection closed before the client is told.
    AcceptAndClose,
    /// The mail is accepted, and the client never told.
    AcceptAndHang,
    /// STARTTLS is answered, and more lines with it in the clear, as somebody in between might add them.
    Inject(String),
}

impl Behaviour {
    /// A refusal: `550 5.1.1 No such user`.
    pub fn answer(at: Step, reply: impl Into<String>) -> Self {
        Self::Answer { at, reply: reply.into() }
    }

    /// Where it happens.
    pub(super) const fn step(&self) -> Step {
        match self {
            Self::Answer { at, .. } | Self::Close(at) | Self::Hang(at) | Self::Slow { at, .. } => *at,
            Self::AcceptAndClose | Self::AcceptAndHang => Step::Message,
            Self::Inject(_) => Step::StartTls,
        }
    }
}
