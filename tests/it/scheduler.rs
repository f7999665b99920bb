//! Saved schedules: each instant is published once, however many schedulers run and whatever stops them.

use std::{collections::BTreeSet, time::Duration};

use carebell::{
    clock::Clock,
    health::Health,
    schedule::ZoneData,
    scheduler::{Scheduler, Tally},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::carebell,
    support::{Process, Worker, World},
};

/// A scheduler with its own pool, like a separate process.
fn scheduler(world: &World, clock: &Clock) -> Scheduler {
    Scheduler::new(crate::support::store(&world.database_url, 3), world.context.clone(), clock.clone(), Health::new())
}

/// A world without the built-in schedules, which `maintenance_prune.rs` tests.
async fn world() -> World {
    let world = World::new().await;
    world.sql("DELETE FROM schedules").await;
    world
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Saves a schedule that notifies Ana and is due at its start.
async fn save(world: &World, name: &str, expression: &str, start: DateTime<Utc>, more: &str) {
    let payload = json!({ "recipients": [{ "userId": "ana" }], "title": name, "channels": ["CHANNEL_IN_APP"] });
    let columns = if more.is_empty() { ["", ""] } else { [", missed, missed_seconds", more] };
    world
        .sql(&format!(
            "INSERT INTO schedules (id, name, kind, lane, payload, expression, zone, starts_at, next_at, due_at, \
                                    created_at, created_by, changed_at, changed_by{}) \
             VALUES ('{name}', '{name}', 'notification', 'normal', '{payload}', '{expression}', 'UTC', '{start}', \
                     '{start}', '{start}', now(), 'test', now(), 'test'{})",
            columns[0], columns[1]
        ))
        .await;
}

async fn published(world: &World) -> Vec<String> {
    let mut stream = world.context.get_stream("WORK").await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    let mut ids = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        ids.push(message.headers.get("Carebell-Job-Id").unwrap().to_string());
    }
    ids
}

#[tokio::test]
async fn each_instant_is_published_once_by_two_and_by_five_schedulers() {
    let world = world().await;
    let start = at("2026-11-01T08:00:00Z");
    let mut expected = BTreeSet::new();
    for (number, every) in [5, 7, 11, 13].into_iter().enumerate() {
        let name = format!("s{number}");
        save(&world, &name, &format!("@every {every}s"), start, "").await;
        let instants = (0..).map(|tick| start + TimeDelta::seconds(tick * every));
        let instants = instants.take_while(|at| *at < start + TimeDelta::seconds(400));
        expected.extend(instants.map(|at| carebell::scheduler::job_id(&name, at)));
    }
    let clock = Clock::manual(start - TimeDelta::seconds(1));
    let mut total = 0;
    for count in [2, 5] {
        let schedulers: Vec<_> = (0..count).map(|_| scheduler(&world, &clock)).collect();
        for _ in 0..200 {
            clock.advance(TimeDelta::seconds(1));
            let passes = join_all(schedulers.iter().map(|scheduler| scheduler.pass(2))).await;
            total += passes.into_iter().map(|pass| pass.unwrap().published).sum::<usize>();
            // Schedules locked by another scheduler wait for the next second.
        }
    }
    // One scheduler publishes the rest.
    let last = scheduler(&world, &clock);
    loop {
        let pass = last.pass(100).await.unwrap();
        total += pass.published;
        if pass.moved == 0 {
            break;
        }
    }
    let ids = published(&world).await;
    assert_eq!((ids.len(), total), (expected.len(), expected.len()), "each was published by one scheduler");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn a_stop_between_publishing_and_moving_on_has_no_second_effect() {
    for step in ["due", "fired"] {
        let world = world().await;
        let due = crate::support::utc_now() - TimeDelta::seconds(2);
        save(&world, "tea", "@every 1h", due, "").await;
        let mut doomed = Process::start(
            &["run", "--only", "scheduler"],
            &with(&world, "CAREBELL_ABORT_AT", step),
            world.directory.path(),
        );
        assert_eq!(doomed.ended().await.code(), Some(134), "at {step}:\n{}", doomed.output());
        assert_eq!(world.count("SELECT count(*) FROM schedules WHERE fired = 0").await, 1, "it is still due");
        let worker = Worker::start(&world);
        let id = format!("schedule~tea:{}", due.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
        assert_eq!(world.ended(&id).await.0, "done");
        world.queues_are_empty().await;
        let moved = world.eventually("it has moved on", async || {
            let row = world.store.schedule("tea").await.unwrap().unwrap();
            (row.fired == 1).then_some(row)
        });
        let row = moved.await;
        assert_eq!((row.last_job_id.as_deref(), row.next.at), (Some(id.as_str()), Some(due + TimeDelta::hours(1))));
        worker.stop().await;
        assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1, "at {step}");
    }
}

fn with(world: &World, name: &str, value: &str) -> std::collections::BTreeMap<String, String> {
    let mut environment = world.environment();
    environment.insert(name.into(), value.into());
    environment
}

#[tokio::test]
async fn what_was_missed_is_decided_by_the_rule_and_on_record() {
    let world = world().await;
    let start = at("2026-11-01T09:00:00Z");
    save(&world, "skips", "@every 1h", start, ", 'skip', 3600").await;
    save(&world, "latest", "@every 1h", start, ", 'latest', 3600").await;
    save(&world, "all", "@every 1h", start, ", 'all', 86400").await;
    let clock = Clock::manual(at("2026-11-01T12:30:00Z"));
    let pass = scheduler(&world, &clock).pass(10).await.unwrap();
    assert_eq!((pass.moved, pass.published), (3, 5));
    let mut ids = published(&world).await;
    ids.sort();
    assert_eq!(
        ids,
        [
            "schedule~all:2026-11-01T09:00:00Z",
            "schedule~all:2026-11-01T10:00:00Z",
            "schedule~all:2026-11-01T11:00:00Z",
            "schedule~all:2026-11-01T12:00:00Z",
            "schedule~latest:2026-11-01T12:00:00Z",
        ]
    );
    for (name, fired, missed, note) in [
        ("skips", 0, 4, "4 instants were missed, none of them is made up"),
        ("latest", 1, 3, "4 instants were missed, the latest is made up"),
        ("all", 4, 0, "4 instants were missed, the latest 4 are made up"),
    ] {
        let row = world.store.schedule(name).await.unwrap().unwrap();
        assert_eq!((row.fired, row.missed_count), (fired, missed), "{name}");
        assert_eq!(row.last_note.unwrap(), format!("2026-11-01T12:30:00Z: {note}"));
        assert_eq!(row.next.at, Some(at("2026-11-01T13:00:00Z")));
    }
}

#[tokio::test]
async fn a_clock_that_jumps_makes_nothing_twice() {
    let world = world().await;
    let start = at("2026-11-01T09:00:00Z");
    save(&world, "each", "@every 10s", start, ", 'all', 3600").await;
    let clock = Clock::manual(start);
    let scheduler = scheduler(&world, &clock);
    assert_eq!(scheduler.pass(10).await.unwrap().published, 1);
    clock.advance(TimeDelta::minutes(-30));
    assert_eq!(scheduler.pass(10).await.unwrap(), Tally::default(), "back: nothing is due");
    clock.advance(TimeDelta::minutes(30) + TimeDelta::seconds(40));
    assert_eq!(scheduler.pass(10).await.unwrap().published, 4, "forward: every skipped instant");
    clock.advance(TimeDelta::seconds(-20));
    assert_eq!(scheduler.pass(10).await.unwrap(), Tally::default());
    clock.advance(TimeDelta::seconds(30));
    assert_eq!(scheduler.pass(10).await.unwrap().published, 1);
    assert_eq!(published(&world).await.len(), 6);
}

#[tokio::test]
async fn what_cannot_be_published_stays_due_and_stands_in_nobodys_way() {
    let world = world().await.at_pace(5);
    let start = at("2026-11-01T09:00:00Z");
    save(&world, "large", "@every 1h", start, "").await;
    let title = "x".repeat(600_000);
    world.sql(&format!("UPDATE schedules SET payload = jsonb_build_object('title', '{title}')")).await;
    save(&world, "broken", "@every 1h", start, "").await;
    world.sql("UPDATE schedules SET zone = 'Europe/Londn' WHERE name = 'broken'").await;
    save(&world, "absurd", "0 * * * *", start - TimeDelta::days(3), "").await;
    let absurd = "UPDATE schedules SET missed_seconds = 9223372036854775807, jitter_seconds = 9223372036854775807";
    world.sql(&format!("{absurd} WHERE name = 'absurd'")).await;
    save(&world, "small", "@every 1h", start, "").await;
    let scheduler = scheduler(&world, &Clock::manual(start));
    // The three stuck schedules in front are not retried over and over.
    let mut published = 0;
    loop {
        let pass = scheduler.pass(2).await.unwrap();
        published += pass.published;
        if pass.seen == 0 {
            break;
        }
    }
    assert!(published >= 1);
    for name in ["large", "broken"] {
        let row = world.store.schedule(name).await.unwrap().unwrap();
        assert_eq!((row.next.at, row.fired), (Some(start), 0), "{name} is still due");
    }
    assert_eq!(world.store.schedule("small").await.unwrap().unwrap().fired, 1);

    // Stuck schedules are retried and can be repaired.
    world.sql("UPDATE schedules SET paused = true WHERE name = 'absurd'").await;
    let mut worker = Process::start(&["run", "--only", "scheduler"], &world.environment(), world.directory.path());
    worker.ready().await;
    let lateness =
        |line: &carebell::dev::trail::Line| line.step().filter(|(who, _)| who == "schedule").map(|(_, what)| what);
    save(&world, "each", "* * * * * *", crate::support::utc_now().trunc_subsecs(0) + TimeDelta::seconds(1), "").await;
    world.sql("SELECT pg_notify('carebell_schedules', '')").await;
    world
        .eventually("it fires beside the stuck schedules", async || {
            let row = world.store.schedule("each").await.unwrap().unwrap();
            (row.fired >= 3 && row.missed_count == 0).then_some(())
        })
        .await;
    println!("beside schedules that are stuck: {}", worker.line("a schedule was due", lateness).await);
    // Through several retries of those that are stuck.
    let fired = async || world.store.schedule("each").await.unwrap().unwrap().fired;
    let until = fired().await + 5;
    while fired().await < until {
        let health = worker.get("/health").await.1;
        let lag: Value = serde_json::from_str(&health).unwrap();
        assert!(lag["schedule_lag_ms"].as_i64().unwrap() > 60_000, "a stuck schedule shows as late: {health}");
    }
    world.sql("UPDATE schedules SET zone = 'Europe/London' WHERE name = 'broken'").await;
    world
        .eventually("the repaired schedule continues", async || {
            let row = world.store.schedule("broken").await.unwrap().unwrap();
            (row.fired + row.missed_count > 0).then_some(())
        })
        .await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn five_running_schedulers_fire_each_second_once_and_see_changes_at_once() {
    let world = world().await;
    let stop = CancellationToken::new();
    let clock = Clock::system();
    let running: Vec<_> = (0..5).map(|_| tokio::spawn(scheduler(&world, &clock).run(stop.clone()))).collect();
    let notify = |title: &str| json!({ "recipients": [{ "userId": "ana" }], "title": title }).to_string();
    let add = async |more: &[&str]| {
        let body = notify("Tea");
        let args =
            [&["schedules", "add", "tea", "--tz", "UTC", "--kind", "notification", "--json", &body], more].concat();
        let (well, said, error) = carebell(&world, &args, &[("USER", "olga")]).await;
        assert!(well, "{error}");
        said
    };
    // Without a wake-up they would sleep for half a minute.
    let said = add(&["--cron", "0 0 1 1 *"]).await;
    assert!(said.contains("schedule tea is saved") && said.contains("-01-01T00:00:00+00:00"), "{said}");
    add(&["--cron", "* * * * * *", "--replace"]).await;
    let fired = async |least: i64| {
        world
            .eventually("it has fired", async || {
                let row = world.store.schedule("tea").await.unwrap().unwrap();
                (row.fired >= least).then_some(row)
            })
            .await
    };
    fired(4).await;
    let (well, _, error) = carebell(&world, &["schedules", "pause", "tea"], &[]).await;
    assert!(well, "{error}");
    let rested = world.store.schedule("tea").await.unwrap().unwrap().fired;
    let (_, table, _) = carebell(&world, &["schedules", "list"], &[]).await;
    assert!(table.contains("paused"), "{table}");
    let (well, said, _) = carebell(&world, &["schedules", "run-now", "tea"], &[]).await;
    assert!(well && said.contains("published job schedule~tea:now:"), "{said}");
    assert_eq!(world.store.schedule("tea").await.unwrap().unwrap().fired, rested, "it rests");
    carebell(&world, &["schedules", "resume", "tea"], &[]).await;
    fired(rested + 1).await;
    let (well, ..) = carebell(&world, &["schedules", "delete", "tea"], &[("USER", "olga")]).await;
    assert!(well);
    stop.cancel();
    for one in running {
        one.await.unwrap();
    }
    let ids = published(&world).await;
    let by_hand = ids.iter().filter(|id| id.contains(":now:")).count();
    assert_eq!(by_hand, 1);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "no second is published twice");
    println!("{} seconds by five schedulers", ids.len() - 1);
    let acts = "SELECT count(*) FROM audit_log WHERE detail ->> 'schedule' = 'tea'";
    assert_eq!(world.count(acts).await, 6, "added, replaced, paused, run, resumed, deleted");
}

#[tokio::test]
async fn schedules_are_listed_shown_and_refused() {
    let world = world().await;
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Tea" }).to_string();
    let base = |name: &'static str, cron: &'static str| {
        vec!["schedules", "add", name, "--cron", cron, "--tz", "America/New_York", "--kind", "notification", "--json"]
    };
    let add = async |args: Vec<&str>, more: &[&str]| {
        let args = [args, vec![body.as_str()], more.to_vec()].concat();
        carebell(&world, &args, &[("USER", "olga")]).await
    };
    let (well, said, error) =
        add(base("tea", "30 2 * * *"), &["--start", "2099-03-08", "--owner", "medication:x"]).await;
    assert!(well && said.contains("2099-03-08T03:00:00-04:00"), "{said}{error}");
    let (_, said, _) = carebell(&world, &["schedules", "show", "tea", "--json"], &[]).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&shown["gap"], &shown["created_by"]), (&json!("shift"), &json!("olga")));
    assert_eq!(shown["upcoming"][1], "2099-03-09T02:30:00-04:00");
    let (_, said, _) = carebell(&world, &["schedules", "show", "tea"], &[]).await;
    assert!(said.contains("30 2 * * * in America/New_York") && said.contains("latest, not later than 1h"), "{said}");
    let (_, said, _) = carebell(&world, &["schedules", "list", "--owner", "medication:x", "--json"], &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()[0]["name"], "tea");
    let (_, said, _) = carebell(&world, &["schedules", "list", "--owner", "nobody"], &[]).await;
    assert_eq!(said, "no schedules\n");

    let refused: [(Vec<&str>, &[&str], &str); 8] = [
        (base("tea", "0 9 * * *"), &[], "--replace changes it"),
        (base("a b", "0 9 * * *"), &[], "the name must be 1 to 64"),
        (base("x", "0 25 * * *"), &[], "hour"),
        (base("x", "0 0 30 2 *"), &[], "never"),
        (base("x", "0 9 * * *"), &["--end", "2020-01-01"], "no instant between"),
        (base("x", "0 9 * * *"), &["--lane", "fast"], "critical, normal or bulk"),
        (base("x", "0 9 * * *"), &["--start", "soon"], "--start is \"soon\""),
        (base("x", "0 9 * * *"), &["--missed", "some"], "latest"),
    ];
    for (args, more, expected) in refused {
        let (well, _, error) = add(args.clone(), more).await;
        assert!(!well && error.contains(expected), "{args:?} {more:?}: {error}");
    }
    for (args, expected) in [
        (["--kind", "reminder.dinner", "--json", "{}"], "there is no kind"),
        (["--kind", "reminder.medication", "--json", "{}"], "medication_id"),
        (["--kind", "deliver.web_push", "--json", "{}"], "there is no kind"),
    ] {
        let args = [&["schedules", "add", "x", "--cron", "@daily", "--tz", "UTC"], &args[..]].concat();
        let (well, _, error) = carebell(&world, &args, &[]).await;
        assert!(!well && error.contains(expected), "{error}");
    }
    for command in ["show", "pause", "resume", "delete", "run-now"] {
        let (well, _, error) = carebell(&world, &["schedules", command, "nobody"], &[]).await;
        assert!(!well && error.contains("there is no schedule \"nobody\""), "{command}: {error}");
    }
}

/// 08:00 is everybody's dose time.
#[tokio::test]
#[ignore = "soak: 100,000 schedules"]
async fn a_hundred_thousand_due_in_one_second() {
    const COUNT: i64 = 100_000;
    let world = world().await;
    let due = crate::support::utc_now() - TimeDelta::seconds(1);
    world
        .sql(&format!(
            "INSERT INTO schedules (id, name, kind, lane, payload, expression, zone, starts_at, next_at, due_at, \
                                    created_at, created_by, changed_at, changed_by) \
             SELECT n::text, 's' || n, 'notification', 'bulk', '{{\"title\": \"x\"}}', '@every 8760h', 'UTC', \
                    '{due}', '{due}', '{due}', now(), 'test', now(), 'test' FROM generate_series(1, {COUNT}) n"
        ))
        .await;
    world.sql("ANALYZE schedules").await;
    let since = std::time::Instant::now();
    let mut worker = Process::start(&["run", "--only", "scheduler"], &world.environment(), world.directory.path());
    worker.ready().await;
    world
        .eventually_within(Duration::from_mins(2), "all are published", async || {
            let left = world.count("SELECT count(*) FROM schedules WHERE fired = 0").await;
            (left == 0).then_some(())
        })
        .await;
    let took = since.elapsed();
    let (peak, health) = (worker.peak_memory_kb(), worker.get("/health").await.1);
    println!("{COUNT} due in one second: published after {took:?} (debug build), peak {peak} kB; {health}");
    let mut stream = world.context.get_stream("WORK").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.last_sequence, u64::try_from(COUNT).unwrap());
    assert!(health.contains("\"schedule_lag_ms\":"), "{health}");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// The province of Vancouver keeps its summer time since November 2026; rules of 2025 have it an hour later in winter.
#[tokio::test]
async fn what_older_rules_of_zones_have_set_is_reckoned_anew() {
    let world = world().await;
    let clock = Clock::manual(at("2026-12-05T15:00:00Z"));
    let version = ZoneData::in_use();
    for (name, expression, next, last) in [
        ("daily", "0 9 * * *", "2026-12-05T17:00:00Z", "2026-12-04T17:00:00Z"),
        ("passed", "30 7 * * *", "2026-12-05T15:30:00Z", "2026-12-04T15:30:00Z"),
        ("often", "*/10 * * * *", "2026-12-05T15:10:00Z", "2026-12-05T15:00:00Z"),
        ("due", "0 7 * * *", "2026-12-05T15:00:00Z", "2026-12-04T15:00:00Z"),
    ] {
        save(&world, name, expression, at(next), "").await;
        world
            .sql(&format!(
                "UPDATE schedules SET zone = 'America/Vancouver', starts_at = '2026-01-01', changed_at = '2026-01-01', \
                 last_at = '{last}', zone_data = '2025b' WHERE id = '{name}'"
            ))
            .await;
    }
    let scheduler = scheduler(&world, &clock);
    let next = async |name: &str| {
        let next: DateTime<Utc> =
            sqlx::query_scalar("SELECT next_at FROM schedules WHERE id = $1 AND next_at = due_at")
                .bind(name)
                .fetch_one(&world.db)
                .await
                .unwrap();
        next
    };
    assert_eq!(scheduler.reckon_anew(version).await, Ok(3));
    assert_eq!(next("daily").await, at("2026-12-05T16:00:00Z"));
    assert_eq!(next("passed").await, at("2026-12-05T14:30:00Z"), "late, and not lost");
    assert_eq!(next("often").await, at("2026-12-05T15:10:00Z"));
    assert_eq!(next("due").await, at("2026-12-05T14:00:00Z"), "once, and not at both");
    assert_eq!(scheduler.reckon_anew(version).await, Ok(0));

    // A pod of an older version moves it by older rules.
    world
        .sql(
            "UPDATE schedules SET last_at = next_at, next_at = next_at + interval '1 day 1 hour', \
             due_at = due_at + interval '1 day 1 hour' WHERE id = 'daily'",
        )
        .await;
    assert_eq!(scheduler.reckon_anew(version).await, Ok(1));
    assert_eq!(next("daily").await, at("2026-12-06T16:00:00Z"));
    // Moved by this version, it stays as it is.
    scheduler.pass(10).await.unwrap();
    assert_eq!(scheduler.reckon_anew(version).await, Ok(0));
    let older = ZoneData { version: "2025b".into(), directory: None };
    assert_eq!(scheduler.reckon_anew(&older).await, Ok(0));
}
