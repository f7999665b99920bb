//! Workers that stop or die: nobody waits longer than for a sign of life.

use std::time::Duration;

use carebell::{
    clock::Clock, dead_letter::overdue::Overdue, dev::push_service::Behaviour, effects::Effects, health::Health,
    telemetry::metrics::Metrics,
};
use chrono::TimeDelta;
use serde_json::json;

use crate::support::{LIMIT, Process, Worker, World, peek, utc_now};

/// A job that waits for `ack_wait` would wait for longer than the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_within_a_pull_leaves_no_job_behind() {
    const ROUNDS: usize = 100;
    const EACH: usize = 12;
    let world = World::with_overrides("*.ack_wait=10m").await;
    let mut workers = vec![Worker::without_scheduler(&world)];
    world.remind("first").await;
    world.everyone_has_it_once("first").await;
    for round in 0..ROUNDS {
        // Another takes over, so that nothing piles up.
        workers.push(Worker::without_scheduler(&world));
        let publishing = async {
            for number in 0..EACH {
                let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello", "channels": [] });
                world.publish_json("jobs.notification.normal", &format!("n-{round}-{number}"), &body).await;
            }
        };
        let stopping = async {
            let wanted = EACH * round / ROUNDS;
            let id = format!("n-{round}-{wanted}");
            let begun = async || {
                (world.count(&format!("SELECT count(*) FROM job_runs WHERE job_id = '{id}'")).await > 0).then_some(())
            };
            world.eventually("some are done", begun).await;
            workers.remove(0).stop().await;
        };
        tokio::join!(publishing, stopping);
    }
    let all = i64::try_from(ROUNDS * EACH).unwrap();
    let done = async || {
        let done = world.count("SELECT count(*) FROM job_runs WHERE state = 'done' AND job_id LIKE 'n-%'").await;
        (done == all).then_some(())
    };
    world.eventually("all are done", done).await;
    for worker in workers {
        worker.stop().await;
    }
    world.queues_are_empty().await;
}

/// A server that restarts redelivers at once, when the claims of a killed worker are young.
#[tokio::test]
async fn what_comes_again_early_waits_for_no_lease() {
    for subject in ["jobs.reminder.medication", "jobs.notification.normal"] {
        let mut world = World::with_overrides("*.ack_wait=6s,*.backoff=fixed 50ms").await;
        world.sql("DELETE FROM push_subscriptions WHERE user_id <> 'ana'").await;
        world.push.behave_always("ana", Some(Behaviour::Hang));
        let mut first = Process::worker(&world, &[]);
        first.ready().await;
        let job = if subject.contains("reminder") {
            world.remind("dose").await;
            "dose"
        } else {
            let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
            world.publish_json(subject, "hello", &body).await;
            "hello"
        };
        world.push.wait_until(LIMIT, |counts| counts.requests == 1).await.unwrap();
        first.kill().await;
        world.push.behave_always("ana", None);
        world.nats.kill().await;
        world.nats.start_again().await.unwrap();
        let mut second = Process::worker(&world, &[]);
        second.ready().await;
        let since = tokio::time::Instant::now();
        let mut lines = world.ledger(job).await;
        lines.retain(|line| line.user_id == "ana");
        let line = lines.remove(0);
        assert_eq!(line.state, "sent", "{line:?}");
        assert_eq!((line.attempts, line.claims), (0, 2), "{line:?}");
        assert!(since.elapsed() < Duration::from_secs(30), "{:?} {}", since.elapsed(), second.output());
        world.queues_are_empty().await;
        assert_eq!(second.terminate().await.code(), Some(0));
    }
}

/// A server that has changed its leaders too often draws nothing for up to two minutes.
#[tokio::test]
async fn what_was_sent_off_and_not_drawn_is_published() {
    let world = World::new().await;
    for stream in ["WORK", "DELIVERIES"] {
        let mut config = world.context.get_stream(stream).await.unwrap().cached_info().config.clone();
        config.sources = None;
        world.context.update_stream(config).await.unwrap();
    }
    world.push.behave("ana", Behaviour::retry_after(503, "11"));
    let worker = Worker::without_scheduler(&world);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
    world.publish_json("jobs.notification.normal", "hello", &body).await;
    let at = (utc_now() + TimeDelta::seconds(1)).to_rfc3339();
    let headers = [("Carebell-Job-Id", "later"), ("Content-Type", "application/json"), ("Carebell-At", &at)];
    world.publish("jobs.later.notification.normal", &headers, body.to_string()).await;
    let parked = async || (peek(&world.context, "HOLD", "hold.>").await == 2).then_some(());
    world.eventually("both are parked", parked).await;
    worker.stop().await;
    let sent_off = async || (peek(&world.context, "HOLD", "resume.>").await == 2).then_some(());
    world.eventually("both are sent off", sent_off).await;
    assert_eq!(peek(&world.context, "WORK", ">").await + peek(&world.context, "DELIVERIES", ">").await, 0);

    // Two workers at the same time.
    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    let metrics = Metrics::new();
    let (mut one, mut two) = (Overdue::new(&metrics), Overdue::new(&metrics));
    one.pass(&effects, utc_now() - TimeDelta::minutes(1)).await.unwrap();
    assert_eq!(peek(&world.context, "HOLD", "resume.>").await, 2, "they may be on their way");
    let before = utc_now() + TimeDelta::seconds(1);
    let (one, two) = tokio::join!(one.pass(&effects, before), two.pass(&effects, before));
    assert_eq!((one, two), (Ok(()), Ok(())));
    assert_eq!(peek(&world.context, "HOLD", ">").await, 0);
    assert_eq!(peek(&world.context, "WORK", ">").await, 1);
    assert_eq!(peek(&world.context, "DELIVERIES", ">").await, 1);
    let worker = Worker::without_scheduler(&world);
    for job in ["hello", "later"] {
        assert_eq!(world.ledger(job).await.remove(0).state, "sent", "{job}");
    }
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 2, "none twice");
    worker.stop().await;
}
