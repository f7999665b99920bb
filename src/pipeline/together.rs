//! A reminder's notification, planned by the worker that has the reminder: both are one commit, and no message is between
//! them.
//!
//! The notification is a job all the same: it has an id, a run on record, a span, a log line and its place in the counts.
//! Where its work does not go well at once, or its queue is one to wait in, or the reminder did not just come for the first
//! time, it has its message, and all that follows from that.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::time::{Instant, timeout};

use super::{
    consumer::Pause,
    message::{Form, Place},
    run::{Ending, Runner},
    settle::Fate,
};
use crate::{
    effects::Effects,
    job::{Context, Meta, Outcome},
    kind::{Lane, Queue, Stage},
    plan::{JobOutcome, Plan, Reason},
    policy::Wishes,
    reads::Recipients,
    store::{Committed, NO_MESSAGE},
    telemetry::traces::{self, Arrival, Processing},
};

/// The queues of notifications in this process.
#[derive(Default)]
pub struct Together(HashMap<Lane, Next>);

/// One of them.
pub struct Next {
    /// The queue.
    pub queue: Queue,
    /// Its stream.
    pub stream: String,
    /// Runs its jobs.
    pub runner: Arc<Runner>,
    /// When its jobs have to wait.
    pub pause: Option<Pause>,
}

/// A notification that is planned.
pub struct Planned {
    /// Whose plan.
    pub meta: Meta,
    /// The plan.
    pub plan: Plan,
    ending: Unended,
}

/// What is to be told of a notification when it has ended.
pub struct Unended {
    queue: Queue,
    runner: Arc<Runner>,
    span: Processing,
    place: Place,
    meta: Meta,
    started: Instant,
}

impl Together {
    /// For these queues.
    #[must_use]
    pub fn new(queues: impl IntoIterator<Item = Next>) -> Self {
        Self(queues.into_iter().filter_map(|next| Some((next.queue.lane?, next))).collect())
    }

    /// Plans the notification that a reminder's plan asks for. None where it is to have a message.
    pub async fn plan(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        plan: &Plan,
        recipients: Recipients,
    ) -> Option<Planned> {
        let started = Instant::now();
        let job = plan.next.as_ref().filter(|_| meta.kind.stage == Stage::Reminder && plan.shortage.is_none())?;
        let next = self.0.get(&job.lane).filter(|next| next.queue.kind == job.kind)?;
        if !Effects::takes_for_new(meta) || next.pause.as_ref().is_some_and(Pause::holds) {
            return None;
        }
        let runner = &next.runner;
        let mut meta = Meta {
            job_id: job.job_id(&meta.root_id),
            root_id: meta.root_id.clone(),
            kind: job.kind,
            lane: job.lane,
            stream: next.stream.clone(),
            sequence: NO_MESSAGE,
            delivered: 1,
            published: runner.clock.now(),
            resumed: false,
            not_after: Some(not_after),
            trace: meta.trace.clone(),
            wishes: Wishes::default(),
        };
        let body = Bytes::from(job.body.clone());
        let size = body.len();
        let cx = Context { recipients, ..runner.context(&meta, not_after, None) };
        let work = async { runner.decoder.decode(&body, Form::Protobuf).ok()?.work(cx).await.ok() };
        // It is done over where it has its message, which tells of what is wrong with it.
        let done = timeout(runner.policy.timeout, AssertUnwindSafe(work).catch_unwind()).await.ok()?.ok()??;
        let Outcome::Done(plan) = done else { return None };
        let place =
            Place { stream: meta.stream.clone(), sequence: NO_MESSAGE, delivered: 1, published: meta.published };
        let arrival = Arrival {
            queue: next.queue,
            ids: Some((&meta.job_id, &meta.root_id)),
            stream: &place.stream,
            sequence: place.sequence,
            delivered: place.delivered,
            published: place.published,
            size,
        };
        let (mut span, trace) = traces::process(&arrival, meta.trace.as_deref());
        span.attempt = Some(1);
        meta.trace = trace.or(meta.trace);
        let runner = Arc::clone(runner);
        let ending = Unended { queue: next.queue, runner, span, place, meta: meta.clone(), started };
        Some(Planned { meta, plan, ending })
    }
}

impl Planned {
    /// What is to be written, and what is to be told after that.
    pub fn split(self) -> ((Meta, Plan), Unended) {
        ((self.meta, self.plan), self.ending)
    }
}

impl Unended {
    /// Tells of its end: it was written where its reminder was, and where it had not ended before.
    pub fn committed(mut self, reminder: Committed, followed: bool, pushes: Option<usize>) {
        let ending = match reminder {
            Committed::Fresh if followed => {
                Ending { attempts: Some(1), pushes, ..Ending::new(JobOutcome::Done, Fate::Done) }
            }
            Committed::Fresh | Committed::Duplicate => Ending::new(JobOutcome::Duplicate, Fate::Done),
            // There is no such job, then.
            Committed::MarkTaken => {
                let reason = Reason::AlreadySent;
                self.runner.end(&mut self.span, &Ending::new(JobOutcome::Skipped, Fate::Done).by(reason));
                return;
            }
        };
        let took = self.started.elapsed();
        self.runner.end(&mut self.span, &ending);
        Runner::log(self.queue, &self.place, Some(&self.meta), self.span.attempt, &ending, took);
        self.runner.metrics.begun(Some(Duration::ZERO));
        self.runner.metrics.ended(ending.outcome, took, None, ending.attempts);
    }
}
