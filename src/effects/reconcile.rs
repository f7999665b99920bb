//! Publishes committed children that were never published because the worker and its message were lost.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Effects;
use crate::{clock::Clock, group::LONGEST_WAIT, health::Health};

/// Limit for the children of one run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publishes children of runs that have been pending for longer than `age`. Returns the number of runs.
///
/// Safe beside a worker that publishes them too: job ids make every child run once.
///
/// # Errors
/// The database does not answer; the next pass tries again.
pub async fn pass(effects: &Effects, clock: &Clock, age: TimeDelta) -> Result<usize, String> {
    let before = clock.now() - age;
    let runs = effects.store().runs_with_old_children(before).await.map_err(|error| error.to_string())?;
    for job_id in &runs {
        let pending = effects.pending_children(job_id).await.map_err(|refused| format!("{refused:?}"))?;
        let children = pending.children;
        if pending.claimed_at.is_some() {
            // Its worker may be sending the others. The next pass sees.
            continue;
        }
        if children.is_empty() {
            // All are published; only the note is missing.
            effects
                .store()
                .children_published(std::slice::from_ref(job_id))
                .await
                .map_err(|error| error.to_string())?;
            continue;
        }
        tracing::warn!(
            job = job_id,
            children = children.len(),
            "publishing the messages that a lost worker had planned"
        );
        // An unpublishable run must not hold up the others.
        if timeout(PATIENCE, effects.publish(job_id, &children)).await.is_err() {
            tracing::error!(job = job_id, "its planned messages cannot be published, again in a while");
        }
    }
    Ok(runs.len())
}

/// Runs [`pass`] every `age` until `stop`. After an outage of the database, workers first record what they have sent
/// meanwhile: it would be sent again.
pub async fn run(effects: Effects, clock: Clock, health: Arc<Health>, age: Duration, stop: CancellationToken) {
    let delta = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
    let wait = async || {
        tokio::time::sleep(age).await;
        health.database_up_for(clock.paced(LONGEST_WAIT)).await;
    };
    while stop.run_until_cancelled(wait()).await.is_some() {
        if let Some(Err(why)) = stop.run_until_cancelled(pass(&effects, &clock, delta)).await {
            tracing::warn!("looking for unpublished messages of lost workers, again in a while: {why}");
        }
    }
}
