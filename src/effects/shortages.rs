//! Closes shortages that are over. Applications publish an alert for a low supply, but nothing for a refill.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// Shorter than any supply lasts, so that no refill is missed.
const EVERY: Duration = Duration::from_mins(1);

/// Checks every minute until `stop`. Safe in any number of workers.
pub async fn run(store: Store, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        match stop.run_until_cancelled(store.close_ended_shortages()).await {
            Some(Ok(closed)) if closed > 0 => tracing::info!(closed, "shortages are over"),
            Some(Err(why)) => tracing::warn!("looking for shortages that are over, again in a minute: {why}"),
            _ => {}
        }
    }
}
