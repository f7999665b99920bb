//! An application with its own tables, columns, ids, times and states adds only views named like the care tables.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde_json::json;

use crate::support::{FAMILY, LIMIT, QUICK, Worker, World, database_without_care_tables, reminder, sorted, utc_now};

const DRUG: &str = "5b2a7c1e-0d1f-4a58-9d0e-000000000001";
const DUTY: &str = "5b2a7c1e-0d1f-4a58-9d0e-000000000002";

const TABLES: &str = "
CREATE SCHEMA app;
CREATE TYPE app.intake_result AS ENUM ('taken', 'refused', 'forgotten');
CREATE TABLE app.households (household uuid PRIMARY KEY);
CREATE TABLE app.people (
    person_no bigint PRIMARY KEY,
    household uuid NOT NULL REFERENCES app.households,
    first_name varchar(80) NOT NULL,
    last_name varchar(80) NOT NULL
);
CREATE TABLE app.patients (
    patient_no bigint PRIMARY KEY,
    household uuid NOT NULL REFERENCES app.households,
    called varchar(80) NOT NULL,
    zone varchar(64)
);
CREATE TABLE app.drugs (
    drug uuid PRIMARY KEY,
    patient_no bigint NOT NULL REFERENCES app.patients,
    label varchar(200) NOT NULL,
    strength varchar(50) NOT NULL,
    stopped_on date,
    pills_left smallint,
    warn_at smallint
);
CREATE TABLE app.regimens (
    drug uuid NOT NULL REFERENCES app.drugs,
    hours varchar(200) NOT NULL,
    days bit(7) NOT NULL DEFAULT B'1111111',
    since timestamp NOT NULL,
    warnings varchar(40) NOT NULL DEFAULT '0',
    ended boolean NOT NULL DEFAULT false
);
CREATE TABLE app.intakes (
    drug uuid NOT NULL REFERENCES app.drugs,
    planned timestamp NOT NULL,
    result app.intake_result
);
CREATE TABLE app.calendar (
    entry_no bigint PRIMARY KEY,
    patient_no bigint NOT NULL REFERENCES app.patients,
    subject varchar(200) NOT NULL,
    begins timestamp NOT NULL,
    place varchar(200),
    called_off boolean NOT NULL DEFAULT false
);
CREATE TABLE app.duties (
    duty uuid PRIMARY KEY,
    patient_no bigint NOT NULL REFERENCES app.patients,
    carer bigint REFERENCES app.people,
    during tstzrange NOT NULL,
    state smallint NOT NULL DEFAULT 0
);";

const VIEWS: &str = "
CREATE VIEW users AS
    SELECT person_no::text AS id, first_name || ' ' || last_name AS name, NULL::text AS email, NULL::text AS phone,
           NULL::text AS locale, NULL::text AS timezone
    FROM app.people;
CREATE VIEW families AS SELECT household::text AS id FROM app.households;
CREATE VIEW family_members AS
    SELECT household::text AS family_id, person_no::text AS user_id, 'member' AS role FROM app.people;
CREATE VIEW care_recipients AS
    SELECT patient_no::text AS id, household::text AS family_id, called::text AS name, zone::text AS timezone
    FROM app.patients;
CREATE VIEW medications AS
    SELECT drug::text AS id, patient_no::text AS care_recipient_id, label::text AS name, strength::text AS dosage,
           stopped_on IS NULL AS is_active, pills_left::int AS current_supply, warn_at::int AS refill_at
    FROM app.drugs;
CREATE VIEW medication_schedules AS
    SELECT drug::text AS medication_id, string_to_array(hours, ',')::time[] AS times,
           ARRAY(SELECT day FROM generate_series(1, 7) day WHERE get_bit(days, day - 1) = 1) AS weekdays,
           since::date AS start_date, NULL::date AS end_date, string_to_array(warnings, ',')::int[] AS reminder_minutes,
           CASE WHEN ended THEN 'ENDED' ELSE 'ACTIVE' END AS status
    FROM app.regimens;
CREATE VIEW medication_logs AS
    SELECT drug::text || planned AS id, drug::text AS medication_id, planned AT TIME ZONE 'UTC' AS scheduled_time,
           CASE result WHEN 'taken' THEN 'GIVEN' WHEN 'refused' THEN 'SKIPPED' ELSE 'MISSED' END AS status
    FROM app.intakes;
CREATE VIEW appointments AS
    SELECT entry_no::text AS id, patient_no::text AS care_recipient_id, subject::text AS title,
           begins AT TIME ZONE 'UTC' AS starts_at, place::text AS location,
           CASE WHEN called_off THEN 'CANCELLED' ELSE 'SCHEDULED' END AS status, '{60}'::int[] AS reminder_minutes
    FROM app.calendar;
CREATE VIEW caregiver_shifts AS
    SELECT duty::text AS id, patient_no::text AS care_recipient_id, carer::text AS user_id,
           lower(during) AS starts_at, upper(during) AS ends_at,
           (ARRAY['SCHEDULED', 'COMPLETED', 'CANCELLED'])[state + 1] AS status, '{60}'::int[] AS reminder_minutes
    FROM app.duties;
CREATE INDEX ON app.drugs ((drug::text));";

/// The family of four, as persons 101 to 104, and the patient Rose.
async fn world() -> World {
    let world = World::without_family(database_without_care_tables().await, QUICK).await;
    for statements in [TABLES, VIEWS] {
        for statement in statements.split_inclusive(';') {
            world.sql(statement).await;
        }
    }
    world.sql("INSERT INTO app.households VALUES ('5b2a7c1e-0d1f-4a58-9d0e-0000000000ff')").await;
    world.sql("INSERT INTO app.patients SELECT 7, household, 'Rose', 'Asia/Kolkata' FROM app.households").await;
    for (number, name) in (101..).zip(FAMILY) {
        world
            .sql(&format!("INSERT INTO app.people SELECT {number}, household, '{name}', 'X' FROM app.households"))
            .await;
        world.subscribe(name, &number.to_string()).await;
    }
    world.sql(&format!("INSERT INTO app.drugs VALUES ('{DRUG}', 7, 'Metformin', '500 mg', NULL, 30, 10)")).await;
    world
}

/// The application's times are UTC without a zone.
fn naive(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

fn skipped(reason: &str) -> (String, Option<String>) {
    ("skipped".to_owned(), Some(reason.to_owned()))
}

/// Owners of the inbox rows, and their text and URL.
async fn told(world: &World, root_id: &str) -> (Vec<String>, String, String) {
    let inbox = world.inbox(root_id).await;
    let users = inbox.iter().map(|row| row.user_id.clone()).collect();
    (users, inbox[0].body.clone(), inbox[0].url.clone())
}

#[tokio::test]
async fn a_medication_reminder_goes_the_whole_way() {
    let world = world().await;
    let worker = Worker::start(&world);
    let due = utc_now().trunc_subsecs(6);
    world.publish_json("jobs.reminder.medication", "dose", &reminder(DRUG, due)).await;
    let (users, body, url) = told(&world, "dose").await;
    assert_eq!(users, ["101", "102", "103", "104"]);
    assert_eq!(body, "Time to give Metformin (500 mg) to Rose");
    assert_eq!(url, format!("/medications?id={DRUG}"));
    let ledger = world.ledger("dose").await;
    assert_eq!(ledger.len(), 4);
    assert!(ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    let pushes = world.push.wait_for(4, LIMIT).await.unwrap();
    assert_eq!(sorted(pushes.iter().map(|push| push.name.clone()).collect()), FAMILY);
    for push in pushes {
        assert_eq!(push.json()["data"]["medicationId"], DRUG);
        assert_eq!(push.json()["data"]["careRecipientId"], "7");
    }

    let earlier = due - TimeDelta::minutes(5);
    for (at, result, reason) in [(due, "taken", "already_given"), (earlier, "refused", "already_skipped")] {
        world.sql(&format!("INSERT INTO app.intakes VALUES ('{DRUG}', '{}', '{result}')", naive(at))).await;
        let body = json!({ "medicationId": DRUG, "scheduledTime": at.to_rfc3339(), "reminderMinutes": 1 });
        world.publish_json("jobs.reminder.medication", result, &body).await;
        assert_eq!(world.ended(result).await, skipped(reason));
    }
    world.sql("UPDATE app.drugs SET stopped_on = current_date").await;
    world.publish_json("jobs.reminder.medication", "stopped", &reminder(DRUG, utc_now())).await;
    assert_eq!(world.ended("stopped").await, skipped("inactive"));
    worker.stop().await;
}

#[tokio::test]
async fn doses_appointments_and_shortages_are_found_through_views() {
    let world = world().await;
    let worker = Worker::start(&world);
    world.eventually("it has looked", async || world.store.care_looked_at().await.unwrap()).await;
    let due = (utc_now() + TimeDelta::seconds(3)).trunc_subsecs(0);
    let local = due.with_timezone(&chrono_tz::Asia::Kolkata).format("%H:%M:%S");
    world
        .sql(&format!("INSERT INTO app.regimens (drug, hours, since) VALUES ('{DRUG}', '{local}', '2026-01-01')"))
        .await;
    let soon = utc_now() + TimeDelta::minutes(60) + TimeDelta::seconds(3);
    world.sql(&format!("INSERT INTO app.calendar VALUES (9, 7, 'Dentist', '{}', 'Main Street 5')", naive(soon))).await;
    let range = format!("[{0}, {0}]", soon.to_rfc3339());
    world.sql(&format!("INSERT INTO app.duties VALUES ('{DUTY}', 7, 103, '{range}')")).await;
    world.sql("UPDATE app.drugs SET pills_left = 9").await;
    world.sql("NOTIFY carebell_care").await;
    let dose = format!("care~reminder.medication:{DRUG}:{}:0", due.format("%Y-%m-%dT%H:%M:%SZ"));
    let (users, ..) = told(&world, &dose).await;
    assert_eq!(users, ["101", "102", "103", "104"]);
    world.push.wait_for(4 + 4 + 1 + 4, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!((world.push.counts().accepted, world.dead_letters().await.len()), (13, 0));
    worker.stop().await;
}

#[tokio::test]
async fn so_does_each_other_kind() {
    let world = world().await;
    let worker = Worker::without_scheduler(&world);
    let at: DateTime<Utc> = "2045-03-01T13:30:00Z".parse().unwrap();

    world.sql(&format!("INSERT INTO app.calendar VALUES (9, 7, 'Dentist', '{}', 'Main Street 5')", naive(at))).await;
    let appointment = json!({ "appointmentId": "9", "dateTime": at.to_rfc3339(), "reminderMinutes": 60 });
    world.publish_json("work.reminder.appointment", "care~appointment", &appointment).await;
    let (users, body, url) = told(&world, "care~appointment").await;
    assert_eq!(users, ["101", "102", "103", "104"]);
    assert_eq!(body, "Dentist for Rose on Wed 1 Mar at 19:00, Main Street 5");
    assert_eq!(url, "/appointments?id=9");
    world.sql("UPDATE app.calendar SET called_off = true").await;
    world.publish_json("jobs.reminder.appointment", "called-off", &appointment).await;
    assert_eq!(world.ended("called-off").await, skipped("cancelled"));

    let range = format!("[{}, {})", at.to_rfc3339(), (at + TimeDelta::hours(8)).to_rfc3339());
    world.sql(&format!("INSERT INTO app.duties VALUES ('{DUTY}', 7, 103, '{range}')")).await;
    let shift = json!({ "shiftId": DUTY, "startTime": at.to_rfc3339(), "reminderMinutes": 60 });
    world.publish_json("work.reminder.shift", "care~shift", &shift).await;
    let (users, body, url) = told(&world, "care~shift").await;
    assert_eq!(users, ["103"]);
    assert_eq!(body, "Your shift with Rose is on Wed 1 Mar from 19:00 to 03:00");
    assert_eq!(url, format!("/shifts?id={DUTY}"));
    world.sql("UPDATE app.duties SET carer = NULL").await;
    let earlier = json!({ "shiftId": DUTY, "startTime": at.to_rfc3339(), "reminderMinutes": 120 });
    world.publish_json("work.reminder.shift", "care~nobodys", &earlier).await;
    assert_eq!(world.ended("care~nobodys").await, skipped("no_recipients"));

    let alert = json!({ "medicationId": DRUG, "currentSupply": 10, "refillAt": 10 });
    for (left, job_id, end) in [
        (30, "enough", skipped("restocked")),
        (10, "short", ("done".to_owned(), None)),
        (9, "short-still", skipped("already_sent")),
    ] {
        world.sql(&format!("UPDATE app.drugs SET pills_left = {left}")).await;
        world.publish_json("jobs.alert.refill", job_id, &alert).await;
        assert_eq!(world.ended(job_id).await, end, "{job_id}");
    }
    let (users, body, _) = told(&world, "short").await;
    assert_eq!(users, ["101", "102", "103", "104"]);
    assert_eq!(body, "Metformin (500 mg) for Rose: 10 doses left");
    world.sql("UPDATE app.drugs SET pills_left = 90").await;
    assert_eq!(world.store.close_ended_shortages().await.unwrap(), 1);

    let note = json!({ "recipients": [{ "userId": "102" }, { "userId": "999" }], "title": "Hello" });
    world.publish_json("jobs.notification.normal", "note", &note).await;
    assert_eq!(world.ended("note").await.0, "done");
    world.queues_are_empty().await;
    world.push.wait_for(4 + 1 + 4 + 1, LIMIT).await.unwrap();
    assert_eq!(world.push.counts().accepted, 10);
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}
