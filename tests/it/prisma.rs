//! `docs/bridge/prisma`: an application whose tables Prisma makes has reminders through views, and keeps its push
//! subscriptions.

use std::{fs, path::Path};

use chrono::{SubsecRound, TimeDelta};
use serde_json::json;

use crate::{
    cli::carebell,
    support::{FAMILY, LIMIT, QUICK, Worker, World, database_without_care_tables, reminder, sorted, utc_now},
};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bridge/prisma");

async fn run(world: &World, file: &str) {
    let text = fs::read_to_string(Path::new(DIRECTORY).join(file)).unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&world.db).await.unwrap();
}

/// Rose's family of four, each with a browser that is in `PushToken` only.
async fn world() -> World {
    let world = World::without_family(database_without_care_tables().await, QUICK).await;
    run(&world, "tables.sql").await;
    run(&world, "views.sql").await;
    world.sql(r#"INSERT INTO "Family" VALUES ('clfam', 'Rose')"#).await;
    world
        .sql(
            r#"INSERT INTO "CareRecipient" ("id", "familyId", "firstName", "preferredName", "timezone")
               VALUES ('clrose', 'clfam', 'Rosemary', 'Rose', 'Asia/Kolkata')"#,
        )
        .await;
    world
        .sql(
            r#"INSERT INTO "Medication" ("id", "careRecipientId", "name", "dosage", "startDate", "currentSupply", "refillAt")
               VALUES ('clmet', 'clrose', 'Metformin', '500 mg', '2026-01-01', 30, 10)"#,
        )
        .await;
    for name in FAMILY {
        let subscription = world.push.subscribe(name);
        let json = json!({
            "endpoint": subscription.endpoint, "expirationTime": null,
            "keys": { "p256dh": subscription.p256dh, "auth": subscription.auth },
        });
        world
            .sql(&format!(
                r#"INSERT INTO "User" ("id", "email", "fullName") VALUES ('{name}', '{name}@example.org', '{name}')"#
            ))
            .await;
        world
            .sql(&format!(
                r#"INSERT INTO "FamilyMember" ("id", "familyId", "userId") VALUES ('m-{name}', 'clfam', '{name}')"#
            ))
            .await;
        world
            .sql(&format!(
                r#"INSERT INTO "PushToken" ("id", "userId", "platform", "token", "subscriptionJson")
                   VALUES ('t-{name}', '{name}', 'WEB', '{name}', '{json}'), ('i-{name}', '{name}', 'IOS', 'apns', NULL)"#
            ))
            .await;
    }
    world
}

#[tokio::test]
async fn a_dose_of_its_tables_reaches_the_family_on_the_second() {
    let world = world().await;
    for _ in 0..2 {
        run(&world, "subscriptions.sql").await;
        assert_eq!(world.count("SELECT count(*) FROM push_subscriptions").await, 4);
    }
    let worker = Worker::start(&world);
    world.eventually("it has looked", async || world.store.care_looked_at().await.unwrap()).await;
    let due = (utc_now() + TimeDelta::minutes(1)).with_timezone(&chrono_tz::Asia::Kolkata);
    let times = format!("{{{}, noon}}", due.format("%H:%M"));
    world.sql(&format!(r#"UPDATE "Medication" SET "scheduledTimes" = '{times}'"#)).await;
    world.sql("NOTIFY carebell_care").await;
    let planned = async || {
        let doses = "SELECT count(*) FROM care_reminders WHERE kind = 'reminder.medication'";
        (world.count(doses).await > 0).then_some(())
    };
    world.eventually("the dose is planned", planned).await;

    let now = utc_now().trunc_subsecs(3);
    world.sql(r#"UPDATE "Medication" SET "scheduledTimes" = NULL"#).await;
    world.publish_json("jobs.reminder.medication", "dose", &reminder("clmet", now)).await;
    world.everyone_has_it_once("dose").await;
    let pushes = world.push.wait_for(4, LIMIT).await.unwrap();
    assert_eq!(sorted(pushes.iter().map(|push| push.name.clone()).collect()), FAMILY);
    let inbox = world.inbox("dose").await;
    assert_eq!(inbox[0].body, "Time to give Metformin (500 mg) to Rose");

    let given = now + TimeDelta::milliseconds(1);
    world
        .sql(&format!(r#"INSERT INTO "MedicationLog" VALUES ('cllog', 'clmet', '{}', 'GIVEN')"#, given.naive_utc()))
        .await;
    world.publish_json("jobs.reminder.medication", "given", &reminder("clmet", given)).await;
    assert_eq!(world.ended("given").await, ("skipped".into(), Some("already_given".into())));
    worker.stop().await;
}

#[tokio::test]
async fn the_doctor_names_an_index_that_is_missing() {
    let world = world().await;
    world
        .sql(
            r#"INSERT INTO "MedicationLog" ("id", "medicationId", "scheduledTime")
               SELECT 'cl' || n, 'clmet', now() FROM generate_series(1, 2000) n"#,
        )
        .await;
    world
        .sql(
            r#"INSERT INTO "Appointment" ("id", "careRecipientId", "title", "startTime")
               SELECT 'cl' || n, 'clrose', 'Dentist', now() FROM generate_series(1, 2000) n"#,
        )
        .await;
    world.sql("ANALYZE").await;
    assert_eq!(missing(&world).await, [] as [String; 0]);

    world.sql(r#"DROP INDEX "Appointment_start""#).await;
    let line = "carebell.Appointment has no index by which appointments is looked up by starts_at";
    assert_eq!(missing(&world).await, [line]);
    world.sql(r#"DROP INDEX "MedicationLog_dose""#).await;
    assert_eq!(missing(&world).await, [line], "the index of medicationId alone is enough of one");
    world.sql(r#"DROP INDEX "MedicationLog_medicationId_idx""#).await;
    assert_eq!(missing(&world).await.len(), 2);
    let (_, said, _) = carebell(&world, &["doctor", "--offline"], &[]).await;
    assert!(said.contains(line), "{said}");
}

async fn missing(world: &World) -> Vec<String> {
    world.store.probe().await.unwrap().without_index().await.unwrap()
}
