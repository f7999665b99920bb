//! `alert.refill`: guards, one alert per shortage, recipients, text, rejected input.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{FAMILY, LIMIT, Process, Worker, World, decode};

const SUBJECT: &str = "jobs.alert.refill";

fn alert(id: &str, refill_at: i32) -> Value {
    // The worker ignores the job's number.
    json!({ "medicationId": id, "currentSupply": 7777, "refillAt": refill_at })
}

/// Supply and threshold are SQL.
async fn medication(world: &World, id: &str, supply: &str, refill_at: &str) {
    let values = format!("'{id}', 'rose', 'Ramipril', '5 mg', true, {supply}, {refill_at}");
    world.sql(&format!("INSERT INTO medications VALUES ({values})")).await;
}

async fn supply(world: &World, id: &str, doses: i32) {
    world.sql(&format!("UPDATE medications SET current_supply = {doses} WHERE id = '{id}'")).await;
}

fn skipped(reason: &str) -> (String, Option<String>) {
    ("skipped".to_owned(), Some(reason.to_owned()))
}

fn done() -> (String, Option<String>) {
    ("done".to_owned(), None)
}

#[tokio::test]
async fn each_guard_skips_with_its_reason() {
    let world = World::new().await;
    world.sql("INSERT INTO families VALUES ('nobody')").await;
    world.sql("INSERT INTO care_recipients (id, family_id, name) VALUES ('sam', 'nobody', 'Sam')").await;
    world.sql("INSERT INTO medications VALUES ('stopped', 'rose', 'X', '1 mg', false, 0, 10)").await;
    world.sql("INSERT INTO medications VALUES ('alone', 'sam', 'X', '1 mg', true, 0, 10)").await;
    for (id, supply, refill_at) in [
        ("at", "10", "10"),
        ("above", "11", "10"),
        ("uncounted", "NULL", "10"),
        ("by-the-job", "10", "NULL"),
        ("above-the-jobs", "11", "NULL"),
        ("never", "1", "0"),
    ] {
        medication(&world, id, supply, refill_at).await;
    }
    let cases = [
        (alert("unknown", 10), "skipped", Some("gone")),
        (alert("stopped", 10), "skipped", Some("inactive")),
        (alert("alone", 10), "skipped", Some("no_recipients")),
        (alert("above", 10), "skipped", Some("restocked")),
        (alert("uncounted", 10), "skipped", Some("restocked")),
        (alert("above-the-jobs", 10), "skipped", Some("restocked")),
        // The table's threshold overrides the job's.
        (alert("never", 10), "skipped", Some("restocked")),
        (alert("at", 0), "done", None),
        (alert("by-the-job", 10), "done", None),
    ];
    let worker = Worker::without_scheduler(&world);
    world.all_end(SUBJECT, &cases).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty(), "a skip is not a failure");
    assert_eq!(world.count("SELECT count(*) FROM refill_shortages").await, 2, "one for each alert sent");
    worker.stop().await;
}

#[tokio::test]
async fn the_family_is_told_how_much_is_left() {
    let world = World::new().await;
    for (id, left) in [("some", "5"), ("one", "1"), ("none", "0"), ("less", "-2")] {
        medication(&world, id, left, "10").await;
    }
    let worker = Worker::without_scheduler(&world);
    world.publish_json(SUBJECT, "a", &alert("some", 10)).await;
    let inbox = world.inbox("a").await;
    assert_eq!(inbox.iter().map(|row| row.user_id.as_str()).collect::<Vec<_>>(), FAMILY);
    for row in inbox {
        assert_eq!((row.kind.as_str(), row.title.as_str()), ("REFILL_ALERT", "💊 Refill Needed"));
        assert_eq!(row.body, "Ramipril (5 mg) for Rose: 5 doses left");
        assert_eq!(row.url, "/medications?id=some");
        let data = json!({
            "type": "REFILL_ALERT",
            "medicationId": "some",
            "careRecipientId": "rose",
            "currentSupply": 5,
            "refillAt": 10,
        });
        assert_eq!(row.data, data);
    }
    world.everyone_has_it_once("a").await;
    for push in world.push.received() {
        assert_eq!(push.urgency, "normal", "the normal lane");
        assert!((86_000..=86_400).contains(&push.ttl), "a day: {}", push.ttl);
    }
    for (id, left) in [("one", "1 dose"), ("none", "no doses"), ("less", "no doses")] {
        world.publish_json(SUBJECT, id, &alert(id, 10)).await;
        assert_eq!(world.inbox(id).await[0].body, format!("Ramipril (5 mg) for Rose: {left} left"));
    }
    worker.stop().await;
}

#[tokio::test]
async fn one_shortage_is_told_once_and_the_next_one_anew() {
    let world = World::new().await;
    medication(&world, "m", "10", "10").await;
    let worker = Worker::without_scheduler(&world);
    let checks = ["check-1", "check-2", "check-3"];
    join_all(checks.map(|id| async {
        let body = alert("m", 10);
        world.publish_json(SUBJECT, id, &body).await
    }))
    .await;
    let mut ends = Vec::new();
    for id in checks {
        ends.push(world.ended(id).await);
    }
    assert_eq!(ends.iter().filter(|end| **end == done()).count(), 1, "{ends:?}");
    assert_eq!(ends.iter().filter(|end| **end == skipped("already_sent")).count(), 2, "{ends:?}");

    // A different supply, but still the same shortage.
    for (doses, job_id, end) in [
        (3, "fewer", skipped("already_sent")),
        (9, "more", skipped("already_sent")),
        (60, "refilled", skipped("restocked")),
        (60, "refilled-still", skipped("restocked")),
        (10, "next", done()),
        (9, "next-again", skipped("already_sent")),
    ] {
        supply(&world, "m", doses).await;
        world.publish_json(SUBJECT, job_id, &alert("m", 10)).await;
        assert_eq!(world.ended(job_id).await, end, "{job_id}");
    }

    // A shortage also ends if no job sees the refill.
    assert_eq!(world.store.close_ended_shortages().await.unwrap(), 0);
    supply(&world, "m", 60).await;
    assert_eq!(world.store.close_ended_shortages().await.unwrap(), 1);
    supply(&world, "m", 10).await;
    world.publish_json(SUBJECT, "third", &alert("m", 10)).await;
    assert_eq!(world.ended("third").await, done());

    world.push.wait_for(3 * FAMILY.len(), LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 12);
    worker.stop().await;
}

#[tokio::test]
async fn a_shortage_ends_when_the_supply_is_above_the_threshold_unknown_or_gone() {
    let world = World::new().await;
    let all = ["at", "above", "uncounted", "gone", "by-the-job", "above-the-jobs"];
    for id in all {
        medication(&world, id, "0", if id.contains("-job") { "NULL" } else { "10" }).await;
    }
    let worker = Worker::without_scheduler(&world);
    for id in all {
        world.publish_json(SUBJECT, id, &alert(id, 10)).await;
        assert_eq!(world.ended(id).await, done(), "{id}");
    }
    for (id, doses) in [("at", 10), ("above", 11), ("by-the-job", 10), ("above-the-jobs", 11)] {
        supply(&world, id, doses).await;
    }
    world.sql("UPDATE medications SET current_supply = NULL WHERE id = 'uncounted'").await;
    world.sql("DELETE FROM medications WHERE id = 'gone'").await;
    assert_eq!(world.store.close_ended_shortages().await.unwrap(), 4);
    let open: Vec<String> =
        sqlx::query_scalar("SELECT medication_id FROM refill_shortages ORDER BY 1").fetch_all(&world.db).await.unwrap();
    assert_eq!(open, ["at", "by-the-job"]);
    worker.stop().await;
}

#[tokio::test]
async fn an_alert_that_was_committed_and_not_published_is_not_held_up_by_its_own_shortage() {
    let world = World::new().await;
    medication(&world, "m", "3", "10").await;
    world.publish_json(SUBJECT, "a", &alert("m", 10)).await;
    let mut environment = world.environment();
    environment.insert("CAREBELL_ABORT_AT".into(), "committed".into());
    let mut first = Process::start(&["run", "--only", "pipeline"], &environment, world.directory.path());
    assert!(!first.ended().await.success());
    assert_eq!(world.ended("a").await, done());
    let second = Worker::without_scheduler(&world);
    world.everyone_has_it_once("a").await;
    world.queues_are_empty().await;
    second.stop().await;
}

#[tokio::test]
async fn names_and_ids_of_any_length_make_a_notification_that_is_taken() {
    let world = World::new().await;
    let id = "m".repeat(100);
    medication(&world, &id, "-2147483648", "2147483647").await;
    world.sql("UPDATE medications SET name = repeat('N', 9000), dosage = repeat('D', 9000)").await;
    world.sql("UPDATE care_recipients SET name = repeat('R', 9000)").await;
    let worker = Worker::without_scheduler(&world);
    world.publish_json(SUBJECT, "long", &alert(&id, 10)).await;
    world.everyone_has_it_once("long").await;
    worker.stop().await;
}

#[test]
fn each_mistake_names_its_field() {
    let cases = [
        (json!({}), "medication_id"),
        (json!({ "medicationId": "m".repeat(101) }), "medication_id"),
        (json!({ "medicationId": "m", "currentSupply": -1 }), "current_supply"),
        (json!({ "medicationId": "m", "currentSupply": 3, "refillAt": -1 }), "refill_at"),
        (json!({ "medicationId": "m", "supply": 3 }), "unrecognized field"),
    ];
    for (body, expected) in cases {
        let error = decode("alert.refill", &body).expect_err(&body.to_string());
        assert!(error.contains(expected), "{body}: {error}");
    }
}
