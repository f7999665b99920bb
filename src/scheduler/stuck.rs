use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Wait before a stuck schedule is tried again.
pub(super) const STUCK_FOR: Duration = Duration::from_secs(5);

/// Schedules that could not be published, by id, with the time of their next try. They must not delay others.
#[derive(Clone, Default)]
pub(super) struct Stuck(Arc<Mutex<HashMap<String, Instant>>>);

impl Stuck {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn ready(&self) -> Vec<String> {
        let now = Instant::now();
        self.lock().iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn add(&self, ids: impl Iterator<Item = String>, wait: Duration) {
        let until = Instant::now() + wait;
        self.lock().extend(ids.map(|id| (id, until)));
    }

    pub(super) fn remove<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let mut stuck = self.lock();
        for id in ids {
            stuck.remove(id);
        }
    }
}
