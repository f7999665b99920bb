//! Looks after tasks each second: wakes jobs whose tasks have ended and that nobody woke, tells endpoints of
//! cancellations, and closes what is over.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Task, Tasks, end::End, request};
use crate::{
    channels::endpoint::Reply,
    clock::Clock,
    dead_letter::wake::{parked_run, run as wake_run},
    effects::Effects,
    retry::{DoublingWait, Once},
    store::{ParkedTask, StoreError, TaskChange, TaskRow, TaskState},
    telemetry::metrics::Metrics,
};

/// Between looks.
const EVERY: Duration = Duration::from_secs(1);

/// Limit of a request that tells of a cancellation.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an endpoint is told that does not answer.
const TOLD: usize = 3;

/// Waits for a job to be parked whose task is faster.
const WAIT: DoublingWait = DoublingWait::new(Duration::from_millis(50), Duration::from_secs(1));

/// Looks for it; then [`run`] finds it.
const LOOKS: usize = 7;

/// Runs until `stop`.
pub async fn run(tasks: Tasks, effects: Effects, metrics: Metrics, clock: Clock, stop: CancellationToken) {
    let mut told = Once::new();
    while stop.run_until_cancelled(sleep(clock.paced(EVERY))).await.is_some() {
        match stop.run_until_cancelled(pass(&tasks, &effects, &metrics)).await {
            Some(Ok(())) => told.reset(),
            Some(Err(why)) if told.is_first() => tracing::warn!("looking after tasks, again soon: {why}"),
            _ => {}
        }
    }
}

/// Looks once.
///
/// # Errors
/// If the database does not answer.
async fn pass(tasks: &Tasks, effects: &Effects, metrics: &Metrics) -> Result<(), StoreError> {
    let (store, now) = (effects.store(), effects.now());
    let open = store.close_tasks(now).await?;
    for kind in tasks.0.kinds.keys() {
        let count = open.iter().find(|(name, _)| name == kind).map_or(0, |(_, count)| *count);
        metrics.open_tasks(kind, count);
    }
    for parked in store.unwoken_tasks(now).await? {
        wake_one(effects, &parked).await;
    }
    let kinds: Vec<&str> = tasks.0.kinds.keys().copied().collect();
    for (job_id, kind) in store.cancelled_tasks(&kinds, now).await? {
        if let Some(task) = tasks.task(&kind) {
            tokio::spawn(tell(Arc::clone(task), effects.clone(), job_id));
        }
    }
    Ok(())
}

/// Wakes a job whose task has ended. It may not be parked yet.
pub(super) async fn wake(effects: Effects, job_id: String) {
    let mut wait = WAIT;
    for _ in 0..LOOKS {
        if let Ok(Some(parked)) = effects.store().parked_task(&job_id).await
            && wake_one(&effects, &parked).await
        {
            return;
        }
        wait.pass().await;
    }
}

/// False if it is not parked, or cannot be woken now.
async fn wake_one(effects: &Effects, parked: &ParkedTask) -> bool {
    let woken = async {
        match parked_run(effects.context(), &parked.stream, parked.sequence).await? {
            None => Ok(false),
            Some(run) => wake_run(effects.context(), run).await.map(|()| true),
        }
    };
    woken.await.unwrap_or_else(|why: String| {
        tracing::warn!(job = parked.job_id, "its task has ended, and it cannot be woken, again soon: {why}");
        false
    })
}

/// Tells an endpoint that a job is cancelled. It may confirm that in its answer, or report later.
async fn tell(task: Arc<Task>, effects: Effects, job_id: String) {
    let request = request::cancel(&task.declaration, &job_id, CANCEL_TIMEOUT);
    let mut wait = WAIT;
    for _ in 0..TOLD {
        let Reply::Answer(answer) = task.endpoint.post_cancel(&request).await else {
            wait.pass().await;
            continue;
        };
        let is_confirmed = (200..300).contains(&answer.status) && answer.outcome.as_deref() == Some("cancelled");
        tracing::info!(job = job_id, status = answer.status, is_confirmed, "its endpoint was told of the cancellation");
        if !is_confirmed {
            return;
        }
        let confirm = |row: Option<&TaskRow>| {
            let is_at_work = row.is_some_and(|row| row.is_open && row.state == TaskState::Accepted);
            (is_at_work, is_at_work.then(|| TaskChange::Failed(End::Cancelled.to_json())))
        };
        if let Ok(true) = effects.store().change_task(&job_id, effects.now(), confirm).await {
            wake(effects, job_id).await;
        }
        return;
    }
    tracing::warn!(job = job_id, "its endpoint cannot be told of the cancellation; the answer to its progress says so");
}
