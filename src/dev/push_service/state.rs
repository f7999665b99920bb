//! Subscriptions, planned behaviour and received pushes.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ece::EcKeyComponents;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Behaviour,
    verify::{Receiver, Request, VapidClaims, Verified, Verifier, Violation},
};
use crate::clock::Clock;

/// A browser's subscription, in base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// URL for pushes.
    pub endpoint: String,
    /// Public key: 65 bytes, an uncompressed P-256 point (RFC 8291 §3.1).
    pub p256dh: String,
    /// Secret shared with the sender: 16 bytes (RFC 8291 §3.2).
    pub auth: String,
}

/// An accepted push.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// Name of the subscription.
    pub name: String,
    /// Decrypted body.
    pub plaintext: Vec<u8>,
    /// Seconds.
    pub ttl: u32,
    /// `very-low`, `low`, `normal` or `high` (RFC 8030 §5.3).
    pub urgency: String,
    /// 32 characters; replaces pushes of the same topic (RFC 8030 §5.4).
    pub topic: String,
    /// When it was accepted.
    pub received: DateTime<Utc>,
    /// Claims of its VAPID token.
    pub claims: VapidClaims,
    /// The VAPID token.
    pub token: String,
    /// Whether an earlier push had the same topic.
    pub replaces: bool,
}

impl ReceivedPush {
    /// The plaintext, if it is UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.plaintext).unwrap_or_default()
    }

    /// The plaintext as JSON, or `null`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.plaintext).unwrap_or_default()
    }
}

/// A request that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRequest {
    /// Name of the subscription, if known.
    pub name: Option<String>,
    /// HTTP status of the answer.
    pub status: u16,
    /// The rule, and how it was broken.
    pub why: String,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TLS connections.
    pub connections: usize,
    /// Requests of any outcome.
    pub requests: usize,
    /// Accepted pushes.
    pub accepted: usize,
    /// Those that replaced an earlier push.
    pub replaced: usize,
    /// Requests that broke a rule.
    pub rejected: usize,
    /// Requests in flight.
    pub open: usize,
    /// Largest number of requests in flight.
    pub most_open: usize,
}

/// A request in flight, until dropped.
pub struct UnderWay(Arc<State>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

pub struct State {
    origin: String,
    clock: Clock,
    verifier: Verifier,
    inner: Mutex<Inner>,
    counts: watch::Sender<Counts>,
    connections: Mutex<CancellationToken>,
}

#[derive(Default)]
struct Inner {
    /// By path.
    subscriptions: HashMap<String, Subscribed>,
    next: HashMap<String, VecDeque<Behaviour>>,
    always: HashMap<String, Behaviour>,
    received: Vec<ReceivedPush>,
    /// Path and topic of accepted pushes.
    topics: HashSet<(String, String)>,
    rejected: Vec<RejectedRequest>,
}

struct Subscribed {
    name: String,
    receiver: Receiver,
    ended: bool,
}

pub struct Passed {
    push: Verified,
    path: String,
    name: String,
    /// `None` means a prompt 201.
    pub behaviour: Option<Behaviour>,
}

impl State {
    pub fn new(origin: String, clock: Clock) -> Self {
        Self {
            origin,
            clock,
            verifier: Verifier::default(),
            inner: Mutex::default(),
            counts: watch::Sender::default(),
            connections: Mutex::default(),
        }
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// With `public_key`, only for this sender.
    #[expect(clippy::expect_used, reason = "a demo and test service without randomness has nothing to go on with")]
    pub fn subscribe(&self, name: &str, public_key: Option<&str>) -> Subscription {
        let (keys, auth) = ece::generate_keypair_and_auth_secret().expect("the system has randomness");
        let components: EcKeyComponents = keys.raw_components().expect("a fresh key pair has components");
        let (_, unguessable) = ece::generate_keypair_and_auth_secret().expect("the system has randomness");
        let path = format!("/push/{}", URL_SAFE_NO_PAD.encode(unguessable));
        let subscription = Subscription {
            endpoint: format!("{}{path}", self.origin),
            p256dh: URL_SAFE_NO_PAD.encode(components.public_key()),
            auth: URL_SAFE_NO_PAD.encode(auth),
        };
        let receiver = Receiver { keys: components, auth, public_key: public_key.map(str::to_owned) };
        self.inner().subscriptions.insert(path, Subscribed { name: name.to_owned(), receiver, ended: false });
        subscription
    }

    pub fn unsubscribe(&self, name: &str) {
        self.inner().subscriptions.values_mut().filter(|known| known.name == name).for_each(|known| known.ended = true);
    }

    pub fn plan(&self, name: &str, times: usize, behaviour: Behaviour) {
        let mut inner = self.inner();
        inner.next.entry(name.to_owned()).or_default().extend(std::iter::repeat_n(behaviour, times));
    }

    pub fn plan_always(&self, name: &str, behaviour: Option<Behaviour>) {
        let mut inner = self.inner();
        match behaviour {
            Some(behaviour) => inner.always.insert(name.to_owned(), behaviour),
            None => inner.always.remove(name),
        };
    }

    pub fn received(&self) -> Vec<ReceivedPush> {
        self.inner().received.clone()
    }

    /// Forgets what came and what was planned; ended subscriptions are good again.
    pub fn forget(&self) {
        let mut inner = self.inner();
        inner.subscriptions.values_mut().for_each(|known| known.ended = false);
        let subscriptions = std::mem::take(&mut inner.subscriptions);
        *inner = Inner { subscriptions, ..Inner::default() };
    }

    pub fn rejected(&self) -> Vec<RejectedRequest> {
        self.inner().rejected.clone()
    }

    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub fn changes(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    /// Counts a connection, to be closed by the token.
    pub fn connected(&self) -> CancellationToken {
        self.counts.send_modify(|counts| counts.connections += 1);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn drop_connections(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *connections).cancel();
    }

    /// Counts a request.
    pub fn requested(self: &Arc<Self>) -> UnderWay {
        self.counts.send_modify(|counts| {
            counts.requests += 1;
            counts.open += 1;
            counts.most_open = counts.most_open.max(counts.open);
        });
        UnderWay(Arc::clone(self))
    }

    /// Checks a request, and records a broken rule.
    pub fn judge(&self, request: &Request<'_>) -> Result<Passed, Violation> {
        let found = match self.inner().subscriptions.get(request.path) {
            None => Err(Violation::new(404, "no such subscription")),
            // No rule is broken: the sender could not know.
            Some(known) if known.ended => return Err(Violation::new(410, "the subscription has ended")),
            Some(known) => Ok((known.name.clone(), known.receiver.clone())),
        };
        let (name, receiver) = found.inspect_err(|violation| self.reject(None, violation))?;
        // Slow, so not under the lock.
        let push =
            self.verifier.verify(request, &receiver, &self.origin, self.clock.now()).inspect_err(|violation| {
                self.reject(Some(name.clone()), violation);
            })?;
        let mut inner = self.inner();
        let planned = inner.next.get_mut(&name).and_then(VecDeque::pop_front);
        let behaviour = planned.or_else(|| inner.always.get(&name).cloned());
        drop(inner);
        Ok(Passed { push, path: request.path.to_owned(), name, behaviour })
    }

    pub fn reject(&self, name: Option<String>, violation: &Violation) {
        let Violation { status, why } = violation.clone();
        self.inner().rejected.push(RejectedRequest { name, status, why });
        self.counts.send_modify(|counts| counts.rejected += 1);
    }

    pub fn accept(&self, passed: Passed) {
        let Passed { push, path, name, .. } = passed;
        let Verified { plaintext, ttl, urgency, topic, claims, token } = push;
        let mut inner = self.inner();
        let replaces = !inner.topics.insert((path, topic.clone()));
        let received = self.clock.now();
        inner.received.push(ReceivedPush { name, plaintext, ttl, urgency, topic, received, claims, token, replaces });
        drop(inner);
        self.counts.send_modify(|counts| {
            counts.accepted += 1;
            counts.replaced += usize::from(replaces);
        });
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
