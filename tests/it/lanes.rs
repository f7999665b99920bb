//! Lanes: critical jobs wait behind nothing, bulk gets its share, and notifications wait for deliveries.

use std::time::Duration;

use async_nats::jetstream::{consumer::PullConsumer, message::PublishMessage};
use carebell::dev::push_service::Behaviour;
use futures::future::join_all;
use serde_json::json;

use crate::support::{LIMIT, Process, Worker, World};

/// Publishes notifications without pushes.
pub async fn backlog(world: &World, lane: &str, count: usize) {
    let body = json!({ "recipients": [{ "userId": "ben" }], "title": "News", "channels": ["CHANNEL_IN_APP"] });
    let body = bytes::Bytes::from(body.to_string());
    for start in (0..count).step_by(1000) {
        let acks = (start..count.min(start + 1000)).map(async |number| {
            let message = PublishMessage::build()
                .payload(body.clone())
                .header("Carebell-Job-Id", format!("{lane}-{number}"))
                .header("Content-Type", "application/json");
            world.context.send_publish(format!("jobs.notification.{lane}"), message).await.unwrap().await.unwrap();
        });
        join_all(acks).await;
    }
}

pub async fn waiting(world: &World, durable: &str, stream: &str) -> u64 {
    let consumer: PullConsumer = world.context.get_consumer_from_stream(durable, stream).await.unwrap();
    consumer.cached_info().num_pending
}

#[tokio::test]
async fn critical_waits_behind_no_bulk_and_bulk_goes_on_beside_critical() {
    const BULK: usize = 60_000;
    let world = World::new().await;
    backlog(&world, "bulk", BULK).await;
    let worker = Worker::start(&world);
    world
        .eventually("bulk is under way", async || {
            (waiting(&world, "notification_bulk", "JOBS").await < BULK as u64 - 100).then_some(())
        })
        .await;
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Now" });
    let mut slowest = Duration::ZERO;
    let before = waiting(&world, "notification_bulk", "JOBS").await;
    for number in 0..40 {
        let since = tokio::time::Instant::now();
        world.publish_json("jobs.notification.critical", &format!("now-{number}"), &body).await;
        world.push.wait_for(number + 1, LIMIT).await.unwrap();
        slowest = slowest.max(since.elapsed());
    }
    let left = waiting(&world, "notification_bulk", "JOBS").await;
    println!("slowest of 40 critical: {slowest:?}; bulk went from {before} to {left} meanwhile");
    assert!(left > 0, "the backlog was there all the time, and no critical notification waited for its end");
    assert!(left < before, "bulk has gone on meanwhile");
    worker.stop().await;
}

#[tokio::test]
async fn bulk_does_not_starve_while_critical_has_a_backlog() {
    let world = World::new().await;
    backlog(&world, "critical", 3000).await;
    backlog(&world, "bulk", 50).await;
    let worker = Worker::start(&world);
    let left = world
        .eventually("bulk is done", async || {
            let bulk = world.count("SELECT count(*) FROM job_runs WHERE job_id LIKE 'bulk-%'").await;
            (bulk == 50).then_some(())?;
            Some(waiting(&world, "notification_critical", "JOBS").await)
        })
        .await;
    assert!(left > 0, "before the critical backlog was");
    worker.stop().await;
}

#[tokio::test]
async fn notifications_wait_in_their_lane_while_deliveries_are_behind() {
    const FIRST: usize = 20;
    // The pull that is open at the pause lets at most one more through.
    let bulk = "notification_bulk.pause_above=3,notification_bulk.concurrency=4";
    let overrides = "*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s,deliver_web_push_normal.concurrency=1";
    let world = World::with_overrides(&format!("{overrides},{bulk}")).await;
    // Slow enough to stay behind throughout the test.
    world.push.behave_always("ana", Some(Behaviour::Slow(Duration::from_secs(5))));
    let mut worker = Process::worker(&world, &[]);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    for number in 0..FIRST {
        world.publish_json("jobs.notification.bulk", &format!("first-{number}"), &body).await;
    }
    let behind =
        async || (world.count("SELECT count(*) FROM deliveries WHERE state <> 'sent'").await > 8).then_some(());
    world.eventually("deliveries are behind", behind).await;
    let mut passed = 0;
    while !worker.says("pausing: deliveries are behind") {
        let id = format!("second-{passed}");
        world.publish_json("jobs.notification.bulk", &id, &body).await;
        passed += 1;
        // The pause may come before this one is taken.
        let ended = async || {
            let ended = world.store.runs_of(&id).await.unwrap().iter().any(|run| run.state != "open");
            (ended || worker.says("pausing")).then_some(())
        };
        world.eventually("it is through, or the lane pauses", ended).await;
        // The worker looks twice a second.
        let since = tokio::time::Instant::now();
        let look = async || (worker.says("pausing") || since.elapsed() > Duration::from_millis(300)).then_some(());
        world.eventually("the worker has had time to look", look).await;
    }
    for number in 0..4 {
        world.publish_json("jobs.notification.bulk", &format!("third-{number}"), &body).await;
    }
    let urgent = json!({ "recipients": [{ "userId": "ben" }], "title": "Now" });
    world.publish_json("jobs.notification.critical", "urgent", &urgent).await;
    assert_eq!(world.ended("urgent").await.0, "done", "the critical lane does not pause");
    let done = world.count("SELECT count(*) FROM job_runs WHERE job_id LIKE 'third-%'").await;
    let behind = world.count("SELECT count(*) FROM deliveries WHERE state NOT IN ('sent')").await;
    // One more is under way and does not count.
    assert!(behind > 4, "the test is too slow to see the pause: {behind} wait");
    assert_eq!(done, 0, "none of the later four is expanded while {behind} deliveries wait");
    world.push.behave_always("ana", None);
    world.push.wait_for(FIRST + passed + 4 + 1, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}
