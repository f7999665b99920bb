use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::time::timeout;

use super::stuck::Stuck;
use crate::{
    clock::Clock,
    effects::submit::{Producer, Submission, submit},
    health::Health,
    store::Store,
};

/// Locked rows and others wait this long for a publish.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// Publishes due jobs.
#[derive(Clone)]
pub struct Scheduler {
    pub(super) store: Store,
    producer: Producer,
    pub(super) clock: Clock,
    /// Receives the delays.
    pub health: Arc<Health>,
    pub(super) stuck: Stuck,
}

/// Result of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Schedules that were due.
    pub seen: usize,
    /// Schedules or reminders moved on.
    pub moved: usize,
    /// Still due because publishing failed.
    pub stuck: usize,
    /// Jobs published.
    pub published: usize,
    /// Largest delay.
    pub lag: TimeDelta,
}

impl Scheduler {
    /// A scheduler that reports to `health`.
    #[must_use]
    pub fn new(store: Store, producer: Producer, clock: Clock, health: Arc<Health>) -> Self {
        Self { store, producer, clock, health, stuck: Stuck::default() }
    }

    /// A timeout is harmless: the job is published again under the same id.
    pub(super) async fn publish(&self, job: Submission) -> Result<(), String> {
        match timeout(PUBLISH_TIMEOUT, submit(&self.producer, job)).await {
            Ok(submitted) => submitted.map(|_| ()).map_err(|refused| refused.to_string()),
            Err(_) => Err(format!("no acknowledgement within {PUBLISH_TIMEOUT:?}")),
        }
    }
}
