//! State per push service: pushes in flight, and whether a connection is open.
//!
//! HTTP/2 multiplexes pushes over one connection, but simultaneous first requests would each open one. So until one is
//! known to be open, one request goes alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit};

use crate::clock::Clock;

/// Per origin: the usual limit of HTTP/2 streams per connection.
pub const MAX_IN_FLIGHT: usize = 100;

/// Wildcard hosts are unbounded, since subscribers report them.
const MAX_IDLE: usize = 256;

/// Trust in a connection after a response. Shorter than the pool keeps idle ones.
const TRUSTED_FOR: TimeDelta = TimeDelta::seconds(60);

pub struct Hosts {
    clock: Clock,
    known: Mutex<HashMap<String, Arc<Host>>>,
}

impl Hosts {
    pub fn new(clock: Clock) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// State of an origin. Evicts the least recently used idle one.
    pub fn get(&self, origin: &str) -> Arc<Host> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(origin) {
            host.touch();
            return Arc::clone(host);
        }
        if known.len() >= MAX_IDLE {
            let idle = known.iter().filter(|(_, host)| Arc::strong_count(host) == 1);
            let oldest = idle.min_by_key(|(_, host)| host.seen().used).map(|(origin, _)| origin.clone());
            oldest.and_then(|origin| known.remove(&origin));
        }
        let host = Arc::new(Host::new(self.clock.clone()));
        known.insert(origin.to_owned(), Arc::clone(&host));
        host
    }
}

pub struct Host {
    clock: Clock,
    permits: Semaphore,
    first: tokio::sync::Mutex<()>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    used: DateTime<Utc>,
    answered: Option<DateTime<Utc>>,
}

impl Host {
    fn new(clock: Clock) -> Self {
        Self {
            permits: Semaphore::new(MAX_IN_FLIGHT),
            first: tokio::sync::Mutex::default(),
            seen: Mutex::new(Seen { used: clock.now(), answered: None }),
            clock,
        }
    }

    pub async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok() // Never closed.
    }

    /// Returns at once while a connection is open. Otherwise one caller at a time, with a guard.
    pub async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_connected() {
            return None;
        }
        let alone = self.first.lock().await;
        (!self.is_connected()).then_some(alone)
    }

    pub fn connected(&self) {
        let now = self.clock.now();
        self.change(|seen| seen.answered = Some(now));
    }

    pub fn disconnected(&self) {
        self.change(|seen| seen.answered = None);
    }

    fn is_connected(&self) -> bool {
        let now = self.clock.now();
        // A future instant means that the clock was set back.
        self.seen().answered.is_some_and(|answered| (TimeDelta::zero()..TRUSTED_FOR).contains(&(now - answered)))
    }

    fn touch(&self) {
        let now = self.clock.now();
        self.change(|seen| seen.used = now);
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::manual("2026-10-25T00:30:00Z".parse().unwrap())
    }

    #[tokio::test]
    async fn one_goes_alone_until_a_connection_stands() {
        let clock = clock();
        let host = Host::new(clock.clone());
        let alone = host.turn().await.expect("nobody was there before");
        let mut waiting = Box::pin(host.turn());
        assert!(futures::poll!(&mut waiting).is_pending());
        host.connected();
        drop(alone);
        assert!(waiting.await.is_none());
        assert!(host.turn().await.is_none());
        clock.advance(TRUSTED_FOR);
        assert!(host.turn().await.is_some());
    }

    #[tokio::test]
    async fn after_a_failure_the_next_goes_alone_too() {
        let host = Host::new(clock());
        host.connected();
        host.disconnected();
        let alone = host.turn().await;
        let mut waiting = Box::pin(host.turn());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(alone);
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn the_hundred_and_first_waits() {
        let host = Host::new(clock());
        let mut permits = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            permits.push(host.permit().await.unwrap());
        }
        let mut waiting = Box::pin(host.permit());
        assert!(futures::poll!(&mut waiting).is_pending());
        permits.pop();
        assert!(waiting.await.is_some());
    }

    #[test]
    fn idle_origins_are_forgotten_and_those_in_use_are_not() {
        let clock = clock();
        let hosts = Hosts::new(clock.clone());
        let in_use = hosts.get("https://in-use.example");
        let idle = Arc::downgrade(&hosts.get("https://idle.example"));
        for n in 0..MAX_IDLE {
            clock.advance(TimeDelta::seconds(1));
            hosts.get(&format!("https://{n}.example"));
        }
        assert!(idle.upgrade().is_none());
        assert!(Arc::ptr_eq(&in_use, &hosts.get("https://in-use.example")));
        assert_eq!(hosts.known.lock().unwrap().len(), MAX_IDLE);
    }
}
