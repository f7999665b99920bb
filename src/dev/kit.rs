//! `carebell testkit`: Carebell for the tests of an application.
//!
//! Private servers in memory, a family, strict receivers, a worker, the HTTP door, and a clock that a test moves. It
//! answers at a port of this machine alone ([`routes`]). A reset makes everything new but the addresses.

mod moves;
pub mod routes;
mod sent;

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::{
    net, select,
    sync::{Mutex, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Servers,
    demo::{gateway::DemoGateway, receivers::Receivers},
};
use crate::{
    clock::Clock,
    config::{Config, Source},
    health::Health,
    nats,
    store::{Database, DemoMember, Store},
    streams::{Adjustments, Streams},
    worker::{self, WorkerError},
};

/// Fixed waits are so much shorter, so that a test need not sit them out: passes over what is overdue come five times a
/// second.
const PACE: u32 = 25;

/// The most that is waited for running jobs before the clock moves.
const IDLE_WITHIN: Duration = Duration::from_secs(1);

/// The sender of text messages and calls.
const SENDER: &str = "+43720123456";

/// Why the kit could not start, or go on.
pub type KitError = Box<dyn std::error::Error + Send + Sync>;

/// The running kit.
pub struct Kit {
    environment: Vec<(&'static str, String)>,
    streams: Streams,
    context: nats::JetStream,
    store: Store,
    /// Of the migrations: a reset keeps them.
    schedules: Vec<String>,
    receivers: Receivers,
    members: Vec<DemoMember>,
    clock: Clock,
    /// Locked while the clock moves or everything is reset.
    worker: Mutex<Running>,
    gateway: DemoGateway,
    _servers: Servers,
}

/// A worker in this process.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Kit {
    /// Starts all of it. `more` are further variables for the worker.
    ///
    /// # Errors
    /// Names what did not start, and why.
    pub async fn start(more: Vec<(&'static str, String)>) -> Result<Self, KitError> {
        let clock = Clock::movable();
        let (servers, receivers) =
            tokio::join!(Servers::start(|text| eprintln!("{text}")), async { Receivers::start(clock.clone()).await });
        let (servers, receivers) = (servers?, receivers?);
        let database_url = servers.postgres.url("postgres");
        let store = Store::new(&Database::parse(&database_url)?, 4);
        let config = Source::of([("NATS_URL".to_owned(), servers.nats.url())]).nats()?;
        let client = nats::connect(&config, &Health::new()).await?;
        let context = nats::jetstream(&client);
        let streams = Streams::embedded(&Adjustments::default())?.in_memory();
        let applied = async { streams.apply(&context).await.map_err(KitError::from) };
        let tables = async {
            store.create_care_tables().await?;
            store.migrate().await.map_err(KitError::from)
        };
        tokio::try_join!(applied, tables)?;
        let schedules = store.schedule_ids().await?;

        let mut environment = vec![
            ("NATS_URL", servers.nats.url()),
            ("DATABASE_URL", database_url),
            ("APP_URL", "https://app.example.org".to_owned()),
            ("HEALTH_PORT", "0".to_owned()),
            ("WHATSAPP_FROM", SENDER.to_owned()),
            ("VOICE_FROM", SENDER.to_owned()),
        ];
        for (name, value) in receivers.environment(servers.directory.path())? {
            match name {
                "SMS_PROVIDER_URL" => environment
                    .extend([("WHATSAPP_PROVIDER_URL", value.clone()), ("VOICE_PROVIDER_URL", value.clone())]),
                // The same after each reset, so that the provider finds it.
                "PUBLIC_PORT" => {
                    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
                    receivers.worker_listens_at(port);
                    environment.push((name, port.to_string()));
                    continue;
                }
                _ => {}
            }
            environment.push((name, value));
        }
        environment.extend(more);
        let members = receivers.subscribe();
        store.seed_demo(&members).await?;
        let worker = Running::start(&environment, &clock).await?;
        let gateway = DemoGateway::start(&environment, &store, &context, clock.clone()).await?;
        let worker = Mutex::new(worker);
        Ok(Self {
            environment,
            streams,
            context,
            store,
            schedules,
            receivers,
            members,
            clock,
            worker,
            gateway,
            _servers: servers,
        })
    }

    /// For programs under test: the addresses, and who is there.
    #[must_use]
    pub fn introduction(&self, kit_url: &str) -> Value {
        let hidden = ["HEALTH_PORT", "PUBLIC_PORT", "PUBLIC_URL"];
        let own = self.environment.iter().filter(|(name, _)| !hidden.contains(name));
        let mut env: serde_json::Map<String, Value> =
            own.map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        for (name, value) in self.gateway.environment() {
            env.insert(name.to_owned(), value.into());
        }
        env.insert("KIT_URL".to_owned(), kit_url.into());
        let users: Vec<String> = self.members.iter().map(|member| member.name.to_lowercase()).collect();
        json!({ "env": env, "users": users, "careRecipient": "rose", "medication": "metformin" })
    }

    /// Stops the worker.
    pub async fn stop(&self) {
        self.worker.lock().await.stop().await;
        self.store.close().await;
    }

    /// Why the worker has ended unasked, once it has.
    pub async fn lost(&self) -> KitError {
        loop {
            tokio::time::sleep(IDLE_WITHIN).await;
            let mut worker = self.worker.lock().await;
            if worker.task.is_finished() {
                return match (&mut worker.task).await {
                    Ok(Err(why)) => why.into(),
                    Ok(Ok(())) => "the worker has ended".into(),
                    Err(panic) => panic.into(),
                };
            }
        }
    }

    /// Makes streams, tables, receivers and clock as they were after the start. The addresses stay.
    async fn reset(&self) -> Result<(), KitError> {
        let mut worker = self.worker.lock().await;
        worker.stop().await;
        let streams = async {
            // A purge would leave the ids of messages, and a job of the next test would count as published.
            self.streams.delete_all(&self.context).await?;
            self.streams.apply(&self.context).await
        };
        let tables = async {
            self.store.empty_private(&self.schedules).await?;
            self.store.seed_demo(&self.members).await
        };
        self.receivers.forget();
        self.clock.reset();
        let (streams, tables) = tokio::join!(streams, tables);
        streams?;
        tables?;
        *worker = Running::start(&self.environment, &self.clock).await?;
        Ok(())
    }

    /// Moves the clock forward, once nothing runs. What is due by then is sent off within a moment.
    async fn advance(&self, by: TimeDelta) -> Result<DateTime<Utc>, KitError> {
        let worker = self.worker.lock().await;
        let since = tokio::time::Instant::now();
        while since.elapsed() < IDLE_WITHIN && !self.streams.are_idle(&self.context).await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.clock.advance(by);
        self.store.announce_changes().await?;
        drop(worker);
        Ok(self.clock.now())
    }
}

impl Running {
    async fn start(environment: &[(&'static str, String)], clock: &Clock) -> Result<Self, KitError> {
        let source = Source::of(environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let config = Config { pace: PACE, drain_timeout: IDLE_WITHIN, ..Config::from_source(&source)? };
        let stop = CancellationToken::new();
        let (told, ready) = oneshot::channel();
        let run = worker::run_by(config, clock.clone(), stop.clone(), move || {
            let _ = told.send(());
        });
        let mut task = tokio::spawn(Box::pin(run));
        select! {
            Ok(()) = ready => Ok(Self { stop, task }),
            ended = &mut task => Err(ended?.err().map_or_else(|| "the worker has ended".into(), Into::into)),
        }
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

/// A listener on this machine alone; port 0 is any free one.
///
/// # Errors
/// If the port is taken.
pub async fn listen(port: u16) -> std::io::Result<net::TcpListener> {
    net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await
}
