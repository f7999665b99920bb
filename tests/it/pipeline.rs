//! The pipeline with misbehaving jobs: each harms only itself.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use carebell::{
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    pipeline::Registry,
    plan::Reason,
    wire,
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;

use crate::support::{Custom, Worker, World, reminder, utc_now};

/// Expected error, headers, body.
type Bad<'a> = (&'a str, Vec<(&'a str, &'a str)>, String);

/// Replaces `reminder.medication`. The id selects the behaviour.
struct Misbehaving {
    id: String,
}

static LONG_RUNS: AtomicUsize = AtomicUsize::new(0);

impl Job for Misbehaving {
    const KIND: Kind = Kind::reminder("reminder.medication");

    type Wire = wire::MedicationReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        Ok(Self { id: wire.medication_id })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + TimeDelta::hours(1)
    }

    async fn work(self, _cx: &Context) -> Result<Outcome, Failure> {
        match self.id.as_str() {
            "panics" => panic!("the name of a patient"),
            "hangs" => std::future::pending().await,
            "long" => {
                LONG_RUNS.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(7500)).await;
                Ok(Outcome::Skipped(Reason::Gone))
            }
            "fails" => Err(Failure::retry("no luck")),
            "hopeless" => Err(Failure::permanent("no way")),
            _ => Ok(Outcome::Skipped(Reason::Gone)),
        }
    }
}

fn registry() -> Registry {
    Registry::default().with::<Misbehaving>()
}

async fn publish(world: &World, id: &str) {
    world.publish_json("jobs.reminder.medication", id, &reminder(id, utc_now())).await;
}

#[tokio::test]
async fn panics_and_failures_burn_attempts_and_harm_no_neighbour() {
    let world = World::new().await;
    for id in ["panics", "fails", "hopeless", "fine"] {
        publish(&world, id).await;
    }
    let pipeline = Custom::start(&world, registry());
    assert_eq!(world.ended("fine").await, ("skipped".into(), Some("gone".into())));
    assert_eq!(world.ended("panics").await, ("dead".into(), Some("exhausted".into())));
    assert_eq!(world.ended("fails").await, ("dead".into(), Some("exhausted".into())));
    assert_eq!(world.ended("hopeless").await, ("dead".into(), Some("permanent".into())));
    let attempts: Vec<i64> = futures::future::join_all(["panics", "fails", "hopeless"].map(|id| {
        let query = format!("SELECT attempts::bigint FROM job_runs WHERE job_id = '{id}'");
        let world = &world;
        async move { world.count(&query).await }
    }))
    .await;
    assert_eq!(attempts, [2, 2, 1], "reminder.medication has two attempts");

    for (_, headers, body) in world.dead_letters_once(3).await {
        assert!(!format!("{headers:?}").contains("patient"), "a panic's text may be personal: {headers:?}");
        let id = headers.get("Carebell-Job-Id").unwrap().as_str();
        assert!(String::from_utf8_lossy(&body).contains(id), "the body is kept unchanged");
        assert_eq!(headers.get("Carebell-Dead-Subject").unwrap().as_str(), "jobs.reminder.medication");
        assert_eq!(headers.get("Content-Type").unwrap().as_str(), "application/json");
    }
    world.queues_are_empty().await;
    pipeline.stop().await;
}

/// Job id, behaviour, requested policy, expected attempts.
type Wish = (&'static str, &'static str, [(&'static str, &'static str); 2], i32);

#[tokio::test]
async fn a_job_has_its_own_policy_within_the_queues_ceilings() {
    let world = World::with_overrides("*.backoff=fixed 10m,*.jitter=0%,*.ack_wait=2s,*.max_attempts=4").await;
    let quick = ("Carebell-Backoff", "fixed 50ms");
    let cases: [Wish; 4] = [
        ("once", "fails", [("Carebell-Attempts", "1"), quick], 1),
        ("thrice", "fails", [("Carebell-Attempts", "3"), quick], 3),
        ("too-often", "fails", [("Carebell-Attempts", "99"), quick], 4),
        ("in-time", "hangs", [("Carebell-Attempts", "1"), ("Carebell-Timeout", "200ms")], 1),
    ];
    for (job_id, what, wishes, _) in cases {
        let mut headers = vec![("Carebell-Job-Id", job_id), ("Content-Type", "application/json")];
        headers.extend(wishes);
        world.publish("jobs.reminder.medication", &headers, reminder(what, utc_now()).to_string()).await;
    }
    let pipeline = Custom::start(&world, registry());
    for (job_id, _, _, attempts) in cases {
        assert_eq!(world.ended(job_id).await, ("dead".into(), Some("exhausted".into())), "{job_id}");
        assert_eq!(world.runs(job_id).await["reminder.medication"].attempts, attempts, "{job_id}");
    }
    let error = &world.runs("in-time").await["reminder.medication"].last_error;
    assert_eq!(error.as_deref(), Some("the work took longer than 200ms"));
    pipeline.stop().await;
}

#[tokio::test]
async fn work_is_ended_at_its_timeout() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s,*.timeout=200ms").await;
    publish(&world, "hangs").await;
    let pipeline = Custom::start(&world, registry());
    assert_eq!(world.ended("hangs").await, ("dead".into(), Some("exhausted".into())));
    let (_, headers, _) = world.dead_letters_once(1).await.remove(0);
    assert!(headers.get("Carebell-Dead-Error").unwrap().as_str().contains("longer than 200ms"));
    pipeline.stop().await;
}

#[tokio::test]
async fn work_that_takes_longer_than_the_server_waits_is_kept_alive() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=3s").await;
    publish(&world, "long").await;
    let pipeline = Custom::start(&world, registry());
    assert_eq!(world.ended("long").await, ("skipped".into(), Some("gone".into())));
    world.queues_are_empty().await;
    assert_eq!(LONG_RUNS.load(Ordering::SeqCst), 1, "the server never redelivers it");
    pipeline.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_and_stops_nobody() {
    let world = World::new().await;
    let good = reminder("metformin", utc_now()).to_string();
    let json = ("Content-Type", "application/json");
    let bad: [Bad<'_>; 7] = [
        ("protobuf", vec![("Carebell-Job-Id", "a")], "\u{7}\u{7}\u{7}not protobuf".into()),
        ("JSON", vec![("Carebell-Job-Id", "b"), json], "{\"medicationId\": ".into()),
        ("unrecognized field", vec![("Carebell-Job-Id", "c"), json], "{\"patientName\": \"Rose\"}".into()),
        ("`medication_id` is required", vec![("Carebell-Job-Id", "d"), json], "{}".into()),
        ("`Carebell-Job-Id`", vec![("Carebell-Job-Id", "has spaces"), json], good.clone()),
        ("`Carebell-Not-After`", vec![("Carebell-Job-Id", "e"), ("Carebell-Not-After", "soon"), json], good.clone()),
        ("`Content-Type`", vec![("Carebell-Job-Id", "f"), ("Content-Type", "text/xml")], good.clone()),
    ];
    for _ in 0..3 {
        for (_, headers, body) in &bad {
            world.publish("jobs.reminder.medication", headers, body.clone()).await;
        }
    }
    world.publish_json("jobs.reminder.medication", "good", &reminder("metformin", utc_now())).await;
    let worker = Worker::start(&world);
    world.everyone_has_it_once("good").await;
    let letters = world.dead_letters_once(3 * bad.len()).await;
    for (expected, _, body) in &bad {
        let of_this = letters.iter().filter(|(_, headers, kept)| {
            let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
            assert!(!error.contains("Rose") && !error.contains("has spaces"), "no values in errors: {error}");
            assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "undecodable");
            error.contains(expected) && kept == body.as_bytes()
        });
        assert_eq!(of_this.count(), 3, "{expected}");
    }
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_ends_its_workers_is_dead_before_it_runs_again() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=500ms").await;
    publish(&world, "killer").await;
    // As if workers took the message and died.
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        world.context.get_consumer_from_stream("reminder_medication", "JOBS").await.unwrap();
    for _ in 0..6 {
        let mut batch = consumer.fetch().max_messages(1).expires(Duration::from_secs(10)).messages().await.unwrap();
        let message = futures::StreamExt::next(&mut batch).await.unwrap().unwrap();
        drop(message);
    }
    let pipeline = Custom::start(&world, registry());
    assert_eq!(world.ended("killer").await, ("dead".into(), Some("crashed".into())));
    let (_, headers, _) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "crashed");
    world.queues_are_empty().await;
    pipeline.stop().await;
}

#[tokio::test]
async fn a_dead_job_that_is_published_again_runs_again() {
    let world = World::new().await;
    publish(&world, "hopeless").await;
    let pipeline = Custom::start(&world, registry());
    assert_eq!(world.ended("hopeless").await.0, "dead");
    world.dead_letters_once(1).await;
    pipeline.stop().await;

    let worker = Worker::start(&world);
    let body = reminder("metformin", utc_now());
    world.publish_json("jobs.reminder.medication", "hopeless", &body).await;
    world.everyone_has_it_once("hopeless").await;
    assert_eq!(world.runs("hopeless").await["reminder.medication"].state, "done");
    worker.stop().await;
}
