//! Requests that wait for the end of a job. They share one statement, however many there are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{problem::Problem, show::has_ended};
use crate::store::{JobState, Store};

/// Requests that wait at a time.
pub const MOST_WAITS: usize = 1000;

/// Between looks, while any waits.
const EVERY: Duration = Duration::from_millis(250);

/// After a failed look.
const AGAIN: Duration = Duration::from_secs(1);

type Asked = HashMap<String, watch::Sender<Option<JobState>>>;

/// The jobs that are waited for.
pub struct Waits(Arc<Shared>);

struct Shared {
    asked: Mutex<Asked>,
    any: Notify,
    places: Arc<Semaphore>,
}

impl Waits {
    /// Looks until `stop`.
    pub fn start(store: Store, stop: CancellationToken) -> Self {
        let places = Arc::new(Semaphore::new(MOST_WAITS));
        let shared = Arc::new(Shared { asked: Mutex::default(), any: Notify::new(), places });
        tokio::spawn(stop.run_until_cancelled_owned(look(Arc::clone(&shared), store)));
        Self(shared)
    }

    /// A place to wait in.
    ///
    /// # Errors
    /// If all are taken.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = |_| Problem::busy(format!("{MOST_WAITS} requests wait for jobs: ask again without `wait`"));
        Arc::clone(&self.0.places).try_acquire_owned().map_err(busy)
    }

    /// The state in which a job has ended; `None` if it has not within `longest`.
    pub async fn end_of(&self, job_id: &str, longest: Duration) -> Option<JobState> {
        let mut state = {
            let mut asked = self.0.lock();
            asked.entry(job_id.to_owned()).or_insert_with(|| watch::Sender::new(None)).subscribe()
        };
        self.0.any.notify_one();
        let ended = state.wait_for(|state| state.as_ref().is_some_and(has_ended));
        timeout(longest, ended).await.ok()?.ok()?.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jobs that somebody still waits for.
    fn wanted(&self) -> Vec<String> {
        let mut asked = self.lock();
        asked.retain(|_, state| state.receiver_count() > 0);
        asked.keys().cloned().collect()
    }
}

async fn look(shared: Arc<Shared>, store: Store) {
    loop {
        let wanted = shared.wanted();
        if wanted.is_empty() {
            shared.any.notified().await;
            continue;
        }
        match store.job_states(&wanted).await {
            Ok(states) => {
                let asked = shared.lock();
                for (job_id, state) in states {
                    if let Some(told) = asked.get(&job_id) {
                        told.send_replace(Some(state));
                    }
                }
            }
            Err(why) => {
                tracing::debug!("requests wait for jobs: {why}");
                sleep(AGAIN).await;
            }
        }
        sleep(EVERY).await;
    }
}
