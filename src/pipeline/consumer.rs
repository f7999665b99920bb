//! Pulls the messages of one queue: permits first, then as many messages as there are permits, and no more than its rate
//! lets start.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{PullConsumer, pull},
};
use futures::{FutureExt, StreamExt};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    limit::{Ahead, Limit},
    message::Pulled,
    run::Runner,
};
use crate::{channels::Appetite, health::Health, kind::Queue, plan::Channel};

/// How long the server holds a pull open while there is nothing to deliver.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// How much longer than that the answer may take before the pull counts as lost.
const PULL_GRACE: Duration = Duration::from_secs(5);

/// Waits after a pull that failed: doubled from the first to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Between two looks at breakers that are open.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

/// How long a pull waits for the end of further jobs, so that there are places for more messages.
const GATHER: Duration = Duration::from_millis(5);

/// The most messages of one pull.
pub const LARGEST_PULL: usize = 500;

/// One queue's loop.
pub struct Consumer {
    /// The queue.
    pub queue: Queue,
    /// Its stream.
    pub stream: String,
    /// `JetStream`.
    pub context: jetstream::Context,
    /// Runs what is pulled.
    pub runner: Arc<Runner>,
    /// The worker's state.
    pub health: Arc<Health>,
    /// The jobs under way.
    pub jobs: TaskTracker,
    /// Cancelled when no more is to be pulled.
    pub stop: CancellationToken,
    /// When to pull nothing for a while.
    pub pause: Option<Pause>,
    /// How many may start, where the queue has a rate.
    pub limit: Option<Limit>,
    /// How many jobs may run at once.
    pub places: Arc<Semaphore>,
    /// The most messages of one pull, which holds as many places while it waits.
    pub most: usize,
}

/// While more deliveries than this wait, a queue is not pulled.
pub struct Pause {
    /// The bound, in messages.
    pub bound: u64,
    /// How many wait.
    pub depth: watch::Receiver<u64>,
}

impl Pause {
    /// Whether more deliveries wait than the bound.
    pub fn holds(&self) -> bool {
        *self.depth.borrow() > self.bound
    }

    /// Returns when no more deliveries wait than the bound.
    async fn over(&self, queue: Queue) {
        let mut depth = self.depth.clone();
        let waiting = *depth.borrow_and_update();
        if waiting > self.bound {
            tracing::info!(queue = queue.durable(), waiting, bound = self.bound, "pausing: deliveries are behind");
            // The sender ends with the worker, and then nobody waits here any more.
            let _ = depth.wait_for(|waiting| *waiting <= self.bound).await;
        }
    }
}

impl Consumer {
    /// Pulls and runs until told to stop. A lost server is waited for.
    pub async fn run(self) {
        let permits = Arc::clone(&self.places);
        let mut wait = FIRST_WAIT;
        while !self.stop.is_cancelled() {
            match self.pull_until_error(&permits).await {
                Ok(()) => wait = FIRST_WAIT,
                Err(why) => {
                    tracing::warn!(queue = self.queue.durable(), "pulling failed, again soon: {why}");
                    let _ = self.stop.run_until_cancelled(sleep(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Looks the consumer up, then pulls until something goes wrong or the worker stops.
    async fn pull_until_error(&self, permits: &Arc<Semaphore>) -> Result<(), String> {
        let found = self.context.get_consumer_from_stream(self.queue.durable(), &self.stream);
        let Some(consumer) = self.stop.run_until_cancelled(found).await else { return Ok(()) };
        let consumer: PullConsumer = consumer.map_err(show)?;
        loop {
            let leave = async {
                // Jobs that are pulled while the database is away would only be held, and counted as delivered.
                self.health.database_up().await;
                if let Some(pause) = &self.pause {
                    pause.over(self.queue).await;
                }
                self.provider_up().await;
                let held = self.permits(permits).await?;
                let ahead = match &self.limit {
                    Some(limit) => Some(limit.ahead(permits.available_permits() + held.num_permits()).await),
                    None => None,
                };
                Ok::<_, String>((held, ahead))
            };
            let Some(leave) = self.stop.run_until_cancelled(leave).await else { return Ok(()) };
            let (held, ahead) = leave?;
            self.pull(&consumer, permits, held, ahead).await?;
        }
    }

    /// Some permits. While many jobs run, a place that becomes free is not worth a pull of its own: a quarter of all are
    /// waited for, though not for long.
    async fn permits(&self, permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, String> {
        let quarter = u32::try_from(self.most.min(self.runner.policy.concurrency) / 4).unwrap_or(1).max(1);
        match timeout(GATHER, Arc::clone(permits).acquire_many_owned(quarter)).await {
            Ok(held) => held.map_err(show),
            Err(_) => Arc::clone(permits).acquire_owned().await.map_err(show),
        }
    }

    /// Waits while all providers that this queue sends by are known to be down. What waits in the queue is not parked,
    /// and costs nothing.
    async fn provider_up(&self) {
        while let Appetite::None(until) = self.appetite() {
            let wait = (until - self.runner.clock.now()).to_std().unwrap_or_default();
            sleep(wait.max(SHORTEST_LOOK)).await;
        }
    }

    fn appetite(&self) -> Appetite {
        Channel::of(self.queue.kind).map_or(Appetite::All, |channel| self.runner.channels.appetite(channel))
    }

    /// One pull, for as many messages as there are permits, and as may start.
    async fn pull(
        &self,
        consumer: &PullConsumer,
        permits: &Arc<Semaphore>,
        mut held: OwnedSemaphorePermit,
        mut ahead: Option<Ahead>,
    ) -> Result<(), String> {
        let most = ahead.as_ref().map_or(self.most, Ahead::most).min(self.most);
        let most = if self.appetite() == Appetite::One { 1 } else { most };
        let more = permits.available_permits().min(most.saturating_sub(held.num_permits()));
        if let Ok(count) = u32::try_from(more)
            && let Ok(rest) = Arc::clone(permits).try_acquire_many_owned(count)
        {
            held.merge(rest);
        }
        drop(held.split(held.num_permits().saturating_sub(most)));
        // No heartbeat: in async-nats 0.51 it can lose the batch's wake-up. The timeout notices a lost server.
        let mut connections = self.health.connections();
        let pull = consumer.fetch().max_messages(held.num_permits());
        // Without an expiry the server answers at once with what it has.
        let pull = if ahead.as_ref().is_some_and(Ahead::has_booked) { pull } else { pull.expires(PULL_EXPIRES) };
        let batch = pull.messages();
        let mut batch = timeout(PULL_GRACE, batch).await.map_err(|_| SILENT)?.map_err(show)?;
        loop {
            let next = tokio::select! {
                biased;
                next = timeout(PULL_EXPIRES + PULL_GRACE, batch.next()) => next.map_err(|_| SILENT)?,
                () = self.stop.cancelled() => {
                    self.give_back(batch);
                    return Ok(());
                }
                // A server that was started again knows nothing of this pull.
                _ = connections.changed() => return Ok(()),
            };
            let Some(message) = next else {
                if let Some(ahead) = ahead {
                    ahead.close().await;
                }
                return Ok(());
            };
            let (Some(permit), Some(message)) = (held.split(1), Pulled::new(message.map_err(show)?, self.queue)) else {
                continue;
            };
            let runner = Arc::clone(&self.runner);
            let turn = ahead.as_mut().map(Ahead::turn);
            // Boxed: the state of a run is kilobytes, and would be copied at each of the steps of starting a task.
            self.jobs.spawn(Box::pin(async move {
                let may_start = match turn {
                    Some(turn) => runner.hold(&message, turn.comes()).await,
                    None => true,
                };
                if may_start {
                    runner.run(message).await;
                } else {
                    runner.give_back(message).await;
                }
                drop(permit);
            }));
        }
    }

    /// Gives back what has arrived and was not begun, so that another worker has it at once.
    fn give_back(&self, mut batch: pull::Batch) {
        while let Some(Some(Ok(message))) = batch.next().now_or_never() {
            if let Some(message) = Pulled::new(message, self.queue) {
                let runner = Arc::clone(&self.runner);
                self.jobs.spawn(async move { runner.give_back(message).await });
            }
        }
    }
}

/// What a pull that is neither answered nor refused is reported as.
const SILENT: &str = "the server does not answer";

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
