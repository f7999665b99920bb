//! pull → decode → admit → work → judge → effects → settle. `run.rs` begins and ends a run, `perform.rs` follows it between.
//!
//! Only this module pulls, and only `settle.rs` acknowledges.

mod attempt;
mod bounds;
mod combined;
mod consumer;
mod delay;
mod depth;
mod direct;
mod ending;
mod judge;
mod later;
mod limit;
mod message;
mod perform;
mod pull;
pub mod punctuality;
pub mod registry;
mod run;
mod runner;
mod settle;
mod telling;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    bounds::Bounds,
    combined::{Combined, NotificationQueue},
    consumer::{Consumer, LARGEST_PULL, Work},
    depth::{DeliveryQueue, Pause},
    direct::DirectSends,
    later::{NoBody, Routes},
    limit::{Limit, Saved},
    run::Shortcuts,
    runner::Runner,
};
pub use self::{
    ending::Disposition,
    message::{Form, Pulled},
    registry::{Decoder, Registry},
    settle::settle,
};
use crate::{
    channels::Channels,
    clock::{Clock, Random},
    config::NatsConfig,
    documents::Documents,
    effects::Effects,
    health::Health,
    intake::{application, is_intake},
    kind::{CANCEL, DELAYED, Kind, Lane, Queue, Stage},
    plan::Channel,
    streams::{self, Streams},
    templates::Templates,
};

/// Jobs that may wait for their instant in memory, for each that may run.
const EARLY_PER_PERMIT: usize = 4;

/// A send must take less: if its worker dies, nobody else may send it meanwhile.
const TOO_LONG: Duration = Duration::from_mins(1);

/// The most that giving jobs back may take.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of a pipeline.
pub struct Parts {
    /// The kinds it runs.
    pub registry: Registry,
    /// The queues and their policies.
    pub streams: Streams,
    /// `JetStream`.
    pub context: jetstream::Context,
    /// How to open connections for the pulls of what applications publish. `None`: they use the worker's.
    pub own_connections: Option<Arc<NatsConfig>>,
    /// Looks up, commits, publishes and records.
    pub effects: Effects,
    /// The ways to reach a person.
    pub channels: Channels,
    /// The document stores.
    pub documents: Documents,
    /// The texts, in the recipients' languages.
    pub templates: Templates,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub random: Random,
    /// The worker's health.
    pub health: Arc<Health>,
    /// The most jobs that run at the same time in this process. `None`: as many as the queues allow.
    pub max_concurrency: Option<usize>,
}

/// A running pipeline.
pub struct Pipeline {
    all: Option<Arc<Semaphore>>,
    stop: CancellationToken,
    deadline: CancellationToken,
    consumers: TaskTracker,
    jobs: TaskTracker,
    delays: Arc<Bounds>,
}

impl Pipeline {
    /// Starts a consumer for every queue of every kind that this worker can run.
    ///
    /// # Errors
    /// If a kind has no consumer file in `streams/`.
    pub fn start(parts: &Parts) -> Result<Self, String> {
        let stop = CancellationToken::new();
        let pipeline = Self {
            all: parts.max_concurrency.map(|most| Arc::new(Semaphore::new(most))),
            delays: Arc::new(follow_delayed(parts, &stop)),
            stop,
            deadline: CancellationToken::new(),
            consumers: TaskTracker::new(),
            jobs: TaskTracker::new(),
        };
        let depth = pipeline.follow_depth(parts);
        let shortcuts = Arc::new(pipeline.shortcuts(parts, &depth)?);
        for kind in parts.registry.kinds() {
            if !can_run(*kind, &parts.channels) {
                continue;
            }
            for queue in kind.queues() {
                for consumer in pipeline.consumers_of(parts, queue, &shortcuts, &depth)? {
                    pipeline.consumers.spawn(consumer.run());
                }
            }
        }
        for consumer in pipeline.consumers_of_delayed(parts)? {
            pipeline.consumers.spawn(consumer.run());
        }
        Ok(pipeline)
    }

    /// Consumers of delayed jobs and their cancellations, in each stream that applications publish to.
    fn consumers_of_delayed(&self, parts: &Parts) -> Result<Vec<Consumer>, String> {
        let mut runners = Vec::new();
        for queue in parts.registry.kinds().iter().filter(|kind| kind.is_published()).flat_map(Kind::queues) {
            runners.push(self.runner(parts, queue)?);
        }
        let routes = Arc::new(Routes::new(runners));
        let mut consumers = Vec::new();
        for (queue, work) in [(DELAYED, Work::Delay(routes)), (CANCEL, Work::Cancel)] {
            for declared in parts.streams.consumers_of(&queue) {
                // Applications share nothing: none fills up the permits of another.
                let runner = self.runner_of(parts, queue, declared, Arc::new(NoBody));
                let bounded = self.delays.of(application(&declared.stream)).filter(|_| queue == DELAYED);
                let why = "too many delayed jobs are waiting";
                let pause = bounded.map(|(bound, depth)| Pause { bound, depth, why });
                consumers.push(self.consumer(parts, declared, 1, (runner, work.clone(), pause, LARGEST_PULL)));
            }
        }
        Ok(consumers)
    }

    /// A consumer for each stream that holds jobs of the queue. They share its permits; a rate they share by its row, as
    /// the processes do.
    fn consumers_of(
        &self,
        parts: &Parts,
        queue: Queue,
        shortcuts: &Arc<Shortcuts>,
        depth: &watch::Receiver<u64>,
    ) -> Result<Vec<Consumer>, String> {
        let has_shortcuts = matches!(queue.kind.stage, Stage::Reminder | Stage::Notification);
        let (runner, most) = match shortcuts.direct.runner(queue) {
            // A pull holds permits while it waits, so it leaves most of them to direct sends.
            Some(runner) => (Arc::clone(runner), (runner.policy.concurrency / 8).max(1)),
            None => (self.runner(parts, queue)?, LARGEST_PULL),
        };
        let declared = parts.streams.consumers_of(&queue);
        let streams = declared.len();
        let consumer = |declared: &streams::DeclaredConsumer| {
            let work = Work::Run(has_shortcuts.then(|| Arc::clone(shortcuts)));
            self.consumer(parts, declared, streams, (Arc::clone(&runner), work, pause(declared, depth), most))
        };
        Ok(declared.into_iter().map(consumer).collect())
    }

    /// The consumer of one of the `streams` that hold jobs of a queue.
    fn consumer(
        &self,
        parts: &Parts,
        declared: &streams::DeclaredConsumer,
        streams: usize,
        (runner, work, pause, most): (Arc<Runner>, Work, Option<Pause>, usize),
    ) -> Consumer {
        Consumer {
            context: parts.context.clone(),
            own_connection: parts.own_connections.clone().filter(|_| is_intake(&declared.stream)),
            stream: declared.stream.clone(),
            streams,
            work,
            watch: parts.health.watch_pulls(&declared.place()),
            health: Arc::clone(&parts.health),
            jobs: self.jobs.clone(),
            stop: self.stop.clone(),
            pause,
            limit: declared.policy.rate.map(|rate| {
                let queue = if declared.has_own_rate { declared.place() } else { runner.queue.durable() };
                let row = Saved { store: parts.effects.store().clone(), queue };
                Limit::start(rate, row, parts.random.clone(), Arc::clone(&parts.health))
            }),
            most,
            waiting: Arc::new(Semaphore::new(EARLY_PER_PERMIT * runner.policy.concurrency)),
            runner,
        }
    }

    /// The runner of a queue.
    fn runner(&self, parts: &Parts, queue: Queue) -> Result<Arc<Runner>, String> {
        let declared = declared(parts, queue)?;
        let timeout = declared.policy.timeout;
        if queue.kind.stage == Stage::Delivery && timeout >= TOO_LONG {
            let durable = queue.durable();
            return Err(format!("queue {durable} has a timeout of a minute or more; a send must take less"));
        }
        let Some(decoder) = parts.registry.decoder(queue.kind) else {
            return Err(format!("kind {} cannot be read", queue.kind));
        };
        Ok(self.runner_of(parts, queue, declared, decoder))
    }

    fn runner_of(
        &self,
        parts: &Parts,
        queue: Queue,
        declared: &streams::DeclaredConsumer,
        decoder: Arc<dyn Decoder>,
    ) -> Arc<Runner> {
        let mut policy = declared.policy.clone();
        // Two, so that a pull of an idle queue leaves one to a direct send.
        policy.concurrency = policy.concurrency.min(parts.max_concurrency.map_or(usize::MAX, |most| most.max(2)));
        Arc::new(Runner {
            queue,
            stream: declared.stream.clone(),
            ack_wait: declared.config.ack_wait,
            decoder,
            effects: parts.effects.clone(),
            channels: parts.channels.clone(),
            documents: parts.documents.clone(),
            templates: parts.templates.clone(),
            metrics: Arc::new(parts.health.metrics().queue(queue)),
            clock: parts.clock.clone(),
            random: parts.random.clone(),
            pauses: parts.health.pauses().clone(),
            delays: Arc::clone(&self.delays),
            permits: Arc::new(Semaphore::new(policy.concurrency)),
            all: self.all.clone(),
            policy,
            stop: self.stop.clone(),
            deadline: self.deadline.clone(),
        })
    }

    /// The notification and Web Push queues of this process. A queue with a rate is left out: its time slots are for
    /// pulled messages.
    fn shortcuts(&self, parts: &Parts, depth: &watch::Receiver<u64>) -> Result<Shortcuts, String> {
        let (mut pushes, mut notifications) = (Vec::new(), Vec::new());
        for kind in parts.registry.kinds().iter().filter(|kind| can_run(**kind, &parts.channels)) {
            for queue in kind.queues() {
                let declared = declared(parts, queue)?;
                if declared.policy.rate.is_some() {
                    continue;
                }
                if kind.stage == Stage::Notification {
                    let runner = self.runner(parts, queue)?;
                    notifications.push(NotificationQueue { runner, pause: pause(declared, depth) });
                } else if *kind == Channel::WebPush.kind() {
                    pushes.push(self.runner(parts, queue)?);
                }
            }
        }
        let direct = DirectSends::new(pushes, self.jobs.clone());
        Ok(Shortcuts { combined: Combined::new(notifications), direct })
    }

    /// Follows the number of waiting deliveries that are not critical.
    fn follow_depth(&self, parts: &Parts) -> watch::Receiver<u64> {
        let mut waiting = Vec::new();
        for kind in parts.registry.kinds() {
            let Some(channel) = Channel::of(*kind).filter(|channel| parts.channels.has(*channel)) else { continue };
            let queues = kind.queues().into_iter().filter(|queue| queue.lane != Some(Lane::Critical));
            let declared = queues.filter_map(|queue| Some((queue, parts.streams.consumer(&queue)?)));
            // Messages that wait for their queue's own rate are not behind.
            let declared = declared.filter(|(_, consumer)| consumer.policy.rate.is_none());
            waiting.extend(declared.map(|(queue, consumer)| DeliveryQueue {
                queue,
                channel,
                stream: consumer.stream.clone(),
            }));
        }
        let (channels, pauses) = (parts.channels.clone(), parts.health.pauses().clone());
        depth::follow(parts.context.clone(), channels, pauses, waiting, self.stop.clone())
    }

    /// Stops pulling, lets running jobs finish for `patience`, and gives the others back.
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
            // This fails while the servers are away. They redeliver every message that nobody acknowledged.
            let _ = timeout(GIVE_BACK_TIMEOUT, self.jobs.wait()).await;
        }
    }
}

/// The consumer of a queue's jobs that Carebell publishes. Others have the same policy.
fn declared(parts: &Parts, queue: Queue) -> Result<&streams::DeclaredConsumer, String> {
    let missing = || format!("kind {} has no consumer {:?} in streams/", queue.kind, queue.durable());
    parts.streams.consumer(&queue).ok_or_else(missing)
}

/// The number of delayed jobs of each application; its bound is that of its queue.
fn follow_delayed(parts: &Parts, stop: &CancellationToken) -> Bounds {
    let declared = parts.streams.consumers_of(&DELAYED);
    let applications =
        declared.iter().map(|declared| (application(&declared.stream).to_owned(), declared.policy.pause_above));
    bounds::follow(&parts.effects, applications, parts.health.metrics(), &parts.clock, stop.clone())
}

/// When a queue waits for deliveries.
fn pause(declared: &streams::DeclaredConsumer, depth: &watch::Receiver<u64>) -> Option<Pause> {
    declared.policy.pause_above.map(|bound| Pause { bound, depth: depth.clone(), why: "deliveries are behind" })
}

/// Whether this worker can run a kind: a delivery's channel may not be configured.
fn can_run(kind: Kind, channels: &Channels) -> bool {
    Channel::of(kind).is_none_or(|channel| channels.has(channel))
}
