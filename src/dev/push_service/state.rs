//! What the service knows: subscriptions, what they were told to do, and what came.

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

/// What a browser reports after subscribing; all base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The URL that pushes to it are posted to.
    pub endpoint: String,
    /// The browser's public key: 65 bytes, an uncompressed P-256 point (RFC 8291 §3.1).
    pub p256dh: String,
    /// The secret shared with the sender: 16 bytes (RFC 8291 §3.2).
    pub auth: String,
}

/// A push that was accepted.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// The subscription's.
    pub name: String,
    /// Decrypted.
    pub plaintext: Vec<u8>,
    /// Seconds.
    pub ttl: u32,
    /// `very-low`, `low`, `normal` or `high` (RFC 8030 §5.3).
    pub urgency: String,
    /// 32 characters, by which pushes collapse (RFC 8030 §5.4).
    pub topic: String,
    /// When it was accepted.
    pub received: DateTime<Utc>,
    /// What its VAPID token says.
    pub claims: VapidClaims,
    /// The VAPID token itself.
    pub token: String,
    /// An earlier push to this subscription had the same topic: a browser that was offline shows only this one.
    pub replaces: bool,
}

impl ReceivedPush {
    /// The plaintext, where it is UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.plaintext).unwrap_or_default()
    }

    /// The plaintext as JSON; `null` where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.plaintext).unwrap_or_default()
    }
}

/// A request that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRequest {
    /// The subscription's, where the request named one.
    pub name: Option<String>,
    /// The status that it was answered with.
    pub status: u16,
    /// The rule, and how it was broken.
    pub why: String,
}

/// How much of everything there was since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// TLS connections.
    pub connections: usize,
    /// Requests, whatever became of them.
    pub requests: usize,
    /// Pushes accepted.
    pub accepted: usize,
    /// Of these, such as replaced an earlier one of the same subscription and topic.
    pub replaced: usize,
    /// Requests that broke a rule.
    pub rejected: usize,
    /// Requests that are neither answered nor given up at present.
    pub open: usize,
    /// The most of them that there were at once.
    pub most_open: usize,
}

/// A request that is under way.
pub struct UnderWay(Arc<State>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

/// Everything that the service's handles and connections share.
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
    /// Path and topic of everything accepted.
    topics: HashSet<(String, String)>,
    rejected: Vec<RejectedRequest>,
}

struct Subscribed {
    name: String,
    receiver: Receiver,
    ended: bool,
}

/// A push that passed every check, and what it is to meet.
pub struct Passed {
    push: Verified,
    path: String,
    name: String,
    /// What was planned for it; `None` is a prompt 201.
    pub behaviour: Option<Behaviour>,
}

impl State {
    /// Without subscriptions yet; `origin` is the audience that tokens must name.
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

    /// `https://localhost:PORT`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// See [`PushService::subscribe_for`](super::PushService::subscribe_for); no key = pushes of any sender.
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

    /// See [`PushService::unsubscribe`](super::PushService::unsubscribe).
    pub fn unsubscribe(&self, name: &str) {
        self.inner().subscriptions.values_mut().filter(|known| known.name == name).for_each(|known| known.ended = true);
    }

    /// Adds to what the next pushes to this subscription meet, in the order of the calls.
    pub fn plan(&self, name: &str, times: usize, behaviour: Behaviour) {
        let mut inner = self.inner();
        inner.next.entry(name.to_owned()).or_default().extend(std::iter::repeat_n(behaviour, times));
    }

    /// Sets what pushes meet that nothing else was planned for.
    pub fn plan_always(&self, name: &str, behaviour: Option<Behaviour>) {
        let mut inner = self.inner();
        match behaviour {
            Some(behaviour) => inner.always.insert(name.to_owned(), behaviour),
            None => inner.always.remove(name),
        };
    }

    /// The pushes that were accepted, in their order.
    pub fn received(&self) -> Vec<ReceivedPush> {
        self.inner().received.clone()
    }

    /// The requests that broke a rule, in their order.
    pub fn rejected(&self) -> Vec<RejectedRequest> {
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

    /// Counts a connection; it is to be closed when the token is cancelled.
    pub fn connected(&self) -> CancellationToken {
        self.counts.send_modify(|counts| counts.connections += 1);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes every connection that stands; later ones are not touched.
    pub fn drop_connections(&self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *connections).cancel();
    }

    /// Counts a request, which is under way until the answer is dropped.
    pub fn requested(self: &Arc<Self>) -> UnderWay {
        self.counts.send_modify(|counts| {
            counts.requests += 1;
            counts.open += 1;
            counts.most_open = counts.most_open.max(counts.open);
        });
        UnderWay(Arc::clone(self))
    }

    /// Checks a request by every rule, and notes the one that it breaks.
    pub fn judge(&self, request: &Request<'_>) -> Result<Passed, Violation> {
        let found = match self.inner().subscriptions.get(request.path) {
            None => Err(Violation::new(404, "no such subscription")),
            // No rule is broken: the sender cannot know. It counts as a request only.
            Some(known) if known.ended => return Err(Violation::new(410, "the subscription has ended")),
            Some(known) => Ok((known.name.clone(), known.receiver.clone())),
        };
        let (name, receiver) = found.inspect_err(|violation| self.reject(None, violation))?;
        // Not under the lock: this is where the time goes.
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

    /// Notes a request that broke a rule.
    pub fn reject(&self, name: Option<String>, violation: &Violation) {
        let Violation { status, why } = violation.clone();
        self.inner().rejected.push(RejectedRequest { name, status, why });
        self.counts.send_modify(|counts| counts.rejected += 1);
    }

    /// Takes charge of a push.
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
