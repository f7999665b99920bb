//! `reminder.medication`: guards and rejected input.

use carebell::{health::Health, reads::Reads};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use serde_json::json;

use crate::support::{Worker, World, decode, reminder, utc_now};

/// The same rules as the scheduler's: `tests/it/care_reminders.rs` holds those.
#[tokio::test]
async fn an_instant_is_a_dose_if_the_schedule_has_it() {
    let world = World::new().await;
    for (id, medication, times, more) in [
        ("1", "metformin", "08:00,24:00", "'{1,3}', '2027-03-01', '2027-04-30', '{0}', 'ACTIVE'"),
        ("2", "metformin", "02:30", "'{}', '2027-03-01', NULL, '{0}', 'ACTIVE'"),
        ("3", "metformin", "12:00", "'{}', '2027-03-01', NULL, '{0}', 'PAUSED'"),
    ] {
        world
            .sql(&format!("INSERT INTO medication_schedules VALUES ('{id}', '{medication}', '{{{times}}}', {more})"))
            .await;
    }
    let reads = Reads::start(&world.store, &Health::new());
    let is_dose = async |at: &str| {
        let at: DateTime<Utc> = at.parse().unwrap();
        reads.is_dose("metformin", "Europe/Vienna", at).await.unwrap()
    };
    for at in [
        "2027-03-01T07:00:00Z", // Monday
        "2027-03-31T06:00:00Z", // Wednesday, in summer
        "2027-03-01T23:00:00Z", // 24:00 of Monday
        "2027-03-27T01:30:00Z",
        "2027-03-28T01:00:00Z", // 02:30 does not exist, and is at the change
        "2027-10-31T00:30:00Z", // 02:30 exists twice, and is the first
        // Where others place it: after the gap, and the second time.
        "2027-03-28T01:30:00Z",
        "2027-10-31T01:30:00Z",
    ] {
        assert_eq!(is_dose(at).await, Some(true), "{at}");
    }
    for at in [
        "2027-03-01T07:00:00.001Z",
        "2027-03-01T07:00:00.000001Z", // neither log nor mark of the dose would be found
        "2027-03-01T06:59:59.999Z",
        "2027-03-02T07:00:00Z", // Tuesday
        "2027-03-02T23:00:00Z", // 24:00 of Tuesday
        "2027-03-01T08:00:00Z",
        "2027-05-03T06:00:00Z", // after the last day
        "2027-03-28T02:30:00Z", // an hour after the change that is over
        "2027-03-01T11:00:00Z", // paused
    ] {
        assert_eq!(is_dose(at).await, Some(false), "{at}");
    }
    // No schedule has doses on that day, no schedule at all, and a zone that only its application knows.
    assert_eq!(is_dose("2027-02-24T07:00:00Z").await, None);
    let at: DateTime<Utc> = "2027-03-01T07:00:00Z".parse().unwrap();
    for (medication, zone) in [("other", "Europe/Vienna"), ("metformin", "Eastern Standard Time"), ("metformin", "")] {
        assert_eq!(reads.is_dose(medication, zone, at).await.unwrap(), None, "{medication} {zone}");
    }
}

/// It would be announced to the family, and take the mark of a dose that does not exist.
#[tokio::test]
async fn a_dose_that_is_not_on_the_schedule_is_dead() {
    let world = World::new().await;
    let due = utc_now().with_second(0).and_then(|due| due.with_nanosecond(0)).unwrap();
    let schedule = "INSERT INTO medication_schedules (id, medication_id, times, start_date) \
                    SELECT '1', 'metformin', ARRAY[$1::time], '2020-01-01'";
    sqlx::query(schedule).bind(due.time()).execute(&world.db).await.unwrap();
    world.sql("UPDATE care_recipients SET timezone = 'UTC'").await;
    world.sql("INSERT INTO medications VALUES ('ramipril', 'rose', 'Ramipril', '5 mg')").await;
    world.sql("INSERT INTO medication_schedules (id, medication_id, times, start_date) VALUES ('2', 'ramipril', '{}', '2020-01-01')").await;
    let worker = Worker::start(&world);
    let publish = async |id: &str, medication: &str, at| {
        world.publish_json("jobs.reminder.medication", id, &reminder(medication, at)).await;
    };
    publish("made-up", "metformin", due - TimeDelta::minutes(1)).await;
    let (_, letter, _) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(letter.get("Carebell-Dead-Reason").unwrap().as_str(), "permanent");
    let error = letter.get("Carebell-Dead-Error").unwrap().as_str();
    assert!(error.starts_with("the medication's schedule has no dose at `scheduled_time`"), "{error}");
    publish("real", "metformin", due).await;
    assert_eq!(world.ended("real").await.0, "done");
    // Delayed, and not there any more when it comes.
    let at = (utc_now() + TimeDelta::seconds(1)).to_rfc3339();
    let headers = [("Carebell-Job-Id", "moved"), ("Carebell-At", &*at), ("Content-Type", "application/json")];
    let body = reminder("metformin", due - TimeDelta::minutes(2)).to_string();
    world.publish("jobs.later.reminder.medication", &headers, body).await;
    assert_eq!(world.ended("moved").await, ("skipped".into(), Some("moved".into())));
    // Where the record has no schedule with times, only its application knows the instants.
    publish("unscheduled", "ramipril", due - TimeDelta::minutes(1)).await;
    assert_eq!(world.ended("unscheduled").await.0, "done");
    worker.stop().await;
}

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
        (json!({ "medicationId": 7, "scheduledTime": when }), "`medicationId` must be a string"),
        (json!({ "medicationId": "m", "scheduledTime": "nine o'clock" }), "`scheduledTime` must be an instant"),
        (json!([]), "one JSON object"),
    ];
    for (body, expected) in cases {
        let error = decode("reminder.medication", &body).expect_err(&body.to_string());
        assert!(error.contains(expected), "{body}: {error}");
        assert!(!error.contains("nine"), "the body's own texts stay out of errors: {error}");
    }
}
