use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

/// Limit of concurrent sends to one provider.
#[derive(Clone, Copy, Debug)]
pub struct Concurrency {
    /// Most sends in flight.
    pub limit: usize,
    /// How long a send waits for a permit, holding one of its queue. It doesn't wait if the last waiter gave up or the
    /// last send took longer than this, so that a slow provider can't hold up the queue.
    pub wait: Duration,
}

impl Concurrency {
    /// No limit.
    pub const UNLIMITED: Self = Self { limit: usize::MAX, wait: Duration::from_secs(1) };
}

#[derive(Debug)]
pub(super) struct Permits {
    free: Semaphore,
    wait: Duration,
    /// Whether waiting is worthwhile.
    is_quick: AtomicBool,
}

/// Permission to be in flight.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a> {
    permits: &'a Permits,
    since: Instant,
    _taken: SemaphorePermit<'a>,
}

impl Permits {
    pub(super) fn new(Concurrency { limit, wait }: Concurrency) -> Self {
        let free = Semaphore::new(limit.min(Semaphore::MAX_PERMITS));
        Self { free, wait, is_quick: AtomicBool::new(true) }
    }

    pub(super) async fn take(&self) -> Option<Permit<'_>> {
        let wait = if self.is_quick.load(Relaxed) { self.wait } else { Duration::ZERO };
        if let Ok(Ok(permit)) = timeout(wait, self.free.acquire()).await {
            return Some(Permit { permits: self, since: Instant::now(), _taken: permit });
        }
        self.is_quick.store(false, Relaxed);
        None
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.permits.is_quick.store(self.since.elapsed() < self.permits.wait, Relaxed);
    }
}
