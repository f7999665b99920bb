//! A world for each test: a private nats-server, a database in the shared Postgres, a push service.

mod browser;
mod cluster;
mod collector;
mod console;
mod documents;
pub mod endpoint;
mod forwarder;
mod gateway;
pub mod oidc;
mod phones;
mod receivers;
mod roles;
mod servers;
mod toolchains;
mod worker;

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write},
    sync::Mutex,
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use carebell::{
    channels::web_push::{self, KeyPair},
    dev::{
        guard::{self, PrivateDir},
        nats::NatsServer,
        push_service::PushService,
    },
    jobs,
    pipeline::Form,
    store::{LedgerLine, RunLine, Store},
    streams::{Adjustments, Streams},
};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use tokio::time::{Instant, sleep};

pub use self::{
    browser::{Browser, Settings},
    cluster::{Cluster, STREAMS},
    collector::{Collector, Span, tree},
    console::{ADMIN_TOKEN, Answer, Console, answer, filled},
    documents::{BUCKET, Files, Meddler, Meddling, S3, hex},
    forwarder::Forwarder,
    gateway::Door,
    kit::Kit,
    phones::{NUMBER, Phones},
    receivers::Receivers,
    roles::Role,
    servers::{
        connect_options, database, database_without_care_tables, database_without_tables, old_nats_server,
        own_postgres, pool, programs, rotel, store,
    },
    toolchains::{Node, Python, node_packages, python_packages},
    worker::{Custom, Process, Watched, Worker},
};

/// A wait this long has failed, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Delays short enough for tests.
pub const QUICK: &str = "*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s";

/// Short delays, and no redelivery because a busy worker is slow.
pub const STEADY: &str = "*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=30s";

/// A check is skipped because a tool is missing. With `CI=true`, which `.ci/run` sets, that is a failure.
pub fn not_checked(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
    eprintln!("{why}");
}

/// Long enough for ten failures to open the breaker before any delivery runs out of attempts.
pub const PATIENT: &str = "*.backoff=fixed 2s,*.jitter=0%,*.ack_wait=2s";

pub const FAMILY: [&str; 4] = ["ana", "ben", "chloe", "dan"];

/// The servers of one test, and its family.
pub struct World {
    pub push: PushService,
    pub db: PgPool,
    pub store: Store,
    pub context: jetstream::Context,
    pub overrides: String,
    pace: u32,
    pub keys: KeyPair,
    pub database_url: String,
    pub nats: NatsServer,
    watched: Mutex<Vec<Watched>>,
    /// Dropped last: the servers' files are in it.
    pub directory: PrivateDir,
}

impl World {
    /// Streams, schema, a family of four with one push subscription each, and Rose, who takes `metformin`.
    pub async fn new() -> Self {
        Self::with_overrides(QUICK).await
    }

    pub async fn with_overrides(overrides: &str) -> Self {
        Self::on(database().await, overrides).await
    }

    /// On a migrated database.
    pub async fn on(database_url: String, overrides: &str) -> Self {
        Self::on_both(database_url, "", overrides).await
    }

    /// `nats_config` must let the test in without credentials.
    pub async fn on_both(database_url: String, nats_config: &str, overrides: &str) -> Self {
        let world = Self::bare(database_url, nats_config, overrides).await;
        world.seed().await;
        world
    }

    /// With an empty database, which needs no care tables.
    pub async fn without_family(database_url: String, overrides: &str) -> Self {
        Self::bare(database_url, "", overrides).await
    }

    async fn bare(database_url: String, nats_config: &str, overrides: &str) -> Self {
        let directory = guard::private_dir_in(servers::fast_place().await).unwrap();
        let program = &programs().await.nats_server;
        let nats = NatsServer::start_with(program, directory.path(), nats_config).await.unwrap();
        let client = async_nats::connect(nats.url()).await.unwrap();
        let context = carebell::nats::jetstream(&client);
        Streams::embedded(&adjustments(overrides)).unwrap().apply(&context).await.unwrap();
        let world = Self {
            push: PushService::start().await.unwrap(),
            db: pool(&database_url),
            store: servers::store(&database_url, 3),
            context,
            overrides: overrides.to_owned(),
            pace: 1,
            keys: web_push::generate_keys().unwrap(),
            database_url,
            nats,
            watched: Mutex::default(),
            directory,
        };
        std::fs::write(world.ca_file(), world.push.ca_pem()).unwrap();
        world
    }

    /// Sets `CAREBELL_PACE` of its workers, which shortens their fixed waits.
    pub fn at_pace(self, pace: u32) -> Self {
        Self { pace, ..self }
    }

    fn ca_file(&self) -> std::path::PathBuf {
        self.directory.path().join("push-service.pem")
    }

    async fn seed(&self) {
        self.sql("INSERT INTO families VALUES ('browns')").await;
        self.sql("INSERT INTO care_recipients (id, family_id, name) VALUES ('rose', 'browns', 'Rose')").await;
        self.sql(
            "INSERT INTO medications (id, care_recipient_id, name, dosage) \
             VALUES ('metformin', 'rose', 'Metformin', '500 mg')",
        )
        .await;
        for name in FAMILY {
            self.user(name).await;
            self.sql(&format!("INSERT INTO family_members (family_id, user_id) VALUES ('browns', '{name}')")).await;
        }
    }

    /// A user and a push subscription, both called `name`.
    pub async fn user(&self, name: &str) {
        sqlx::query("INSERT INTO users (id, name) VALUES ($1, $1)").bind(name).execute(&self.db).await.unwrap();
        self.subscribe(name, name).await;
    }

    pub async fn subscribe(&self, name: &str, user_id: &str) {
        let subscription = self.push.subscribe(name);
        sqlx::query("INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) VALUES ($1, $2, $3, $4, $5)")
            .bind(name)
            .bind(user_id)
            .bind(subscription.endpoint)
            .bind(subscription.p256dh)
            .bind(subscription.auth)
            .execute(&self.db)
            .await
            .unwrap();
    }

    pub async fn sql(&self, statement: &str) {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&self.db).await.unwrap();
    }

    /// Has schedules been due two seconds ago, as if the rules of their zones said so.
    pub async fn make_due(&self, which: &str) {
        self.sql(&format!(
            "UPDATE schedules SET next_at = due.at, due_at = due.at, zone_next_at = due.at, zone_data = '9999z' \
             FROM (SELECT now() - interval '2 seconds' AS at) AS due {which}"
        ))
        .await;
    }

    pub async fn count(&self, query: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned())).fetch_one(&self.db).await.unwrap()
    }

    /// Variables for a worker of this world.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let values = [
            ("NATS_URL", self.nats.url()),
            ("DATABASE_URL", self.database_url.clone()),
            ("QUEUE_OVERRIDES", self.overrides.clone()),
            ("CAREBELL_PACE", self.pace.to_string()),
            ("APP_URL", "https://app.example.org".into()),
            ("VAPID_PUBLIC_KEY", self.keys.public.clone()),
            ("VAPID_PRIVATE_KEY", self.keys.private.clone()),
            ("VAPID_SUBJECT", "mailto:ops@example.org".into()),
            ("WEB_PUSH_ALLOWED_HOSTS", self.push.host_port()),
            ("WEB_PUSH_CA_FILE", self.ca_file().display().to_string()),
            ("HEALTH_PORT", "0".into()),
            ("LOG_FORMAT", "json".into()),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Waits for the acknowledgement.
    pub async fn publish(&self, subject: &str, headers: &[(&str, &str)], body: impl Into<bytes::Bytes>) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let ack = self.context.publish_with_headers(subject.to_owned(), map, body.into()).await.unwrap();
        ack.await.unwrap().sequence
    }

    pub async fn publish_json(&self, subject: &str, job_id: &str, body: &Value) -> u64 {
        let headers = [("Carebell-Job-Id", job_id), ("Content-Type", "application/json")];
        self.publish(subject, &headers, body.to_string()).await
    }

    /// Publishes a reminder of `metformin` that is due now.
    pub async fn remind(&self, job_id: &str) -> u64 {
        self.publish_json("jobs.reminder.medication", job_id, &reminder("metformin", utc_now())).await
    }

    /// All runs of a root job, by kind.
    pub async fn runs(&self, root_id: &str) -> BTreeMap<String, RunLine> {
        let runs = self.store.runs_of(root_id).await.unwrap();
        runs.into_iter().map(|run| (run.kind.clone(), run)).collect()
    }

    /// State and reason of a job's run, once it has ended.
    pub async fn ended(&self, job_id: &str) -> (String, Option<String>) {
        let run = self
            .eventually(&format!("{job_id} has ended"), async || {
                let root_id = job_id.strip_suffix("~notification").unwrap_or(job_id);
                let runs = self.store.runs_of(root_id).await.unwrap();
                runs.into_iter().find(|run| run.job_id == job_id && run.state != "open")
            })
            .await;
        (run.state, run.reason)
    }

    /// Publishes jobs and asserts their final state and reason.
    pub async fn all_end(&self, subject: &str, cases: &[(Value, &str, Option<&str>)]) {
        let id = |number: usize| format!("case-{number}");
        for (number, (body, ..)) in cases.iter().enumerate() {
            self.publish_json(subject, &id(number), body).await;
        }
        for (number, (body, state, reason)) in cases.iter().enumerate() {
            let expected = ((*state).to_owned(), reason.map(ToOwned::to_owned));
            assert_eq!(self.ended(&id(number)).await, expected, "{body}");
        }
    }

    /// Inbox rows of a root job by user, once its notification has ended.
    pub async fn inbox(&self, root_id: &str) -> Vec<Inboxed> {
        self.ended(&format!("{root_id}~notification")).await;
        let rows =
            sqlx::query("SELECT user_id, type, title, body, url, data FROM notifications WHERE job_id = $1 ORDER BY 1")
                .bind(root_id)
                .fetch_all(&self.db)
                .await
                .unwrap();
        let inboxed = |row: &sqlx::postgres::PgRow| Inboxed {
            user_id: row.get("user_id"),
            kind: row.get("type"),
            title: row.get("title"),
            body: row.get("body"),
            url: row.get("url"),
            data: row.get("data"),
        };
        rows.iter().map(inboxed).collect()
    }

    /// The ledger of a root job, once all its deliveries have ended.
    pub async fn ledger(&self, root_id: &str) -> Vec<LedgerLine> {
        self.eventually(&format!("all deliveries of {root_id} have ended"), async || {
            let lines = self.store.ledger_of(root_id).await.unwrap();
            let ended = |line: &LedgerLine| !["pending", "held", "sending"].contains(&line.state.as_str());
            (!lines.is_empty() && lines.iter().all(ended)).then_some(lines)
        })
        .await
    }

    pub async fn delivery_to(&self, root_id: &str, user: &str) -> LedgerLine {
        let lines = self.store.ledger_of(root_id).await.unwrap();
        lines.into_iter().find(|line| line.user_id == user).unwrap()
    }

    /// Two looks in a row must find the streams empty and unchanged: a job moving between them is in neither.
    pub async fn queues_are_empty(&self) {
        let mut last = None;
        self.eventually("the work queues are empty", async || {
            let mut sequences = Vec::new();
            for name in ["JOBS", "WORK", "DELIVERIES", "HOLD"] {
                let stream = self.context.get_stream(name).await.ok()?;
                let state = &stream.cached_info().state;
                if state.messages > 0 {
                    last = None;
                    return None;
                }
                sequences.push(state.last_sequence);
            }
            let before = last.replace(sequences);
            (before == last).then_some(())
        })
        .await;
    }

    /// Waits until every child is recorded as published. No acknowledgement waits for that record.
    pub async fn all_is_published(&self) {
        let pending = "SELECT (SELECT count(*) FROM job_children) \
                       + (SELECT count(*) FROM job_runs WHERE children_pending)";
        self.eventually("nothing is left to be published", async || (self.count(pending).await == 0).then_some(()))
            .await;
    }

    /// Subject, headers and body of each.
    pub async fn dead_letters(&self) -> Vec<(String, HeaderMap, bytes::Bytes)> {
        let mut stream = self.context.get_stream("DEAD_LETTERS").await.unwrap();
        let info = stream.info().await.unwrap().state.clone();
        let mut letters = Vec::new();
        for sequence in info.first_sequence..=info.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                letters.push((message.subject.to_string(), message.headers, message.payload));
            }
        }
        letters
    }

    pub async fn dead_letters_once(&self, count: usize) -> Vec<(String, HeaderMap, bytes::Bytes)> {
        self.eventually(&format!("{count} dead letters"), async || {
            let letters = self.dead_letters().await;
            (letters.len() >= count).then_some(letters)
        })
        .await
    }

    /// Waits for a dead letter with this header, and returns its headers.
    pub async fn dead_letters_with(&self, name: &str, value: &str) -> HeaderMap {
        self.eventually(&format!("a dead letter with {name}: {value}"), async || {
            let has = |headers: &HeaderMap| headers.get(name).is_some_and(|found| found.as_str() == value);
            self.dead_letters().await.into_iter().map(|(_, headers, _)| headers).find(has)
        })
        .await
    }

    /// Waits for this state and returns the reason.
    pub async fn ended_again(&self, job_id: &str, state: &str) -> Option<String> {
        self.eventually(&format!("{job_id} is {state}"), async || {
            let runs = self.store.runs_of(job_id).await.unwrap();
            runs.into_iter().find(|run| run.job_id == job_id && run.state == state)
        })
        .await
        .reason
    }

    /// Waits fail as soon as this worker has failed.
    pub fn watch(&self, worker: Watched) {
        self.watched.lock().unwrap().push(worker);
    }

    /// Polls until there is an answer. Fails after [`LIMIT`], or at once if a worker of this world has ended by
    /// itself.
    pub async fn eventually<T>(&self, what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
        self.eventually_within(LIMIT, what, ask).await
    }

    /// For much work.
    pub async fn eventually_within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut ask: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let since = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            let failure = self.watched.lock().unwrap().iter().find_map(Watched::failure);
            if let Some(why) = failure {
                panic!("a worker has ended ({why}), so this will not happen: {what}");
            }
            assert!(since.elapsed() < limit, "not within {limit:?}: {what}\n{}", self.describe().await);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs and deliveries, for a test that fails.
    async fn describe(&self) -> String {
        let runs = sqlx::query("SELECT job_id, state, reason, attempts, last_error FROM job_runs ORDER BY created_at")
            .fetch_all(&self.db)
            .await
            .unwrap_or_default();
        let mut text = String::from("job_runs:\n");
        for row in runs {
            let columns: (String, String, Option<String>, i32, Option<String>) =
                (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
            let _ = writeln!(text, "  {columns:?}");
        }
        let rows = sqlx::query("SELECT user_id, state, reason, attempts, claims, answer FROM deliveries ORDER BY id")
            .fetch_all(&self.db)
            .await
            .unwrap_or_default();
        text.push_str("deliveries:\n");
        for row in rows {
            let columns: (String, String, Option<String>, i32, i32, Option<String>) =
                (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
            let _ = writeln!(text, "  {columns:?}");
        }
        text
    }

    /// Asserts that each of the family has one inbox row, one sent delivery and one push.
    pub async fn everyone_has_it_once(&self, root_id: &str) {
        let ledger = self.ledger(root_id).await;
        let users: Vec<&str> = ledger.iter().map(|line| line.user_id.as_str()).collect();
        assert_eq!(sorted(users), FAMILY);
        assert!(ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
        let inbox = self.count(&format!("SELECT count(*) FROM notifications WHERE job_id = '{root_id}'")).await;
        assert_eq!(inbox, 4);
        self.push.wait_for(4, LIMIT).await.unwrap();
        assert_eq!(sorted(self.push.received().iter().map(|push| push.name.clone()).collect()), FAMILY);
        assert_eq!(self.push.rejected(), []);
    }
}

/// An inbox row, as the application reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Inboxed {
    pub user_id: String,
    pub kind: String,
    pub title: String,
    pub body: String,
    pub url: String,
    pub data: Value,
}

/// The error is the message that the producer gets.
pub fn decode(kind: &str, body: &Value) -> Result<(), String> {
    let registry = jobs::registry();
    let kind = registry.kinds().iter().find(|known| known.name == kind).unwrap();
    let decoder = registry.decoder(*kind).unwrap();
    decoder.decode(&body.to_string().into(), Form::Json).map(drop)
}

pub fn reminder(medication_id: &str, scheduled_time: DateTime<Utc>) -> Value {
    json!({ "medicationId": medication_id, "scheduledTime": scheduled_time.to_rfc3339(), "reminderMinutes": 0 })
}

pub fn utc_now() -> DateTime<Utc> {
    carebell::clock::Clock::system().now()
}

pub fn adjustments(overrides: &str) -> Adjustments {
    carebell::config::Source::of([("QUEUE_OVERRIDES".to_owned(), overrides.to_owned())]).adjustments().unwrap()
}

pub fn sorted<T: Ord + Debug>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// Number of messages that match a subject.
pub async fn peek(context: &jetstream::Context, stream: &str, subject: &str) -> usize {
    let stream = context.get_stream(stream).await.unwrap();
    let mut subjects = stream.info_with_subjects(subject).await.unwrap();
    let mut count = 0;
    while let Some(Ok((_, messages))) = subjects.next().await {
        count += messages;
    }
    count
}
