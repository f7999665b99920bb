//! Delayed jobs. Each is parked at once, whatever its queue waits for, and runs when it is due unless a later message of
//! its application has replaced or cancelled it.
//!
//! The table `delayed_jobs` decides, and not the order in which messages come: see `docs/RELIABILITY.md`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    ending::{Disposition, Ending},
    runner::Runner,
};
use crate::{
    checkpoint::{self, Step},
    clock::Clock,
    effects::{Effects, Refused},
    meta::{Delay, Meta},
    plan::{JobOutcome, Plan, Reason},
    store::{DelayAnswer, DelayStep},
    telemetry::{metrics::Metrics, names::Metric},
};

/// How often delayed jobs are counted, if that is quickly done.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// A count waits at least this many times as long as the last one took.
const COUNT_SHARE: u32 = 100;

/// Decides about a job that its application delayed. `None`: it runs now.
///
/// # Errors
/// If the database refuses an answer.
pub async fn hold_back(
    runner: &Runner,
    meta: &Meta,
    delay: &Delay,
    not_after: DateTime<Utc>,
) -> Result<Option<Ending>, Refused> {
    let now = runner.clock.now();
    let waits = delay.only_waits || (delay.due > now && !delay.is_due);
    if let Some(position) = &delay.asked_by {
        let step = if waits { DelayStep::Wait } else { DelayStep::Run };
        let left = |reason| Ending::new(JobOutcome::Skipped, Disposition::Done).by(reason);
        match runner.effects.delay(meta, position, step).await? {
            DelayAnswer::Again => {}
            DelayAnswer::Taken(replaced) => {
                if let Some(replaced) = replaced {
                    runner.effects.remove_parked(&replaced).await;
                }
            }
            // The replacement runs under the same id, and ends what is on record.
            DelayAnswer::Replaced => return Ok(Some(left(Reason::Replaced))),
            DelayAnswer::Cancelled if meta.resumed => {
                runner.effects.skip(meta, not_after, Reason::Cancelled, Plan::default()).await?;
                return Ok(Some(left(Reason::Cancelled)));
            }
            DelayAnswer::Cancelled => return Ok(Some(left(Reason::Cancelled))),
        }
        checkpoint::reached(if waits { Step::Noted } else { Step::Begun });
    }
    if !waits {
        return Ok(None);
    }
    // A past instant is at once, by the server's clock; before 1678 it would be never.
    let parked = Disposition::delay(meta, not_after, delay.due.max(now - TimeDelta::days(1)));
    Ok(Some(Ending::new(JobOutcome::Waits, parked).by(Reason::Delayed)))
}

/// Follows the number of delayed jobs of these applications, and of all for the metrics.
pub fn follow(
    effects: &Effects,
    applications: impl IntoIterator<Item = String>,
    metrics: &Metrics,
    clock: &Clock,
    stop: CancellationToken,
) -> HashMap<String, watch::Receiver<u64>> {
    let senders: HashMap<String, watch::Sender<u64>> =
        applications.into_iter().map(|application| (application, watch::channel(0).0)).collect();
    let receivers = senders.iter().map(|(application, sender)| (application.clone(), sender.subscribe())).collect();
    let (store, metrics, clock) = (effects.store().clone(), metrics.clone(), clock.clone());
    tokio::spawn(async move {
        loop {
            let since = Instant::now();
            if let Some(Ok(counts)) = stop.run_until_cancelled(store.count_delayed()).await {
                metrics.set_depth(Metric::Delayed, Some(counts.values().sum()));
                for (application, sender) in &senders {
                    let count = counts.get(application).copied().unwrap_or(0);
                    sender.send_if_modified(|known| std::mem::replace(known, count) != count);
                }
            }
            let wait = clock.paced(COUNT_EVERY).max(since.elapsed() * COUNT_SHARE);
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    });
    receivers
}
