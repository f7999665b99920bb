//! Credentials, planned behaviour and received mail.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Behaviour, Step};

/// An accepted mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMail {
    /// MAIL FROM, without angle brackets.
    pub from: String,
    /// RCPT TO, in order.
    pub to: Vec<String>,
    /// Parameters of MAIL FROM, such as `SMTPUTF8`.
    pub parameters: Vec<String>,
    /// Message without dot stuffing (RFC 5321 §4.5.2).
    pub message: Vec<u8>,
    /// Id told in `250 2.0.0 Ok: queued as <id>`.
    pub queue_id: String,
    /// The authenticated user.
    pub user: Option<String>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections.
    pub connections: usize,
    /// MAIL FROM commands of any outcome.
    pub transactions: usize,
    /// Accepted mails.
    pub accepted: usize,
    /// Clients that met planned behaviour.
    pub met: usize,
}

pub struct State {
    user: Option<(String, String)>,
    inner: Mutex<Inner>,
    counts: watch::Sender<Counts>,
}

#[derive(Default)]
struct Inner {
    next: VecDeque<Behaviour>,
    always: Option<Behaviour>,
    /// Recipient and reply.
    refused: HashMap<String, String>,
    received: Vec<ReceivedMail>,
    violations: Vec<String>,
}

impl State {
    pub fn new(user: Option<(String, String)>) -> Self {
        Self { user, inner: Mutex::default(), counts: watch::Sender::default() }
    }

    pub fn needs_a_user(&self) -> bool {
        self.user.is_some()
    }

    pub fn lets_in(&self, name: &str, password: &str) -> bool {
        self.user.as_ref().is_some_and(|(known, secret)| known == name && secret == password)
    }

    pub fn plan(&self, times: usize, behaviour: Behaviour) {
        self.inner().next.extend(std::iter::repeat_n(behaviour, times));
    }

    pub fn plan_always(&self, behaviour: Option<Behaviour>) {
        self.inner().always = behaviour;
    }

    /// Takes the behaviour planned for this step.
    pub fn planned(&self, step: Step) -> Option<Behaviour> {
        let mut inner = self.inner();
        let planned = match inner.next.front() {
            Some(next) if next.step() == step => inner.next.pop_front(),
            _ => inner.always.clone().filter(|always| always.step() == step),
        };
        drop(inner);
        if planned.is_some() {
            self.counts.send_modify(|counts| counts.met += 1);
        }
        planned
    }

    pub fn refuse(&self, recipient: &str, reply: &str) {
        self.inner().refused.insert(recipient.to_owned(), reply.to_owned());
    }

    pub fn refusal_of(&self, recipient: &str) -> Option<String> {
        self.inner().refused.get(recipient).cloned()
    }

    pub fn connected(&self) {
        self.counts.send_modify(|counts| counts.connections += 1);
    }

    pub fn began(&self) {
        self.counts.send_modify(|counts| counts.transactions += 1);
    }

    /// Stores a mail; returns its queue id.
    pub fn accept(&self, mail: ReceivedMail) -> String {
        let mut inner = self.inner();
        let id = format!("Q{:04}", inner.received.len() + 1);
        inner.received.push(ReceivedMail { queue_id: id.clone(), ..mail });
        drop(inner);
        self.counts.send_modify(|counts| counts.accepted += 1);
        id
    }

    pub fn violated(&self, what: String) {
        self.inner().violations.push(what);
    }

    pub fn received(&self) -> Vec<ReceivedMail> {
        self.inner().received.clone()
    }

    /// Forgets what came and what was planned.
    pub fn forget(&self) {
        *self.inner() = Inner::default();
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub fn changes(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
