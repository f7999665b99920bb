//! Follows the table `pauses`, so that who pulls, plans and sends has it in memory.

use std::{future::pending, sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    health::Health,
    pauses::Pause,
    store::{Listener, PAUSES_CHANGED, Store},
};

/// Between two looks: an announcement may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most that a look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before it listens anew.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// A look that comes at the end of a pause would otherwise find it.
const JUST_AFTER: TimeDelta = TimeDelta::milliseconds(1);

/// Reads the pauses once. While the database is away, those known stay.
///
/// # Errors
/// If the database does not answer.
pub async fn look(store: &Store, health: &Health, clock: &Clock) -> Result<(), String> {
    let now = clock.now();
    let pauses = timeout(PATIENCE, store.pauses(now)).await.map_err(|_| "no answer".to_owned())?;
    let pauses = pauses.map_err(|error| error.to_string())?;
    let words = |pause: &Pause| format!("{} {}", pause.scope.name(), pause.name);
    let names = pauses.iter().map(words).collect::<Vec<_>>().join(", ");
    if health.pauses().set(pauses, now) {
        tracing::info!(paused = names, "the pauses have changed");
    }
    Ok(())
}

/// Waits for the first look, so that a worker knows them before it pulls.
pub async fn know(store: &Store, health: &Health, clock: &Clock) {
    while let Err(why) = look(store, health, clock).await {
        tracing::warn!("the pauses cannot be read, again soon: {why}");
        sleep(LOOK_EVERY).await;
    }
}

/// Follows them until `stop`.
pub async fn run(store: Store, health: Arc<Health>, clock: Clock, stop: CancellationToken) {
    let follow = async {
        let mut told = false;
        let mut listener = None;
        let mut rests = Duration::ZERO;
        loop {
            if listener.is_none() && rests.is_zero() {
                listener = store.listen(&[PAUSES_CHANGED]).await.ok();
                rests = LISTEN_AGAIN;
            }
            match look(&store, &health, &clock).await {
                Ok(()) => told = false,
                Err(why) if !told => {
                    tracing::warn!("the pauses cannot be read, those known stay: {why}");
                    told = true;
                }
                Err(_) => {}
            }
            let wait = until_the_next(&health, &clock);
            tokio::select! {
                () = sleep(wait) => rests = rests.saturating_sub(wait),
                is_open = announced(&mut listener) => {
                    if !is_open {
                        listener = None;
                    }
                }
            }
        }
    };
    stop.run_until_cancelled(follow).await;
}

/// The time to the next look: a pause that ends by itself ends at its instant.
fn until_the_next(health: &Health, clock: &Clock) -> Duration {
    let now = clock.now();
    let ends = health.pauses().all().into_iter().filter_map(|pause| pause.until).min();
    let end = ends.map_or(LOOK_EVERY, |end| (end + JUST_AFTER - now).to_std().unwrap_or_default());
    end.clamp(Duration::from_millis(1), LOOK_EVERY)
}

/// Waits for an announcement, or for ever without a connection. False if that is lost.
async fn announced(listener: &mut Option<Listener>) -> bool {
    match listener {
        Some(open) => open.hear().await.is_ok(),
        None => pending().await,
    }
}
