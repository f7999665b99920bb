//! What the service knows: what it was told to do, and what came.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::{Behaviour, twiml::Spoken, verify::Violation};
use crate::clock::{Clock, Random};

/// A message or call that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The id that it was given: `SM…` or `CA…`.
    pub sid: String,
    /// Whom it is for, as the request has it.
    pub to: String,
    /// From whom: a number, a name, or the id of a service.
    pub from: String,
    /// The text of a message; empty for a call.
    pub body: String,
    /// What is said in a call.
    pub spoken: Option<Spoken>,
    /// Seconds for which a message may wait for its phone.
    pub validity: Option<u32>,
    /// Where to report what becomes of it.
    pub status_callback: Option<String>,
    /// When it was accepted.
    pub received: DateTime<Utc>,
}

/// How much of everything there was since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TLS connections.
    pub connections: usize,
    /// Connections that were refused.
    pub refused: usize,
    /// Looks at the account, by which nothing is sent.
    pub looks: usize,
    /// Requests that a sender might mean for a person, whatever became of them.
    pub requests: usize,
    /// Messages and calls accepted.
    pub accepted: usize,
    /// Requests that broke a rule.
    pub rejected: usize,
}

/// Everything that the service's handles and connections share.
pub struct State {
    account: &'static str,
    token: String,
    clock: Clock,
    inner: Mutex<Inner>,
    counts: watch::Sender<Counts>,
}

#[derive(Default)]
struct Inner {
    next: VecDeque<Behaviour>,
    always: Option<Behaviour>,
    shut: bool,
    received: Vec<Received>,
    rejected: Vec<Violation>,
    proxy: Option<SocketAddr>,
}

impl State {
    /// With this account, and a fresh token.
    pub fn new(account: &'static str, clock: Clock) -> Self {
        let token = Random::system().uuid(clock.now()).simple().to_string();
        Self { account, token, clock, inner: Mutex::default(), counts: watch::Sender::default() }
    }

    /// `AccountSid`.
    pub fn account(&self) -> &'static str {
        self.account
    }

    /// `AuthToken`.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Adds to what the next requests meet, in the order of the calls.
    pub fn plan(&self, times: usize, behaviour: Behaviour) {
        self.inner().next.extend(std::iter::repeat_n(behaviour, times));
    }

    /// Sets what requests meet that nothing else was planned for.
    pub fn plan_always(&self, behaviour: Option<Behaviour>) {
        self.inner().always = behaviour;
    }

    /// What the next request meets; `None` is a prompt 201.
    pub fn planned(&self) -> Option<Behaviour> {
        let mut inner = self.inner();
        inner.next.pop_front().or_else(|| inner.always.clone())
    }

    /// What all requests meet that nothing else was planned for.
    pub fn planned_always(&self) -> Option<Behaviour> {
        self.inner().always.clone()
    }

    /// See [`PhoneService::shut`](super::PhoneService::shut).
    pub fn shut(&self, shut: bool) {
        self.inner().shut = shut;
    }

    /// Whether a connection may be made; counts it.
    pub fn may_connect(&self) -> bool {
        let shut = self.inner().shut;
        self.counts.send_modify(|counts| {
            if shut {
                counts.refused += 1;
            } else {
                counts.connections += 1;
            }
        });
        !shut
    }

    /// Whether connections are refused now.
    pub fn is_shut(&self) -> bool {
        self.inner().shut
    }

    /// See [`PhoneService::callbacks_go_to`](super::PhoneService::callbacks_go_to).
    pub fn set_proxy(&self, address: SocketAddr) {
        self.inner().proxy = Some(address);
    }

    /// Where callbacks go in place of their own address.
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.inner().proxy
    }

    /// Counts a look at the account.
    pub fn looked(&self) {
        self.counts.send_modify(|counts| counts.looks += 1);
    }

    /// Counts a request.
    pub fn requested(&self) {
        self.counts.send_modify(|counts| counts.requests += 1);
    }

    /// Notes a request that broke a rule.
    pub fn reject(&self, violation: &Violation) {
        self.inner().rejected.push(violation.clone());
        self.counts.send_modify(|counts| counts.rejected += 1);
    }

    /// Takes charge of a message or call, and gives it an id.
    pub fn accept(&self, mut message: Received) -> String {
        let kind = if message.spoken.is_some() { "CA" } else { "SM" };
        message.received = self.clock.now();
        message.sid = format!("{kind}{}", Random::system().uuid(message.received).simple());
        let sid = message.sid.clone();
        self.inner().received.push(message);
        self.counts.send_modify(|counts| counts.accepted += 1);
        sid
    }

    /// What was accepted.
    pub fn received(&self) -> Vec<Received> {
        self.inner().received.clone()
    }

    /// What broke a rule.
    pub fn rejected(&self) -> Vec<Violation> {
        self.inner().rejected.clone()
    }

    /// How much of everything there was.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// The counts, and a wake-up whenever they change.
    pub fn changes(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As connections share it.
pub type Shared = Arc<State>;
