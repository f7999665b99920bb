//! State of the worker and its servers, for the HTTP endpoints and for consumers, which pause without a database.

mod pulls;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

pub use self::pulls::PullWatch;
use self::pulls::Pulls;
use crate::{pauses::Pauses, store::OddRows, telemetry::metrics::Metrics};

/// Lifecycle of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet pulling.
    Starting,
    /// Pulling.
    Running,
    /// Not pulling; finishing jobs in flight.
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

/// State of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Working.
    Up,
    /// Not working, with the reason.
    Down(String),
}

/// Health of a worker, shared by its parts.
#[derive(Debug)]
pub struct Health {
    phase: watch::Sender<Phase>,
    database: watch::Sender<bool>,
    /// When the database was last up again.
    returned: Mutex<Option<Instant>>,
    /// Number of connections made to NATS.
    connections: watch::Sender<u64>,
    parts: Mutex<BTreeMap<&'static str, Part>>,
    pulls: Pulls,
    /// Milliseconds. Negative until something was due.
    schedule_lag: AtomicI64,
    /// In milliseconds since 1970.
    schedule_due: AtomicI64,
    odd_rows: Mutex<Vec<OddRows>>,
    pauses: Pauses,
    metrics: Metrics,
}

/// Part: the connection to NATS.
pub const NATS: &str = "nats";
/// Part: `JetStream` answers pulls.
pub const JETSTREAM: &str = "jetstream";
/// Part: NATS stores what is published.
pub const NATS_STORAGE: &str = "nats_storage";
/// Part: the journal of what was committed lately.
pub const JOURNAL: &str = "journal";
/// Part: the database.
pub const POSTGRES: &str = "postgres";
/// Part: the scheduler of saved schedules.
pub const SCHEDULER: &str = "scheduler";
/// Part: the scheduler of care reminders.
pub const CARE_REMINDERS: &str = "care_reminders";
/// Part: the care tables are readable.
pub const CARE_TABLES: &str = "care_tables";

/// Silence after which a pull counts as unanswered: by then its first heartbeat is missed.
const SILENCE: Duration = Duration::from_secs(4);

/// The most queues that are named.
const NAMED: usize = 3;

impl Health {
    /// A starting worker without parts.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Starting),
            database: watch::Sender::new(true),
            returned: Mutex::default(),
            connections: watch::Sender::new(0),
            parts: Mutex::new(BTreeMap::new()),
            pulls: Pulls::new(),
            schedule_lag: AtomicI64::new(-1),
            schedule_due: AtomicI64::new(0),
            odd_rows: Mutex::default(),
            pauses: Pauses::default(),
            metrics: Metrics::new(),
        })
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Records a part's state and logs changes. Called for every database statement, so it copies nothing if unchanged.
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
        // Under the lock: otherwise statements that end at once could leave the two states in disagreement.
        if name == POSTGRES && self.database.send_if_modified(|was| std::mem::replace(was, up) != up) && up {
            *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All parts, sorted by name.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<&'static str, Part> {
        self.lock().clone()
    }

    /// Whether every part works.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.lock().values().all(|part| *part == Part::Up)
    }

    /// Records a connection to NATS.
    pub fn connected(&self) {
        self.set(NATS, Part::Up);
        self.connections.send_modify(|count| *count += 1);
    }

    /// Follows the pulls of a consumer, `STREAM.durable`.
    #[must_use]
    pub fn watch_pulls(&self, place: &str) -> PullWatch {
        self.pulls.watch(place)
    }

    /// Looks whether pulls are answered, if this worker pulls.
    pub fn look_at_pulls(&self) {
        let (silent, all) = self.pulls.unanswered(SILENCE);
        if all == 0 {
            return;
        }
        if silent.is_empty() {
            return self.set(JETSTREAM, Part::Up);
        }
        let named: Vec<&str> = silent.iter().take(NAMED).map(AsRef::as_ref).collect();
        let rest = silent.len() - named.len();
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        // Not the time: with each second it would be another state.
        let named = named.join(", ");
        let why =
            format!("pulls of {} of {all} queues are not answered: {named}{more}; is there a leader?", silent.len());
        self.set(JETSTREAM, Part::Down(why));
    }

    /// The worker's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Records the scheduler's lag.
    pub fn scheduled(&self, lag: TimeDelta, now: DateTime<Utc>) {
        self.schedule_due.store(now.timestamp_millis(), Ordering::Relaxed);
        self.schedule_lag.store(lag.num_milliseconds().max(0), Ordering::Relaxed);
    }

    /// The scheduler's last lag, if anything was due.
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

    /// Records the rows of the care tables that are not read as they are written.
    pub fn set_odd_rows(&self, odd: Vec<OddRows>) {
        for what in OddRows::WHAT {
            let count = odd.iter().filter(|odd| odd.what == what).map(|odd| odd.count).sum();
            self.metrics.odd_care_rows(what, count);
        }
        *self.odd_rows.lock().unwrap_or_else(PoisonError::into_inner) = odd;
    }

    /// Rows of the care tables that are not read as they are written, as last looked at.
    #[must_use]
    pub fn odd_rows(&self) -> Vec<OddRows> {
        self.odd_rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What people have paused, as last read.
    #[must_use]
    pub fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// Changes with each connection to NATS, after which earlier pulls may be lost.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// Records an answer of the database.
    pub fn database_answers(&self) {
        self.set(POSTGRES, Part::Up);
    }

    /// Records a failure of the database.
    pub fn database_fails(&self, why: &str) {
        self.set(POSTGRES, Part::Down(why.to_owned()));
    }

    /// Waits until the database answers.
    pub async fn database_up(&self) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.database.subscribe().wait_for(|up| *up).await;
    }

    /// Waits until the database has answered for this long since it was last away.
    pub async fn database_up_for(&self, time: Duration) {
        loop {
            self.database_up().await;
            let returned = *self.returned.lock().unwrap_or_else(PoisonError::into_inner);
            let left = returned.map_or(Duration::ZERO, |at| time.saturating_sub(at.elapsed()));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use futures::FutureExt;

    use super::*;

    /// Waiters and readers see the same state.
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
