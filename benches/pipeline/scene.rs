//! The worker's surroundings: durable servers, families, and a sink.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use carebell::{
    channels::web_push::{self, KeyPair},
    clock::Clock,
    dev::{
        self,
        guard::{self, PrivateDir},
        nats::NatsServer,
        postgres::Postgres,
        push_service::PushService,
    },
    store::{Database, Store},
    streams::{Adjustments, Streams},
};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep};

use crate::{forwarder::Forwarder, process::Worker, sink::Sink};

/// Concurrent publishes.
pub const PIPELINED: usize = 1000;

/// Progress has stalled after this long without an arrival.
const STALLED: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An inbox and a browser each.
    Push,
    /// An inbox and a mailbox each.
    Email,
    /// An inbox each.
    InApp,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "pushes",
            Self::Email => "e-mails",
            Self::InApp => "inbox rows",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Email => "mail",
            Self::InApp => "row",
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Push => "pushes",
            Self::Email => "mails",
            Self::InApp => "rows",
        }
    }
}

pub struct Scene {
    way: Way,
    pub nats: NatsServer,
    monitoring: String,
    pub postgres: Postgres,
    pub sink: Sink,
    pub db: PgPool,
    pub context: jetstream::Context,
    keys: KeyPair,
    /// Holds the receivers' keys.
    browsers: PushService,
    workers: AtomicU32,
    /// Between the workers and each server, if they are far away.
    distance: Option<[Forwarder; 2]>,
    directory: PrivateDir,
}

impl Scene {
    /// Families have a medication each, and an address per member.
    pub async fn new(way: Way, families: u32, members: u32, more: &[(&str, &str)]) -> Self {
        let directory = guard::private_dir().unwrap();
        let programs = dev::find(|text| eprintln!("{text}")).await.unwrap();
        // The bench reads its counters over HTTP.
        let monitored = "http: \"127.0.0.1:-1\"";
        let nats = NatsServer::start_with(&programs.nats_server, directory.path(), monitored).await.unwrap();
        // Durable, as in production.
        let mut settings = vec![("fsync", "on"), ("synchronous_commit", "on")];
        if way == Way::InApp {
            // Only Postgres knows when a row is visible.
            settings.push(("track_commit_timestamp", "on"));
        }
        settings.extend(more);
        let mut postgres = Postgres::start_with(&programs.postgres_bin, directory.path(), &settings).await.unwrap();
        let db = count_statements(&mut postgres).await;
        let store = Store::new(&Database::parse(&postgres.url("postgres")).unwrap(), 1);
        store.create_care_tables().await.unwrap();
        store.migrate().await.unwrap();
        store.close().await;
        let context = carebell::nats::jetstream(&async_nats::connect(nats.url()).await.unwrap());
        Streams::embedded(&Adjustments { replicas: 1, ..Adjustments::default() })
            .unwrap()
            .apply(&context)
            .await
            .unwrap();
        let scene = Self {
            way,
            monitoring: monitoring_url(&directory),
            sink: Sink::start(directory.path()).await,
            nats,
            postgres,
            db,
            context,
            keys: web_push::generate_keys().unwrap(),
            browsers: PushService::start().await.unwrap(),
            workers: AtomicU32::new(0),
            distance: None,
            directory,
        };
        scene.fill(families, members).await;
        scene
    }

    /// Moves the workers away, to this round trip.
    pub async fn at(self, away: Duration) -> Self {
        if away.is_zero() {
            return self;
        }
        let nats = Forwarder::start(self.nats.port(), away / 2).await;
        let postgres = Forwarder::start(self.postgres.port(), away / 2).await;
        Self { distance: Some([nats, postgres]), ..self }
    }

    async fn fill(&self, families: u32, members: u32) {
        let users = i64::from(families) * i64::from(members);
        let email = if self.way == Way::Email { "'user-' || n || '@example.org'" } else { "NULL" };
        let browser = self.browsers.subscribe("all");
        let mut statements = vec![
            format!(
                "INSERT INTO users (id, name, email) SELECT 'user-' || n, 'User ' || n, {email} \
                 FROM generate_series(1, $1) n"
            ),
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
        ];
        if self.way == Way::Push {
            statements.push(format!(
                "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) \
                 SELECT 'browser-' || n, 'user-' || n, 'https://{}/push/' || n, '{}', '{}' FROM generate_series(1, $1) n",
                self.sink.host_port(),
                browser.p256dh,
                browser.auth
            ));
        }
        for statement in statements {
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(users).execute(&self.db).await.unwrap();
        }
        sqlx::query("VACUUM ANALYZE").execute(&self.db).await.unwrap();
        // Fails without the extension.
        let _ = sqlx::query("SELECT pg_stat_statements_reset()").execute(&self.db).await;
    }

    /// Publishes a reminder per family, as fast as they are acknowledged.
    pub async fn publish(&self, families: impl IntoIterator<Item = u32>, round: &str) {
        let now = Clock::system().now();
        let mut acks = FuturesUnordered::new();
        for family in families {
            if acks.len() >= PIPELINED {
                acks.next().await;
            }
            acks.push(self.send(family, round, now).await);
        }
        while acks.next().await.is_some() {}
    }

    /// Sends a reminder and returns a future of its ack.
    pub async fn send(&self, family: u32, round: &str, due: DateTime<Utc>) -> BoxFuture<'static, ()> {
        self.send_to("jobs.reminder.medication", HeaderMap::new(), family, round, due).await
    }

    /// As [`Self::send`], to run when it is due.
    pub async fn send_later(&self, family: u32, round: &str, due: DateTime<Utc>) -> BoxFuture<'static, ()> {
        let mut headers = HeaderMap::new();
        headers.insert("Carebell-At", due.to_rfc3339_opts(SecondsFormat::Micros, true).as_str());
        self.send_to("jobs.later.reminder.medication", headers, family, round, due).await
    }

    async fn send_to(
        &self,
        subject: &'static str,
        mut headers: HeaderMap,
        family: u32,
        round: &str,
        due: DateTime<Utc>,
    ) -> BoxFuture<'static, ()> {
        let id = format!("{round}-{family}");
        headers.insert("Carebell-Job-Id", id.as_str());
        headers.insert("Nats-Msg-Id", id.as_str());
        headers.insert("Content-Type", "application/json");
        let due = due.to_rfc3339_opts(SecondsFormat::Micros, true);
        let body = json!({ "medicationId": format!("medication-{family}"), "scheduledTime": due });
        let ack = self.context.publish_with_headers(subject, headers, body.to_string().into()).await.unwrap();
        async move { drop(ack.await.unwrap()) }.boxed()
    }

    /// Starts a worker with the shipped settings and `more`. Returns when it is ready.
    pub async fn worker(&self, more: &[(&str, &str)]) -> Worker {
        let (mut nats, mut database) = (self.nats.url(), self.postgres.url("postgres"));
        if let Some([to_nats, to_postgres]) = &self.distance {
            nats = nats.replace(&self.nats.port().to_string(), &to_nats.port().to_string());
            database = database.replace(&self.postgres.port().to_string(), &to_postgres.port().to_string());
        }
        let certificate = self.sink.certificate.display().to_string();
        let mail_certificate = self.sink.mail_certificate.display().to_string();
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
        if self.way == Way::Email {
            environment.insert("SMTP_URL", &self.sink.mail_url);
            environment.insert("SMTP_FROM", "Carebell <care@example.org>");
            environment.insert("SMTP_CA_FILE", &mail_certificate);
        }
        environment.extend(more.iter().copied());
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(format!("worker-{number}.log"));
        Worker::start(environment, self.directory.path(), &log).await
    }

    /// Waits for this many arrivals, and checks at this interval.
    pub async fn wait_for(&self, expected: usize, every: Duration) {
        let (mut most, mut since) = (0, Instant::now());
        loop {
            let come = match self.way {
                Way::Push | Way::Email => self.sink.count().await,
                Way::InApp => self.rows().await,
            };
            if come >= expected {
                return;
            }
            if come > most {
                (most, since) = (come, Instant::now());
            }
            assert!(since.elapsed() < STALLED, "{come} of {expected} came, and no more within {STALLED:?}");
            sleep(every).await;
        }
    }

    /// The number of messages in a stream.
    pub async fn messages(&self, stream: &str) -> u64 {
        self.context.get_stream(stream).await.unwrap().cached_info().state.messages
    }

    async fn rows(&self) -> usize {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM notifications").fetch_one(&self.db).await.unwrap();
        usize::try_from(rows).unwrap()
    }

    /// Arrivals: the user's number, and microseconds since 1970.
    pub async fn arrivals(&self) -> Vec<(u32, i64)> {
        if self.way != Way::InApp {
            return self.sink.arrivals().await;
        }
        let sql = "SELECT split_part(user_id, '-', 2)::int4, \
                          (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1e6)::int8 FROM notifications";
        let rows: Vec<(i32, i64)> = sqlx::query_as(sql).fetch_all(&self.db).await.unwrap();
        rows.into_iter().map(|(user, at)| (u32::try_from(user).unwrap(), at)).collect()
    }

    pub async fn nats_counters(&self) -> Value {
        let answer = reqwest::get(format!("{}/varz", self.monitoring)).await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

fn connect(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPool::connect_lazy_with(options.options([("search_path", format!("{}, public", Database::SCHEMA))]))
}

/// Connects. Enables counting if the extension is installed.
async fn count_statements(postgres: &mut Postgres) -> PgPool {
    let url = postgres.url("postgres");
    let db = connect(&url);
    let installed: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')")
            .fetch_one(&db)
            .await
            .unwrap();
    if !installed {
        return db;
    }
    // The extension loads only at the start.
    sqlx::query("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").execute(&db).await.unwrap();
    db.close().await;
    postgres.start_again().await.unwrap();
    let db = connect(&url);
    sqlx::query("CREATE EXTENSION pg_stat_statements").execute(&db).await.unwrap();
    db
}

/// Read from nats-server's ports file.
fn monitoring_url(directory: &PrivateDir) -> String {
    let file = fs::read_dir(directory.path().join("ports")).unwrap().flatten().next().unwrap();
    let ports: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
    ports["monitoring"][0].as_str().unwrap().to_owned()
}
