//! Misbehaviour on demand.

use std::time::Duration;

/// A step of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Greeting, before any command.
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

/// Reaction at a step instead of the usual answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Refuse with this line; 421 also closes the connection (RFC 5321 §3.8).
    Answer {
        /// The step.
        at: Step,
        /// Code, enhanced code, text.
        reply: String,
    },
    /// Close the connection without an answer.
    Close(Step),
    /// Never answer.
    Hang(Step),
    /// Give the usual answer later.
    Slow {
        /// The step.
        at: Step,
        /// The delay.
        by: Duration,
    },
    /// Accept the mail; close the connection.
    AcceptAndClose,
    /// Accept the mail; never answer.
    AcceptAndHang,
    /// Answer STARTTLS with more lines in the clear, like an attacker.
    Inject(String),
}

impl Behaviour {
    /// A refusal: `550 5.1.1 No such user`.
    pub fn answer(at: Step, reply: impl Into<String>) -> Self {
        Self::Answer { at, reply: reply.into() }
    }

    /// The step of this behaviour.
    pub(super) const fn step(&self) -> Step {
        match self {
            Self::Answer { at, .. } | Self::Close(at) | Self::Hang(at) | Self::Slow { at, .. } => *at,
            Self::AcceptAndClose | Self::AcceptAndHang => Step::Message,
            Self::Inject(_) => Step::StartTls,
        }
    }
}
