//! A medication reminder from publish to decrypted push.

use carebell::wire;
use chrono::{SubsecRound, TimeDelta};
use futures::future::join_all;
use prost::Message;
use serde_json::{Value, json};
use sqlx::Row;

use crate::support::{LIMIT, Worker, World, reminder, utc_now};

#[tokio::test]
async fn a_protobuf_reminder_reaches_four_inboxes_and_four_browsers() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let due = utc_now().trunc_subsecs(3);
    let body = wire::MedicationReminder {
        medication_id: "metformin".into(),
        scheduled_time: Some(prost_types::Timestamp {
            seconds: due.timestamp(),
            nanos: i32::try_from(due.timestamp_subsec_nanos()).unwrap(),
        }),
        reminder_minutes: 0,
    };
    world.publish("jobs.reminder.medication", &[("Nats-Msg-Id", "dose-1")], body.encode_to_vec()).await;
    world.everyone_has_it_once("dose-1").await;

    let rows = sqlx::query("SELECT type, title, body, url, data FROM notifications WHERE job_id = 'dose-1'")
        .fetch_all(&world.db)
        .await
        .unwrap();
    for row in rows {
        assert_eq!(row.get::<&str, _>("type"), "MEDICATION_REMINDER");
        assert_eq!(row.get::<&str, _>("title"), "💊 Medication Reminder");
        assert_eq!(row.get::<&str, _>("body"), "Time to give Metformin (500 mg) to Rose");
        assert_eq!(row.get::<&str, _>("url"), "/medications?id=metformin");
        let data: Value = row.get("data");
        assert_eq!(data["type"], "MEDICATION_REMINDER");
        assert_eq!(data["medicationId"], "metformin");
        assert_eq!(data["careRecipientId"], "rose");
    }

    for push in world.push.received() {
        let payload = push.json();
        assert_eq!(payload["title"], "💊 Medication Reminder");
        assert_eq!(payload["body"], "Time to give Metformin (500 mg) to Rose");
        assert_eq!(payload["data"]["url"], "/medications?id=metformin");
        assert_eq!(payload["data"]["type"], "MEDICATION_REMINDER");
        assert_eq!(payload["web_push"], 8030);
        let navigate = &payload["notification"]["navigate"];
        assert_eq!(navigate, "https://app.example.org/medications?id=metformin");
        assert!(payload["icon"].is_string() && payload["badge"].is_string() && payload["tag"].is_string());
        assert_eq!(push.urgency, "high", "the critical lane");
        assert!((3540..=3600).contains(&push.ttl), "an hour after the dose, less the time spent: {}", push.ttl);
        assert_eq!(push.topic.len(), 32);
    }

    let runs = world.runs("dose-1").await;
    assert_eq!(runs["reminder.medication"].state, "done");
    assert_eq!(runs["notification"].state, "done");
    assert_eq!(runs["notification"].job_id, "dose-1~notification");
    world.queues_are_empty().await;
    world.all_is_published().await;
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_json_reminder_goes_the_same_way() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("dose-json").await;
    world.everyone_has_it_once("dose-json").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_published_ten_times_has_one_effect() {
    let world = World::new().await;
    let body = reminder("metformin", utc_now());
    // Without message ids, the server's dedupe plays no part.
    join_all((0..10).map(|_| world.publish_json("jobs.reminder.medication", "dose-10", &body))).await;
    let worker = Worker::start(&world);
    world.everyone_has_it_once("dose-10").await;
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 4);
    assert_eq!(world.push.counts().accepted, 4);

    // Again, long after the first run.
    world.publish_json("jobs.reminder.medication", "dose-10", &body).await;
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 4);
    assert_eq!(world.push.counts().accepted, 4);
    worker.stop().await;
}

#[tokio::test]
async fn two_jobs_for_one_dose_are_one_reminder() {
    let world = World::new().await;
    let body = reminder("metformin", utc_now());
    join_all(["one", "two"].map(|id| world.publish_json("jobs.reminder.medication", id, &body))).await;
    let worker = Worker::start(&world);
    let ends = [world.ended("one").await, world.ended("two").await];
    let done = ends.iter().filter(|(state, _)| state == "done").count();
    let skipped = ends.iter().filter(|end| **end == ("skipped".to_owned(), Some("already_sent".to_owned()))).count();
    assert_eq!((done, skipped), (1, 1), "{ends:?}");
    world.push.wait_for(4, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 4);
    worker.stop().await;
}

#[tokio::test]
async fn a_delayed_job_keeps_its_id_and_comes_when_it_is_due() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let at = utc_now() + TimeDelta::seconds(2);
    let instant = at.to_rfc3339();
    // No `Carebell-Job-Id`: the message id, which the server drops when it fires a schedule, names it.
    let headers =
        [("Carebell-At", instant.as_str()), ("Nats-Msg-Id", "dose-later"), ("Content-Type", "application/json")];
    world.publish("jobs.later.reminder.medication", &headers, reminder("metformin", at).to_string()).await;
    world.everyone_has_it_once("dose-later").await;
    let first = world.push.received().iter().map(|push| push.received).min().unwrap();
    assert!(first >= at, "{first} is before {at}");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn trace_context_and_expiry_follow_the_job() {
    let world = World::new().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let not_after = (utc_now() + TimeDelta::minutes(5)).trunc_subsecs(0);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
    let headers = [
        ("Carebell-Job-Id", "traced"),
        ("Carebell-Not-After", &not_after.to_rfc3339()),
        ("Content-Type", "application/json"),
        ("traceparent", trace),
    ];
    world.publish("jobs.notification.normal", &headers, body.to_string()).await;
    let worker = Worker::start(&world);
    world.ledger("traced").await;
    let row = sqlx::query("SELECT not_after, trace FROM deliveries").fetch_one(&world.db).await.unwrap();
    assert_eq!(row.get::<chrono::DateTime<chrono::Utc>, _>("not_after"), not_after);
    assert_eq!(row.get::<&str, _>("trace"), trace);
    let push = &world.push.wait_for(1, LIMIT).await.unwrap()[0];
    assert!(push.ttl <= 300, "the push lives no longer than the job: {}", push.ttl);
    assert_eq!(push.urgency, "normal");
    worker.stop().await;
}
