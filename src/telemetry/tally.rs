//! How runs ended, and which are in progress, added up in memory until they are written to the database.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{kind::Queue, plan::JobOutcome};

/// Runs in progress that are shown of a process: those that began first.
const SHOWN: usize = 50;

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndKey {
    /// The queue of its kind and lane.
    pub queue: Queue,
    /// How it ended.
    pub outcome: JobOutcome,
    /// Why, if there is a reason.
    pub reason: Option<&'static str>,
}

/// A run in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningJob {
    /// Its job; empty if its message is unreadable.
    pub job_id: String,
    /// Its queue.
    pub queue: Queue,
    /// When it began.
    pub since: DateTime<Utc>,
}

/// The counts of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ends: Mutex<HashMap<EndKey, u64>>,
    running: Mutex<Runs>,
}

/// By their begin.
#[derive(Debug, Default)]
struct Runs {
    next: u64,
    jobs: BTreeMap<u64, RunningJob>,
}

/// A run in progress, until it is dropped.
#[derive(Debug)]
pub struct Running {
    tally: Tally,
    key: u64,
}

impl Tally {
    /// Counts the end of a run.
    pub fn ended(&self, end: EndKey) {
        *lock(&self.0.ends).entry(end).or_default() += 1;
    }

    /// Notes a run until the answer is dropped.
    #[must_use]
    pub fn begun(&self, job: RunningJob) -> Running {
        let mut runs = lock(&self.0.running);
        let key = runs.next;
        runs.next += 1;
        runs.jobs.insert(key, job);
        Running { tally: self.clone(), key }
    }

    /// The ends since the last call.
    #[must_use]
    pub fn take(&self) -> HashMap<EndKey, u64> {
        mem::take(&mut *lock(&self.0.ends))
    }

    /// The number of runs in progress, and those that began first.
    #[must_use]
    pub fn running(&self) -> (usize, Vec<RunningJob>) {
        let runs = lock(&self.0.running);
        (runs.jobs.len(), runs.jobs.values().take(SHOWN).cloned().collect())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.tally.0.running).jobs.remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::CANCEL;

    #[test]
    fn ends_are_taken_once_and_a_run_is_shown_until_it_is_dropped() {
        let tally = Tally::default();
        let end = EndKey { queue: CANCEL, outcome: JobOutcome::Skipped, reason: Some("gone") };
        tally.ended(end);
        tally.ended(end);
        tally.ended(EndKey { reason: None, ..end });
        assert_eq!(tally.take(), HashMap::from([(end, 2), (EndKey { reason: None, ..end }, 1)]));
        assert_eq!(tally.take(), HashMap::new());

        let job = |id: &str| RunningJob { job_id: id.into(), queue: CANCEL, since: DateTime::UNIX_EPOCH };
        let (first, second) = (tally.begun(job("first")), tally.begun(job("second")));
        assert_eq!(tally.running(), (2, vec![job("first"), job("second")]));
        drop(first);
        assert_eq!(tally.running(), (1, vec![job("second")]));
        drop(second);
        assert_eq!(tally.running(), (0, vec![]));
    }
}
