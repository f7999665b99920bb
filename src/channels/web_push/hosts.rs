//! State per push service: pushes in flight, and whether a connection is open.
//!
//! HTTP/2 multiplexes pushes over one connection, but simultaneous first requests would each open one. So until one is
//! known to be open, one request goes alone.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit};

use crate::clock::Clock;

/// Per origin: the usual limit of HTTP/2 streams per connection.
pub const MAX_IN_FLIGHT: usize = 100;

/// Trust in a connection after a response. Shorter than the pool keeps idle ones.
const TRUSTED_FOR: TimeDelta = TimeDelta::seconds(60);

pub struct Host {
    /// For this origin only, so that its connection ends with it.
    pub http: reqwest::Client,
    clock: Clock,
    permits: Semaphore,
    first: tokio::sync::Mutex<()>,
    answered: Mutex<Option<DateTime<Utc>>>,
}

impl Host {
    pub fn new(http: reqwest::Client, clock: Clock) -> Self {
        Self {
            http,
            clock,
            permits: Semaphore::new(MAX_IN_FLIGHT),
            first: tokio::sync::Mutex::default(),
            answered: Mutex::default(),
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
        self.set(Some(self.clock.now()));
    }

    pub fn disconnected(&self) {
        self.set(None);
    }

    fn set(&self, answered: Option<DateTime<Utc>>) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = answered;
    }

    fn is_connected(&self) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        // A future instant means that the clock was set back.
        answered.is_some_and(|answered| (TimeDelta::zero()..TRUSTED_FOR).contains(&(now - answered)))
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
        let host = Host::new(reqwest::Client::new(), clock.clone());
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
        let host = Host::new(reqwest::Client::new(), clock());
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
        let host = Host::new(reqwest::Client::new(), clock());
        let mut permits = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            permits.push(host.permit().await.unwrap());
        }
        let mut waiting = Box::pin(host.permit());
        assert!(futures::poll!(&mut waiting).is_pending());
        permits.pop();
        assert!(waiting.await.is_some());
    }
}
