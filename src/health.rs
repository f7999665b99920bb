//! What the worker knows of its own state and of the servers it needs. Read by the HTTP endpoints, and by consumers,
//! which stop pulling while the database is away.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::telemetry::metrics::Metrics;

/// Where the worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet pulling.
    Starting,
    /// Pulling.
    Running,
    /// No longer pulling; finishing what is under way.
    Draining,
}

impl Phase {
    /// As shown by `/health`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

/// The state of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// It works.
    Up,
    /// It does not, and why.
    Down(String),
}

/// Shared by all parts of a worker.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    database: watch::Sender<bool>,
    /// Counts the connections to NATS.
    connections: watch::Sender<u64>,
    parts: Mutex<BTreeMap<&'static str, Part>>,
    /// In milliseconds; negative where nothing was due yet.
    schedule_lag: AtomicI64,
    /// When that was, in milliseconds since 1970.
    schedule_due: AtomicI64,
    metrics: Metrics,
}

/// Names of the parts.
pub const NATS: &str = "nats";
/// See [`NATS`].
pub const POSTGRES: &str = "postgres";
/// See [`NATS`]: publishes what people scheduled.
pub const SCHEDULER: &str = "scheduler";
/// See [`NATS`]: publishes what follows from the care tables.
pub const CARE_REMINDERS: &str = "care_reminders";
/// See [`NATS`]: can be read, so that reminders can be planned.
pub const CARE_TABLES: &str = "care_tables";

impl Health {
    /// Everything still to come up.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Starting),
            database: watch::Sender::new(true),
            connections: watch::Sender::new(0),
            parts: Mutex::new(BTreeMap::new()),
            schedule_lag: AtomicI64::new(-1),
            schedule_due: AtomicI64::new(0),
            metrics: Metrics::new(),
        })
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Notes the state of a part; a change is logged once. Of the database this is called for every statement: nothing is
    /// copied, and nothing written while nothing changes.
    pub fn set(&self, name: &'static str, part: Part) {
        let mut parts = self.lock();
        let before = parts.get(name);
        if before == Some(&part) {
            return;
        }
        match (before, &part) {
            (None | Some(Part::Up), Part::Down(why)) => tracing::warn!(part = name, "{name} is down: {why}"),
            (Some(Part::Down(_)), Part::Up) => tracing::info!(part = name, "{name} is up again"),
            _ => {}
        }
        let up = part == Part::Up;
        parts.insert(name, part);
        // Under the same lock. Of two statements that end at once, one well and one not, each would else have one of the two
        // say what it saw, and a database that is up might be shown as down for ever.
        if name == POSTGRES {
            self.database.send_if_modified(|was| std::mem::replace(was, up) != up);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All parts, in order of name.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&'static str, Part> {
        self.lock().clone()
    }

    /// Whether everything works.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.lock().values().all(|part| *part == Part::Up)
    }

    /// A connection to NATS was made.
    pub fn connected(&self) {
        self.set(NATS, Part::Up);
        self.connections.send_modify(|count| *count += 1);
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Something was due by itself, and is published now: how late the latest of it was.
    pub fn scheduled(&self, lag: TimeDelta, now: DateTime<Utc>) {
        self.schedule_due.store(now.timestamp_millis(), Ordering::Relaxed);
        self.schedule_lag.store(lag.num_milliseconds().max(0), Ordering::Relaxed);
    }

    /// How late the scheduler was the last time that something was due. None where nothing was.
    #[must_use]
    pub fn schedule_lag(&self) -> Option<TimeDelta> {
        TimeDelta::try_milliseconds(self.schedule_lag.load(Ordering::Relaxed)).filter(|lag| *lag >= TimeDelta::zero())
    }

    /// When something was last due.
    #[must_use]
    pub fn schedule_due(&self) -> Option<DateTime<Utc>> {
        let due = DateTime::from_timestamp_millis(self.schedule_due.load(Ordering::Relaxed));
        self.schedule_lag().and(due)
    }

    /// Changes whenever a connection to NATS is made: pulls that were made over an earlier one may be forgotten.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// The database has answered.
    pub fn database_answers(&self) {
        self.set(POSTGRES, Part::Up);
    }

    /// The database has not answered.
    pub fn database_fails(&self, why: &str) {
        self.set(POSTGRES, Part::Down(why.to_owned()));
    }

    /// Waits until the database answers; returns at once while it does.
    pub async fn database_up(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.database.subscribe().wait_for(|up| *up).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use futures::FutureExt;

    use super::*;

    /// Whoever waits for the database, and whoever reads of it, are told the same.
    #[test]
    fn answers_and_failures_at_once_leave_one_state() {
        const ROUNDS: usize = 20_000;
        let (health, barrier) = (Health::new(), Barrier::new(2));
        let rounds = |say: &dyn Fn()| {
            for round in 0..ROUNDS {
                barrier.wait();
                say();
                barrier.wait();
                let shown = health.parts().get(POSTGRES) == Some(&Part::Up);
                let waited_for = health.database_up().now_or_never().is_some();
                assert_eq!(shown, waited_for, "in round {round}");
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| rounds(&|| health.database_fails("no answer")));
            rounds(&|| health.database_answers());
        });
    }
}
