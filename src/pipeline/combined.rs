//! The combined commit: a reminder's worker also plans its notification, and writes both in one commit with no message
//! between them.
//!
//! The notification keeps its own id, recorded run, span, log line and metrics. It gets a message instead if its queue
//! has a rate or is paused, the reminder is redelivered, or planning fails.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::time::{Instant, timeout};

use super::{depth::Pause, message::Form, runner::Runner};
use crate::{
    effects::Effects,
    job::{Context, Outcome},
    kind::{Lane, Stage},
    meta::{Ids, Meta},
    plan::{NextJob, Plan},
};

/// The notification queues of this process.
#[derive(Default)]
pub struct Combined(HashMap<Lane, NotificationQueue>);

/// A notification queue.
pub struct NotificationQueue {
    /// Runs its jobs.
    pub runner: Arc<Runner>,
    /// When its jobs have to wait.
    pub pause: Option<Pause>,
}

/// A planned, uncommitted notification.
pub struct Draft {
    /// Runs jobs of its queue.
    pub runner: Arc<Runner>,
    /// Its identity.
    pub meta: Meta,
    /// The size of its body, in bytes.
    pub size: usize,
    /// Its plan.
    pub plan: Plan,
    /// When planning began.
    pub started: Instant,
}

impl Combined {
    /// For these queues.
    #[must_use]
    pub fn new(queues: impl IntoIterator<Item = NotificationQueue>) -> Self {
        Self(queues.into_iter().filter_map(|queue| Some((queue.runner.queue.lane?, queue))).collect())
    }

    /// Plans the notification that a reminder asks for. `None` if it needs a message.
    pub async fn draft(&self, reminder: &Meta, not_after: DateTime<Utc>, plan: &mut Plan) -> Option<Draft> {
        let started = Instant::now();
        if reminder.kind.stage != Stage::Reminder || !Effects::takes_for_new(reminder) || plan.shortage.is_some() {
            return None;
        }
        let job = plan.next.as_mut()?;
        let queue = self.0.get(&job.lane).filter(|queue| queue.runner.queue.kind == job.kind)?;
        if queue.pause.as_ref().is_some_and(Pause::holds) || queue.runner.is_paused() {
            return None;
        }
        let runner = &queue.runner;
        let ids = Ids { job: job.job_id(&reminder.root_id), root: reminder.root_id.clone() };
        let mut meta = Meta::without_message(runner.queue, &runner.stream, ids, runner.clock.now(), not_after);
        meta.trace.clone_from(&reminder.trace);
        meta.due = reminder.due.filter(|_| meta.lane != Lane::Bulk);
        let recipients = job.recipients.take();
        let cx = Context { recipients, ..runner.context(&meta, not_after, None) };
        let plan = work(runner, job, cx).await?;
        Some(Draft { runner: Arc::clone(runner), meta, size: job.body.len(), plan, started })
    }
}

/// `None` on any failure: the notification's message repeats the work and reports the error.
async fn work(runner: &Runner, job: &NextJob, cx: Context) -> Option<Plan> {
    let body = Bytes::from(job.body.clone());
    let work = async { runner.decoder.decode(&body, Form::Protobuf).ok()?.work(cx).await.ok() };
    match timeout(runner.policy.timeout, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(Some(Outcome::Done(plan)))) => Some(plan),
        // Too slow, a panic, a failure, or another decision.
        _ => None,
    }
}
