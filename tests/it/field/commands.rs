//! Duplicates, machine output, closed pipes, jobs that are nowhere on record, and log lines.

use std::process::{Command, Stdio};

use carebell::dev::push_service::Behaviour;
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Process, Worker, World, reminder, utc_now},
};

fn news(title: &str) -> String {
    json!({ "recipients": [{ "userId": "ana" }], "title": title, "channels": ["CHANNEL_IN_APP"] }).to_string()
}

#[tokio::test]
async fn the_same_id_with_another_body_is_told_and_can_fail() {
    let world = World::new().await;
    let publish = async |title: &str, more: &[&str]| {
        let body = news(title);
        let args = [&["publish", "notification", "--job-id", "n-1", "--json", &body][..], more].concat();
        carebell(&world, &args, &[]).await
    };
    let (well, _, error) = publish("First", &["--fail-if-exists"]).await;
    assert!(well && error.is_empty(), "{error}");
    let (well, said, error) = publish("First", &[]).await;
    assert!(well && error.is_empty() && said.contains("which was there already"), "{said}{error}");
    let (well, said, error) = publish("Second one", &[]).await;
    assert!(well && said.contains("which was there already"), "{said}{error}");
    let [first, second] = [news("First").len(), news("Second one").len()];
    let names_both = error.contains(&format!("with another body or subject: {first} bytes, SHA-256"))
        && error.contains(&format!("this one is {second} bytes, SHA-256"));
    assert!(error.starts_with("note: a job n-1 was there already (JOBS #1)") && names_both, "{error}");
    for title in ["First", "Second one"] {
        let (well, _, error) = publish(title, &["--fail-if-exists"]).await;
        assert!(!well && error.contains("was there already (JOBS #1)"), "{error}");
    }
    // The same body on another subject is another job too.
    let (well, _, error) = publish("First", &["--lane", "critical"]).await;
    assert!(well && error.contains("on jobs.notification.normal; this one is"), "{error}");
    let (well, _, error) = publish("First", &["--fail-if-exists", "--delay", "5m"]).await;
    assert!(!well && error.contains("cannot be used with"), "{error}");
    let (well, said, _) = publish("Second one", &["--output", "json"]).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert!(well);
    assert_eq!((&answer["job_id"], &answer["stream"], &answer["sequence"]), (&json!("n-1"), &json!("JOBS"), &json!(1)));
    assert_eq!((&answer["duplicate"], &answer["same_body"]), (&json!(true), &json!(false)));

    // A job that has run has left its stream.
    let worker = Worker::start(&world);
    assert_eq!(world.ended("n-1").await.0, "done");
    world.queues_are_empty().await;
    let (well, _, error) = publish("Third", &[]).await;
    assert!(well && error.contains("has left its stream, so its body cannot be compared"), "{error}");
    let titles = "SELECT count(*) FROM notifications WHERE title = 'First'";
    assert_eq!((world.count(titles).await, world.count("SELECT count(*) FROM notifications").await), (1, 1));

    let file = world.directory.path().join("jobs.jsonl");
    std::fs::write(&file, format!("{{\"jobId\": \"n-1\", \"job\": {}}}\n{{ no\n", news("x"))).unwrap();
    let from = ["publish", "notification", "--from", file.to_str().unwrap(), "--output", "json"];
    let (well, said, _) = carebell(&world, &from, &[]).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert!(!well);
    assert_eq!((&answer["published"], &answer["duplicates"]), (&json!(0), &json!(1)));
    assert_eq!(answer["refused"][0]["line"], 2);
    let (well, _, error) = carebell(&world, &[&from[..], &["--fail-if-exists"]].concat(), &[]).await;
    assert!(!well && error.contains("1 were there already"), "{error}");
    worker.stop().await;
}

#[tokio::test]
async fn commands_speak_json_where_machines_listen() {
    let world = World::new().await;
    let body = news("Tea");
    let add = ["schedules", "add", "tea", "--cron", "0 16 * * *", "--tz", "Europe/Vienna", "--kind", "notification"];
    let add = [&add[..], &["--json", &body, "--output", "json"]].concat();
    let (well, said, error) = carebell(&world, &add, &[]).await;
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
    assert!(well && answer["next"].as_array().unwrap().len() == 3, "{answer}");
    assert_eq!(
        (&answer["name"], &answer["paused"], &answer["replaced"]),
        (&json!("tea"), &json!(false), &json!(false))
    );

    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "broken", &json!({ "title": "to nobody" })).await;
    world.dead_letters_once(1).await;
    let (well, said, error) = carebell(&world, &["dead-letters", "redrive", "--all", "--dry-run", "--json"], &[]).await;
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
    assert!(well);
    let predictions = json!([{ "letter": 1, "prediction": "would_run" }]);
    let expected = json!({ "would_redrive": 1, "letters": [1], "done_before": [], "predictions": predictions });
    assert_eq!(answer, expected);
    worker.stop().await;
}

#[tokio::test]
async fn a_closed_pipe_ends_a_command_quietly() {
    let world = World::new().await;
    let commands: [&[&str]; 6] = [
        &["schedules", "preview", "@every 1s", "--tz", "UTC", "-n", "1000"],
        &["schedules", "list"],
        &["keys", "generate"],
        &["doctor", "--offline"],
        &["streams", "check", "--json"],
        &["queues", "list"],
    ];
    for args in commands {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carebell"));
        command.env_clear().envs(world.environment()).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let mut other = command.spawn().unwrap();
        drop(other.stderr.take());
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        let output = tokio::task::spawn_blocking(move || other.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

#[tokio::test]
async fn a_job_that_no_worker_has_recorded_is_found_in_the_streams_and_the_dead_letters() {
    let world = World::new().await;
    world.publish_json("jobs.reminder.dinner", "dinner", &json!({})).await;
    world.publish_json("jobs.notification.bulk", "waits", &json!({})).await;
    let (well, said, error) = carebell(&world, &["jobs", "show", "dinner"], &[]).await;
    assert!(well, "{error}");
    assert!(said.contains("JOBS #1: waits on jobs.reminder.dinner since"), "{said}");
    assert!(said.contains("no consumer takes this subject: it becomes a dead letter within 90 s"), "{said}");
    let (well, said, _) = carebell(&world, &["jobs", "show", "waits", "--json"], &[]).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert!(well);
    assert_eq!(answer["waiting"][0]["subject"], "jobs.notification.bulk");
    assert_eq!((&answer["waiting"][0]["has_consumer"], &answer["dead_letters"]), (&json!(true), &json!([])));

    let effects = carebell::effects::Effects::start(
        &world.store,
        world.context.clone(),
        carebell::clock::Clock::system(),
        &carebell::health::Health::new(),
    );
    let streams = carebell::streams::Streams::embedded(&crate::support::adjustments("")).unwrap();
    let later = carebell::clock::Clock::manual(utc_now() + chrono::TimeDelta::minutes(2));
    let buried =
        carebell::dead_letter::sweep::pass(&effects, &streams, &later, carebell::dead_letter::sweep::AGE).await;
    assert_eq!(buried, Ok(1));
    let (well, said, _) = carebell(&world, &["jobs", "show", "dinner"], &[]).await;
    assert!(well && said.contains("(unknown_kind): no consumer covers the subject"), "{said}");
    assert!(said.contains("`carebell dead-letters show 1`"), "{said}");

    let (well, _, error) = carebell(&world, &["jobs", "show", "nowhere"], &[]).await;
    assert!(!well && error.contains("NATS has neither a message nor a dead letter of it"), "{error}");
    let (well, _, error) = carebell(&world, &["jobs", "show", "nowhere"], &[("NATS_URL", "nats://127.0.0.1:9")]).await;
    assert!(!well && error.contains("NATS could not be asked") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_delivery_that_is_held_until_an_instant_that_has_passed_says_why() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.push.behave_always("ana", Some(Behaviour::retry_after(429, "3600")));
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello", "channels": ["CHANNEL_PUSH"] });
    world.publish_json("jobs.notification.normal", "news", &news).await;
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held'";
    world.eventually("it is held", async || (world.count(held).await == 1).then_some(())).await;
    worker.stop().await;
    let (_, said, _) = carebell(&world, &["jobs", "show", "news"], &[]).await;
    assert!(said.contains("held (retry_later)") && !said.contains("passed"), "{said}");
    world.sql("UPDATE deliveries SET held_until = now() - interval '1 minute'").await;
    let (_, said, _) = carebell(&world, &["jobs", "show", "news"], &[]).await;
    assert!(said.contains("Z, which has passed: it waits for a worker (`carebell queues list`)"), "{said}");
}

#[tokio::test]
async fn log_lines_say_what_failed_and_which_job_it_was() {
    let world = World::new().await;
    world.push.behave_always("ana", Some(Behaviour::status(410)));
    world.push.behave_times("ben", 1, Behaviour::status(503));
    world.push.behave_always("chloe", Some(Behaviour::status(400)));
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("dose").await;
    world.ledger("dose").await;
    // The id is right, and another header is not.
    let body = reminder("metformin", utc_now()).to_string();
    let headers =
        [("Carebell-Job-Id", "known"), ("Content-Type", "application/json"), ("Carebell-Not-After", "tomorrow")];
    world.publish("jobs.reminder.medication", &headers, body).await;
    world.dead_letters_once(2).await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());
    let output = worker.output();
    let lines: Vec<Value> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let line = |job: &str, outcome: &str| {
        let is_it = |line: &&Value| line["job"] == job && line["outcome"] == outcome;
        lines.iter().find(is_it).unwrap_or_else(|| panic!("{job} {outcome}: {output}"))
    };
    let of = async |user: &str| world.delivery_to("dose", user).await.id;
    let gone = line(&of("ana").await, "failed");
    assert_eq!((&gone["error"], &gone["reason"]), (&json!("410"), &json!("subscription_gone")));
    assert_eq!(gone["will_retry"], false);
    let again = line(&of("ben").await, "retry");
    assert_eq!((&again["will_retry"], again["error"].as_str().unwrap().contains("503")), (&json!(true), true));
    let dead = line(&of("chloe").await, "dead");
    assert_eq!((&dead["will_retry"], dead["error"].as_str().unwrap().contains("400")), (&json!(false), true));
    let done = line("dose", "done");
    assert!(done["duration_ms"].is_u64() && done["delivery_count"] == 1 && done.get("will_retry").is_none(), "{done}");
    assert!(line("known", "dead")["error"].as_str().unwrap().contains("Carebell-Not-After"));
    let started = lines.iter().filter(|line| line["message"] == "consumer started");
    let started: Vec<_> = started.filter(|line| line["queue"] == "reminder_medication").collect();
    assert!(!started.is_empty() && started[0]["concurrency"] == 200, "{started:?}");
}
