//! pull → decode → guard → work → effects → settle.
//!
//! Only this module pulls, and only `settle.rs` acknowledges.

mod at_once;
mod consumer;
mod depth;
mod judge;
mod limit;
mod message;
mod registry;
mod run;
mod settle;
mod together;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use chrono::TimeDelta;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    at_once::{Direct, ShortWay},
    consumer::{Consumer, Pause},
    depth::Waiting,
    limit::{Limit, Saved},
    run::Runner,
    together::{Next, Together},
};
pub use self::{
    message::{Form, Place, Pulled},
    registry::{Decoder, Registry},
    settle::{Fate, settle},
};
use crate::{
    channels::Channels,
    clock::{Clock, Random},
    effects::Effects,
    health::Health,
    kind::{Kind, Lane, Queue, Stage},
    plan::Channel,
    store::CLAIM_LEASE,
    streams::{self, Streams},
    templates::Templates,
};

/// How long giving back may take.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a pipeline is made of.
pub struct Parts {
    /// The kinds it runs.
    pub registry: Registry,
    /// The queues and their policies.
    pub streams: Streams,
    /// `JetStream`.
    pub context: jetstream::Context,
    /// Looks up, writes and publishes.
    pub effects: Effects,
    /// The ways to reach a person.
    pub channels: Channels,
    /// What people are told, in their languages.
    pub templates: Templates,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// The worker's state.
    pub health: Arc<Health>,
}

/// A running pipeline.
pub struct Pipeline {
    stop: CancellationToken,
    deadline: CancellationToken,
    consumers: TaskTracker,
    jobs: TaskTracker,
}

impl Pipeline {
    /// Starts a consumer for every queue of every kind that this worker can run.
    ///
    /// # Errors
    /// If a kind has no consumer file in `streams/`.
    pub fn start(parts: &Parts) -> Result<Self, String> {
        let pipeline = Self {
            stop: CancellationToken::new(),
            deadline: CancellationToken::new(),
            consumers: TaskTracker::new(),
            jobs: TaskTracker::new(),
        };
        let depth = pipeline.follow_depth(parts);
        let short_way = Arc::new(pipeline.short_way(parts, &depth)?);
        for kind in parts.registry.kinds() {
            if !can_run(*kind, &parts.channels) {
                continue;
            }
            for queue in kind.queues() {
                let declared = declared(parts, queue)?;
                let shared = short_way.shares(queue);
                let (runner, places) = match shared {
                    Some((runner, places)) => (runner, places),
                    None => pipeline.runner(parts, queue, Some(&short_way))?,
                };
                let limit = declared.policy.rate.map(|rate| {
                    let row = Saved { store: parts.effects.store().clone(), queue: queue.durable() };
                    Limit::start(rate, row, parts.random.clone(), Arc::clone(&parts.health))
                });
                let consumer = Consumer {
                    queue,
                    stream: declared.stream.clone(),
                    context: parts.context.clone(),
                    runner,
                    health: Arc::clone(&parts.health),
                    jobs: pipeline.jobs.clone(),
                    stop: pipeline.stop.clone(),
                    pause: pause(declared, &depth),
                    limit,
                    places,
                    most: short_way.largest_pull(queue),
                };
                pipeline.consumers.spawn(consumer.run());
            }
        }
        Ok(pipeline)
    }

    /// What runs the jobs of a queue, and the places for them.
    fn runner(
        &self,
        parts: &Parts,
        queue: Queue,
        short_way: Option<&Arc<ShortWay>>,
    ) -> Result<(Arc<Runner>, Arc<Semaphore>), String> {
        let declared = declared(parts, queue)?;
        let stage = queue.kind.stage;
        if stage == Stage::Delivery && TimeDelta::from_std(declared.policy.timeout).ok() >= Some(CLAIM_LEASE) {
            let durable = queue.durable();
            return Err(format!("queue {durable} has a timeout of a minute or more; a send must take less"));
        }
        let Some(decoder) = parts.registry.decoder(queue.kind) else {
            return Err(format!("kind {} cannot be read", queue.kind));
        };
        let runner = Runner {
            policy: declared.policy.clone(),
            ack_wait: declared.config.ack_wait,
            decoder,
            effects: parts.effects.clone(),
            channels: parts.channels.clone(),
            templates: parts.templates.clone(),
            short_way: short_way.filter(|_| matches!(stage, Stage::Reminder | Stage::Notification)).cloned(),
            metrics: Arc::new(parts.health.metrics().queue(queue)),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            stop: self.stop.clone(),
            deadline: self.deadline.clone(),
        };
        Ok((Arc::new(runner), Arc::new(Semaphore::new(declared.policy.concurrency))))
    }

    /// The queues of notifications and of Web Push that this process runs. One with a rate is left out: its slots are for
    /// what is pulled.
    fn short_way(&self, parts: &Parts, depth: &watch::Receiver<u64>) -> Result<ShortWay, String> {
        let (mut pushes, mut notifications) = (Vec::new(), Vec::new());
        for kind in parts.registry.kinds().iter().filter(|kind| can_run(**kind, &parts.channels)) {
            for queue in kind.queues() {
                let declared = declared(parts, queue)?;
                if declared.policy.rate.is_some() {
                    continue;
                }
                let stream = declared.stream.clone();
                if kind.stage == Stage::Notification {
                    let (runner, _) = self.runner(parts, queue, None)?;
                    notifications.push(Next { queue, stream, runner, pause: pause(declared, depth) });
                } else if *kind == Channel::WebPush.kind() {
                    let (runner, places) = self.runner(parts, queue, None)?;
                    pushes.push(Direct { queue, stream, runner, places });
                }
            }
        }
        Ok(ShortWay::new(pushes, Together::new(notifications), self.jobs.clone()))
    }

    /// Follows how many deliveries wait that are not critical.
    fn follow_depth(&self, parts: &Parts) -> watch::Receiver<u64> {
        let mut waiting = Vec::new();
        for kind in parts.registry.kinds() {
            let Some(channel) = Channel::of(*kind).filter(|channel| parts.channels.has(*channel)) else { continue };
            let queues = kind.queues().into_iter().filter(|queue| queue.lane != Some(Lane::Critical));
            let declared = queues.filter_map(|queue| parts.streams.consumer(&queue));
            // What waits for a queue's own rate is behind nothing.
            waiting.extend(declared.filter(|consumer| consumer.policy.rate.is_none()).map(|consumer| Waiting {
                channel,
                stream: consumer.stream.clone(),
                durable: consumer.durable().to_owned(),
            }));
        }
        depth::follow(parts.context.clone(), parts.channels.clone(), waiting, self.stop.clone())
    }

    /// Stops pulling, lets the jobs under way finish for `patience`, and gives back those that have not.
    pub async fn drain(self, patience: Duration) {
        self.stop.cancel();
        self.consumers.close();
        self.jobs.close();
        let finished = async {
            self.consumers.wait().await;
            self.jobs.wait().await;
        };
        if timeout(patience, finished).await.is_err() {
            tracing::warn!(jobs = self.jobs.len(), "giving back the jobs that are not finished in time");
            self.deadline.cancel();
            // With the servers away not even that succeeds; they deliver again what nobody has acknowledged.
            let _ = timeout(GIVE_BACK_TIMEOUT, self.jobs.wait()).await;
        }
    }
}

/// The consumer file of a queue.
fn declared(parts: &Parts, queue: Queue) -> Result<&streams::Consumer, String> {
    let missing = || format!("kind {} has no consumer {:?} in streams/", queue.kind, queue.durable());
    parts.streams.consumer(&queue).ok_or_else(missing)
}

/// When a queue is to wait for deliveries.
fn pause(declared: &streams::Consumer, depth: &watch::Receiver<u64>) -> Option<Pause> {
    declared.policy.pause_above.map(|bound| Pause { bound, depth: depth.clone() })
}

/// Whether a worker has what a kind needs: a delivery's channel may not be configured.
fn can_run(kind: Kind, channels: &Channels) -> bool {
    Channel::of(kind).is_none_or(|channel| channels.has(channel))
}
