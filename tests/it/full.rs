//! Full queues and servers: the producer is told, nothing is lost, other queues do not wait.

use async_nats::jetstream::stream::DiscardPolicy;
use carebell::{jobs, pipeline::Registry, streams::Streams};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Custom, LIMIT, Process, QUICK, Worker, World, adjustments, database, peek, reminder, utc_now},
};

const FULL: &str = "is full, because workers are behind or stopped: nothing was published; publish it again later";

/// Makes the stream of what Carebell publishes one that can be full.
async fn cap_work(world: &World, most: i64) {
    let mut config = world.context.get_stream("WORK").await.unwrap().cached_info().config.clone();
    (config.discard, config.discard_new_per_subject) = (DiscardPolicy::New, true);
    config.max_messages_per_subject = most;
    world.context.update_stream(config).await.unwrap();
}

async fn cap(world: &World, most: i64) {
    let mut config = world.context.get_stream("JOBS").await.unwrap().cached_info().config.clone();
    assert_eq!((config.max_messages_per_subject, config.discard_new_per_subject), (1_000_000, true), "as shipped");
    config.max_messages_per_subject = most;
    world.context.update_stream(config).await.unwrap();
}

fn news(user: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": "News", "channels": ["CHANNEL_IN_APP"] })
}

fn dose(number: i64) -> Value {
    reminder("metformin", utc_now() - TimeDelta::minutes(number))
}

/// Replaces an earlier job with the same id.
async fn schedule(world: &World, kind: &str, job_id: &str, at: DateTime<Utc>, body: &Value) {
    let at = at.to_rfc3339();
    let headers = [("Carebell-Job-Id", job_id), ("Carebell-At", &at), ("Content-Type", "application/json")];
    world.publish(&format!("jobs.later.{kind}"), &headers, body.to_string()).await;
}

#[tokio::test]
async fn a_full_queue_refuses_its_own_jobs_with_what_to_do() {
    let world = World::new().await;
    cap(&world, 3).await;
    let body = news("ana").to_string();
    let publish = async |id: &str, lane: &str| {
        carebell(&world, &["publish", "notification", "--json", &body, "--job-id", id, "--lane", lane], &[]).await
    };
    for id in ["a", "b", "c"] {
        assert!(publish(id, "bulk").await.0);
    }
    let (well, _, error) = publish("d", "bulk").await;
    assert!(!well && error.contains("jobs.notification.bulk") && error.contains(FULL), "{error}");
    assert!(error.contains("job id, d"), "it names the id, which may be the program's own: {error}");
    assert!(publish("e", "critical").await.0, "another queue has room");

    let line = |id: &str, lane: &str| json!({ "jobId": id, "lane": lane, "job": news("ben") }).to_string();
    let file = world.directory.path().join("jobs.jsonl");
    let mut lines: Vec<String> = (0..30).map(|number| line(&format!("bulk-{number}"), "bulk")).collect();
    lines.push(line("now", "critical"));
    std::fs::write(&file, lines.join("\n")).unwrap();
    let many = ["publish", "notification", "--from", &file.display().to_string()];
    let (well, said, error) = carebell(&world, &many, &[]).await;
    assert!(!well && said.contains("1 published, 0 were there already, 30 refused"), "{said}");
    assert!(
        said.contains("line 1: the queue jobs.notification.bulk is full") && said.contains("lines 21-30"),
        "{said}"
    );
    assert!(error.contains("30 of them because the queue is full"), "{error}");

    // Refused jobs are accepted under their ids. Those accepted before have no second effect.
    cap_off(&world).await;
    let worker = Worker::start(&world);
    let (well, said, error) = carebell(&world, &many, &[]).await;
    assert!(well && said.contains("30 published"), "{said}{error}");
    assert!(publish("d", "bulk").await.0);
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 5 + 31);
    worker.stop().await;
}

async fn cap_off(world: &World) {
    let streams = Streams::embedded(&adjustments(QUICK)).unwrap();
    assert_eq!(streams.check(&world.context).await.unwrap().len(), 1, "the cap of the test");
    streams.apply(&world.context).await.unwrap();
    assert_eq!(streams.check(&world.context).await.unwrap(), []);
}

#[tokio::test]
async fn with_every_queue_full_the_work_goes_on() {
    let world = World::new().await;
    cap(&world, 4).await;
    for number in 0..4 {
        world.publish_json("jobs.reminder.medication", &format!("dose-{number}"), &dose(number)).await;
        // The reminders' notifications wait for room.
        world.publish_json("jobs.notification.critical", &format!("now-{number}"), &news("ana")).await;
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &news("ben")).await;
    }
    let worker = Worker::start(&world);
    for number in 0..4 {
        assert_eq!(world.ledger(&format!("dose-{number}")).await.len(), 4);
    }
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE state = 'done' AND attempts = 0").await, 16);
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 4 * 4 + 8);
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_reminder_whose_notification_has_no_room_waits_and_holds_up_no_other_queue() {
    let world = World::new().await;
    cap_work(&world, 2).await;
    for number in 0..2 {
        world.publish_json("work.notification.critical", &format!("now-{number}"), &news("ana")).await;
    }
    world.remind("dose").await;
    // This worker runs no notifications, so their queue stays full.
    let registry = Registry::default()
        .with::<jobs::reminder_medication::MedicationReminder>()
        .with::<jobs::reminder_shift::ShiftReminder>();
    let pipeline = Custom::start(&world, registry);
    assert_eq!(world.ended("dose").await.0, "done", "committed with its planned child");
    let pending = async || (world.count("SELECT count(*) FROM job_children").await == 1).then_some(());
    world.eventually("its notification is kept", pending).await;
    let start = utc_now() + TimeDelta::hours(1);
    let shift = json!({ "shiftId": "none", "startTime": start.to_rfc3339(), "reminderMinutes": 60 });
    world.publish_json("jobs.reminder.shift", "shift", &shift).await;
    assert_eq!(world.ended("shift").await.0, "skipped");
    assert_eq!(peek(&world.context, "JOBS", "jobs.reminder.medication").await, 1, "it is not acknowledged");

    let worker = Worker::start(&world);
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    world.all_is_published().await;
    worker.stop().await;
    pipeline.stop().await;
}

#[tokio::test]
async fn a_full_queue_takes_delayed_jobs_and_delays_none() {
    const ROOM: usize = 50;
    let world = World::new().await;
    cap(&world, i64::try_from(ROOM).unwrap()).await;
    for number in 0..ROOM {
        world.publish_json("jobs.notification.bulk", &format!("bulk-{number}"), &news("ana")).await;
    }
    for number in 0..3 {
        schedule(&world, "notification.bulk", &format!("later-{number}"), utc_now(), &news("ben")).await;
    }
    schedule(&world, "notification.normal", "normal", utc_now(), &news("dan")).await;
    let worker = Worker::start(&world);
    let all = i64::try_from(ROOM).unwrap() + 4;
    let told = async || (world.count("SELECT count(*) FROM notifications").await == all).then_some(());
    world.eventually("all are told", told).await;
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_server_without_storage_holds_the_jobs_until_it_has_some() {
    // With a rate, notifications have messages. Combined commits would need no storage.
    let overrides = format!("{QUICK},notification_critical.rate=100/s");
    let world = World::on_both(database().await, "jetstream { max_file_store: 8MB }", &overrides).await.at_pace(20);
    let filler = async_nats::jetstream::stream::Config {
        name: "FILLER".into(),
        subjects: vec!["filler".into()],
        ..Default::default()
    };
    let filler = world.context.create_stream(filler).await.unwrap();
    for number in 0..3 {
        world.publish_json("jobs.reminder.medication", &format!("dose-{number}"), &dose(number)).await;
    }
    // The server takes what it has room for at the beginning, so the last one is past the limit.
    let fill = async || while world.context.publish("filler", vec![0; 100_000].into()).await.unwrap().await.is_ok() {};
    fill().await;
    filler.delete_message(1).await.unwrap();
    filler.delete_message(2).await.unwrap();
    let due = utc_now() + TimeDelta::seconds(2);
    let at = format!("@at {}", due.to_rfc3339());
    let schedule = [("Carebell-Job-Id", "parked"), ("Nats-Schedule", &*at), ("Nats-Schedule-Target", "resume.nobody")];
    world.publish("hold.WORK.1000", &schedule, "x").await;
    fill().await;
    let body = news("ana").to_string();
    let publish = ["publish", "notification", "--json", &body, "--job-id", "refused"];
    let (well, _, error) = carebell(&world, &publish, &[]).await;
    assert!(!well && error.contains("no storage left") && error.contains("the same job id, refused"), "{error}");

    let mut worker = Process::worker(&world, &[]);
    let tried = |(_, step): (String, String)| step.starts_with("publishing what follows from a job").then_some(());
    worker.line("the publish is tried again", |line| line.step().and_then(tried)).await;
    for number in 0..3 {
        assert_eq!(world.ended(&format!("dose-{number}")).await.0, "done", "committed with its planned child");
    }
    assert_eq!(world.push.counts().requests, 0);
    let used_up = "JetStream has used up its storage";
    let is_told = async || worker.get("/health").await.1.contains(used_up).then_some(());
    world.eventually("health tells of it", is_told).await;
    // The server tells nobody that it tried in vain.
    tokio::time::sleep((due + TimeDelta::seconds(1) - utc_now()).to_std().unwrap_or_default()).await;
    filler.purge().await.unwrap();
    let writes = async || worker.get("/health").await.1.contains(r#""nats_storage":{"state":"up"}"#).then_some(());
    world.eventually("health tells of its return", writes).await;
    // The server tried once to send it off. The worker's net does so for a server that has forgotten it.
    let hold = world.context.get_stream("HOLD").await.unwrap();
    let gone = async || hold.get_last_raw_message_by_subject("hold.WORK.1000").await.is_err().then_some(());
    world.eventually("the parked job is sent off", gone).await;
    let sent = hold.get_last_raw_message_by_subject("resume.nobody").await.unwrap();
    hold.delete_message(sent.sequence).await.unwrap();
    for number in 0..3 {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    }
    assert!(carebell(&world, &publish, &[]).await.0);
    world.queues_are_empty().await;
    world.push.wait_for(12, LIMIT).await.unwrap();
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0, "an outage burns no attempt");
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(worker.terminate().await.code(), Some(0));
}
