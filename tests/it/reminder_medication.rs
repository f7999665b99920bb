//! `reminder.medication`: guards and rejected input.

use chrono::TimeDelta;
use serde_json::json;

use crate::support::{Worker, World, decode, reminder, utc_now};

#[tokio::test]
async fn each_guard_skips_with_its_reason() {
    let world = World::new().await;
    let due = utc_now();
    world.sql("INSERT INTO families VALUES ('nobody')").await;
    world.sql("INSERT INTO care_recipients (id, family_id, name) VALUES ('sam', 'nobody', 'Sam')").await;
    for (id, recipient, active) in [("stopped", "rose", false), ("given", "rose", true), ("skipped", "rose", true)] {
        world.sql(&format!("INSERT INTO medications VALUES ('{id}', '{recipient}', 'X', '1 mg', {active})")).await;
    }
    world.sql("INSERT INTO medications VALUES ('alone', 'sam', 'X', '1 mg')").await;
    for (id, status) in [("given", "GIVEN"), ("skipped", "SKIPPED"), ("metformin", "MISSED")] {
        sqlx::query("INSERT INTO medication_logs (medication_id, scheduled_time, status) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(due)
            .bind(status)
            .execute(&world.db)
            .await
            .unwrap();
    }
    let long_ago = due - TimeDelta::minutes(61);
    let cases = [
        (reminder("unknown", due), "skipped", Some("gone")),
        (reminder("stopped", due), "skipped", Some("inactive")),
        (reminder("given", due), "skipped", Some("already_given")),
        (reminder("skipped", due), "skipped", Some("already_skipped")),
        (reminder("alone", due), "skipped", Some("no_recipients")),
        (reminder("stopped", long_ago), "expired", Some("expired")),
        // Another dose, and one logged as neither given nor skipped.
        (reminder("given", due - TimeDelta::minutes(30)), "done", None),
        (reminder("metformin", due), "done", None),
    ];
    let worker = Worker::start(&world);
    world.all_end("jobs.reminder.medication", &cases).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty(), "a skip is not a failure");
    worker.stop().await;
}

#[tokio::test]
async fn a_lead_time_makes_a_reminder_of_its_own() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let due = utc_now() + TimeDelta::minutes(15);
    for minutes in [15, 30] {
        let body =
            json!({ "medicationId": "metformin", "scheduledTime": due.to_rfc3339(), "reminderMinutes": minutes });
        world.publish_json("jobs.reminder.medication", &format!("lead-{minutes}"), &body).await;
        assert_eq!(world.ended(&format!("lead-{minutes}")).await.0, "done");
    }
    assert_eq!(world.inbox("lead-15").await[0].body, "In 15 min: give Metformin (500 mg) to Rose");
    worker.stop().await;
}

#[tokio::test]
async fn names_and_ids_of_any_length_make_a_notification_that_is_taken() {
    let world = World::new().await;
    let id = "m".repeat(100);
    world.sql(&format!("INSERT INTO medications VALUES ('{id}', 'rose', repeat('N', 9000), repeat('D', 9000))")).await;
    world.sql("UPDATE care_recipients SET name = repeat('R', 9000)").await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.reminder.medication", "long", &reminder(&id, utc_now())).await;
    world.everyone_has_it_once("long").await;
    worker.stop().await;
}

#[test]
fn each_mistake_names_its_field() {
    let when = "2027-03-01T09:00:00Z";
    let cases = [
        (json!({}), "medication_id"),
        (json!({ "medicationId": "m" }), "scheduled_time"),
        (json!({ "medicationId": "m\u{0}", "scheduledTime": when }), "medication_id"),
        (json!({ "medicationId": "m", "scheduledTime": "1969-12-31T23:59:59Z" }), "scheduled_time"),
        (json!({ "medicationId": "m", "scheduledTime": when, "reminderMinutes": -1 }), "reminder_minutes"),
        (json!({ "medicationId": "m", "scheduledTime": when, "reminderMinutes": 10_081 }), "reminder_minutes"),
        (json!({ "medicationID": "m", "scheduledTime": when }), "did you mean `medicationId`?"),
        (json!({ "medicationId": 7, "scheduledTime": when }), "wrong type"),
        (json!({ "medicationId": "m", "scheduledTime": "nine o'clock" }), "wrong type or form"),
        (json!([]), "wrong type"),
    ];
    for (body, expected) in cases {
        let error = decode("reminder.medication", &body).expect_err(&body.to_string());
        assert!(error.contains(expected), "{body}: {error}");
        assert!(!error.contains("nine"), "the body's own texts stay out of errors: {error}");
    }
}
