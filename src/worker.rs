//! `carebell run`: the worker, from its first connection to its last flush.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    channels::{Channels, web_push::WebPush},
    checkpoint,
    clock::{Clock, Random},
    config::{self, Config, ConfigError},
    dead_letter::{advisories, sweep},
    effects::{Effects, reconcile, shortages},
    health::{Health, NATS, POSTGRES, Part, Phase},
    http, jobs, nats,
    pipeline::{Parts, Pipeline},
    store::{Store, StoreError},
    streams::{FileError, Streams},
};

/// Between two looks at a server that is not there yet.
const START_RETRY: Duration = Duration::from_millis(500);

/// Between two looks at whether the database answers.
const PING_EVERY: Duration = Duration::from_secs(5);

/// How long the last words to each server may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a worker could not start, or ended. The process exits with 1.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A variable is missing or malformed.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// An override of a queue is wrong.
    #[error("{0}")]
    Streams(#[from] FileError),
    /// The health port cannot be had.
    #[error("HEALTH_PORT cannot be served: {0}")]
    Port(std::io::Error),
    /// A server did not come up in time.
    #[error("{0}")]
    Start(String),
}

/// Runs until `stop`, then drains. The health port answers from the first moment, so that a start that takes long can
/// be seen into.
///
/// # Errors
/// If the configuration is wrong, or a server is not there within the start timeout.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), WorkerError> {
    if let Some(step) = config.abort_at {
        checkpoint::abort_at(step);
    }
    let clock = Clock::system();
    let health = Health::new();
    let streams = Streams::embedded(&config.adjustments)?;
    let channels = channels(&config, &clock)?;
    let closing = CancellationToken::new();
    let address =
        http::serve(config.health_port, Arc::clone(&health), closing.clone()).await.map_err(WorkerError::Port)?;
    info!(port = address.port(), "health is served");

    let Some(servers) = stop.run_until_cancelled(start(&config, &streams, &health)).await else { return Ok(()) };
    let (client, store) = servers?;
    let context = nats::jetstream(&client);
    let effects = Effects::start(&store, context.clone(), clock.clone(), &health);
    let parts = Parts {
        registry: jobs::registry(),
        streams,
        context,
        effects: effects.clone(),
        channels,
        clock: clock.clone(),
        random: Random::system(),
        health: Arc::clone(&health),
    };
    let pipeline = Pipeline::start(&parts).map_err(WorkerError::Start)?;
    tokio::spawn(watch_database(store.clone(), Arc::clone(&health), closing.clone()));
    tokio::spawn(sweep::run(effects.clone(), parts.streams.clone(), clock.clone(), closing.clone()));
    tokio::spawn(advisories::run(effects.clone(), stop.clone()));
    tokio::spawn(reconcile::run(effects, clock.clone(), reconcile_age(&parts.streams), closing.clone()));
    tokio::spawn(shortages::run(store.clone(), closing.clone()));
    health.enter(Phase::Running);
    info!("ready");

    let lost = CancellationToken::new();
    tokio::spawn(watch_nats(client.clone(), Arc::clone(&health), lost.clone(), closing.clone()));
    tokio::select! {
        () = stop.cancelled() => {}
        () = lost.cancelled() => {}
    }
    info!("stopping: not ready, no more pulling");
    health.enter(Phase::Draining);
    pipeline.drain(config.drain_timeout).await;
    drop(parts);
    // Both would wait for a server that is away; what they did not get is settled after its redelivery.
    if !matches!(timeout(CLOSE_TIMEOUT, client.flush()).await, Ok(Ok(()))) {
        warn!("the last acknowledgements could not be flushed");
    }
    closing.cancel();
    let _ = timeout(CLOSE_TIMEOUT, store.close()).await;
    info!("stopped");
    if lost.is_cancelled() {
        return Err(WorkerError::Start("the NATS client has ended; see the log for what it met".into()));
    }
    Ok(())
}

fn channels(config: &Config, clock: &Clock) -> Result<Channels, ConfigError> {
    let Some(settings) = config.web_push.clone() else {
        warn!(
            "VAPID_PUBLIC_KEY and VAPID_PRIVATE_KEY are not set: no Web Push (`carebell keys generate` makes a pair)"
        );
        return Ok(Channels::default());
    };
    let web_push = WebPush::new(settings, clock.clone()).map_err(config::from_channel)?;
    Ok(Channels { web_push: Some(Arc::new(web_push)) })
}

/// Waits for the servers, the streams and the schema.
async fn start(
    config: &Config,
    streams: &Streams,
    health: &Arc<Health>,
) -> Result<(async_nats::Client, Store), WorkerError> {
    let deadline = Instant::now() + config.start_timeout;
    let store = Store::new(&config.database_url, config.database_connections)
        .map_err(|error| WorkerError::Start(format!("DATABASE_URL: {error}")))?;
    let client = try_until(deadline, NATS, health, async || nats::connect(&config.nats, health).await).await?;
    let context = nats::jetstream(&client);
    try_until(deadline, NATS, health, async || consumers_are_there(&context, streams).await).await?;
    try_until(deadline, POSTGRES, health, async || {
        store.check_schema().await.map_err(|error| match error {
            StoreError::Fault(text) => text,
            other => format!("DATABASE_URL: {other}"),
        })
    })
    .await?;
    Ok((client, store))
}

/// Drift is only told of, so that a rolling upgrade works; a missing consumer is waited for.
async fn consumers_are_there(context: &jetstream::Context, streams: &Streams) -> Result<(), String> {
    for consumer in streams.consumers() {
        let differences = streams.check_consumer(context, consumer).await.map_err(|error| error.to_string())?;
        for difference in differences.into_iter().flatten() {
            if difference.field.is_empty() {
                return Err(format!("{difference}: run `carebell streams apply`"));
            }
            warn!("{difference}");
        }
    }
    Ok(())
}

/// Tries again until it works or the deadline has passed; each new problem is told of once.
async fn try_until<T, F: Future<Output = Result<T, String>>>(
    deadline: Instant,
    part: &'static str,
    health: &Health,
    attempt: impl Fn() -> F,
) -> Result<T, WorkerError> {
    loop {
        match attempt().await {
            Ok(value) => {
                health.set(part, Part::Up);
                return Ok(value);
            }
            Err(why) if Instant::now() >= deadline => return Err(WorkerError::Start(why)),
            Err(why) => health.set(part, Part::Down(why)),
        }
        sleep(START_RETRY).await;
    }
}

/// Notices a database that is away while no job needs it, and one that is back while all consumers wait for it.
async fn watch_database(store: Store, health: Arc<Health>, stop: CancellationToken) {
    loop {
        match store.ping().await {
            Ok(()) => health.database_answers(),
            Err(error) => health.database_fails(&error.to_string()),
        }
        let wait = if health.is_well() { PING_EVERY } else { START_RETRY };
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Notices a NATS client that has ended by itself, which it does on a message that it cannot parse. Nothing else would:
/// it reports no disconnection, and every pull would wait for ever.
async fn watch_nats(client: async_nats::Client, health: Arc<Health>, lost: CancellationToken, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(PING_EVERY)).await.is_some() {
        if let Ok(Err(error)) = timeout(PING_EVERY, client.flush()).await {
            health.set(NATS, Part::Down(format!("the client has ended: {error}")));
            lost.cancel();
            return;
        }
    }
}

/// Twice the longest `ack_wait`: by then a redelivery would have finished what a lost worker had planned.
fn reconcile_age(streams: &Streams) -> Duration {
    2 * streams.consumers().iter().map(|consumer| consumer.config.ack_wait).max().unwrap_or(Duration::from_secs(30))
}
