//! Planned behaviour and received requests.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Behaviour, received::Received, verify::Violation};
use crate::clock::{Clock, Random};

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TLS connections.
    pub connections: usize,
    /// Refused connections.
    pub refused: usize,
    /// Requests about the account, which send nothing.
    pub looks: usize,
    /// Requests to send something.
    pub requests: usize,
    /// Accepted messages and calls.
    pub accepted: usize,
    /// Requests that broke a rule.
    pub rejected: usize,
}

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
    pub fn new(account: &'static str, clock: Clock) -> Self {
        let token = Random::system().uuid(clock.now()).simple().to_string();
        Self { account, token, clock, inner: Mutex::default(), counts: watch::Sender::default() }
    }

    pub fn account(&self) -> &'static str {
        self.account
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn plan(&self, times: usize, behaviour: Behaviour) {
        self.inner().next.extend(std::iter::repeat_n(behaviour, times));
    }

    pub fn plan_always(&self, behaviour: Option<Behaviour>) {
        self.inner().always = behaviour;
    }

    /// Takes the next planned behaviour; `None` means a prompt 201.
    pub fn planned(&self) -> Option<Behaviour> {
        let mut inner = self.inner();
        inner.next.pop_front().or_else(|| inner.always.clone())
    }

    pub fn planned_always(&self) -> Option<Behaviour> {
        self.inner().always.clone()
    }

    pub fn shut(&self, shut: bool) {
        self.inner().shut = shut;
    }

    /// Counts a connection, unless shut.
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

    pub fn is_shut(&self) -> bool {
        self.inner().shut
    }

    pub fn set_proxy(&self, address: SocketAddr) {
        self.inner().proxy = Some(address);
    }

    pub fn proxy(&self) -> Option<SocketAddr> {
        self.inner().proxy
    }

    pub fn looked(&self) {
        self.counts.send_modify(|counts| counts.looks += 1);
    }

    pub fn requested(&self) {
        self.counts.send_modify(|counts| counts.requests += 1);
    }

    pub fn reject(&self, violation: &Violation) {
        self.inner().rejected.push(violation.clone());
        self.counts.send_modify(|counts| counts.rejected += 1);
    }

    /// Stores a message or call; returns its id.
    pub fn accept(&self, mut message: Received) -> String {
        let kind = if message.spoken.is_some() { "CA" } else { "SM" };
        message.received = self.clock.now();
        message.sid = format!("{kind}{}", Random::system().uuid(message.received).simple());
        let sid = message.sid.clone();
        self.inner().received.push(message);
        self.counts.send_modify(|counts| counts.accepted += 1);
        sid
    }

    pub fn received(&self) -> Vec<Received> {
        self.inner().received.clone()
    }

    /// Forgets what came and what was planned.
    pub fn forget(&self) {
        let mut inner = self.inner();
        *inner = Inner { proxy: inner.proxy, ..Inner::default() };
    }

    pub fn rejected(&self) -> Vec<Violation> {
        self.inner().rejected.clone()
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

pub type Shared = Arc<State>;
