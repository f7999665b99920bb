//! `carebell run`: the worker, from first connection to last flush.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::Router;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin, callbacks,
    channels::{
        Channels, Sender,
        breaker::BreakerPolicy,
        email::Email,
        gateway::{Receiver, Settings},
        sms::Sms,
        voice::Voice,
        web_push::WebPush,
        webhook::Webhook,
        whatsapp::WhatsApp,
    },
    checkpoint,
    clock::{Clock, Random},
    config::{self, Config, ConfigError, Duty},
    dead_letter::{advisories, overdue, sweep},
    doctor::{self, AtStart, Depth},
    documents::Documents,
    effects::{
        Effects,
        counts::{Counts, Identity},
        pauses, reconcile,
        restore::Restoration,
        shortages, storage,
    },
    health::{Health, NATS, POSTGRES, Part, Phase},
    http, jobs,
    kind::{CANCEL, DELAYED, Kind},
    nats,
    pipeline::{Parts, Pipeline},
    plan::Channel,
    scheduler::Scheduler,
    store::Store,
    streams::{FileError, Streams, observe},
    telemetry::metrics::Metrics,
    templates::{LoadError, Templates},
};

/// The wait between attempts to start.
const START_RETRY: Duration = Duration::from_millis(500);

/// The interval of database pings.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The interval of checks that the NATS client runs. They ask nothing of the server.
const CLIENT_EVERY: Duration = Duration::from_millis(500);

/// The most that closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a worker could not start, or ended: exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A variable is missing or malformed.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A queue override is wrong.
    #[error("{0}")]
    Streams(#[from] FileError),
    /// A template is wrong.
    #[error("{0}")]
    Templates(#[from] LoadError),
    /// The health port is not available.
    #[error("HEALTH_PORT cannot be served: {0}")]
    Port(std::io::Error),
    /// The callback port is not available.
    #[error("PUBLIC_PORT cannot be served: {0}")]
    PublicPort(std::io::Error),
    /// The console cannot be served.
    #[error("{0}")]
    Console(#[from] admin::ServeError),
    /// A server is missing or refuses a permission.
    #[error("{0}")]
    Start(String),
}

/// Runs until `stop`, then drains. The health port answers during a slow start too.
///
/// # Errors
/// If the configuration is wrong, or a server is missing after the start timeout.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), WorkerError> {
    if let Some(step) = config.abort_at {
        checkpoint::abort_at(step);
    }
    run_by(config, Clock::system(), stop, || {}).await
}

/// As [`run`], by a clock. Calls `ready` once jobs are pulled.
///
/// # Errors
/// As [`run`].
pub async fn run_by(
    config: Config,
    clock: Clock,
    stop: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), WorkerError> {
    let clock = clock.at_pace(config.pace);
    let health = Health::new();
    health.metrics().zone_data(&config.zones.version);
    info!("time zones: {}", config.zones);
    let streams = Streams::embedded(&config.adjustments)?;
    let templates = Templates::load(config.templates_dir.as_deref())?;
    let channels = channels(&config, &clock, health.metrics())?.with_pauses(health.pauses());
    let documents = Documents::new(config.documents.clone(), &clock).map_err(config::from_channel)?;
    let closing = CancellationToken::new();
    let known = Arc::new(OnceLock::new());
    let state = http::State { health: Arc::clone(&health), channels: channels.clone(), store: Arc::clone(&known) };
    let address = http::serve(config.health_port, state, closing.clone()).map_err(WorkerError::Port)?;
    info!(port = address.port(), "health is served");

    let Some(servers) = stop.run_until_cancelled(Box::pin(start(&config, &streams, &clock, &health))).await else {
        return Ok(());
    };
    let (connection, store) = servers?;
    let client = connection.client.clone();
    let _ = known.set(store.clone());
    let context = nats::jetstream(&client);
    let effects = Effects::start(&store, context.clone(), clock.clone(), &health).with_ack_wait(ack_wait(&streams));
    let parts = Parts {
        registry: jobs::registry(),
        streams,
        context,
        own_connections: Some(Arc::new(config.nats.clone())),
        effects: effects.clone(),
        channels,
        documents,
        templates,
        clock: clock.clone(),
        random: Random::system(),
        health: Arc::clone(&health),
        max_concurrency: config.max_concurrency,
    };
    let listening = listen(&config, &parts, &store, &closing)?;
    observe(&parts, client.clone(), &closing);
    tokio::spawn(watch_database(store.clone(), Arc::clone(&health), closing.clone()));
    stop.run_until_cancelled(catch_up(&parts, &closing)).await;
    stop.run_until_cancelled(pauses::know(&store, &health, &clock)).await;
    tokio::spawn(pauses::run(store.clone(), Arc::clone(&health), clock.clone(), closing.clone()));
    let mut pipeline = None;
    if config.duties.contains(&Duty::Pipeline) {
        pipeline = Some(Pipeline::start(&parts).map_err(WorkerError::Start)?);
        let age = reconcile_age(&parts.streams);
        tokio::spawn(reconcile::run(effects.clone(), clock.clone(), Arc::clone(&health), age, closing.clone()));
        tokio::spawn(shortages::run(store.clone(), closing.clone()));
    }
    if config.duties.contains(&Duty::DeadLetters) {
        watch_dead_letters(&parts, &stop, &closing);
    }
    tokio::spawn(storage::run(parts.context.clone(), Arc::clone(&health), clock.clone(), closing.clone()));
    let drained = CancellationToken::new();
    let duties: Vec<_> = config.duties.iter().map(|duty| duty.name()).collect();
    let identity = Identity::here(effects.worker(), &duties);
    let counts = Counts::new(store.clone(), health.metrics().tally().clone(), clock.clone(), identity);
    let counting = tokio::spawn(counts.run(drained.clone()));
    let mut scheduling = None;
    if config.duties.contains(&Duty::Scheduler) {
        let producer = parts.context.clone();
        let scheduler = Scheduler::new(store.clone(), producer, clock.clone(), Arc::clone(&health));
        scheduling = Some(tokio::spawn(scheduler.run(stop.clone())));
    }
    health.enter(Phase::Running);
    info!("ready");
    ready();

    let lost = CancellationToken::new();
    tokio::spawn(watch_nats(client.clone(), Arc::clone(&health), lost.clone(), closing.clone()));
    tokio::select! {
        () = stop.cancelled() => {}
        () = lost.cancelled() => {}
    }
    info!("stopping: not ready, no more pulling");
    health.enter(Phase::Draining);
    if let Some(pipeline) = pipeline {
        pipeline.drain(config.drain_timeout).await;
    }
    if let Some(scheduling) = scheduling {
        // Cancelled at its next wait; locked schedules stay due.
        scheduling.abort();
    }
    drop((parts, effects));
    drained.cancel();
    // Counts the last jobs, and takes this worker off the list.
    let _ = timeout(CLOSE_TIMEOUT, counting).await;
    // Both would wait for a lost server. Unflushed messages are redelivered.
    if !matches!(timeout(CLOSE_TIMEOUT, client.flush()).await, Ok(Ok(()))) {
        warn!("the last acknowledgements could not be flushed");
    }
    closing.cancel();
    if let Some(listening) = listening {
        // Finishes open reports: providers send most only once.
        let _ = timeout(CLOSE_TIMEOUT, listening.ended).await;
    }
    let _ = timeout(CLOSE_TIMEOUT, store.close()).await;
    info!("stopped");
    if lost.is_cancelled() {
        return Err(WorkerError::Start("the NATS client has ended; see the log for what it met".into()));
    }
    Ok(())
}

fn watch_dead_letters(parts: &Parts, stop: &CancellationToken, closing: &CancellationToken) {
    let Parts { effects, streams, clock, health, .. } = parts;
    tokio::spawn(sweep::run(effects.clone(), streams.clone(), clock.clone(), closing.clone()));
    tokio::spawn(overdue::run(effects.clone(), health.metrics().clone(), clock.clone(), closing.clone()));
    tokio::spawn(advisories::run(effects.clone(), stop.clone()));
}

/// Watches backlogs until `closing`.
fn observe(parts: &Parts, client: async_nats::Client, closing: &CancellationToken) {
    let queues = parts.registry.kinds().iter().flat_map(Kind::queues).chain([DELAYED, CANCEL]).collect();
    let (health, clock) = (Arc::clone(&parts.health), parts.clock.clone());
    let observed = observe::run(client, parts.streams.clone(), queues, health, clock);
    tokio::spawn(closing.clone().run_until_cancelled_owned(observed));
}

fn channels(config: &Config, clock: &Clock, metrics: &Metrics) -> Result<Channels, ConfigError> {
    let mut senders: Vec<Arc<dyn Sender>> = Vec::new();
    // Receivers compare the instants of signatures with their own clocks.
    let theirs = Clock::system();
    if let Some(settings) = config.web_push.clone() {
        senders.push(Arc::new(WebPush::new(settings, theirs.clone()).map_err(config::from_channel)?));
    } else {
        warn!(
            "VAPID_PUBLIC_KEY and VAPID_PRIVATE_KEY are not set: no Web Push (`carebell keys generate` makes a pair)"
        );
    }
    if let Some(settings) = config.email.clone() {
        senders.push(Arc::new(Email::new(settings).map_err(config::from_channel)?));
    } else {
        info!("SMTP_URL is not set: no e-mail");
    }
    let webhook = Webhook::new(config.webhook.clone(), theirs.clone()).map_err(config::from_channel)?;
    senders.push(Arc::new(webhook));
    for settings in &config.gateways {
        senders.push(gateway(settings.clone(), theirs.clone())?);
    }
    Ok(Channels::new(senders, BreakerPolicy::default(), clock.clone(), metrics))
}

fn gateway(settings: Settings, clock: Clock) -> Result<Arc<dyn Sender>, ConfigError> {
    let sender: Result<Arc<dyn Sender>, _> = match settings.channel {
        Channel::WhatsApp => WhatsApp::new(settings, clock).map(|sender| Arc::new(sender) as _),
        Channel::Voice => Voice::new(settings, clock).map(|sender| Arc::new(sender) as _),
        _ => Sms::new(settings, clock).map(|sender| Arc::new(sender) as _),
    };
    sender.map_err(config::from_channel)
}

/// Serves the console, if it is asked for, and receives status callbacks, if a port is configured.
fn listen(
    config: &Config,
    parts: &Parts,
    store: &Store,
    stop: &CancellationToken,
) -> Result<Option<callbacks::Listening>, WorkerError> {
    serve_console(config, parts, stop)?;
    let url = config.gateways.iter().find_map(|settings| settings.public_url.clone());
    let (Some(port), Some(url)) = (config.public_port, url) else { return Ok(None) };
    let receiver = Receiver::new(url, &config.gateways);
    let (clock, metrics) = (parts.clock.clone(), parts.health.metrics());
    let listening = callbacks::serve(port, Some(receiver), Router::new(), store.clone(), clock, metrics, stop.clone());
    let listening = listening.map_err(WorkerError::PublicPort)?;
    info!(port = listening.address.port(), "callbacks are received");
    Ok(Some(listening))
}

/// The console has connections of its own.
fn serve_console(config: &Config, parts: &Parts, stop: &CancellationToken) -> Result<(), WorkerError> {
    let Some(settings) = config.admin.clone() else { return Ok(()) };
    let parts = admin::Parts {
        store: admin::store(&config.database),
        nats: Arc::new(OnceLock::from(parts.context.clone())),
        streams: parts.streams.clone(),
        clock: parts.clock.clone(),
        config: settings,
        ticket: None,
    };
    let address = admin::serve(parts, stop.clone())?;
    info!(port = address.port(), "the console is served");
    Ok(())
}

/// Waits until both servers pass the self-tests.
async fn start(
    config: &Config,
    streams: &Streams,
    clock: &Clock,
    health: &Arc<Health>,
) -> Result<(nats::Connection, Store), WorkerError> {
    let deadline = Instant::now() + config.start_timeout;
    let store = Store::new(&config.database, config.database_connections);
    let nats = async {
        let connection = try_until(deadline, NATS, health, async || {
            let opened = nats::open(&config.nats, health).await;
            opened.map_err(|error| (AtStart::Wait, doctor::unreachable(&error).words()))
        })
        .await?;
        try_until(deadline, NATS, health, async || {
            let mut checks = vec![doctor::connected(&config.nats)];
            checks.extend(doctor::nats(&connection, streams, clock, Depth::Worker).await);
            doctor::at_start(&checks)
        })
        .await?;
        Ok::<_, GivenUp>(connection)
    };
    let database =
        try_until(deadline, POSTGRES, health, async || doctor::at_start(&doctor::database(&store, clock).await));
    match tokio::try_join!(Box::pin(nats), Box::pin(database)) {
        Ok((connection, ())) => Ok((connection, store)),
        Err(GivenUp(why)) => Err(WorkerError::Start(with_others_that_are_down(why, health))),
    }
}

/// Why a part did not come up.
struct GivenUp(String);

fn with_others_that_are_down(mut text: String, health: &Health) -> String {
    for part in health.parts().into_values() {
        if let Part::Down(why) = part
            && why != text
        {
            text = format!("{text}; {why}");
        }
    }
    text
}

/// Tries until it works, the deadline passes, or waiting cannot help.
async fn try_until<T, F: Future<Output = Result<T, (AtStart, String)>>>(
    deadline: Instant,
    part: &'static str,
    health: &Health,
    attempt: impl Fn() -> F,
) -> Result<T, GivenUp> {
    loop {
        match attempt().await {
            Ok(value) => {
                health.set(part, Part::Up);
                return Ok(value);
            }
            Err((consequence, why)) => {
                health.set(part, Part::Down(why.clone()));
                if consequence == AtStart::Exit || Instant::now() >= deadline {
                    return Err(GivenUp(why));
                }
            }
        }
        sleep(START_RETRY).await;
    }
}

/// Waits until Postgres has all that the journal has. From then on, so does each of its successors before it is used.
async fn catch_up(parts: &Parts, stop: &CancellationToken) {
    let restoration = Restoration { effects: parts.effects.clone(), kinds: parts.registry.kinds().to_vec() };
    let (reached, is_reached) = oneshot::channel();
    tokio::spawn(restoration.run(reached, stop.clone()));
    let _ = is_reached.await;
}

/// Commits something every few seconds: reads are answered too by a standby, and by a primary that waits for a lost one.
/// So a lost database is noticed while no job needs it, and its return while consumers wait.
async fn watch_database(store: Store, health: Arc<Health>, stop: CancellationToken) {
    loop {
        let commit = store.commit_a_sign_of_life(|why| health.database_fails(why));
        match stop.run_until_cancelled(commit).await {
            Some(Ok(())) => health.database_answers(),
            Some(Err(error)) => health.database_fails(&error.to_string()),
            None => return,
        }
        let wait = if health.is_well() { PING_EVERY } else { START_RETRY };
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Looks whether pulls are answered, and notices a client that ended itself over a message that it cannot parse: it
/// reports nothing.
async fn watch_nats(client: async_nats::Client, health: Arc<Health>, lost: CancellationToken, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(CLIENT_EVERY)).await.is_some() {
        health.look_at_pulls();
        if let Ok(Err(error)) = timeout(PING_EVERY, client.flush()).await {
            health.set(NATS, Part::Down(format!("the client has ended: {error}")));
            lost.cancel();
            return;
        }
    }
}

/// Twice the longest `ack_wait`: a redelivery would have published the children by then.
fn reconcile_age(streams: &Streams) -> Duration {
    2 * ack_wait(streams)
}

/// The longest `ack_wait` of all queues.
fn ack_wait(streams: &Streams) -> Duration {
    streams.consumers().iter().map(|consumer| consumer.config.ack_wait).max().unwrap_or(Duration::from_secs(30))
}
