//! `carebell queues pause` and `resume`: what is pulled, planned with its reminder and sent directly waits.

use std::time::Duration;

use carebell::dev::push_service::Behaviour;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    acts::console_of,
    cli::carebell,
    support::{ADMIN_TOKEN, Process, QUICK, Worker, World, peek, reminder, utc_now},
};

/// Runs a command that has to succeed, and returns its output.
async fn queues(world: &World, args: &[&str]) -> String {
    let args: Vec<&str> = ["queues"].into_iter().chain(args.iter().copied()).collect();
    let (well, said, error) = carebell(world, &args, &[("USER", "olga")]).await;
    assert!(well, "{args:?}: {said}{error}");
    said
}

async fn paused(worker: &mut Process) -> Value {
    let (status, body) = worker.get("/health").await;
    assert_eq!(status, 200, "a pause makes no worker unhealthy: {body}");
    serde_json::from_str::<Value>(&body).unwrap()["paused"].clone()
}

/// Waits until a worker knows of so many pauses.
async fn knows(world: &World, worker: &mut Process, count: usize) -> Value {
    world
        .eventually("the worker knows the pauses", async || {
            let paused = paused(worker).await;
            (paused.as_array().unwrap().len() == count).then_some(paused)
        })
        .await
}

/// A job of another queue runs, so the workers are at work.
async fn others_run(world: &World, job_id: &str) {
    let news = json!({ "recipients": [{ "email": "nobody@example.org" }], "title": "News" });
    world.publish_json("jobs.notification.bulk", job_id, &news).await;
    assert_eq!(world.ended(job_id).await.0, "done");
}

async fn attempts(world: &World) -> i64 {
    world
        .count("SELECT (SELECT coalesce(sum(attempts), 0) FROM job_runs) + (SELECT coalesce(sum(attempts), 0) FROM deliveries)")
        .await
}

#[tokio::test]
async fn a_paused_queue_is_pulled_by_no_worker_until_it_is_resumed() {
    let world = World::new().await;
    let mut workers = [Process::worker(&world, &[]), Process::worker(&world, &[])];
    for worker in &mut workers {
        worker.ready().await;
    }
    let said = queues(&world, &["pause", "reminder.medication", "--reason", "wrong doses"]).await;
    assert!(said.contains("queue reminder_medication is paused until it is resumed"), "{said}");
    for worker in &mut workers {
        let known = knows(&world, worker, 1).await;
        assert_eq!((&known[0]["scope"], &known[0]["name"]), (&json!("queue"), &json!("reminder_medication")));
        assert_eq!(
            (&known[0]["reason"], &known[0]["by"], &known[0]["until"]),
            (&json!("wrong doses"), &json!("olga"), &Value::Null)
        );
        let (_, metrics) = worker.get("/metrics").await;
        assert!(metrics.contains(r#"carebell_paused{name="reminder_medication",scope="queue"} 1"#), "{metrics}");
    }
    world.remind("dose").await;
    others_run(&world, "news").await;
    assert!(world.runs("dose").await.is_empty(), "it waits");
    let listed: Value = serde_json::from_str(&queues(&world, &["list", "--json"]).await).unwrap();
    let row =
        |name: &str| listed["queues"].as_array().unwrap().iter().find(|row| row["queue"] == name).unwrap().clone();
    assert_eq!(
        (&row("reminder_medication")["paused"], &row("reminder_medication")["waiting"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(row("reminder_shift")["paused"], false);
    assert_eq!(listed["pauses"][0]["reason"], "wrong doses");
    let table = queues(&world, &["list"]).await;
    assert!(
        table.contains("paused: queue reminder_medication since 20") && table.contains("by olga: wrong doses"),
        "{table}"
    );

    queues(&world, &["resume", "reminder_medication", "--reason", "mended"]).await;
    world.everyone_has_it_once("dose").await;
    for worker in &mut workers {
        knows(&world, worker, 0).await;
        let (_, metrics) = worker.get("/metrics").await;
        assert!(!metrics.contains("carebell_paused{"), "{metrics}");
    }
    let acts: Vec<(String, String, Value)> =
        sqlx::query_as("SELECT action, actor, detail FROM audit_log ORDER BY id").fetch_all(&world.db).await.unwrap();
    assert_eq!(
        (acts[0].0.as_str(), acts[0].1.as_str(), &acts[0].2["reason"]),
        ("queue.paused", "olga", &json!("wrong doses"))
    );
    assert_eq!(
        (acts[1].0.as_str(), &acts[1].2["name"], &acts[1].2["reason"]),
        ("queue.resumed", &json!("reminder_medication"), &json!("mended"))
    );
    assert_eq!(acts.len(), 2);
    for worker in &mut workers {
        worker.terminate().await;
    }
}

#[tokio::test]
async fn a_notification_whose_queue_is_paused_gets_its_message_and_waits() {
    let world = World::new().await;
    queues(&world, &["pause", "notification", "--reason", "wrong text"]).await;
    // Started while paused: it knows before it pulls.
    let worker = Worker::start(&world);
    world.remind("dose").await;
    assert_eq!(world.ended("dose").await.0, "done", "the reminder is not paused");
    world
        .eventually("its notification waits", async || {
            (peek(&world.context, "WORK", "work.notification.critical").await == 1).then_some(())
        })
        .await;
    assert_eq!(world.runs("dose").await.len(), 1);
    assert_eq!(world.push.counts().requests, 0);
    queues(&world, &["resume", "notification"]).await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(attempts(&world).await, 0);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn pushes_of_a_paused_channel_get_their_messages_and_wait_unclaimed() {
    let world = World::new().await;
    queues(&world, &["pause", "--channel", "push", "--reason", "new keys"]).await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    assert_eq!(world.ended("dose~notification").await.0, "done");
    world
        .eventually("they wait", async || {
            (peek(&world.context, "DELIVERIES", "deliver.web_push.critical").await == 4).then_some(())
        })
        .await;
    others_run(&world, "news").await;
    let waiting = "SELECT count(*) FROM deliveries WHERE channel = 'web_push' AND state = 'pending' AND claims = 0";
    assert_eq!(world.count(waiting).await, 4);
    queues(&world, &["resume", "--channel", "web_push"]).await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(attempts(&world).await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn deliveries_of_a_paused_provider_are_parked_without_an_attempt_and_sent_after_it() {
    let world = World::new().await;
    let host = world.push.host_port();
    queues(&world, &["pause", "--provider", &host, "--reason", "their outage"]).await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'paused'";
    world.eventually("its pushes are parked", async || (world.count(held).await == 4).then_some(())).await;
    world.eventually("in HOLD", async || (peek(&world.context, "HOLD", "hold.>").await == 4).then_some(())).await;
    assert_eq!(world.push.counts().requests, 0);
    queues(&world, &["resume", "--provider", &host]).await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(attempts(&world).await, 0);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_expires_in_a_pause_ends_as_expired() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let expires = utc_now() + TimeDelta::seconds(2);
    let headers = [
        ("Carebell-Job-Id", "dose"),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", &expires.to_rfc3339()),
    ];
    queues(&world, &["pause", "*", "--reason", "all stops"]).await;
    world.publish("jobs.reminder.medication", &headers, reminder("metformin", utc_now()).to_string()).await;
    let said = queues(&world, &["pause", "*", "--until", "1h", "--reason", "all stops"]).await;
    assert!(said.contains("of 1 jobs that wait in it, 1 expire before that"), "{said}");
    world.eventually("it expires", async || (utc_now() > expires).then_some(())).await;
    assert!(world.runs("dose").await.is_empty());
    queues(&world, &["resume", "*"]).await;
    assert_eq!(world.ended("dose").await, ("expired".to_owned(), Some("expired".to_owned())));
    worker.stop().await;
}

#[tokio::test]
async fn a_pause_ends_by_itself() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    queues(&world, &["pause", "reminder_medication", "--until", "3s", "--reason", "a moment"]).await;
    let until: DateTime<Utc> = sqlx::query_scalar("SELECT until FROM pauses").fetch_one(&world.db).await.unwrap();
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let done = world.runs("dose").await["reminder.medication"].created_at;
    assert!(done >= until && done < until + TimeDelta::seconds(5), "{done} {until}");
    let (well, _, error) = carebell(&world, &["queues", "resume", "reminder_medication"], &[]).await;
    assert!(!well && error.contains("\"reminder_medication\" is not paused (none is)"), "{error}");
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_starts_in_a_pause_holds_to_it() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    queues(&world, &["pause", "reminder_medication", "--reason", "wrong doses"]).await;
    knows(&world, &mut worker, 1).await;
    world.remind("dose").await;
    worker.kill().await;
    let mut next = Process::worker(&world, &[]);
    next.ready().await;
    knows(&world, &mut next, 1).await;
    others_run(&world, "news").await;
    assert!(world.runs("dose").await.is_empty());
    queues(&world, &["resume", "reminder_medication"]).await;
    world.everyone_has_it_once("dose").await;
    next.terminate().await;
}

#[tokio::test]
async fn a_push_in_flight_is_finished_when_its_channel_is_paused() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=30s").await;
    world.push.behave_always("ana", Some(Behaviour::Slow(Duration::from_secs(8))));
    let mut worker = Process::worker(&world, &[]);
    world.remind("dose").await;
    world.eventually("it is under way", async || (world.push.counts().requests == 4).then_some(())).await;
    queues(&world, &["pause", "--channel", "push", "--reason", "new keys"]).await;
    knows(&world, &mut worker, 1).await;
    assert_eq!(world.delivery_to("dose", "ana").await.state, "sending");
    world.everyone_has_it_once("dose").await;
    assert_eq!(attempts(&world).await, 0);
    worker.terminate().await;
}

#[tokio::test]
async fn what_was_pulled_and_has_not_begun_is_given_back_without_an_attempt() {
    const JOBS: usize = 12;
    let world = World::with_overrides(&format!("{QUICK},notification_normal.rate=2/s")).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    for number in 0..JOBS {
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &news).await;
    }
    world.ended("news-0").await;
    queues(&world, &["pause", "notification_normal", "--reason", "wrong text"]).await;
    knows(&world, &mut worker, 1).await;
    let done = "SELECT count(*) FROM job_runs WHERE state = 'done'";
    others_run(&world, "other").await;
    let before = world.count(done).await;
    others_run(&world, "another").await;
    assert_eq!(world.count(done).await, before + 1, "the other job alone");
    assert!(before < i64::try_from(JOBS).unwrap());
    queues(&world, &["resume", "notification_normal"]).await;
    for number in 0..JOBS {
        assert_eq!(world.ended(&format!("news-{number}")).await.0, "done");
    }
    assert_eq!(attempts(&world).await, 0);
    world.queues_are_empty().await;
    worker.terminate().await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_refused_with_the_nearest() {
    let world = World::new().await;
    for (args, expected) in [
        (
            vec!["notification_critcal"],
            "there is no queue \"notification_critcal\"; did you mean notification_critical?",
        ),
        (vec!["reminder.medicatoin"], "there is no queue \"reminder.medicatoin\"; did you mean reminder_medication?"),
        (vec!["--channel", "emial"], "there is no channel \"emial\"; did you mean email?"),
        (
            vec!["--provider", "fcm.googleapis.co"],
            "there is no provider \"fcm.googleapis.co\"; did you mean fcm.googleapis.com?",
        ),
        (vec!["--channel", "email", "--provider", "x"], "cannot be used with"),
        (vec![], "required"),
        (vec!["later", "--until", "2020-01-01T00:00:00Z"], "has passed"),
        (vec!["later", "--until", "soon"], "expected a while such as 2h"),
    ] {
        let args: Vec<&str> = ["queues", "pause", "--reason", "tried"].into_iter().chain(args).collect();
        let (well, _, error) = carebell(&world, &args, &[]).await;
        assert!(!well && error.contains(expected), "{args:?}: {error}");
    }
    let (well, _, error) = carebell(&world, &["queues", "pause", "later"], &[]).await;
    assert!(!well && error.contains("--reason"), "{error}");
    queues(&world, &["pause", "notification_bulk", "--reason", "tried"]).await;
    let (well, _, error) = carebell(&world, &["queues", "resume", "notification_bluk"], &[]).await;
    assert!(!well && error.contains("did you mean notification_bulk?"), "{error}");
    assert_eq!(world.count("SELECT count(*) FROM audit_log").await, 1, "what was refused is not on record");
}

#[tokio::test]
async fn a_pause_says_how_many_jobs_would_expire_meanwhile() {
    let world = World::new().await;
    let console = console_of(&world).await;
    let soon = utc_now() + TimeDelta::hours(1);
    for (id, expires) in [("one", soon), ("two", soon + TimeDelta::hours(9))] {
        let headers = [
            ("Carebell-Job-Id", id),
            ("Content-Type", "application/json"),
            ("Carebell-Not-After", &expires.to_rfc3339()),
        ];
        world.publish("jobs.reminder.medication", &headers, reminder("metformin", utc_now()).to_string()).await;
    }
    let until = utc_now() + TimeDelta::hours(2);
    let held_up = |expire: Value, first: &Value| json!({ "jobs": 2, "looked_at": 2, "would_expire": expire, "first_expires_at": first });
    let pause = async |path: &str, body: Value| {
        let paused = console.api(Method::POST, &format!("{path}/pause"), ADMIN_TOKEN, Some(body)).await;
        assert_eq!(paused.status, StatusCode::OK, "{paused:?}");
        paused.body["held_up"].clone()
    };
    let told = pause("/queues/reminder_medication", json!({ "reason": "tried", "until": until })).await;
    let first = &told["first_expires_at"];
    assert_eq!(first.as_str().unwrap().parse::<DateTime<Utc>>().unwrap().timestamp(), soon.timestamp());
    assert_eq!(told, held_up(json!(1), first));
    assert_eq!(pause("/queues/reminder_medication", json!({ "reason": "tried" })).await, held_up(Value::Null, first));
    let none = json!({ "jobs": 0, "looked_at": 0, "would_expire": 0, "first_expires_at": null });
    assert_eq!(pause("/channels/email", json!({ "reason": "tried", "until": until })).await, none);
    let said = queues(&world, &["pause", "reminder_medication", "--until", "2h", "--reason", "x", "--json"]).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["held_up"], held_up(json!(1), first));
    assert!(said["waiting"].as_str().unwrap().starts_with("of 2 jobs"), "{said}");
    let cookie = console.sign_in(ADMIN_TOKEN).await;
    let (_, page) = console.page("/console/queues/reminder_medication?done=paused", &cookie).await;
    assert!(page.contains("of 2 jobs that wait in it, 1 expire before that"), "{page}");
}
