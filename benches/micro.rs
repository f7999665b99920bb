//! Parts of the pipeline: `cargo bench --bench micro -- [FILTER] [--save-baseline NAME | --baseline NAME]`.
//!
//! Sealing, decoding, settling at a real nats-server, and group commits in a real Postgres that syncs to disk.

// As in the tests, one assertion a line reads better than an error path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer::PullConsumer};
use carebell::{
    channels::web_push::{self, SubscriberKeys},
    clock::{Clock, Random},
    dev::{Servers, guard, nats::NatsServer, postgres::Postgres, push_service::PushService},
    effects::{Effects, submit},
    health::Health,
    job::Job,
    jobs::{self, notification::Notification, reminder_medication::MedicationReminder},
    kind::{Lane, Queue},
    meta::{Meta, StreamPosition},
    pipeline::{Disposition, Form, Pulled, settle},
    plan::{Channel, Content, InboxRow, Plan, PlannedDelivery},
    policy::Wishes,
    store::{Commit, Database, RunState, Store},
    streams::{Adjustments, Streams},
    wire,
};
use chrono::TimeDelta;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures::{StreamExt, future::join_all};
use prost::Message as _;
use serde_json::Map;
use tokio::runtime::Runtime;

const PAYLOAD: &str = r#"{"web_push":8030,"notification":{"title":"💊 Medication Reminder","body":"Time to give Metformin (500 mg) to Rose","navigate":"https://app.example.org/medications?id=medication-1","tag":"dose-medication-1","icon":"https://app.example.org/icon-192x192.png","badge":"https://app.example.org/badge-72x72.png","data":{"type":"MEDICATION_REMINDER","medicationId":"medication-1","careRecipientId":"rose-1"}},"app_badge":3}"#;

fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = Runtime::new().unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    sealing(&mut criterion, &runtime);
    let servers = runtime.block_on(start());
    let ground = runtime.block_on(Ground::new(&servers));
    decoding(&mut criterion, &runtime, &ground);
    settling(&mut criterion, &runtime, &ground);
    group_commit(&mut criterion, &runtime, &ground);
    criterion.final_summary();
    // Tasks end before their servers.
    drop((ground, runtime, servers));
}

/// Seals by RFC 8291, with our own code and with the web-push crate.
fn sealing(criterion: &mut Criterion, runtime: &Runtime) {
    let browsers = runtime.block_on(PushService::start()).unwrap();
    let browser = browsers.subscribe("ana");
    let keys = web_push::generate_keys().unwrap();
    let subscription = ::web_push::SubscriptionInfo::new("https://localhost/push/1", &browser.p256dh, &browser.auth);
    let message = |signed: bool| {
        let mut builder = ::web_push::WebPushMessageBuilder::new(&subscription);
        builder.set_payload(::web_push::ContentEncoding::Aes128Gcm, PAYLOAD.as_bytes());
        if signed {
            let signer = ::web_push::VapidSignatureBuilder::from_base64(&keys.private, &subscription).unwrap();
            builder.set_vapid_signature(signer.build().unwrap());
        }
        builder.build().unwrap()
    };
    let mut group = criterion.benchmark_group("seal a push");
    group.bench_function("own", |bencher| {
        bencher.iter(|| {
            let keys = SubscriberKeys::parse(&subscription.keys.p256dh, &subscription.keys.auth).unwrap();
            web_push::seal(&keys, PAYLOAD.as_bytes()).unwrap()
        });
    });
    group.bench_function("web-push", |bencher| bencher.iter(|| message(false)));
    group.bench_function("web-push, and sign it", |bencher| bencher.iter(|| message(true)));
    group.finish();
}

/// Decodes a pulled message to `Meta` and a valid job.
fn decoding(criterion: &mut Criterion, runtime: &Runtime, ground: &Ground) {
    let registry = jobs::registry();
    let mut group = criterion.benchmark_group("decode a job");
    for (form, named) in [(Form::Protobuf, "protobuf"), (Form::Json, "JSON")] {
        let (queue, message) = runtime.block_on(ground.one_reminder(form));
        let decoder = registry.decoder(queue.kind).unwrap();
        group.bench_function(named, |bencher| {
            bencher.iter(|| {
                let pulled = Pulled::new(message.clone(), queue, Duration::from_secs(30)).unwrap();
                let form = pulled.form().unwrap();
                black_box((pulled.meta().unwrap(), decoder.decode(pulled.body(), form).unwrap()))
            });
        });
    }
    group.finish();
}

/// Acknowledges jobs until the server has it.
fn settling(criterion: &mut Criterion, runtime: &Runtime, ground: &Ground) {
    let mut group = criterion.benchmark_group("settle a job");
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    group.bench_function("ack", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(ground.settle(count)));
    });
    group.finish();
}

/// Commits notifications to families of four, in groups of several sizes.
fn group_commit(criterion: &mut Criterion, runtime: &Runtime, ground: &Ground) {
    let mut group = criterion.benchmark_group("commit notifications, so many in a group");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for size in [1_u32, 16, 256] {
        group.throughput(Throughput::Elements(size.into()));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, size| {
            bencher.iter_custom(|count| runtime.block_on(ground.commit(count, *size)));
        });
    }
    group.finish();
}

async fn start() -> Servers {
    let programs = carebell::dev::find(|text| eprintln!("{text}")).await.unwrap();
    let directory = guard::private_dir().unwrap();
    // Durable, as in production.
    let settings = [("fsync", "on"), ("synchronous_commit", "on")];
    let nats = NatsServer::start(&programs.nats_server, directory.path()).await.unwrap();
    let postgres = Postgres::start_with(&programs.postgres_bin, directory.path(), &settings).await.unwrap();
    Servers { nats, postgres, directory }
}

struct Ground {
    context: jetstream::Context,
    store: Store,
    effects: Effects,
    clock: Clock,
    random: Random,
}

impl Ground {
    async fn new(servers: &Servers) -> Self {
        let clock = Clock::system();
        let store = Store::new(&Database::parse(&servers.postgres.url("postgres")).unwrap(), 10);
        store.create_care_tables().await.unwrap();
        store.migrate().await.unwrap();
        let context = carebell::nats::jetstream(&async_nats::connect(servers.nats.url()).await.unwrap());
        Streams::embedded(&Adjustments::default()).unwrap().apply(&context).await.unwrap();
        let effects = Effects::start(&store, context.clone(), clock.clone(), &Health::new());
        Self { context, store, effects, clock, random: Random::system() }
    }

    /// Publishes and pulls this many reminders.
    async fn reminders(&self, count: usize, form: Form) -> Vec<(Queue, jetstream::Message)> {
        let queue = reminder_queue();
        let now = self.clock.now();
        let dose = wire::MedicationReminder {
            medication_id: "medication-1".into(),
            scheduled_time: Some(prost_types::Timestamp { seconds: now.timestamp(), nanos: 0 }),
            ..wire::MedicationReminder::default()
        };
        let (body, content_type) = match form {
            Form::Protobuf => (dose.encode_to_vec(), "application/x-protobuf"),
            Form::Json => (wire::to_json(&dose).to_string().into_bytes(), "application/json"),
        };
        let jobs = (0..count).map(|_| {
            let job = submit::Submission {
                subject: queue.kind.subject(Lane::Critical),
                job_id: self.random.uuid(now).to_string(),
                body: body.clone().into(),
                content_type,
                not_after: Some(now + TimeDelta::hours(1)),
                at: None,
                due: None,
            };
            submit::submit(&self.context, job)
        });
        for submitted in join_all(jobs).await {
            submitted.unwrap();
        }
        let consumer = self.consumer().await;
        let mut pulled = Vec::with_capacity(count);
        while pulled.len() < count {
            let messages = consumer.fetch().max_messages(count - pulled.len()).messages().await.unwrap();
            pulled.extend(messages.map(|message| (queue, message.unwrap())).collect::<Vec<_>>().await);
        }
        pulled
    }

    /// The consumer as the server sees it now.
    async fn consumer(&self) -> PullConsumer {
        self.context.get_consumer_from_stream(reminder_queue().durable(), "JOBS").await.unwrap()
    }

    async fn one_reminder(&self, form: Form) -> (Queue, jetstream::Message) {
        let (queue, message) = self.reminders(1, form).await.remove(0);
        message.ack().await.unwrap();
        (queue, message)
    }

    async fn settle(&self, mut count: u64) -> Duration {
        let mut took = Duration::ZERO;
        while count > 0 {
            // The batch stays within `max_ack_pending` and `ack_wait`.
            let some = count.min(500);
            let messages = self.reminders(usize::try_from(some).unwrap(), Form::Protobuf).await;
            let pulled: Vec<Pulled> = messages
                .into_iter()
                .map(|(queue, message)| Pulled::new(message, queue, Duration::from_secs(30)).unwrap())
                .collect();
            let started = Instant::now();
            for message in pulled {
                settle(message, Disposition::Done, &self.effects).await;
            }
            while self.consumer().await.cached_info().num_ack_pending > 0 {}
            took += started.elapsed();
            count -= some;
        }
        took
    }

    async fn commit(&self, count: u64, size: u32) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..count {
            let commits: Vec<Commit> = (0..size).map(|_| self.notification()).collect();
            let started = Instant::now();
            let committed = self.store.commit(&commits).await.unwrap();
            took += started.elapsed();
            black_box(committed);
        }
        took
    }

    /// A notification to a family of four with one browser each.
    fn notification(&self) -> Commit {
        let now = self.clock.now();
        let root = self.random.uuid(now).to_string();
        let id = || self.random.uuid(now).to_string();
        let inbox = (1..=4).map(|user| InboxRow { id: id(), user_id: format!("user-{user}"), locale: String::new() });
        let deliveries = (1..=4).map(|user| PlannedDelivery {
            id: id(),
            user_id: format!("user-{user}"),
            channel: Channel::WebPush,
            address: format!("browser-{user}"),
            locale: String::new(),
            lane: Lane::Critical,
            named: false,
            unsent: None,
        });
        let content = Content {
            locale: String::new(),
            kind: "MEDICATION_REMINDER".into(),
            title: "💊 Medication Reminder".into(),
            body: "Time to give Metformin (500 mg) to Rose".into(),
            url: Some("/medications?id=medication-1".into()),
            data: Map::new(),
            tag: Some("dose-medication-1".into()),
        };
        let meta = Meta {
            job_id: format!("{root}~notification"),
            root_id: root,
            kind: Notification::KIND,
            lane: Lane::Critical,
            position: StreamPosition { stream: "JOBS".into(), sequence: 1, delivered: 1, published: now },
            resumed: false,
            not_after: None,
            trace: None,
            wishes: Wishes::default(),
            delay: None,
            due: None,
            waited: None,
        };
        let plan = Plan {
            contents: vec![content],
            inbox: inbox.collect(),
            deliveries: deliveries.collect(),
            ..Plan::default()
        };
        let not_after = now + TimeDelta::hours(1);
        // Messages of deliveries follow from their rows.
        Commit {
            meta,
            state: RunState::Done,
            reason: None,
            plan,
            children: vec![],
            next: None,
            not_after,
            direct: None,
            now,
        }
    }
}

fn reminder_queue() -> Queue {
    Queue { kind: MedicationReminder::KIND, lane: None }
}
