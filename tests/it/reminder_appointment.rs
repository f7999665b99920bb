//! `reminder.appointment`: guards, recipients and text, and rejected input.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{FAMILY, LIMIT, Worker, World, decode, utc_now};

const SUBJECT: &str = "jobs.reminder.appointment";
/// As the scheduler publishes it, whenever it is due.
const OWN: &str = "work.reminder.appointment";

fn reminder(id: &str, at: DateTime<Utc>, minutes: i32) -> Value {
    json!({ "appointmentId": id, "dateTime": at.to_rfc3339(), "reminderMinutes": minutes })
}

async fn appointment(world: &World, id: &str, recipient: &str, at: DateTime<Utc>, status: &str) {
    sqlx::query(
        "INSERT INTO appointments (id, care_recipient_id, title, starts_at, location, status) \
         VALUES ($1, $2, 'Physiotherapy', $3, 'Main Street 5', $4)",
    )
    .bind(id)
    .bind(recipient)
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
    world.sql("INSERT INTO families VALUES ('nobody')").await;
    world.sql("INSERT INTO care_recipients (id, family_id, name) VALUES ('sam', 'nobody', 'Sam')").await;
    for (id, recipient, at, status) in [
        ("ahead", "rose", soon, "SCHEDULED"),
        ("confirmed", "rose", soon, "CONFIRMED"),
        ("off", "rose", soon, "CANCELLED"),
        ("over", "rose", soon, "COMPLETED"),
        ("begun", "rose", begun, "CONFIRMED"),
        ("alone", "sam", soon, "SCHEDULED"),
    ] {
        appointment(&world, id, recipient, at, status).await;
    }
    let elsewhen = soon + TimeDelta::minutes(5);
    let cases = [
        (reminder("unknown", soon, 30), "skipped", Some("gone")),
        (reminder("off", soon, 30), "skipped", Some("cancelled")),
        (reminder("over", soon, 30), "skipped", Some("over")),
        (reminder("ahead", elsewhen, 30), "skipped", Some("moved")),
        (reminder("off", elsewhen, 30), "skipped", Some("cancelled")),
        (reminder("alone", soon, 30), "skipped", Some("no_recipients")),
        (reminder("begun", begun, 0), "expired", Some("expired")),
        (reminder("confirmed", soon, 30), "done", None),
        // As precise as a producer that counts in milliseconds.
        (
            json!({ "appointmentId": "ahead", "dateTime": carebell::text::instant(soon), "reminderMinutes": 30 }),
            "done",
            None,
        ),
    ];
    let worker = Worker::without_scheduler(&world);
    world.all_end(SUBJECT, &cases).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty(), "a skip is not a failure");
    worker.stop().await;
}

#[tokio::test]
async fn the_family_is_told_what_when_and_where() {
    let world = World::new().await;
    world.sql("UPDATE care_recipients SET timezone = 'Europe/Vienna'").await;
    let at = "2045-03-01T13:30:00Z".parse().unwrap();
    appointment(&world, "a 1", "rose", at, "CONFIRMED").await;
    let worker = Worker::without_scheduler(&world);
    world.publish_json(OWN, "care~physio", &reminder("a 1", at, 60)).await;
    let inbox = world.inbox("care~physio").await;
    assert_eq!(inbox.iter().map(|row| row.user_id.as_str()).collect::<Vec<_>>(), FAMILY);
    for row in inbox {
        assert_eq!(row.kind, "APPOINTMENT_REMINDER");
        assert_eq!(row.title, "📅 Appointment Reminder");
        assert_eq!(row.body, "Physiotherapy for Rose on Wed 1 Mar at 14:30, Main Street 5");
        assert_eq!(row.url, "/appointments?id=a+1");
        let data = json!({
            "type": "APPOINTMENT_REMINDER",
            "appointmentId": "a 1",
            "careRecipientId": "rose",
            "dateTime": "2045-03-01T13:30:00.000Z",
        });
        assert_eq!(row.data, data);
    }
    world.everyone_has_it_once("care~physio").await;
    for push in world.push.received() {
        assert_eq!(push.urgency, "normal", "the normal lane");
        assert_eq!(push.json()["tag"], "appointment-a 1");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_place_and_a_time_zone_may_be_unknown() {
    let world = World::new().await;
    world.sql("UPDATE care_recipients SET timezone = 'Middle of nowhere'").await;
    let at = "2045-03-01T13:30:00Z".parse().unwrap();
    for (id, location) in [("none", "NULL"), ("blank", "'  '")] {
        appointment(&world, id, "rose", at, "SCHEDULED").await;
        world.sql(&format!("UPDATE appointments SET location = {location} WHERE id = '{id}'")).await;
    }
    let worker = Worker::without_scheduler(&world);
    for id in ["none", "blank"] {
        let job = format!("care~{id}");
        world.publish_json(OWN, &job, &reminder(id, at, 60)).await;
        assert_eq!(world.inbox(&job).await[0].body, "Physiotherapy for Rose on Wed 1 Mar at 13:30 UTC");
    }
    worker.stop().await;
}

#[tokio::test]
async fn each_lead_time_is_one_reminder_and_a_moved_appointment_has_all_of_them_anew() {
    let world = World::new().await;
    let at = utc_now() + TimeDelta::minutes(30);
    appointment(&world, "a", "rose", at, "SCHEDULED").await;
    let worker = Worker::without_scheduler(&world);
    let sent = ("done".to_owned(), None);
    let skipped = |reason: &str| ("skipped".to_owned(), Some(reason.to_owned()));
    for (job_id, minutes, end) in [
        ("day-before", 1440, &sent),
        ("hour-before", 60, &sent),
        ("day-before-again", 1440, &skipped("already_sent")),
        ("hour-before-again", 60, &skipped("already_sent")),
    ] {
        world.publish_json(SUBJECT, job_id, &reminder("a", at, minutes)).await;
        assert_eq!(world.ended(job_id).await, *end, "{job_id}");
    }
    let later = at + TimeDelta::minutes(20);
    sqlx::query("UPDATE appointments SET starts_at = $1").bind(later).execute(&world.db).await.unwrap();
    world.publish_json(SUBJECT, "old-time", &reminder("a", at, 30)).await;
    assert_eq!(world.ended("old-time").await, skipped("moved"));
    world.publish_json(SUBJECT, "new-time", &reminder("a", later, 60)).await;
    assert_eq!(world.ended("new-time").await, sent);
    world.push.wait_for(3 * FAMILY.len(), LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 12);
    worker.stop().await;
}

#[tokio::test]
async fn names_and_ids_of_any_length_make_a_notification_that_is_taken() {
    let world = World::new().await;
    let (id, at) = ("a".repeat(100), utc_now() + TimeDelta::hours(1));
    appointment(&world, &id, "rose", at, "SCHEDULED").await;
    world.sql("UPDATE appointments SET title = repeat('T', 9000), location = repeat('L', 9000)").await;
    world.sql("UPDATE care_recipients SET name = repeat('R', 9000)").await;
    let worker = Worker::without_scheduler(&world);
    world.publish_json(SUBJECT, "long", &reminder(&id, at, 60)).await;
    world.everyone_has_it_once("long").await;
    worker.stop().await;
}

#[test]
fn each_mistake_names_its_field() {
    let when = "2027-03-01T09:00:00Z";
    let cases = [
        (json!({}), "appointment_id"),
        (json!({ "appointmentId": "a" }), "date_time"),
        (json!({ "appointmentId": "a".repeat(101), "dateTime": when }), "appointment_id"),
        (json!({ "appointmentId": "a", "dateTime": "1969-12-31T23:59:59Z" }), "date_time"),
        (json!({ "appointmentId": "a", "dateTime": when, "reminderMinutes": -1 }), "reminder_minutes"),
        (json!({ "appointmentId": "a", "dateTime": when, "reminderMinutes": 10_081 }), "reminder_minutes"),
        (json!({ "appointmentId": "a", "startsAt": when }), "unrecognized field"),
    ];
    for (body, expected) in cases {
        let error = decode("reminder.appointment", &body).expect_err(&body.to_string());
        assert!(error.contains(expected), "{body}: {error}");
    }
}
