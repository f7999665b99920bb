//! Everything that stands beside the worker: servers with the durability of production, families in the database, a
//! sink for their pushes; and the worker itself, as the program that is deployed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use carebell::{
    channels::web_push::{self, KeyPair},
    clock::Clock,
    dev::{
        self,
        guard::{self, Guarded, PrivateDir, Program, StopSignal},
        nats::NatsServer,
        postgres::Postgres,
        push_service::PushService,
    },
    store::Store,
    streams::{Adjustments, Streams},
};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use sqlx::PgPool;
use tokio::time::sleep;

use crate::sink::Sink;

/// Publishes that are under way at once.
const PIPELINED: usize = 1000;

/// A machine's worth of servers, for one measurement.
pub struct Scene {
    pub nats: NatsServer,
    pub postgres: Postgres,
    pub sink: Sink,
    pub db: PgPool,
    pub context: jetstream::Context,
    keys: KeyPair,
    /// Holds the other side's key of every subscription.
    browsers: PushService,
    directory: PrivateDir,
}

impl Scene {
    /// Servers, schema, and families of so many members, with a medication and a subscription for each member.
    pub async fn new(families: u32, members: u32) -> Self {
        let directory = guard::private_dir().unwrap();
        let programs = dev::find(|text| eprintln!("{text}")).await.unwrap();
        let nats = NatsServer::start(&programs.nats_server, directory.path()).await.unwrap();
        // What is acknowledged is on disk, as in production.
        let settings = [("fsync", "on"), ("synchronous_commit", "on")];
        let postgres = Postgres::start_with(&programs.postgres_bin, directory.path(), &settings).await.unwrap();
        let store = Store::new(&postgres.url("postgres"), 1).unwrap();
        store.create_care_tables().await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        let context = carebell::nats::jetstream(&async_nats::connect(nats.url()).await.unwrap());
        Streams::embedded(&Adjustments { replicas: 1, overrides: vec![] }).unwrap().apply(&context).await.unwrap();
        let sink = Sink::start(directory.path()).await;
        let db = PgPool::connect(&postgres.url("postgres")).await.unwrap();
        let browsers = PushService::start().await.unwrap();
        let scene =
            Self { nats, postgres, sink, db, context, keys: web_push::generate_keys().unwrap(), browsers, directory };
        scene.fill(families, members).await;
        scene
    }

    async fn fill(&self, families: u32, members: u32) {
        let browser = self.browsers.subscribe("all");
        let users = i64::from(families) * i64::from(members);
        for statement in [
            "INSERT INTO users (id, name) SELECT 'user-' || n, 'User ' || n FROM generate_series(1, $1) n".to_owned(),
            format!("INSERT INTO families SELECT 'family-' || n FROM generate_series(1, $1 / {members}) n"),
            format!(
                "INSERT INTO family_members (family_id, user_id) \
                 SELECT 'family-' || (n - 1) / {members} + 1, 'user-' || n FROM generate_series(1, $1) n"
            ),
            format!(
                "INSERT INTO care_recipients (id, family_id, name) \
                 SELECT 'rose-' || n, 'family-' || n, 'Rose ' || n FROM generate_series(1, $1 / {members}) n"
            ),
            format!(
                "INSERT INTO medications (id, care_recipient_id, name, dosage) \
                 SELECT 'medication-' || n, 'rose-' || n, 'Metformin', '500 mg' FROM generate_series(1, $1 / {members}) n"
            ),
            format!(
                "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) \
                 SELECT 'browser-' || n, 'user-' || n, 'https://{}/push/' || n, '{}', '{}' FROM generate_series(1, $1) n",
                self.sink.host_port(),
                browser.p256dh,
                browser.auth
            ),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(users).execute(&self.db).await.unwrap();
        }
        sqlx::query("VACUUM ANALYZE").execute(&self.db).await.unwrap();
    }

    /// Publishes a reminder for each of these families, as fast as they are acknowledged.
    pub async fn publish(&self, families: impl Iterator<Item = u32>, round: &str) {
        let now = Clock::system().now();
        let mut acks = FuturesUnordered::new();
        for family in families {
            if acks.len() >= PIPELINED {
                acks.next().await;
            }
            acks.push(self.publish_one(family, round, now));
        }
        while acks.next().await.is_some() {}
    }

    /// Publishes one reminder of a dose that is due now, and waits for the acknowledgement.
    pub async fn publish_one(&self, family: u32, round: &str, due: DateTime<Utc>) {
        let mut headers = HeaderMap::new();
        let id = format!("{round}-{family}");
        headers.insert("Carebell-Job-Id", id.as_str());
        headers.insert("Nats-Msg-Id", id.as_str());
        headers.insert("Content-Type", "application/json");
        let due = due.to_rfc3339_opts(SecondsFormat::Micros, true);
        let body = json!({ "medicationId": format!("medication-{family}"), "scheduledTime": due });
        let subject = "jobs.reminder.medication";
        let ack = self.context.publish_with_headers(subject, headers, body.to_string().into()).await.unwrap();
        ack.await.unwrap();
    }

    /// Starts a worker with the settings that are shipped, and some more; returns when it is ready.
    pub async fn worker(&self, more: &[(&str, &str)]) -> Worker {
        let (nats, database) = (self.nats.url(), self.postgres.url("postgres"));
        let certificate = self.sink.certificate.display().to_string();
        let hosts = self.sink.host_port();
        let mut environment = BTreeMap::from([
            ("NATS_URL", nats.as_str()),
            ("DATABASE_URL", &database),
            ("APP_URL", "https://app.example.org"),
            ("VAPID_PUBLIC_KEY", &self.keys.public),
            ("VAPID_PRIVATE_KEY", &self.keys.private),
            ("VAPID_SUBJECT", "mailto:ops@example.org"),
            ("WEB_PUSH_ALLOWED_HOSTS", &hosts),
            ("WEB_PUSH_CA_FILE", &certificate),
            ("HEALTH_PORT", "0"),
            ("LOG_FORMAT", "json"),
        ]);
        environment.extend(more.iter().copied());
        Worker::start(environment, self.directory.path()).await
    }

    /// Commits and rolled back transactions of the database so far. The server counts with a delay of up to a second.
    pub async fn commits(&self) -> i64 {
        sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")
            .fetch_one(&self.db)
            .await
            .unwrap()
    }

    /// Messages that were stored in all streams so far.
    pub async fn stored(&self) -> u64 {
        let mut stored = 0;
        for stream in ["JOBS", "DELIVERIES", "HOLD", "SCHEDULED", "DEAD_LETTERS"] {
            stored += self.context.get_stream(stream).await.unwrap().cached_info().state.last_sequence;
        }
        stored
    }

    /// CPU seconds of all processes of Postgres so far, those that have ended left out.
    pub fn postgres_cpu(&self) -> f64 {
        children(self.postgres.pid()).into_iter().chain([self.postgres.pid()]).map(cpu).sum()
    }
}

/// A worker, with what the kernel knows of it.
pub struct Worker {
    process: Guarded,
    pub ready_after: Duration,
}

impl Worker {
    async fn start(environment: BTreeMap<&str, &str>, directory: &Path) -> Self {
        let number = fs::read_dir(directory).unwrap().count();
        let log: PathBuf = directory.join(format!("worker-{number}.log"));
        let environment: Vec<(&str, &str)> = environment.into_iter().collect();
        let started = Instant::now();
        let process = Guarded::spawn(&Program {
            path: Path::new(env!("CARGO_BIN_EXE_carebell")),
            args: vec!["run".into()],
            directory,
            environment: &environment,
            user: None,
            log: &log,
            stop: StopSignal::Terminate,
        })
        .unwrap();
        let mut worker = Self { process, ready_after: Duration::ZERO };
        while !fs::read_to_string(&log).unwrap_or_default().contains("\"ready\"") {
            assert!(worker.process.ended().is_none(), "the worker has ended:\n{}", worker.process.output());
            sleep(Duration::from_millis(2)).await;
        }
        worker.ready_after = started.elapsed();
        worker
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> f64 {
        cpu(self.process.pid())
    }

    /// The most memory that it has had, in MB.
    pub fn peak_rss_mb(&self) -> f64 {
        status(self.process.pid(), "VmHWM:") / 1000.0
    }

    /// How often its threads have gone to sleep so far.
    pub fn wake_ups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.pid())).unwrap().flatten();
        let switches = tasks.filter_map(|task| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        switches.sum()
    }

    pub async fn stop(mut self) {
        self.process.stop().await;
    }
}

/// User and system time of a process in seconds, from the kernel's ticks of 10 ms.
pub fn cpu(pid: u32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The name may hold blanks; what follows its closing bracket does not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn status(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
