//! Workers that abort between two effects, as by `kill -9`. Another worker finishes the job once.

use std::time::Duration;

use carebell::dev::push_service::Behaviour;
use serde_json::json;

use crate::support::{Process, Worker, World};

/// Lost workers are detected soon.
const MISSED: &str = "*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s";

/// In the second world the notification has its own message, since its queue has a rate.
async fn both_ways() -> [World; 2] {
    [world().await, World::with_overrides(&format!("{MISSED},notification_critical.rate=100/s")).await]
}

async fn world() -> World {
    World::with_overrides(MISSED).await
}

/// Kills a worker at `step` and lets another take over.
async fn die_at(step: &str) -> Vec<World> {
    let mut worlds = Vec::new();
    for (world, is_together) in both_ways().await.into_iter().zip([true, false]) {
        let world = finish_after_death_at(step, world).await;
        // A redelivered reminder's notification has a message.
        let without_message = "SELECT count(*) FROM job_runs WHERE job_id = 'dose~notification' AND stream_seq = 0";
        assert_eq!(world.count(without_message).await == 1, is_together && step != "worked", "{step}");
        worlds.push(world);
    }
    worlds
}

async fn finish_after_death_at(step: &str, world: World) -> World {
    world.remind("dose").await;
    let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", step)]);
    let status = doomed.ended().await;
    assert_eq!(status.code(), Some(134), "it aborts (128 + SIGABRT) at {step}:\n{}", doomed.output());
    let heir = Worker::start(&world);
    world.ledger("dose").await;
    world.queues_are_empty().await;
    heir.stop().await;
    assert!(world.dead_letters().await.is_empty(), "a crash burns no attempt");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 4);
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE state = 'sent' AND attempts = 0").await, 4);
    assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE state = 'done'").await, 2);
    world
}

#[tokio::test]
async fn between_work_and_commit() {
    for world in die_at("worked").await {
        world.everyone_has_it_once("dose").await;
    }
}

#[tokio::test]
async fn after_an_acknowledgement() {
    // The reminder is settled first: all of its pushes are sent, or none.
    for world in die_at("settled").await {
        world.everyone_has_it_once("dose").await;
    }
}

#[tokio::test]
async fn between_parking_and_acknowledgement() {
    let world = world().await;
    world.push.behave("ana", Behaviour::retry_after(429, "2"));
    let world = finish_after_death_at("parked", world).await;
    // The other pushes may have been under way.
    let to_ana = world.push.received().iter().filter(|push| push.name == "ana").count();
    assert_eq!(to_ana, 1, "the parked copy and the redelivery are one delivery");
}

#[tokio::test]
async fn between_a_failure_on_record_and_its_retry() {
    let world = world().await;
    world.push.behave_always("ana", Some(Behaviour::status(503)));
    world.remind("dose").await;
    for _ in 0..2 {
        let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", "recorded")]);
        doomed.ended().await;
    }
    let heir = Worker::start(&world);
    world.ledger("dose").await;
    world.queues_are_empty().await;
    heir.stop().await;
    let ana = world.delivery_to("dose", "ana").await;
    assert_eq!((ana.state.as_str(), ana.attempts), ("dead", 3), "each failure counts once, whoever recorded it");
    assert_eq!(world.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn between_dead_letter_and_termination() {
    let world = world().await;
    world.publish_json("jobs.reminder.medication", "poison", &json!({ "medicationId": "" })).await;
    let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", "buried")]);
    doomed.ended().await;
    assert_eq!(world.dead_letters().await.len(), 1);
    let heir = Worker::start(&world);
    world.queues_are_empty().await;
    heir.stop().await;
    assert_eq!(world.dead_letters().await.len(), 1, "one job, one dead letter");
    assert_eq!(world.ended("poison").await, ("dead".into(), Some("undecodable".into())));
}

#[tokio::test]
async fn between_commit_and_publish() {
    for world in die_at("committed").await {
        world.everyone_has_it_once("dose").await;
    }
}

#[tokio::test]
async fn between_publish_and_acknowledgement() {
    for world in die_at("published").await {
        world.everyone_has_it_once("dose").await;
    }
}

#[tokio::test]
async fn between_claim_and_send() {
    for world in die_at("claimed").await {
        world.everyone_has_it_once("dose").await;
    }
}

#[tokio::test]
async fn between_send_and_record() {
    for world in die_at("sent").await {
        what_was_sent_again_replaces_the_first(&world).await;
    }
}

async fn what_was_sent_again_replaces_the_first(world: &World) {
    // The pushes are repeated with the same topic and tag, so browsers collapse them.
    let received = world.push.received();
    let replaced = received.iter().filter(|push| push.replaces).count();
    assert_eq!(received.len() - replaced, 4, "one for each recipient, apart from repeats");
    assert!(replaced >= 1, "at least the push before the crash");
    let claims = world.count("SELECT sum(claims)::bigint FROM deliveries").await;
    let explained = usize::try_from(claims - 4).unwrap();
    assert!(replaced <= explained, "{replaced} repeated pushes, {explained} second claims");
    for push in received.iter().filter(|push| push.replaces) {
        let first = received.iter().find(|first| first.name == push.name && !first.replaces).unwrap();
        assert_eq!((&first.topic, &first.json()["tag"]), (&push.topic, &push.json()["tag"]));
    }
}

#[tokio::test]
async fn between_record_and_acknowledgement() {
    for world in die_at("recorded").await {
        what_was_recorded_is_not_sent_again(&world).await;
    }
}

async fn what_was_recorded_is_not_sent_again(world: &World) {
    let doubled = world.push.received().iter().filter(|push| push.replaces).count();
    let recorded_once = world.count("SELECT count(*) FROM deliveries WHERE claims = 1").await;
    assert!(recorded_once >= 1, "what was recorded is not sent again");
    assert!(i64::try_from(doubled).unwrap() <= 4 - recorded_once);
}

#[tokio::test]
async fn what_a_lost_worker_had_planned_is_published_by_the_reconciler() {
    for way in ["", ",notification_critical.rate=100/s"] {
        let world = World::with_overrides(&format!("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=500ms{way}")).await;
        world.remind("dose").await;
        let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", "committed")]);
        doomed.ended().await;
        // Without its message, only the commit records the reminder.
        world.context.get_stream("JOBS").await.unwrap().purge().await.unwrap();
        let heir = Worker::start(&world);
        world.everyone_has_it_once("dose").await;
        world.queues_are_empty().await;
        world.all_is_published().await;
        heir.stop().await;
    }
}

#[tokio::test]
async fn a_worker_killed_again_and_again_loses_nothing() {
    let world = world().await;
    for number in 0..20 {
        let minutes = chrono::TimeDelta::minutes(number);
        let body = crate::support::reminder("metformin", crate::support::utc_now() - minutes);
        world.publish_json("jobs.reminder.medication", &format!("dose-{number}"), &body).await;
    }
    for accepted in [5, 25, 50] {
        let mut doomed = Process::worker(&world, &[]);
        world.push.wait_until(Duration::from_secs(30), |counts| counts.accepted >= accepted).await.unwrap();
        doomed.kill().await;
    }
    let heir = Worker::start(&world);
    for number in 0..20 {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert_eq!(ledger.len(), 4);
        assert!(ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    }
    world.queues_are_empty().await;
    heir.stop().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 80);
    let received = world.push.received();
    let doubled = received.iter().filter(|push| push.replaces).count();
    assert_eq!(received.len() - doubled, 80);
    let second_claims = world.count("SELECT sum(claims - 1)::bigint FROM deliveries").await;
    assert!(i64::try_from(doubled).unwrap() <= second_claims, "{doubled} repeated, {second_claims} explained");
}
