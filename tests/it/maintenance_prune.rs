//! `maintenance.prune`: removed and kept rows, interruptions, built-in schedules.

use std::{collections::BTreeSet, time::Duration};

use carebell::{clock::Clock, jobs, scheduler::timing::Timing, store::ScheduleRow};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cli::carebell,
    support::{Custom, Process, Worker, World, decode, utc_now},
};

const PRUNE: &str = "work.maintenance.prune";

/// Publishes a job that outlives every clock advance.
async fn publish(world: &World, subject: &str, job_id: &str, body: &Value) -> u64 {
    let headers = [
        ("Carebell-Job-Id", job_id),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", "2999-01-01T00:00:00Z"),
    ];
    world.publish(subject, &headers, body.to_string()).await
}

/// `days` counts from creation and from the last write.
async fn run(world: &World, now: DateTime<Utc>, ids: [&str; 2], state: &str, days: [f64; 2], more: &str) {
    let [root, job] = ids;
    let kind = if job.ends_with("~notification") { "notification" } else { "reminder.medication" };
    let [created, updated] = days;
    world
        .sql(&format!(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, children_pending, created_at, updated_at) \
             VALUES ('{job}', '{root}', '{kind}', 'JOBS', 1, '{state}', {}, '{now}'::timestamptz - interval '1 day' * {created}, \
                     '{now}'::timestamptz - interval '1 day' * {updated})",
            more == "pending"
        ))
        .await;
}

async fn delayed(world: &World, now: DateTime<Utc>) {
    for (id, state, days, keep) in [
        ("old", "fired", 91, 91),
        ("ghost", "waiting", 91, 91),
        ("young", "cancelled", 89, 89),
        ("far", "cancelled", 91, -300),
    ] {
        let (at, keep) = (now - TimeDelta::days(days), now - TimeDelta::days(keep));
        world
            .sql(&format!(
                "INSERT INTO delayed_jobs VALUES ('{id}', '', 'notification', NULL, '{state}', '{at}', 100, 'JOBS', '{at}', 1, '{at}', 1, '{at}', '{keep}')"
            ))
            .await;
    }
}

/// A delivery with its root's text and an inbox row.
async fn delivery(world: &World, now: DateTime<Utc>, root: &str, user: &str, state: &str, days: f64) {
    let at = format!("'{now}'::timestamptz - interval '1 day' * {days}");
    world
        .sql(&format!(
            "INSERT INTO contents (job_id, type, title, body, data, created_at) \
             VALUES ('{root}', 'GENERAL', 'x', '', '{{}}', {at}) ON CONFLICT DO NOTHING"
        ))
        .await;
    world
        .sql(&format!(
            "INSERT INTO notifications (id, job_id, user_id, type, title, body, created_at) \
             VALUES ('{root}-{user}', '{root}', '{user}', 'GENERAL', 'x', '', {at})"
        ))
        .await;
    world
        .sql(&format!(
            "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, not_after, created_at, updated_at) \
             VALUES ('{root}-{user}', '{root}', '{root}', '{user}', 'web_push', '{user}', 'normal', '{state}', {at}, {at}, {at})"
        ))
        .await;
}

/// Counts and workers.
async fn tallies(world: &World, now: DateTime<Utc>) {
    for days in [9, 7] {
        let minute = now - TimeDelta::days(days);
        world.sql(&format!("INSERT INTO outcome_counts VALUES ('{minute}', 'later', 'done', '', {days})")).await;
    }
    for (id, hours) in [("lost", 25), ("seen", 23)] {
        let at = now - TimeDelta::hours(hours);
        world
            .sql(&format!("INSERT INTO workers VALUES ('{id}', 'x', '1', '{{}}', '{at}', '{at}', 0, 0, 0, '[]', 1)"))
            .await;
    }
}

/// Raw addresses, and one of a user, which the application owns.
async fn addresses(world: &World, now: DateTime<Utc>) {
    for (user, address, state, days) in [
        ("", "old@example.org", "gone", 91),
        ("", "young@example.org", "gone", 89),
        ("", "wanted@example.org", "active", 91),
        ("ana", "ana@example.org", "gone", 91),
    ] {
        world
            .sql(&format!(
                "INSERT INTO user_addresses (user_id, channel, address, state, updated_at) \
                 VALUES ('{user}', 'email', '{address}', '{state}', '{}')",
                now - TimeDelta::days(days)
            ))
            .await;
    }
}

async fn ids(world: &World, query: &str) -> BTreeSet<String> {
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()));
    query.fetch_all(&world.db).await.unwrap().into_iter().collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_is_over_and_old_is_removed_and_nothing_else() {
    let world = World::new().await;
    // Far from the servers' clocks: only the injected clock can count.
    let now = utc_now() + TimeDelta::days(1000);
    for (id, state, days, more) in [
        ("done", "done", [91.0, 91.0], ""),
        ("skipped", "skipped", [91.0, 91.0], ""),
        ("expired", "expired", [91.0, 91.0], ""),
        ("dead", "dead", [92.0, 92.0], ""),
        ("dead-but-redrivable", "dead", [92.0, 90.5], ""),
        ("open", "open", [400.0, 400.0], ""),
        ("unpublished", "done", [400.0, 400.0], "pending"),
        ("young", "done", [89.0, 89.0], ""),
        ("written-since", "done", [400.0, 89.0], ""),
    ] {
        run(&world, now, [id, id], state, days, more).await;
    }
    // Roots with two deliveries and a text each.
    for (id, first, second) in [
        ("all-states", ("sent", 91.0), ("failed", 91.0)),
        ("other-states", ("expired", 91.0), ("unknown", 91.0)),
        ("dead-letter-gone", ("dead", 92.0), ("skipped", 91.0)),
        ("dead-letter-kept", ("dead", 90.5), ("sent", 91.0)),
        ("held", ("sent", 400.0), ("held", 400.0)),
        ("waiting", ("delivered", 400.0), ("pending", 400.0)),
        ("under-way", ("sent", 400.0), ("sending", 400.0)),
        ("sent-late", ("sent", 400.0), ("sent", 89.0)),
    ] {
        run(&world, now, [id, id], "done", [400.0, 400.0], "").await;
        delivery(&world, now, id, "ana", first.0, first.1).await;
        delivery(&world, now, id, "ben", second.0, second.1).await;
    }
    for (root, state) in [("pair", "done"), ("half", "open"), ("short", "expired")] {
        run(&world, now, [root, root], "done", [100.0, 100.0], "").await;
        run(&world, now, [root, &format!("{root}~notification")], state, [100.0, 100.0], "").await;
    }
    world.sql("INSERT INTO refill_shortages VALUES ('metformin', 10, 'short', now())").await;
    for (record, instant, created) in [("old", 91, 91), ("young", 89, 89), ("old-dose-told-lately", 91, 10)] {
        let at = |days| now - TimeDelta::days(days);
        world
            .sql(&format!(
                "INSERT INTO reminder_marks VALUES ('reminder.medication', '{record}', '{}', 0, 'x', '{}')",
                at(instant),
                at(created)
            ))
            .await;
    }
    addresses(&world, now).await;
    delayed(&world, now).await;
    tallies(&world, now).await;
    world.sql("INSERT INTO audit_log (at, actor, action) VALUES ('2001-01-01', 'olga', 'test')").await;
    let inbox = world.count("SELECT count(*) FROM notifications").await;

    let pipeline = Custom::at(&world, jobs::registry(), Clock::manual(now));
    publish(&world, PRUNE, "prune", &json!({})).await;
    assert_eq!(world.ended("prune").await, ("done".into(), None));
    world.queues_are_empty().await;
    pipeline.stop().await;

    let kept_ways = [
        "dead-but-redrivable",
        "open",
        "unpublished",
        "young",
        "written-since",
        "dead-letter-kept",
        "held",
        "waiting",
        "under-way",
        "sent-late",
        "half",
        "half~notification",
        "short",
        "short~notification",
        "prune",
    ];
    assert_eq!(ids(&world, "SELECT job_id FROM job_runs").await, set(&kept_ways));
    let with_deliveries = ["dead-letter-kept", "held", "waiting", "under-way", "sent-late"];
    assert_eq!(ids(&world, "SELECT job_id FROM contents").await, set(&with_deliveries));
    assert_eq!(ids(&world, "SELECT job_id FROM deliveries").await, set(&with_deliveries));
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 10, "a way stays whole");
    let marks = ids(&world, "SELECT record_id FROM reminder_marks").await;
    assert_eq!(marks, set(&["young", "old-dose-told-lately"]));
    assert_eq!(ids(&world, "SELECT job_id FROM delayed_jobs").await, set(&["young", "far"]));
    let left = ids(&world, "SELECT address FROM user_addresses").await;
    assert_eq!(left, set(&["young@example.org", "wanted@example.org", "ana@example.org"]));
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, inbox, "the inbox is the application's");
    assert_eq!(world.count("SELECT count(*) FROM audit_log").await, 1);

    assert_eq!(world.count("SELECT sum(count)::bigint FROM outcome_counts").await, 7);
    assert_eq!(ids(&world, "SELECT id FROM workers").await, set(&["seen"]));

    let (_, words, _) = carebell(&world, &["jobs", "show", "prune"], &[]).await;
    let removed = "; removed 3 contents, 2 delayed_jobs, 6 deliveries, 9 job_runs, 1 outcome_counts, 1 reminder_marks, 1 user_addresses, 1 workers\n";
    assert!(words.contains("maintenance.prune prune: done at ") && words.ends_with(removed), "{words}");
    let (_, said, _) = carebell(&world, &["jobs", "show", "prune", "--json"], &[]).await;
    let way: Value = serde_json::from_str(&said).unwrap();
    let counts = json!({
        "contents": 3, "delayed_jobs": 2, "deliveries": 6, "job_runs": 9, "outcome_counts": 1, "reminder_marks": 1,
        "user_addresses": 1, "workers": 1,
    });
    assert_eq!(way["runs"][0]["result"], json!({ "removed": counts, "unfinished": false }));
}

#[tokio::test]
async fn an_id_has_one_effect_while_it_is_kept_and_is_free_again_after_that() {
    let world = World::new().await;
    let clock = Clock::manual(utc_now());
    let pipeline = Custom::at(&world, jobs::registry(), clock.clone());
    let hello = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
    let subject = "jobs.notification.normal";
    let first = publish(&world, subject, "hello", &hello).await;
    assert_eq!(world.ended("hello").await.0, "done");
    let sequence = "SELECT stream_seq FROM job_runs WHERE job_id = 'hello'";
    for (number, days) in [29, 30, 30].into_iter().enumerate() {
        publish(&world, subject, "hello", &hello).await;
        clock.advance(TimeDelta::days(days));
        let id = format!("prune-{number}");
        publish(&world, PRUNE, &id, &json!({ "keepDays": 90 })).await;
        assert_eq!(world.ended(&id).await.0, "done");
        world.queues_are_empty().await;
        assert_eq!(world.count(sequence).await, i64::try_from(first).unwrap(), "nothing ran a second time");
    }
    clock.advance(TimeDelta::days(2));
    publish(&world, PRUNE, "prune-last", &json!({ "keepDays": 90 })).await;
    assert_eq!(world.ended("prune-last").await.0, "done");
    let left = "SELECT (SELECT count(*) FROM job_runs WHERE job_id = 'hello') + (SELECT count(*) FROM contents)";
    assert_eq!(world.count(left).await, 0);
    let again = publish(&world, subject, "hello", &hello).await;
    assert_eq!(world.ended("hello").await.0, "done");
    assert_eq!(world.count(sequence).await, i64::try_from(again).unwrap(), "it ran again");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1, "the inbox row is there still");
    world.queues_are_empty().await;
    pipeline.stop().await;
}

/// Adds roots from 100 days ago: two runs, a text, a delivery and a mark each.
async fn seed(world: &World, ways: u32) {
    let at = "now() - interval '100 days' + n * interval '1 s'";
    for statement in [
        "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
         SELECT 'w' || n || suffix, 'w' || n, kind, 'JOBS', n, 'done', AT, AT FROM WAYS, \
                (VALUES ('', 'reminder.medication'), ('~notification', 'notification')) AS k(suffix, kind)",
        "INSERT INTO contents (job_id, type, title, body, data, created_at) \
         SELECT 'w' || n, 'GENERAL', 'x', '', '{}', AT FROM WAYS",
        "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, not_after, created_at, updated_at) \
         SELECT 'd' || n, 'w' || n, 'w' || n || '~notification', 'ana', 'web_push', 'ana', 'normal', 'sent', AT, AT, AT FROM WAYS",
        "INSERT INTO reminder_marks SELECT 'reminder.medication', 'm', AT, 0, 'w' || n, AT FROM WAYS",
        "ANALYZE",
    ] {
        let statement = statement.replace("WAYS", &format!("generate_series(1, {ways}) n"));
        world.sql(&statement.replace("AT", at)).await;
    }
}

const ROWS: &str = "SELECT (SELECT count(*) FROM job_runs WHERE kind NOT LIKE 'maintenance.%') \
     + (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM contents) + (SELECT count(*) FROM reminder_marks)";

#[tokio::test]
async fn a_stop_in_the_middle_leaves_what_the_next_worker_goes_on_with() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s").await;
    seed(&world, 1500).await;
    world.publish_json(PRUNE, "prune", &json!({})).await;
    let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", "maintained")]);
    assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 1000, "a page of ways has lost its deliveries");
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 3000, "and still has its runs");
    let heir = Worker::start(&world);
    assert_eq!(world.ended("prune").await.0, "done");
    assert_eq!(world.count(ROWS).await, 0);
    world.queues_are_empty().await;
    heir.stop().await;
    assert!(world.dead_letters().await.is_empty());
}

#[tokio::test]
#[ignore = "soak: a prune of 180,000 rows"]
async fn a_large_prune_gives_way_and_survives_a_kill() {
    const WAYS: u32 = 30_000;
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s").await;
    seed(&world, WAYS).await;
    let rows = world.count(ROWS).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let since = Instant::now();
    world.publish_json(PRUNE, "prune", &json!({})).await;
    let begun = async |share: i64| {
        let left = world.eventually("some is removed", async || {
            let left = world.count(ROWS).await;
            (left < rows - rows / share).then_some(left)
        });
        left.await
    };
    begun(20).await;
    let published = Instant::now();
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let (took, left) = (published.elapsed(), world.count(ROWS).await);
    println!("a reminder during a prune of {rows} rows: its four pushes {took:?} later, while {left} rows were left");
    assert!(left > 0 && took < Duration::from_secs(15), "it did not wait for the prune: {took:?}, {left}");
    worker.kill().await;
    let left = world.count(ROWS).await;
    assert!(left > 0, "killed in the middle");
    let mut heir = Process::worker(&world, &[]);
    world
        .eventually_within(Duration::from_mins(2), "the prune has ended", async || {
            (world.count("SELECT count(*) FROM job_runs WHERE job_id = 'prune' AND state = 'done'").await == 1)
                .then_some(())
        })
        .await;
    println!("{rows} rows removed {:?} after the start, the kill included (debug build)", since.elapsed());
    world.queues_are_empty().await;
    // Only the recent reminder's rows are left.
    assert_eq!(world.count(ROWS).await, 2 + 4 + 1 + 1);
    let told = heir.line("the prune is done", |line| {
        line.step().filter(|(kind, _)| kind == "maintenance.prune").map(|(_, told)| told)
    });
    let told = told.await;
    assert!(told.starts_with("done: removed ") && told.contains(" job_runs"), "{told}");
    // A worker that stops releases its job at once.
    seed(&world, WAYS).await;
    let before = world.count(ROWS).await;
    world.publish_json(PRUNE, "second", &json!({})).await;
    world.eventually("some is removed", async || (world.count(ROWS).await < before - 2000).then_some(())).await;
    let since = Instant::now();
    assert_eq!(heir.terminate().await.code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    let open = "SELECT count(*) FROM job_runs WHERE job_id = 'second' AND state = 'open' AND attempts = 0";
    assert_eq!(world.count(open).await, 1);
}

#[tokio::test]
async fn a_job_whose_time_is_up_leaves_the_rest_to_the_next() {
    let world = World::new().await;
    seed(&world, 1500).await;
    let worker = Worker::start(&world);
    let headers = [("Carebell-Job-Id", "short"), ("Content-Type", "application/json"), ("Carebell-Timeout", "1ms")];
    world.publish(PRUNE, &headers, "{}").await;
    assert_eq!(world.ended("short").await.0, "done");
    assert!(world.count(ROWS).await > 0);
    let (_, words, _) = carebell(&world, &["jobs", "show", "short"], &[]).await;
    assert!(words.contains("and left the rest to the next job: its time was up"), "{words}");
    world.publish_json(PRUNE, "long", &json!({})).await;
    assert_eq!(world.ended("long").await.0, "done");
    assert_eq!(world.count(ROWS).await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn the_built_in_schedules_are_like_any_other() {
    let world = World::new().await;
    let row = async |name: &str| world.store.schedule(name).await.unwrap().unwrap();
    let agrees = |row: &ScheduleRow| {
        let timing = Timing::read(&row.spec).unwrap();
        assert_eq!(timing.next_from(row.next.at.unwrap()), row.next, "the migration reckons as the scheduler does");
        assert_eq!(row.created.by, "carebell");
        row.next.at.unwrap() - utc_now()
    };
    let (daily, weekly) = (row("carebell.prune").await, row("carebell.subscriptions").await);
    let (tomorrow, sunday) = (agrees(&daily), agrees(&weekly));
    assert!(tomorrow > TimeDelta::zero() && tomorrow < TimeDelta::days(2), "{tomorrow}");
    assert!(sunday > TimeDelta::zero() && sunday < TimeDelta::days(8), "{sunday}");

    let (_, table, _) = carebell(&world, &["schedules", "list"], &[]).await;
    assert!(table.contains("carebell.prune") && table.contains("maintenance.subscriptions"), "{table}");
    let (_, words, _) = carebell(&world, &["schedules", "show", "carebell.prune"], &[]).await;
    assert!(
        words.contains("publishes maintenance.prune: {\"keepDays\":90}") && words.contains("by carebell"),
        "{words}"
    );

    let worker = Worker::start(&world);
    for name in ["carebell.prune", "carebell.subscriptions"] {
        let (well, said, error) = carebell(&world, &["schedules", "run-now", name], &[]).await;
        assert!(well, "{error}");
        let id = said.trim().strip_prefix("published job ").unwrap();
        assert_eq!(world.ended(id).await, ("done".into(), None));
        let (_, words, _) = carebell(&world, &["jobs", "show", id], &[]).await;
        assert!(words.contains("; removed nothing") && words.contains("schedule.run_now"), "{words}");
    }
    // It fires on its own too, a day after it began.
    let due = "UPDATE schedules SET starts_at = starts_at - interval '2 days', next_at = now(), due_at = now() \
               WHERE name = 'carebell.prune'";
    world.sql(due).await;
    world.sql("NOTIFY carebell_schedules").await;
    let fired = world.eventually("it has fired", async || {
        let row = world.store.schedule("carebell.prune").await.unwrap().unwrap();
        (row.fired == 1).then_some(row)
    });
    let fired = fired.await;
    // Within a day at any hour.
    let wait = agrees(&fired);
    assert!(wait > TimeDelta::zero() && wait <= TimeDelta::days(1), "{wait}");
    assert_eq!(world.ended(&fired.last_job_id.unwrap()).await.0, "done");
    worker.stop().await;

    let change = ["schedules", "add", "carebell.prune", "--cron", "@weekly", "--tz", "Europe/London", "--kind"];
    let change = [&change[..], &["maintenance.prune", "--replace", "--json"]].concat();
    let (well, _, error) = carebell(&world, &[&change[..], &["{\"keepDays\":3}"]].concat(), &[]).await;
    assert!(!well && error.contains("keep_days") && error.contains("7 to 36500"), "{error}");
    for args in [
        &[&change[..], &["{\"keepDays\":30}"]].concat()[..],
        &["schedules", "pause", "carebell.prune"],
        &["schedules", "delete", "carebell.subscriptions"],
        &["migrate"],
    ] {
        let (well, _, error) = carebell(&world, args, &[]).await;
        assert!(well, "{args:?}: {error}");
    }
    let (changed, all) = (row("carebell.prune").await, world.store.schedules(None).await.unwrap());
    assert_eq!((changed.spec.expression.as_str(), changed.spec.paused, all.len()), ("@weekly", true, 1));
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let world = World::new().await;
    for (body, expected) in [
        (json!({ "keepDays": 6 }), "`keep_days` must be 7 to 36500 days, or 0 for 90"),
        (json!({ "keepDays": -1 }), "`keep_days` must be"),
        (json!({ "days": 6 }), "unrecognized field"),
    ] {
        let refused = decode("maintenance.prune", &body).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    for body in [json!({}), json!({ "keepDays": 7 }), json!({ "keepDays": 36500 })] {
        decode("maintenance.prune", &body).unwrap();
    }
    let at = (utc_now() + TimeDelta::hours(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    for later in [["--delay", "5m"], ["--at", &at]] {
        let args = [&["publish", "maintenance.prune", "--json", "{}"], &later[..]].concat();
        let (well, _, error) = carebell(&world, &args, &[]).await;
        assert!(
            !well && error.contains("maintenance.prune cannot be delayed: schedule it with `carebell schedules add`"),
            "{error}"
        );
    }
    let (well, said, error) = carebell(&world, &["publish", "maintenance.prune", "--json", "{}"], &[]).await;
    assert!(well && said.contains("to work.maintenance.prune"), "{said}{error}");
}

#[tokio::test]
async fn a_kind_may_have_a_rule_by_age_and_count_and_the_newest_week_stays() {
    let world = World::new().await;
    let now = utc_now() + TimeDelta::days(1000);
    let pipeline = Custom::at(&world, jobs::registry(), Clock::manual(now));
    let prune = async |id: &str, rule: Value| {
        publish(&world, PRUNE, id, &json!({ "kinds": [rule] })).await;
        assert_eq!(world.ended(id).await, ("done".into(), None));
        let query = sqlx::query_scalar("SELECT result FROM job_runs WHERE job_id = $1").bind(id);
        let result: Value = query.fetch_one(&world.db).await.unwrap();
        result["by_kind"]["reminder.medication"].as_u64().unwrap()
    };
    let left = async || ids(&world, "SELECT job_id FROM job_runs WHERE kind NOT LIKE 'maintenance.%'").await;
    for days in [1, 2, 3, 8, 20, 30, 95, 120] {
        let id = format!("done-{days:03}");
        run(&world, now, [&id, &id], "done", [f64::from(days); 2], "").await;
        let id = format!("dead-{days:03}");
        run(&world, now, [&id, &id], "dead", [f64::from(days); 2], "").await;
    }
    run(&world, now, ["done-120", "done-120~notification"], "done", [120.0; 2], "").await;
    delivery(&world, now, "done-120", "ana", "sent", 120.0).await;
    world
        .sql(&format!(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
             SELECT 'other-' || days, 'other-' || days, 'alert.refill', 'JOBS', 1, 'done', at, at \
             FROM (SELECT days, '{now}'::timestamptz - interval '1 day' * days AS at FROM (VALUES (89), (100)) d(days)) x"
        ))
        .await;
    let dead: Vec<String> = [1, 2, 3, 8, 20, 30, 95, 120].map(|days| format!("dead-{days:03}")).into();
    let dead: Vec<&str> = dead.iter().map(String::as_str).collect();
    let kept = |done: &[&str], dead: &[&str]| set(&[done, dead, &["other-89"]].concat());

    // Longer than other kinds, of which the older goes; and a number that is not reached.
    let rule = json!({ "kind": "reminder.medication", "keepDays": 400, "keepDeadDays": 400, "keepLast": 9, "keepDeadLast": 9 });
    assert_eq!(prune("long", rule).await, 0);
    let all = ["done-001", "done-002", "done-003", "done-008", "done-020", "done-030", "done-095", "done-120"];
    assert_eq!(left().await, kept(&[&all[..], &["done-120~notification"]].concat(), &dead));
    // Five are kept, three go, the one with all that followed.
    let rule = json!({ "kind": "reminder.medication", "keepDays": 400, "keepDeadDays": 400, "keepLast": 5 });
    assert_eq!(prune("five", rule).await, 4);
    assert_eq!(left().await, kept(&all[..5], &dead));
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 0);
    // One is to be kept, and what is younger than a week stays with it. Of dead ones, what is younger than 91 days.
    let rule = json!({ "kind": "reminder.medication", "keepDeadDays": 400, "keepLast": 1, "keepDeadLast": 1 });
    assert_eq!(prune("one", rule).await, 4);
    assert_eq!(left().await, kept(&all[..3], &dead[..6]));
    world.queues_are_empty().await;
    pipeline.stop().await;

    for (rule, expected) in [
        (json!({ "kind": "", "keepLast": 1 }), "`kinds.kind` is required"),
        (
            json!({ "kind": "notification", "keepDays": 6 }),
            "`kinds.keep_days` must be 7 to 36500 days, or 0 for 90: a job id",
        ),
        (json!({ "kind": "notification", "keepDeadDays": 90 }), "`kinds.keep_dead_days` must be 91 to 36500 days"),
        (json!({ "kind": "notification", "keepLast": -1 }), "`kinds.keep_last` must be 1 to 10000000 jobs"),
    ] {
        let refused = decode("maintenance.prune", &json!({ "kinds": [rule] })).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    let twice = json!({ "kind": "notification", "keepLast": 1 });
    assert!(
        decode("maintenance.prune", &json!({ "kinds": [twice, twice] })).unwrap_err().contains("must be there once")
    );
}
