//! What the server knows: whom it lets in, what it was told to do, and what came.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Behaviour, Step};

/// A mail that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMail {
    /// MAIL FROM, without angle brackets.
    pub from: String,
    /// RCPT TO, in order.
    pub to: Vec<String>,
    /// The parameters of MAIL FROM, for example `SMTPUTF8`.
    pub parameters: Vec<String>,
    /// The message as it was meant: without the dots that were added for the way (RFC 5321 §4.5.2).
    pub message: Vec<u8>,
    /// The id that the client was told, in `250 2.0.0 Ok: queued as <id>`.
    pub queue_id: String,
    /// Who signed in.
    pub user: Option<String>,
}

/// How much of everything there was since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP connections.
    pub connections: usize,
    /// MAIL FROM, whatever became of it.
    pub transactions: usize,
    /// Mails accepted.
    pub accepted: usize,
    /// Clients that met a behaviour.
    pub met: usize,
}

/// Everything that the server's handle and connections share.
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

    /// Whether nobody gets in without a password.
    pub fn needs_a_user(&self) -> bool {
        self.user.is_some()
    }

    /// Whether these are the credentials.
    pub fn lets_in(&self, name: &str, password: &str) -> bool {
        self.user.as_ref().is_some_and(|(known, secret)| known == name && secret == password)
    }

    pub fn plan(&self, times: usize, behaviour: Behaviour) {
        self.inner().next.extend(std::iter::repeat_n(behaviour, times));
    }

    pub fn plan_always(&self, behaviour: Option<Behaviour>) {
        self.inner().always = behaviour;
    }

    /// What is to happen at this step in place of the usual.
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

    /// Takes charge of a mail; answers its queue id.
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
