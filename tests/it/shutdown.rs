//! SIGTERM: not ready, no more pulls, running jobs finished or released, exit 0.

use std::time::Duration;

use carebell::dev::push_service::Behaviour;
use serde_json::json;

use crate::support::{LIMIT, Process, Worker, World, peek};

async fn hello(world: &World) {
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
    world.publish_json("jobs.notification.critical", "hello", &body).await;
}

#[tokio::test]
async fn a_job_under_way_is_finished() {
    let world = World::new().await;
    // Fast enough to need no message.
    world.push.behave("ana", Behaviour::Slow(Duration::from_millis(500)));
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    assert_eq!(worker.get("/ready").await.0, 200);
    hello(&world).await;
    world.push.wait_until(LIMIT, |counts| counts.requests == 1).await.unwrap();
    let status = worker.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", worker.output());
    // Everything is on record by now.
    let line = world.delivery_to("hello", "ana").await;
    assert_eq!((line.state.as_str(), line.claims), ("sent", 1));
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 1);
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_given_back() {
    given_back("hello", hello).await;
}

/// The reminder's worker sends the pushes.
#[tokio::test]
async fn a_reminder_whose_push_takes_too_long_is_given_back() {
    given_back("dose", async |world| {
        world.sql("DELETE FROM push_subscriptions WHERE user_id <> 'ana'").await;
        world.remind("dose").await;
    })
    .await;
}

async fn given_back(job: &str, publish: impl AsyncFnOnce(&World)) {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=5m").await;
    world.push.behave("ana", Behaviour::Hang);
    let mut worker = Process::worker(&world, &[("DRAIN_TIMEOUT", "300ms")]);
    worker.ready().await;
    publish(&world).await;
    world.push.wait_until(LIMIT, |counts| counts.requests == 1).await.unwrap();
    assert_eq!(worker.terminate().await.code(), Some(0), "{}", worker.output());
    let line = world.delivery_to(job, "ana").await;
    assert_eq!((line.state.as_str(), line.attempts), ("sending", 0), "the outcome is open, and no attempt is burnt");
    let messages = peek(&world.context, "JOBS", ">").await
        + peek(&world.context, "WORK", ">").await
        + peek(&world.context, "DELIVERIES", ">").await;
    assert_eq!(messages, 1, "its next worker sees to it");

    // The next worker gets it long before `ack_wait` ends.
    let heir = Worker::start(&world);
    let mut lines = world.ledger(job).await;
    lines.retain(|line| line.user_id == "ana");
    assert_eq!((lines[0].state.as_str(), lines[0].attempts), ("sent", 0));
    world.queues_are_empty().await;
    world.all_is_published().await;
    heir.stop().await;
}

#[tokio::test]
async fn an_idle_worker_stops_at_once() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let since = tokio::time::Instant::now();
    assert_eq!(worker.terminate().await.code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}
