//! pull → decode → guard → work → effects → settle.
//!
//! Only this module pulls, and only `settle.rs` acknowledges.

mod consumer;
mod depth;
mod judge;
mod limit;
mod message;
mod registry;
mod run;
mod settle;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use chrono::TimeDelta;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    consumer::{Consumer, Pause},
    depth::Waiting,
    limit::{Limit, Saved},
    run::Runner,
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
    kind::{Kind, Lane, Stage},
    plan::Channel,
    store::CLAIM_LEASE,
    streams::Streams,
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
        for kind in parts.registry.kinds() {
            if !can_run(*kind, &parts.channels) {
                continue;
            }
            for queue in kind.queues() {
                let declared = parts.streams.consumer(&queue);
                let (Some(declared), Some(decoder)) = (declared, parts.registry.decoder(*kind)) else {
                    return Err(format!("kind {kind} has no consumer {:?} in streams/", queue.durable()));
                };
                if kind.stage == Stage::Delivery
                    && TimeDelta::from_std(declared.policy.timeout).ok() >= Some(CLAIM_LEASE)
                {
                    let durable = queue.durable();
                    return Err(format!("queue {durable} has a timeout of a minute or more; a send must take less"));
                }
                let runner = Arc::new(Runner {
                    policy: declared.policy.clone(),
                    ack_wait: declared.config.ack_wait,
                    decoder,
                    effects: parts.effects.clone(),
                    channels: parts.channels.clone(),
                    templates: parts.templates.clone(),
                    metrics: Arc::new(parts.health.metrics().queue(queue)),
                    clock: parts.clock.clone(),
                    random: parts.random.clone(),
                    stop: pipeline.stop.clone(),
                    deadline: pipeline.deadline.clone(),
                });
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
                    pause: declared.policy.pause_above.map(|bound| Pause { bound, depth: depth.clone() }),
                    limit,
                };
                pipeline.consumers.spawn(consumer.run());
            }
        }
        Ok(pipeline)
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

/// Whether a worker has what a kind needs: a delivery's channel may not be configured.
fn can_run(kind: Kind, channels: &Channels) -> bool {
    Channel::of(kind).is_none_or(|channel| channels.has(channel))
}
