//! Running schedulers: several at once, killed, woken by announcements, and with 100,000 doses.

use std::{collections::BTreeSet, time::Duration};

use carebell::{
    clock::Clock,
    scheduler::{Scheduler, Tally, care::care_job_id},
    store::{CareKind, CareReminder, PlanChanges},
};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{at, published, scheduler};
use crate::support::{LIMIT, Process, Worker, World, utc_now};

#[tokio::test]
async fn two_and_five_schedulers_publish_each_once() {
    let world = World::new().await;
    let start = at("2026-03-02T08:00:00Z");
    world.sql("INSERT INTO medications SELECT 'm' || n, 'rose', 'X', '1 mg' FROM generate_series(1, 20) n").await;
    world
        .sql(
            "INSERT INTO medication_schedules SELECT n::text, 'm' || n, \
                 ARRAY(SELECT time '08:00' + make_interval(secs => n * 7 + k * 60) FROM generate_series(0, 5) k), \
                 '{}', '2026-01-01', NULL, '{0,1}' FROM generate_series(1, 20) n",
        )
        .await;
    let clock = Clock::manual(start);
    scheduler(&world, &clock).plan_care().await.unwrap();
    let mut total = 0;
    for count in [2, 5] {
        let schedulers: Vec<_> = (0..count).map(|_| scheduler(&world, &clock)).collect();
        for second in 0..240 {
            clock.advance(TimeDelta::seconds(1));
            if second % 20 == 0 {
                let looks = join_all(schedulers.iter().map(Scheduler::plan_care)).await;
                assert!(looks.into_iter().any(|look| look.unwrap().is_some()), "one of them looks");
            }
            let passes = join_all(schedulers.iter().map(|scheduler| scheduler.care_pass(2))).await;
            total += passes.into_iter().map(|pass| pass.unwrap().published).sum::<usize>();
        }
    }
    let last = scheduler(&world, &clock);
    while let Tally { moved: 1.., published, .. } = last.care_pass(100).await.unwrap() {
        total += published;
    }
    let ids = published(&world).await;
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), total), (distinct.len(), distinct.len()), "each was published by one scheduler");
    // All doses are published, and all leads except those before 08:00.
    assert_eq!(total, 20 * 6 + 20 * 6 - 8);
}

#[tokio::test]
async fn a_stop_between_publishing_and_marking_has_no_second_effect() {
    for step in ["due", "fired"] {
        let world = World::new().await;
        let soon = utc_now() + TimeDelta::minutes(1);
        plan_at(&world, soon - TimeDelta::minutes(2)).await;
        dose(&world, soon - TimeDelta::minutes(1)).await;
        let mut environment = world.environment();
        environment.insert("CAREBELL_ABORT_AT".into(), step.into());
        let mut doomed = Process::start(&["run", "--only", "scheduler"], &environment, world.directory.path());
        assert_eq!(doomed.ended().await.code(), Some(134), "at {step}:\n{}", doomed.output());
        let open = "SELECT count(*) FROM care_reminders WHERE published_at IS NULL";
        assert_eq!(world.count(open).await, 1, "at {step} it is still due");
        assert_eq!(published(&world).await.len(), usize::from(step == "fired"));
        let worker = Worker::start(&world);
        world.eventually("it is marked", async || (world.count(open).await == 0).then_some(())).await;
        world.queues_are_empty().await;
        let ids: Vec<String> = sqlx::query_scalar("SELECT job_id FROM job_runs WHERE kind = 'reminder.medication'")
            .fetch_all(&world.db)
            .await
            .unwrap();
        assert_eq!(ids.len(), 1, "{ids:?}");
        world.everyone_has_it_once(&ids[0]).await;
        worker.stop().await;
    }
}

/// As if a scheduler had last looked at `now`.
async fn plan_at(world: &World, now: DateTime<Utc>) {
    scheduler(world, &Clock::manual(now)).plan_care().await.unwrap();
}

/// A daily dose at this time. Returns the instant, cut to the second.
async fn dose(world: &World, at: DateTime<Utc>) -> DateTime<Utc> {
    let at = at.with_nanosecond(0).unwrap();
    let time = at.format("%H:%M:%S");
    world
        .sql(&format!(
            "INSERT INTO medication_schedules (id, medication_id, times, start_date) \
             VALUES ('{time}', 'metformin', '{{{time}}}', '2000-01-01')"
        ))
        .await;
    at
}

fn job_of(at: DateTime<Utc>) -> String {
    format!("care~reminder.medication:metformin:{}:0", at.format("%Y-%m-%dT%H:%M:%SZ"))
}

#[tokio::test]
async fn from_a_row_to_four_pushes() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.eventually("it has looked", async || world.store.care_looked_at().await.unwrap()).await;
    let due = dose(&world, utc_now() + TimeDelta::seconds(3)).await;
    world.sql("NOTIFY carebell_care").await;
    world.everyone_has_it_once(&job_of(due)).await;
    let pushes = world.push.received();
    let first = pushes.iter().map(|push| push.received - due).min().unwrap();
    let last = pushes.iter().map(|push| push.received - due).max().unwrap();
    println!(
        "first push {} ms after the second of the dose, last {} ms",
        first.num_milliseconds(),
        last.num_milliseconds()
    );
    assert!(first >= TimeDelta::zero() && first < TimeDelta::seconds(20), "{first}");
    assert!(pushes.iter().all(|push| push.json()["body"] == "Time to give Metformin (500 mg) to Rose"));

    // Moved to within its lead, it is announced at once.
    let start = utc_now() + TimeDelta::hours(30);
    world
        .sql(&format!(
            "INSERT INTO appointments (id, care_recipient_id, title, starts_at) VALUES ('a', 'rose', 'Dentist', '{start}')"
        ))
        .await;
    world.sql("NOTIFY carebell_care").await;
    let planned = "SELECT count(*) FROM care_reminders WHERE kind = 'reminder.appointment'";
    world.eventually("it is planned", async || (world.count(planned).await == 1).then_some(())).await;
    world.sql("UPDATE appointments SET starts_at = starts_at - interval '29 hours 30 minutes'").await;
    world.sql("NOTIFY carebell_care").await;
    world.push.wait_for(8, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 8);
    worker.stop().await;
}

#[tokio::test]
async fn a_dose_that_was_given_or_told_of_is_skipped_by_its_job() {
    let world = World::new().await;
    let now = utc_now();
    plan_at(&world, now - TimeDelta::minutes(30)).await;
    let given = dose(&world, now - TimeDelta::minutes(20)).await;
    let told = dose(&world, now - TimeDelta::minutes(10)).await;
    world.sql(&format!("INSERT INTO medication_logs VALUES ('l', 'metformin', '{given}', 'GIVEN')")).await;
    world.publish_json("jobs.reminder.medication", "by-hand", &crate::support::reminder("metformin", told)).await;
    let first = Worker::without_scheduler(&world);
    assert_eq!(world.ended("by-hand").await.0, "done");
    first.stop().await;
    let worker = Worker::start(&world);
    let skipped = |reason: &str| ("skipped".to_owned(), Some(reason.to_owned()));
    assert_eq!(world.ended(&job_of(given)).await, skipped("already_given"));
    assert_eq!(world.ended(&job_of(told)).await, skipped("already_sent"));
    worker.stop().await;
}

#[tokio::test]
async fn ids_of_any_characters() {
    let reminder = |kind, record_id: &str, lead_minutes| CareReminder {
        kind,
        record_id: record_id.into(),
        instant: at("2026-03-02T08:00:00.25Z"),
        lead_minutes,
        due_at: at("2026-03-02T07:00:00Z"),
        overtaken: false,
    };
    let id = |record: &str| care_job_id(&reminder(CareKind::Medication, record, 60));
    assert_eq!(id("a:b"), "care~reminder.medication:a:b:2026-03-02T08:00:00.250Z:60");
    assert_eq!(care_job_id(&reminder(CareKind::Refill, "a", 0)), "care~alert.refill:a:2026-03-02T07:00:00Z");
    for odd in ["a b", "ä", "a.>", "'", "a/b", &"x".repeat(100), "\u{1F48A}"] {
        let (hashed, other) = (id(odd), care_job_id(&reminder(CareKind::Medication, odd, 0)));
        assert!(hashed.starts_with("care~reminder.medication:") && hashed.len() == 68, "{hashed}");
        assert_ne!(hashed, other, "the lead counts");
        assert!(hashed.chars().all(|c| c.is_ascii_alphanumeric() || "_:.-~".contains(c)), "{hashed}");
    }

    let world = World::new().await;
    let now = utc_now();
    plan_at(&world, now - TimeDelta::minutes(5)).await;
    let ids = ["a b", "ä \u{1F48A}", "a.>", "O''Hara", "*", &"x".repeat(100)];
    for odd in ids {
        world.sql(&format!("INSERT INTO medications VALUES ('{odd}', 'rose', 'X', '1 mg')")).await;
    }
    let time = (now - TimeDelta::minutes(1)).format("%H:%M:%S");
    world
        .sql(&format!(
            "INSERT INTO medication_schedules (id, medication_id, times, start_date) \
             SELECT id, id, '{{{time}}}', '2000-01-01' FROM medications WHERE id <> 'metformin'"
        ))
        .await;
    let worker = Worker::start(&world);
    let done = "SELECT count(*) FROM job_runs WHERE kind = 'reminder.medication' AND state = 'done'";
    world.eventually("all are told", async || (world.count(done).await == 6).then_some(())).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_storm_of_announcements_is_about_a_look_a_second() {
    let world = World::new().await;
    world.sql("CREATE TABLE looks (at timestamptz NOT NULL DEFAULT clock_timestamp())").await;
    world
        .sql(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO looks DEFAULT VALUES; RETURN NEW; END'",
        )
        .await;
    world
        .sql("CREATE TRIGGER look AFTER INSERT OR UPDATE ON scheduler_state FOR EACH ROW EXECUTE FUNCTION look()")
        .await;
    let stop = CancellationToken::new();
    let running: Vec<_> = (0..3).map(|_| tokio::spawn(scheduler(&world, &Clock::system()).run(stop.clone()))).collect();
    world.eventually("one has looked", async || world.store.care_looked_at().await.unwrap()).await;
    let since = std::time::Instant::now();
    let mut announced = 0;
    while since.elapsed() < Duration::from_secs(4) {
        world.sql("NOTIFY carebell_care").await;
        announced += 1;
    }
    // A change before the last announcement is seen.
    let due = dose(&world, utc_now() + TimeDelta::minutes(1)).await;
    world.sql("NOTIFY carebell_care").await;
    let planned = format!("SELECT count(*) FROM care_reminders WHERE instant = '{due}'");
    world.eventually("the last change is seen", async || (world.count(&planned).await == 1).then_some(())).await;
    let (looks, took) = (world.count("SELECT count(*) FROM looks").await, since.elapsed());
    println!("{announced} announcements in 4 s, three schedulers: {looks} looks within {took:?}");
    // None of the three schedulers looks twice in a second.
    let most = 3 * (i64::try_from(took.as_secs()).unwrap() + 2);
    assert!((3..=most).contains(&looks), "{looks}");
    stop.cancel();
    for one in running {
        one.await.unwrap();
    }
}

/// They are read again once repaired.
#[tokio::test]
async fn care_tables_that_cannot_be_read_hold_up_nothing_else() {
    let world = World::new().await;
    let now = utc_now();
    plan_at(&world, now - TimeDelta::minutes(2)).await;
    dose(&world, now + TimeDelta::seconds(2)).await;
    plan_at(&world, now - TimeDelta::minutes(2)).await;
    world.sql("ALTER TABLE medication_schedules RENAME TO elsewhere").await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(scheduler(&world, &Clock::system()).run(stop.clone()));
    world
        .eventually("what was planned is published", async || (published(&world).await.len() == 1).then_some(()))
        .await;
    world.sql("ALTER TABLE elsewhere RENAME TO medication_schedules").await;
    let due = dose(&world, utc_now() + TimeDelta::minutes(5)).await;
    world.sql("NOTIFY carebell_care").await;
    let planned = format!("SELECT count(*) FROM care_reminders WHERE instant = '{due}'");
    world.eventually("it is looked at again", async || (world.count(&planned).await == 1).then_some(())).await;
    stop.cancel();
    running.await.unwrap();
}

/// 08:00 is everybody's dose time.
#[tokio::test]
#[ignore = "soak: 100,000 doses"]
async fn a_hundred_thousand_doses_in_one_second() {
    const COUNT: i64 = 100_000;
    let world = World::new().await;
    let due = (utc_now() + TimeDelta::seconds(20)).with_nanosecond(0).unwrap();
    // Zones without clock changes, where each time of day occurs once.
    let zones = ["UTC", "Africa/Lagos", "America/Phoenix", "Asia/Kolkata", "Pacific/Tongatapu"];
    for (number, zone) in zones.iter().enumerate() {
        world.sql(&format!("INSERT INTO care_recipients VALUES ('r{number}', 'browns', 'X', '{zone}')")).await;
    }
    world
        .sql(&format!(
            "INSERT INTO medications SELECT 'm' || n, 'r' || n % 5, 'X', '1 mg' FROM generate_series(1, {COUNT}) n"
        ))
        .await;
    world
        .sql(&format!(
            "INSERT INTO medication_schedules \
             SELECT n::text, 'm' || n, ARRAY[d.time, d.time + interval '6 hours'], '{{}}', \
                    '2000-01-01', NULL, '{{0,60}}' \
             FROM generate_series(1, {COUNT}) n JOIN care_recipients r ON r.id = 'r' || n % 5 \
             CROSS JOIN LATERAL (SELECT ('{due}'::timestamptz AT TIME ZONE r.timezone)::time AS time) d"
        ))
        .await;
    let look = async |what: &str, now: DateTime<Utc>| {
        let since = std::time::Instant::now();
        let planned = scheduler(&world, &Clock::manual(now)).plan_care().await.unwrap().unwrap();
        println!("a look at {COUNT} medication schedules, {what}: {:?}, {planned:?}", since.elapsed());
        (planned, since.elapsed())
    };
    look("none of them due soon", due - TimeDelta::hours(3)).await;
    // As if looks had gone on each minute.
    world.sql(&format!("UPDATE scheduler_state SET looked_at = '{}'", due - TimeDelta::minutes(6))).await;
    let (planned, _) = look("all of them new in the plan", due - TimeDelta::minutes(5)).await;
    assert_eq!(planned.added, COUNT);
    let (planned, took) = look("all of them planned already", due - TimeDelta::minutes(4)).await;
    assert_eq!(planned, PlanChanges::default());
    assert!(took < Duration::from_mins(1), "{took:?}");

    let mut worker = Process::start(&["run", "--only", "scheduler"], &world.environment(), world.directory.path());
    worker.ready().await;
    let left = "SELECT count(*) FROM care_reminders WHERE published_at IS NULL";
    world
        .eventually_within(Duration::from_mins(4), "all are published", async || {
            (world.count(left).await == 0).then_some(())
        })
        .await;
    let took = utc_now() - due;
    let (peak, health) = (worker.peak_memory_kb(), worker.get("/health").await.1);
    println!(
        "{COUNT} doses in one second: the last is published {took} after it (debug build), peak {peak} kB; {health}"
    );
    assert_eq!(worker.terminate().await.code(), Some(0));
    let jobs = world.context.get_stream("WORK").await.unwrap().cached_info().state.messages;
    assert_eq!(i64::try_from(jobs).unwrap(), COUNT);
    look("all of them published", due + TimeDelta::minutes(3)).await;
}

/// Jobs continue, but health must report it.
#[tokio::test]
async fn care_tables_that_cannot_be_read_are_a_part_that_is_down() {
    let world = World::new().await.at_pace(5);
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    for (change, status, state) in [
        ("SELECT 1", 200, r#""care_tables":{"state":"up"}"#),
        (
            "ALTER TABLE appointments RENAME COLUMN starts_at TO begins_at",
            503,
            r#""care_tables":{"state":"down","why":"#,
        ),
        ("ALTER TABLE appointments RENAME COLUMN begins_at TO starts_at", 200, r#""care_tables":{"state":"up"}"#),
    ] {
        world.sql(change).await;
        world.sql("NOTIFY carebell_care").await;
        let others = ["nats", "postgres", "scheduler", "care_reminders"];
        world
            .eventually("health says so", async || {
                let (found, health) = worker.get("/health").await;
                let is_up = |part: &&str| health.contains(&format!(r#""{part}":{{"state":"up"}}"#));
                (found == status && health.contains(state) && others.iter().all(is_up)).then_some(())
            })
            .await;
        let metrics = worker.get("/metrics").await.1;
        let up = format!("carebell_part_up{{part=\"care_tables\"}} {}\n", u8::from(status == 200));
        assert!(metrics.contains(&up), "{metrics}");
    }
    assert_eq!(worker.terminate().await.code(), Some(0));
}
