//! Reasons of the care tables, and of the scheduler.

use chrono::SubsecRound;

use super::*;

async fn schedule(world: &World, more: &str) {
    world.sql("DELETE FROM medication_schedules").await;
    world
        .sql(&format!(
            "INSERT INTO medication_schedules (id, medication_id, times, weekdays, start_date, end_date, reminder_minutes, status) \
             VALUES ('s', 'metformin', {more})"
        ))
        .await;
}

#[tokio::test]
async fn a_dose_that_is_settled_or_not_on_the_schedule() {
    let desk = Desk::new().await;
    let world = &desk.world;
    // A Monday in Tokyo, where Rose is; in Vienna, where Ana is, it is one in the morning.
    let nine = "2026-03-02T00:00:00Z";
    desk.dose("ana", nine, "no", "no_schedule", "its application has to publish it").await;
    let whole = "2026-03-02 09:00 Asia/Tokyo (2026-03-02T00:00:00Z)";
    desk.dose("ana", nine, "no", "no_schedule", whole).await;
    for (of, reason, part) in [
        (
            "'{09:00}', '{}', '2026-01-01', NULL, '{0}', 'PAUSED'",
            "schedule_rests",
            "none of the medication's schedules",
        ),
        ("'{09:00}', '{}', '2026-04-01', NULL, '{0}', 'ACTIVE'", "schedule_not_begun", "begins on 2026-04-01"),
        ("'{09:00}', '{}', '2026-01-01', '2026-02-28', '{0}', 'ACTIVE'", "schedule_ended", "ended on 2026-02-28"),
        ("'{09:00}', '{2,7}', '2026-01-01', NULL, '{0}', 'ACTIVE'", "not_on_weekday", "no dose on Mondays"),
        ("'{08:00,21:30}', '{1}', '2026-01-01', NULL, '{0}', 'ACTIVE'", "no_such_time", "at 08:00, 21:30, on the care"),
        // It was long ago, and published reminders are forgotten.
        ("'{09:00}', '{1}', '2026-01-01', NULL, '{0}', 'ACTIVE'", "nothing_known", "nothing is on record"),
    ] {
        schedule(world, of).await;
        world.sql("INSERT INTO scheduler_state VALUES ('care', now()) ON CONFLICT DO NOTHING").await;
        let told = if reason == "nothing_known" { "unknown" } else { "no" };
        // The hour of Rose's clocks, and its instant.
        desk.dose("ana", "2026-03-02T09:00", told, reason, part).await;
        desk.dose("ana", nine, told, reason, part).await;
    }

    let log = |status: &str| {
        format!(
            "INSERT INTO medication_logs (medication_id, scheduled_time, status) VALUES ('metformin', '{nine}', '{status}')"
        )
    };
    world.sql(&log("SKIPPED")).await;
    desk.dose("ana", nine, "no", "already_skipped", "skipped on purpose").await;
    world.sql(&log("GIVEN")).await;
    desk.dose("ana", nine, "no", "already_given", "ana was not told of the dose of metformin at ").await;
    world.sql("UPDATE medications SET is_active = false").await;
    let found = desk.ask(&["--user", "ana", "--medication", "metformin", "--at", nine]).await;
    assert_eq!((&found["reason"], reasons(&found)[1]), (&json!("inactive"), "already_given"), "{found}");
    world.sql("INSERT INTO users (id, name) VALUES ('eve', 'Eve')").await;
    desk.dose("eve", nine, "no", "no_member", "not a member of the care recipient's family").await;
    let gone = ["--user", "ana", "--medication", "aspirin", "--at", nine];
    desk.says(&gone, "no", "gone", "deleted, or the id is wrong").await;
    desk.close().await;
}

#[tokio::test]
async fn an_hour_that_a_clock_skips_or_repeats_is_told_of() {
    let desk = Desk::new().await;
    desk.world.sql("UPDATE care_recipients SET timezone = 'Europe/Vienna'").await;
    schedule(&desk.world, "'{02:30}', '{}', '2026-01-01', NULL, '{0}', 'ACTIVE'").await;
    for (at, instant, fact) in [
        ("2027-03-28T02:30", "2027-03-28T01:00:00Z", "skipped_hour"),
        ("2027-10-31T02:30", "2027-10-31T00:30:00Z", "repeated_hour"),
    ] {
        let found = desk.ask(&["--user", "ana", "--medication", "metformin", "--at", at]).await;
        assert_eq!((&found["instant"], &found["reason"]), (&json!(instant), &json!("not_due")), "{found}");
        assert!(reasons(&found).contains(&fact), "{found}");
    }
    desk.close().await;
}

/// Each state of a reminder that has no record yet, as schedulers and workers leave it behind.
#[tokio::test]
async fn a_dose_that_no_worker_has_recorded() {
    let desk = Desk::new().await;
    let world = &desk.world;
    schedule(world, "'{00:00}', '{}', '2026-01-01', NULL, '{0}', 'ACTIVE'").await;
    let due = (utc_now() - TimeDelta::minutes(5)).trunc_subsecs(0);
    let clock = due.with_timezone(&chrono::FixedOffset::east_opt(9 * 3600).unwrap()).format("%H:%M:%S");
    world.sql(&format!("UPDATE medication_schedules SET times = ARRAY['{clock}'::time]")).await;
    let at = rfc3339(due);
    let looked = |ago: &str| {
        format!(
            "INSERT INTO scheduler_state VALUES ('care', now() - interval '{ago}') \
             ON CONFLICT (part) DO UPDATE SET looked_at = EXCLUDED.looked_at"
        )
    };
    desk.dose("ana", &at, "not_yet", "scheduler_down", "looked at the care tables never").await;
    world.sql(&looked("10 minutes")).await;
    desk.dose("ana", &at, "not_yet", "scheduler_down", "looked at the care tables last at ").await;
    world.sql(&looked("10 seconds")).await;
    desk.dose("ana", &at, "no", "not_planned", "no reminder is on record for ").await;

    world
        .sql(&format!(
            "INSERT INTO care_reminders (kind, record_id, instant, lead_minutes, due_at) \
             VALUES ('reminder.medication', 'metformin', '{at}', 0, '{at}')"
        ))
        .await;
    desk.dose("ana", &at, "not_yet", "scheduler_behind", "(1 are overdue)").await;
    world.sql(&looked("4 minutes")).await;
    desk.dose("ana", &at, "not_yet", "scheduler_down", "last at ").await;
    world.sql("UPDATE care_reminders SET published_at = now()").await;
    desk.dose("ana", &at, "not_yet", "worker_down", "the job care~reminder.medication:metformin:").await;
    world.sql("INSERT INTO scheduler_state VALUES ('sign_of_life', now())").await;
    desk.dose("ana", &at, "not_yet", "not_run", "no worker has recorded it").await;

    let soon = rfc3339(due + TimeDelta::days(1));
    desk.dose("ana", &soon, "not_yet", "not_due", "and is not planned yet").await;
    world
        .sql(&format!(
            "INSERT INTO care_reminders (kind, record_id, instant, lead_minutes, due_at) \
             VALUES ('reminder.medication', 'metformin', '{soon}', 0, '{soon}')"
        ))
        .await;
    desk.dose("ana", &soon, "not_yet", "not_due", "the reminder is planned for ").await;
    world
        .sql(&format!(
            "INSERT INTO medication_logs (medication_id, scheduled_time, status) VALUES ('metformin', '{soon}', 'GIVEN')"
        ))
        .await;
    desk.dose("ana", &soon, "no", "already_given", "ana will not be told of the dose of metformin at ").await;
    desk.close().await;
}

/// Planned, published and sent by the real scheduler and worker.
#[tokio::test]
async fn a_dose_that_carebell_planned_itself() {
    let desk = Desk::of(World::new().await.at_pace(5)).await;
    let world = &desk.world;
    let worker = Worker::start(world);
    let looked = async || world.store.care_looked_at().await.unwrap();
    world.eventually("a scheduler has looked", looked).await;
    let due = (utc_now() + TimeDelta::seconds(4)).trunc_subsecs(0);
    let clock = due.with_timezone(&chrono::FixedOffset::east_opt(9 * 3600).unwrap()).format("%H:%M:%S");
    schedule(world, &format!("ARRAY['{clock}'::time], '{{}}', '2026-01-01', NULL, '{{0}}', 'ACTIVE'")).await;
    world.sql("NOTIFY carebell_care").await;
    world.push.wait_for(FAMILY.len(), LIMIT).await.unwrap();
    let told = "SELECT count(*) FROM deliveries WHERE state = 'sent'";
    world.eventually("it is recorded", async || (world.count(told).await == 4).then_some(())).await;
    desk.dose("ana", &rfc3339(due), "yes", "told", "web_push was accepted by localhost:").await;
    worker.stop().await;
    desk.close().await;
}

#[tokio::test]
async fn appointments_and_shifts() {
    let desk = Desk::new().await;
    let world = &desk.world;
    world.sql("INSERT INTO users (id, name) VALUES ('eve', 'Eve')").await;
    world
        .sql(
            "INSERT INTO appointments (id, care_recipient_id, title, starts_at, location, status) VALUES \
             ('visit', 'rose', 'Checkup', now() + interval '1 day', 'Old Mill', 'SCHEDULED'), \
             ('off', 'rose', 'Checkup', now() + interval '1 day', 'Old Mill', 'CANCELLED'), \
             ('over', 'rose', 'Checkup', now() - interval '1 day', 'Old Mill', 'COMPLETED')",
        )
        .await;
    world.sql("ALTER TABLE caregiver_shifts ALTER user_id DROP NOT NULL").await;
    world
        .sql(
            "INSERT INTO caregiver_shifts (id, care_recipient_id, user_id, starts_at, ends_at) VALUES \
             ('night', 'rose', 'ana', now() + interval '1 day', now() + interval '2 days'), \
             ('free', 'rose', NULL, now() + interval '1 day', now() + interval '2 days')",
        )
        .await;
    for (args, told, reason, part) in [
        (
            ["--user", "ana", "--appointment", "visit"],
            "not_yet",
            "not_due",
            "ana has not been told of the appointment visit",
        ),
        (["--user", "eve", "--appointment", "visit"], "no", "no_member", "eve will not be told of"),
        (["--user", "ana", "--appointment", "off"], "no", "cancelled", "it was called off"),
        (["--user", "ana", "--appointment", "over"], "no", "over", "ana was not told of the appointment over at "),
        (["--user", "ana", "--appointment", "none"], "no", "gone", "there is no such care record"),
        (["--user", "ana", "--shift", "night"], "not_yet", "not_due", "of the shift night at "),
        (["--user", "ben", "--shift", "night"], "no", "not_their_shift", "assigned to somebody else"),
        (["--user", "ana", "--shift", "free"], "no", "no_recipients", "assigned to nobody"),
    ] {
        desk.says(&args, told, reason, part).await;
    }
    desk.close().await;
}
