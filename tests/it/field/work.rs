//! Appointments in the application's own words, and a bound for the whole process.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use carebell::dev::push_service::Behaviour;
use chrono::TimeDelta;
use serde_json::json;

use crate::support::{LIMIT, NUMBER, Phones, Process, STEADY, Worker, World, decode, utc_now};

#[tokio::test]
async fn an_appointment_is_told_by_these_channels_in_these_words() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let start = utc_now() + TimeDelta::minutes(30);
    world.sql(&format!("UPDATE users SET phone = '{NUMBER}', locale = 'de' WHERE id = 'ana'")).await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ana', '{sms,push}')").await;
    sqlx::query(
        "INSERT INTO appointments (id, care_recipient_id, title, starts_at, status) \
         VALUES ('visit', 'rose', 'Physiotherapy', $1, 'CONFIRMED')",
    )
    .bind(start)
    .execute(&world.db)
    .await
    .unwrap();
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    let job = json!({ "appointmentId": "visit", "dateTime": carebell::text::instant(start), "reminderMinutes": 30,
                      "channels": ["CHANNEL_SMS"], "customMessage": "Please bring your insurance card" });
    world.publish_json("jobs.reminder.appointment", "own-words", &job).await;
    let lines = world.ledger("own-words").await;
    let sent: Vec<_> = lines.iter().filter(|line| line.state == "sent").collect();
    assert!(sent.len() == 1 && sent[0].channel == "sms" && sent[0].user_id == "ana", "{lines:?}");
    let text = phones.first.received().pop().unwrap().body;
    assert!(text.starts_with("📅 Erinnerung: Termin\nPlease bring your insurance card\n"), "{text}");
    for row in world.inbox("own-words").await {
        assert_eq!(row.body, "Please bring your insurance card");
    }
    assert_eq!(world.push.counts().requests, 0);
    worker.stop().await;

    let wrong = |change: &[(&str, serde_json::Value)]| {
        let mut job = job.clone();
        for (name, value) in change {
            job[*name] = value.clone();
        }
        decode("reminder.appointment", &job).unwrap_err()
    };
    let long = wrong(&[("customMessage", json!("x".repeat(481)))]);
    assert!(long.contains("`custom_message` must be at most 480 characters"), "{long}");
    let none = wrong(&[("channels", json!(["CHANNEL_UNSPECIFIED"]))]);
    assert!(none.contains("`channels`"), "{none}");
}

#[tokio::test]
async fn no_more_jobs_run_in_a_process_than_it_is_allowed() {
    let world = World::with_overrides(STEADY).await;
    world.push.behave_always("ana", Some(Behaviour::Hang));
    let mut worker = Process::worker(&world, &[("MAX_CONCURRENCY", "3")]);
    worker.ready().await;
    let started = async || {
        let output = worker.output();
        let started = output.lines().filter(|line| line.contains("consumer started"));
        Some(started.map(str::to_owned).collect::<Vec<_>>()).filter(|started| started.len() > 20)
    };
    for line in world.eventually("all consumers have started", started).await {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(line["concurrency"].as_u64().unwrap() <= 3, "{line}");
    }
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    for number in 0..20 {
        let job = json!({ "recipients": [{ "userId": "ana" }], "title": "x" });
        world.publish_json("jobs.notification.normal", &format!("n-{number}"), &job).await;
    }
    world.push.wait_until(LIMIT, |counts| counts.requests >= 3).await.unwrap();
    let busy = "SELECT count(*) FROM deliveries WHERE state = 'sending'";
    let claimed = async || {
        let busy = usize::try_from(world.count(busy).await).unwrap();
        seen.fetch_max(busy, Ordering::Relaxed);
        (world.count("SELECT count(*) FROM notifications").await == 20).then_some(())
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(4), world.eventually("all are planned", claimed)).await;
    assert!(most.load(Ordering::Relaxed) <= 6, "{most:?}: at most three jobs, and the pushes of three notifications");
    worker.kill().await;
}

#[tokio::test]
async fn what_waits_for_a_place_in_the_process_runs_when_there_is_one() {
    let world = World::with_overrides(STEADY).await;
    let worker = Worker::with(&world, &[("MAX_CONCURRENCY", "1")]);
    // Delayed jobs come back early, and wait without a permit.
    let soon = (utc_now() + TimeDelta::seconds(2)).to_rfc3339();
    for number in 0..20 {
        let id = format!("later-{number}");
        let headers =
            [("Carebell-Job-Id", id.as_str()), ("Content-Type", "application/json"), ("Carebell-At", soon.as_str())];
        let job = json!({ "recipients": [{ "userId": "ben" }], "title": "x" }).to_string();
        world.publish("jobs.later.notification.normal", &headers, job).await;
    }
    for number in 0..10 {
        world.remind(&format!("dose-{number}")).await;
        let job = json!({ "recipients": [{ "userId": "ben" }], "title": "x" });
        world.publish_json("jobs.notification.bulk", &format!("n-{number}"), &job).await;
    }
    for number in 0..10 {
        assert_eq!(world.ended(&format!("n-{number}")).await.0, "done");
    }
    for number in 0..20 {
        assert_eq!(world.ended(&format!("later-{number}")).await.0, "done");
    }
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}
