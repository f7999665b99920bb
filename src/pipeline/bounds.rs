//! How much room the delayed jobs of each application take while they wait, and how much they may.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    effects::Effects,
    telemetry::{metrics::Metrics, names::Metric},
};

/// How often delayed jobs are counted, if that is quickly done.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// A count waits at least this many times as long as the last one took.
const COUNT_SHARE: u32 = 100;

/// The KiB that the delayed jobs of each application take, each at least one, and its bound.
#[derive(Debug, Default)]
pub struct Bounds(HashMap<String, (Option<u64>, watch::Receiver<u64>)>);

impl Bounds {
    /// The bound and the room of an application's delayed jobs.
    pub fn of(&self, application: &str) -> Option<(u64, watch::Receiver<u64>)> {
        let (bound, room) = self.0.get(application)?;
        Some(((*bound)?, room.clone()))
    }

    /// The bound, if they take more.
    pub fn exceeded(&self, application: &str) -> Option<u64> {
        self.of(application).filter(|(bound, room)| *room.borrow() > *bound).map(|(bound, _)| bound)
    }
}

/// Follows the room of the delayed jobs of these applications, with their bounds, and the number of all for the metrics.
pub fn follow(
    effects: &Effects,
    applications: impl IntoIterator<Item = (String, Option<u64>)>,
    metrics: &Metrics,
    clock: &Clock,
    stop: CancellationToken,
) -> Bounds {
    let (mut senders, mut bounds) = (HashMap::new(), HashMap::new());
    for (application, bound) in applications {
        let (sender, room) = watch::channel(0);
        bounds.insert(application.clone(), (bound, room));
        senders.insert(application, sender);
    }
    let (store, metrics, clock) = (effects.store().clone(), metrics.clone(), clock.clone());
    tokio::spawn(async move {
        loop {
            let since = Instant::now();
            if let Some(Ok(counts)) = stop.run_until_cancelled(store.count_delayed()).await {
                metrics.set_depth(Metric::Delayed, Some(counts.values().map(|count| count.jobs).sum()));
                for (application, sender) in &senders {
                    let room = counts.get(application).map_or(0, |count| count.room);
                    sender.send_if_modified(|known| std::mem::replace(known, room) != room);
                }
            }
            let wait = clock.paced(COUNT_EVERY).max(since.elapsed() * COUNT_SHARE);
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    });
    Bounds(bounds)
}
