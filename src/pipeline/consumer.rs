//! Pulls the messages of one queue from one stream: first permits, then as many messages as there are permits, limited
//! by the queue's rate.

use std::{pin::pin, sync::Arc, time::Duration};

use async_nats::jetstream::{self, consumer::PullConsumer};
use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    depth::Pause,
    later::{Routes, cancel},
    limit::{Ahead, Limit},
    message::Pulled,
    pull::{Pull, Waits},
    run::{Origin, Run, Shortcuts, give_back, hold},
    runner::Runner,
};
use crate::{
    channels::Appetite,
    config::NatsConfig,
    dead_letter::bury_head,
    health::{Health, PullWatch},
    intake::is_intake,
    nats::{self, PullConnection},
    plan::Channel,
    retry::{DoublingWait, Once},
};

/// How long the server holds an empty pull open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);

/// How long a connection may take to send what it was given, before it counts as lost.
const PULL_GRACE: Duration = Duration::from_secs(5);

const WAIT: DoublingWait = DoublingWait::new(Duration::from_millis(100), Duration::from_secs(5));

/// The shortest interval between two looks at open breakers.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);

/// How long a pull waits for further permits.
const GATHER: Duration = Duration::from_millis(5);

/// The most messages of one pull.
pub const LARGEST_PULL: usize = 500;

/// How long it does so if other streams' consumers may need its permits.
const SHARED_PULL_EXPIRES: Duration = Duration::from_millis(100);

/// The most messages of a pull from an idle stream, if other streams hold jobs of the queue too.
const IDLE_PULL: usize = 2;

/// The work of a consumer.
#[derive(Clone)]
pub enum Work {
    /// It runs the job, with shortcuts for those of the first two stages.
    Run(Option<Arc<Shortcuts>>),
    /// It parks the delayed job.
    Delay(Arc<Routes>),
    /// It takes a delayed job back.
    Cancel,
}

impl Work {
    /// What only parks or takes back is over at once, and has no part in the bound of the process.
    fn is_a_job(&self) -> bool {
        matches!(self, Self::Run(_))
    }

    async fn start(&self, runner: &Arc<Runner>, message: Pulled) {
        match self {
            Self::Run(shortcuts) => Run::begin(runner, shortcuts.as_ref(), Origin::Message(message)).run().await,
            Self::Delay(routes) => routes.take(runner, message).await,
            Self::Cancel => cancel(runner, message).await,
        }
    }
}

/// The loop of one queue and stream.
pub struct Consumer {
    /// The worker's connection, for everything but pulls.
    pub context: jetstream::Context,
    /// How to open a connection for the pulls. `None`: they use the worker's.
    pub own_connection: Option<Arc<NatsConfig>>,
    /// The stream to pull from.
    pub stream: String,
    /// The number of streams that hold jobs of the queue.
    pub streams: usize,
    /// Runs the queue's jobs.
    pub runner: Arc<Runner>,
    /// Its work on each message.
    pub work: Work,
    /// Told of each answer to a pull.
    pub watch: PullWatch,
    /// The worker's health.
    pub health: Arc<Health>,
    /// The running jobs.
    pub jobs: TaskTracker,
    /// Cancelled when nothing more is to be pulled.
    pub stop: CancellationToken,
    /// Pauses pulling while deliveries are behind.
    pub pause: Option<Pause>,
    /// The queue's rate.
    pub limit: Option<Limit>,
    /// The most messages of one pull; a waiting pull holds as many permits.
    pub most: usize,
    /// Places for jobs that came back before their instant, and hold no permit.
    pub waiting: Arc<Semaphore>,
}

impl Consumer {
    /// Pulls and runs until told to stop. Waits for a lost server.
    pub async fn run(self) {
        let (queue, stream) = (self.runner.queue.durable(), self.stream.as_str());
        tracing::info!(queue, stream, concurrency = self.runner.policy.concurrency, "consumer started");
        let mut wait = WAIT;
        let mut series = 0;
        let mut told = Once::new();
        while !self.stop.is_cancelled() {
            series += 1;
            let answered = || {
                told.reset();
                wait.reset();
            };
            match Box::pin(self.pull_until_error(series, answered)).await {
                Ok(()) => {}
                // Logged once, not each time: health shows that no pull is answered.
                Err(why) => {
                    if told.is_first() {
                        tracing::warn!(queue = self.runner.queue.durable(), "pulling failed, again soon: {why}");
                    }
                    let _ = self.stop.run_until_cancelled(wait.pass()).await;
                }
            }
        }
        self.watch.rests();
    }

    /// Pulls until an error, or until the queue's own connection is lost. Tells of each pull that was answered.
    async fn pull_until_error(&self, series: u64, mut answered: impl FnMut()) -> Result<(), String> {
        self.watch.asked();
        let found = async {
            let mut connection = self.connect().await?;
            let mut connections = connection.connections.clone();
            let (consumer, stream_created) = tokio::select! {
                found = self.look_up(&connection.context) => found?,
                // The question went to a server that is gone.
                _ = connections.changed() => return Ok(None),
            };
            connection.connections = connections;
            if self.own_connection.is_some() && series > 1 {
                // An unreadable message may have ended the last connection, and would end the next.
                let buried = bury_head(&self.context, &consumer, self.runner.clock.now()).await?;
                tracing::info!(queue = self.runner.queue.durable(), buried, "pulling again");
            }
            Ok::<_, String>(Some(Source { connection, consumer, stream_created }))
        };
        let found = self.stop.run_until_cancelled(found).await.unwrap_or(Ok(None));
        let Some(mut source) = found? else { return Ok(()) };
        let mut was_full = false;
        loop {
            let leave = async {
                // Jobs pulled while the database is away would only be held, and counted as delivered.
                self.health.database_up().await;
                self.runner.pauses.over(self.runner.queue).await;
                if let Some(pause) = &self.pause {
                    pause.over(self.runner.queue).await;
                }
                self.provider_up().await;
                let held = self.permits(self.most(was_full)).await?;
                // After the permits, as a job does that waits for a place: so none waits for the other.
                let places = self.places(was_full).await?;
                let ahead = match &self.limit {
                    Some(limit) => {
                        Some(limit.ahead(self.runner.permits.available_permits() + held.num_permits()).await)
                    }
                    None => None,
                };
                Ok::<_, String>((held, ahead, places))
            };
            let Some(leave) = self.stop.run_until_cancelled(self.resting(leave)).await else { return Ok(()) };
            let (held, ahead, places) = leave?;
            if self.own_connection.is_none() {
                // No message can have ended it, so pulling goes on with the next.
                source.connection.connections.mark_unchanged();
            }
            was_full = self.pull(&source, (held, ahead, places), was_full).await?;
            answered();
            if self.own_connection.is_some() && is_lost(&source.connection).await {
                return Ok(());
            }
        }
    }

    /// Waits for what this worker needs before it asks the server for more.
    async fn resting<T>(&self, ready: impl Future<Output = T>) -> T {
        let mut ready = pin!(ready);
        if let Some(ready) = ready.as_mut().now_or_never() {
            return ready;
        }
        self.watch.rests();
        ready.await
    }

    /// The consumer, and when its stream was created, if applications publish to it.
    async fn look_up(&self, context: &jetstream::Context) -> Result<(PullConsumer, DateTime<Utc>), String> {
        let consumer = context.get_consumer_from_stream(self.runner.queue.durable(), &self.stream).await;
        let mut created = DateTime::UNIX_EPOCH;
        if is_intake(&self.stream) {
            let stream = context.get_stream(&self.stream).await.map_err(show)?;
            let nanoseconds = stream.cached_info().created.unix_timestamp_nanos();
            created = DateTime::from_timestamp_nanos(i64::try_from(nanoseconds).unwrap_or(0));
        }
        Ok((consumer.map_err(show)?, created))
    }

    async fn connect(&self) -> Result<PullConnection, String> {
        match &self.own_connection {
            Some(config) => nats::open_for_pulls(config).await.map_err(show),
            None => Ok(PullConnection { context: self.context.clone(), connections: self.health.connections() }),
        }
    }

    /// The most messages of a pull. A waiting pull holds permits that the queue's other streams may need: so where there
    /// are others, it holds few, and the one after a full pull does not wait.
    fn most(&self, was_full: bool) -> usize {
        if was_full || self.streams == 1 {
            return self.most;
        }
        IDLE_PULL.min(self.runner.policy.concurrency / (2 * self.streams)).clamp(1, self.most)
    }

    /// How long the server holds an empty pull open.
    fn expires(&self, was_full: bool) -> Option<Duration> {
        if self.streams == 1 {
            return Some(PULL_EXPIRES);
        }
        let few = self.runner.policy.concurrency < 4 * self.streams;
        (!was_full).then_some(if few { SHARED_PULL_EXPIRES } else { PULL_EXPIRES })
    }

    /// Places of the process, where these are bounded. A queue that is busy takes them before it pulls, so that no message
    /// waits here while another worker has nothing to do. An idle one pulls a single message without: its pull may wait
    /// for long.
    async fn places(&self, was_full: bool) -> Result<Option<OwnedSemaphorePermit>, String> {
        // A queue with a rate would keep them while it waits for its slots.
        let takes = was_full && self.work.is_a_job() && self.limit.is_none();
        let Some(all) = self.runner.all.as_ref().filter(|_| takes) else { return Ok(None) };
        let mut places = Arc::clone(all).acquire_owned().await.map_err(show)?;
        let more = all.available_permits().min(self.most.saturating_sub(1)) / 2;
        if let Some(rest) = u32::try_from(more).ok().and_then(|more| Arc::clone(all).try_acquire_many_owned(more).ok())
        {
            places.merge(rest);
        }
        Ok(Some(places))
    }

    /// Whether the jobs of the whole process are bounded.
    fn is_bounded(&self) -> bool {
        self.runner.all.is_some() && self.work.is_a_job()
    }

    /// While many jobs run, a single free permit is not worth a pull, so this waits briefly for a quarter of all
    /// permits.
    async fn permits(&self, most: usize) -> Result<OwnedSemaphorePermit, String> {
        let quarter = u32::try_from(most.min(self.runner.policy.concurrency) / 4).unwrap_or(1).max(1);
        let permits = &self.runner.permits;
        match timeout(GATHER, Arc::clone(permits).acquire_many_owned(quarter)).await {
            Ok(held) => held.map_err(show),
            Err(_) => Arc::clone(permits).acquire_owned().await.map_err(show),
        }
    }

    /// Waits while all providers of this queue are known to be down. Messages in the queue are not parked and cost
    /// nothing.
    async fn provider_up(&self) {
        while let Appetite::None(until) = self.appetite() {
            let wait = (until - self.runner.clock.now()).to_std().unwrap_or_default();
            sleep(wait.max(SHORTEST_LOOK)).await;
        }
    }

    fn appetite(&self) -> Appetite {
        Channel::of(self.runner.queue.kind).map_or(Appetite::All, |channel| self.runner.channels.appetite(channel))
    }

    /// Pulls as many messages as permits and rate allow. Returns whether it got all it asked for; `was_full`: whether the
    /// last pull did.
    async fn pull(
        &self,
        source: &Source,
        (mut held, mut ahead, mut places): (OwnedSemaphorePermit, Option<Ahead>, Option<OwnedSemaphorePermit>),
        was_full: bool,
    ) -> Result<bool, String> {
        let permits = &self.runner.permits;
        let most = self.most(was_full);
        let most = ahead.as_ref().map_or(most, Ahead::most).min(most);
        let most = if self.appetite() == Appetite::One { 1 } else { most };
        let most = match &places {
            Some(places) => most.min(places.num_permits()),
            None if self.is_bounded() => 1,
            None => most,
        };
        let more = permits.available_permits().min(most.saturating_sub(held.num_permits()));
        if let Ok(count) = u32::try_from(more)
            && let Ok(rest) = Arc::clone(permits).try_acquire_many_owned(count)
        {
            held.merge(rest);
        }
        drop(held.split(held.num_permits().saturating_sub(most)));
        let mut connections = source.connection.connections.clone();
        // Without an expiry the server answers immediately with the messages it has.
        let expires = self.expires(was_full).filter(|_| !ahead.as_ref().is_some_and(Ahead::has_booked));
        // Nobody else could use the places meanwhile.
        let waits = Waits(expires.filter(|_| places.is_none()));
        let context = &source.connection.context;
        let mut pull = Pull::ask(context, &source.consumer, &self.watch, held.num_permits(), waits).await?;
        let mut paused = pin!(self.runner.pauses.begun(self.runner.queue));
        loop {
            let next = tokio::select! {
                biased;
                () = &mut paused => {
                    self.give_back(pull, source.stream_created).await;
                    return Ok(false);
                }
                next = pull.next() => next,
                () = self.stop.cancelled() => {
                    self.give_back(pull, source.stream_created).await;
                    return Ok(false);
                }
                // A restarted server has forgotten this pull; the leader of its queue has not, if that is another.
                _ = connections.changed() => {
                    self.give_back(pull, source.stream_created).await;
                    return Ok(false);
                }
            };
            let next = match next {
                Ok(next) => next,
                Err(why) => {
                    self.give_back(pull, source.stream_created).await;
                    return Err(why);
                }
            };
            let Some(message) = next else {
                if let Some(ahead) = ahead {
                    ahead.close().await;
                }
                return Ok(held.num_permits() == 0);
            };
            let message = self.pulled(message, source.stream_created);
            let (Some(permit), Some(message)) = (held.split(1), message) else { continue };
            let (runner, work, waiting) = (Arc::clone(&self.runner), self.work.clone(), Arc::clone(&self.waiting));
            let slot = ahead.as_mut().map(Ahead::slot);
            let of_process = places.as_mut().and_then(|places| places.split(1));
            // Boxed: the state of a run is kilobytes, and starting a task copies it several times.
            self.jobs.spawn(Box::pin(async move {
                let (mut permit, mut of_all) = (Some(permit), of_process);
                let mut may_start = match slot {
                    Some(slot) => hold(&runner, &message, slot.comes()).await,
                    None => true,
                };
                if let Some(early) = message.early(runner.clock.now()).filter(|_| may_start) {
                    // Others may run meanwhile, unless too many wait already.
                    let place = waiting.try_acquire_owned().ok();
                    permit = permit.filter(|_| place.is_none());
                    // It is taken again after the permit, as everywhere.
                    of_all = None;
                    let comes = async {
                        sleep(early).await;
                        if permit.is_none() {
                            permit = Arc::clone(&runner.permits).acquire_owned().await.ok();
                        }
                        drop(place);
                    };
                    may_start = hold(&runner, &message, comes).await;
                }
                if let Some(all) = runner.all.clone().filter(|_| may_start && of_all.is_none() && work.is_a_job()) {
                    let place = async { of_all = all.acquire_owned().await.ok() };
                    may_start = hold(&runner, &message, place).await;
                }
                // Somebody may have paused it a moment ago.
                if may_start && !runner.is_paused() {
                    work.start(&runner, message).await;
                } else {
                    give_back(&runner, message).await;
                }
                drop((permit, of_all));
            }));
        }
    }

    fn pulled(&self, mut message: jetstream::Message, stream_created: DateTime<Utc>) -> Option<Pulled> {
        if self.own_connection.is_some() {
            // It is settled even if the connection that it came by is lost.
            message.context = self.context.clone();
        }
        let mut pulled = Pulled::new(message, self.runner.queue, self.runner.ack_wait)?;
        pulled.position.published = self.runner.clock.of_machine(pulled.position.published);
        Some(pulled.of_stream_created_at(stream_created))
    }

    /// Gives back what is under way, so that another worker gets it immediately.
    async fn give_back(&self, pull: Pull, stream_created: DateTime<Utc>) {
        for message in pull.end().await {
            if let Some(message) = self.pulled(message, stream_created) {
                let runner = Arc::clone(&self.runner);
                self.jobs.spawn(async move { give_back(&runner, message).await });
            }
        }
    }
}

/// Where messages are pulled from.
struct Source {
    connection: PullConnection,
    consumer: PullConsumer,
    /// If applications publish to it.
    stream_created: DateTime<Utc>,
}

/// Whether a connection has ended, or was made anew: its pulls are lost.
async fn is_lost(connection: &PullConnection) -> bool {
    let ended = async { connection.context.client().flush().await.is_err() };
    connection.connections.has_changed().unwrap_or(true) || timeout(PULL_GRACE, ended).await.unwrap_or(true)
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
