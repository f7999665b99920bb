//! `reminder.shift`: guards, recipient and text, and rejected input.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{LIMIT, Worker, World, decode, utc_now};

const SUBJECT: &str = "jobs.reminder.shift";
/// As the scheduler publishes it, whenever it is due.
const OWN: &str = "work.reminder.shift";

fn reminder(id: &str, at: DateTime<Utc>, minutes: i32) -> Value {
    json!({ "shiftId": id, "startTime": at.to_rfc3339(), "reminderMinutes": minutes })
}

/// A shift of eight hours, by Ana for Rose.
async fn shift(world: &World, id: &str, at: DateTime<Utc>, status: &str) {
    sqlx::query(
        "INSERT INTO caregiver_shifts (id, care_recipient_id, user_id, starts_at, ends_at, status) \
         VALUES ($1, 'rose', 'ana', $2, $2 + interval '8 hours', $3)",
    )
    .bind(id)
    .bind(at)
    .bind(status)
    .execute(&world.db)
    .await
    .unwrap();
}

#[tokio::test]
async fn each_guard_skips_with_its_reason() {
    let world = World::new().await;
    let soon = utc_now() + TimeDelta::minutes(30);
    let begun = utc_now() - TimeDelta::seconds(1);
    for (id, at, status) in [
        ("ahead", soon, "SCHEDULED"),
        ("off", soon, "CANCELLED"),
        ("over", soon, "COMPLETED"),
        ("begun", begun, "SCHEDULED"),
        ("open", soon, "SCHEDULED"),
    ] {
        shift(&world, id, at, status).await;
    }
    // A view may show shifts that nobody has taken yet.
    world.sql("ALTER TABLE caregiver_shifts ALTER user_id DROP NOT NULL").await;
    world.sql("UPDATE caregiver_shifts SET user_id = NULL WHERE id = 'open'").await;
    let cases = [
        (reminder("unknown", soon, 30), "skipped", Some("gone")),
        (reminder("off", soon, 30), "skipped", Some("cancelled")),
        (reminder("over", soon, 30), "skipped", Some("over")),
        (reminder("ahead", soon - TimeDelta::minutes(5), 30), "skipped", Some("moved")),
        (reminder("open", soon, 30), "skipped", Some("no_recipients")),
        (reminder("begun", begun, 0), "expired", Some("expired")),
        (reminder("ahead", soon, 30), "done", None),
    ];
    let worker = Worker::without_scheduler(&world);
    world.all_end(SUBJECT, &cases).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty(), "a skip is not a failure");
    worker.stop().await;
}

#[tokio::test]
async fn whose_shift_it_is_alone_is_told_from_when_to_when() {
    let world = World::new().await;
    world.sql("UPDATE care_recipients SET timezone = 'Europe/Vienna'").await;
    let at = "2045-03-01T21:00:00Z".parse().unwrap();
    shift(&world, "night", at, "CONFIRMED").await;
    let worker = Worker::without_scheduler(&world);
    world.publish_json(OWN, "care~s", &reminder("night", at, 60)).await;
    let inbox = world.inbox("care~s").await;
    assert_eq!(inbox.len(), 1);
    let row = &inbox[0];
    assert_eq!((row.user_id.as_str(), row.kind.as_str()), ("ana", "SHIFT_REMINDER"));
    assert_eq!(row.title, "🕘 Shift Reminder");
    assert_eq!(row.body, "Your shift with Rose is on Wed 1 Mar from 22:00 to 06:00");
    assert_eq!(row.url, "/shifts?id=night");
    let data = json!({
        "type": "SHIFT_REMINDER",
        "shiftId": "night",
        "careRecipientId": "rose",
        "startTime": "2045-03-01T21:00:00.000Z",
    });
    assert_eq!(row.data, data);
    let push = &world.push.wait_for(1, LIMIT).await.unwrap()[0];
    assert_eq!((push.name.as_str(), push.urgency.as_str()), ("ana", "normal"));
    assert_eq!(push.json()["tag"], "shift-night");
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 1);
    worker.stop().await;
}

#[tokio::test]
async fn each_lead_time_is_one_reminder() {
    let world = World::new().await;
    let at = utc_now() + TimeDelta::minutes(50);
    shift(&world, "s", at, "SCHEDULED").await;
    let worker = Worker::without_scheduler(&world);
    for (job_id, minutes, state, reason) in [
        ("two-hours", 120, "done", None),
        ("one-hour", 60, "done", None),
        ("one-hour-again", 60, "skipped", Some("already_sent".to_owned())),
    ] {
        world.publish_json(SUBJECT, job_id, &reminder("s", at, minutes)).await;
        assert_eq!(world.ended(job_id).await, (state.to_owned(), reason), "{job_id}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn names_and_ids_of_any_length_make_a_notification_that_is_taken() {
    let world = World::new().await;
    let (id, at) = ("s".repeat(100), utc_now() + TimeDelta::hours(1));
    shift(&world, &id, at, "SCHEDULED").await;
    world.sql("UPDATE care_recipients SET name = repeat('R', 9000)").await;
    let worker = Worker::without_scheduler(&world);
    world.publish_json(SUBJECT, "long", &reminder(&id, at, 60)).await;
    assert_eq!(world.ledger("long").await[0].state, "sent");
    worker.stop().await;
}

#[test]
fn each_mistake_names_its_field() {
    let when = "2027-03-01T09:00:00Z";
    let cases = [
        (json!({}), "shift_id"),
        (json!({ "shiftId": "s" }), "start_time"),
        (json!({ "shiftId": "s\n", "startTime": when }), "shift_id"),
        (json!({ "shiftId": "s", "startTime": "1969-12-31T23:59:59Z" }), "start_time"),
        (json!({ "shiftId": "s", "startTime": when, "reminderMinutes": -1 }), "reminder_minutes"),
        (json!({ "shiftId": "s", "startTime": when, "reminderMinutes": 10_081 }), "reminder_minutes"),
        (json!({ "shiftId": "s", "endTime": when }), "unrecognized field"),
    ];
    for (body, expected) in cases {
        let error = decode("reminder.shift", &body).expect_err(&body.to_string());
        assert!(error.contains(expected), "{body}: {error}");
    }
}
