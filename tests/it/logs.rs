//! Log lines of jobs: one per outcome, the same fields, nothing personal.

use std::fs;

use carebell::dev::push_service::Behaviour;
use serde_json::{Value, json};

use crate::support::{FAMILY, Process, STEADY, World, reminder, utc_now};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn lines(worker: &Process) -> Vec<Value> {
    let text = fs::read_to_string(worker.log_file()).unwrap();
    // The last line may be incomplete.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

fn of<'a>(lines: &'a [Value], job: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["job"] == job && line["outcome"].is_string()).collect()
}

#[tokio::test]
async fn each_outcome_is_one_line_with_all_that_is_needed_to_find_it() {
    let world = World::new().await;
    world.push.behave_times("ana", 1, Behaviour::status(503));
    world.push.behave_times("ben", 1, Behaviour::retry_after(429, "1"));
    world.push.behave_always("chloe", Some(Behaviour::status(400)));
    let mut worker = Process::worker(&world, &[("LOG_LEVEL", "info,carebell=debug")]);
    worker.ready().await;
    let headers = [
        ("Carebell-Job-Id", "dose"),
        ("Content-Type", "application/json"),
        ("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-01")),
    ];
    world.publish("jobs.reminder.medication", &headers, reminder("metformin", utc_now()).to_string()).await;
    world.ledger("dose").await;
    world.publish_json("jobs.reminder.medication", "gone", &reminder("nothing", utc_now())).await;
    world.ended("gone").await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());

    let lines = lines(&worker);
    let done = of(&lines, "dose");
    assert_eq!(done.len(), 1, "{done:?}");
    let expected = json!({
        "level": "INFO", "message": "reminder.medication done", "job": "dose", "root": "dose",
        "kind": "reminder.medication", "outcome": "done", "attempt": 1, "delivery_count": 1, "trace_id": TRACE,
        "target": "carebell::pipeline::run",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&done[0][name], value, "{name} in {}", done[0]);
    }
    assert!(done[0]["duration_ms"].is_u64() && done[0]["timestamp"].is_string());
    let begun = |line: &&Value| line["message"] == "begun" && line["job"] == "dose" && line["level"] == "DEBUG";
    assert_eq!(lines.iter().filter(begun).count(), 1);

    let gone = of(&lines, "gone");
    assert_eq!((gone.len(), &gone[0]["outcome"], &gone[0]["reason"]), (1, &json!("skipped"), &json!("gone")));
    assert_eq!(gone[0].get("trace_id"), None, "there is no trace to look for");

    let delivery = async |user: &str| world.delivery_to("dose", user).await.id;
    let ana = of(&lines, &delivery("ana").await);
    assert_eq!(ana.len(), 2, "{ana:?}");
    assert_eq!(
        (&ana[0]["level"], &ana[0]["outcome"], &ana[0]["attempt"]),
        (&json!("WARN"), &json!("retry"), &json!(1))
    );
    assert!(ana[0]["error"].as_str().unwrap().contains("503") && ana[0]["trace_id"] == TRACE);
    assert_eq!((&ana[1]["level"], &ana[1]["outcome"], &ana[1]["attempt"]), (&json!("INFO"), &json!("done"), &json!(2)));
    let ben = of(&lines, &delivery("ben").await);
    assert_eq!((ben.len(), &ben[0]["level"], &ben[0]["reason"]), (2, &json!("INFO"), &json!("retry_later")));
    let chloe = of(&lines, &delivery("chloe").await);
    assert_eq!((chloe.len(), &chloe[0]["level"], &chloe[0]["outcome"]), (1, &json!("ERROR"), &json!("dead")));
    assert!(chloe[0]["error"].as_str().unwrap().contains("400") && chloe[0]["reason"] == "permanent");

    let text = fs::read_to_string(worker.log_file()).unwrap();
    for word in ["Metformin", "500 mg", "Rose", "Time to give"].into_iter().chain(FAMILY) {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}

/// The NATS client would log whole messages, and others the hosts that users name.
#[tokio::test]
async fn nothing_personal_is_logged_at_any_level() {
    let world = World::new().await;
    world.push.behave_times("ana", 1, Behaviour::status(503));
    let mut worker = Process::worker(&world, &[("LOG_LEVEL", "trace,async_nats=trace")]);
    worker.ready().await;
    let body =
        json!({ "recipients": [{ "userId": "ana" }], "title": "Biopsy results", "data": { "ward": "oncology" } });
    world.publish_json("jobs.notification.critical", "news", &body).await;
    world.ledger("news").await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());

    let lines = lines(&worker);
    assert!(lines.iter().any(|line| line["level"] == "DEBUG" || line["level"] == "TRACE"), "Carebell's own are there");
    let is_below_info = |line: &&Value| !["ERROR", "WARN", "INFO"].contains(&line["level"].as_str().unwrap());
    for line in lines.iter().filter(is_below_info) {
        assert!(line["target"].as_str().unwrap().starts_with("carebell"), "{line}");
    }
    let said = worker.output();
    let endpoint: String = sqlx::query_scalar("SELECT endpoint FROM push_subscriptions WHERE id = 'ana'")
        .fetch_one(&world.db)
        .await
        .unwrap();
    let path = endpoint.rsplit_once('/').unwrap().1;
    for secret in ["Biopsy", "oncology", path, &world.keys.private] {
        assert!(!said.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn as_text_a_run_is_one_line_that_reads_well() {
    let world = World::new().await;
    let worker = Process::worker(&world, &[("LOG_FORMAT", "text")]);
    world.remind("dose").await;
    let line = world
        .eventually("its line is written", async || {
            let text = worker.output();
            text.lines().find(|line| line.contains("reminder.medication done")).map(str::to_owned)
        })
        .await;
    let (at, rest) = line.split_once(' ').unwrap();
    at.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let (said, took) = rest.rsplit_once(" duration_ms=").unwrap();
    assert_eq!(
        said.trim_start(),
        "INFO reminder.medication done job=\"dose\" root=\"dose\" kind=\"reminder.medication\" outcome=\"done\" \
         attempt=1 delivery_count=1"
    );
    took.parse::<u64>().unwrap();
}

/// One line, however long the database is away.
#[tokio::test]
async fn a_job_that_is_held_is_one_line() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.sql("ALTER TABLE medications RENAME TO medications_away").await;
    world.remind("dose").await;
    let held = |line: &Value| line["job"] == "dose" && line["message"].as_str().unwrap().starts_with("held");
    world.eventually("it is held", async || lines(&worker).iter().any(held).then_some(())).await;
    // Jobs look again each second. Three failures of the scheduler take longer.
    let failures = |line: &&Value| line["message"].as_str().unwrap().starts_with("the care tables cannot be read");
    world
        .eventually("seconds have passed", async || (lines(&worker).iter().filter(failures).count() >= 3).then_some(()))
        .await;
    world.sql("ALTER TABLE medications_away RENAME TO medications").await;
    world.everyone_has_it_once("dose").await;
    assert!(worker.terminate().await.success());
    assert_eq!(lines(&worker).iter().filter(|line| held(line)).count(), 1, "{}", worker.output());
}

/// Outcome lines, as level, message, outcome and number of pushes.
fn said<'a>(lines: &'a [Value], root: &str) -> Vec<(&'a str, &'a str, &'a str, Option<u64>)> {
    let text = |line: &'a Value, name: &str| line[name].as_str().unwrap();
    let of = |line: &&Value| line["root"] == root && line["outcome"].is_string();
    let said = |line| (text(line, "level"), text(line, "message"), text(line, "outcome"), line["pushes"].as_u64());
    lines.iter().filter(of).map(said).collect()
}

const REMINDED: (&str, &str, &str, Option<u64>) = ("INFO", "reminder.medication done", "done", None);

fn notified(pushes: u64) -> (&'static str, &'static str, &'static str, Option<u64>) {
    ("INFO", "notification done", "done", Some(pushes))
}

/// Each successful push has its own line only at DEBUG.
#[tokio::test]
async fn a_reminder_to_a_family_is_two_lines_unless_all_are_asked_for() {
    let world = World::with_overrides(STEADY).await;
    for (id, level) in [("dose", "info"), ("verbose", "info,carebell=debug")] {
        let mut worker = Process::worker(&world, &[("LOG_LEVEL", level)]);
        worker.ready().await;
        let due = if id == "dose" { utc_now() } else { utc_now() - chrono::TimeDelta::minutes(1) };
        world.publish_json("jobs.reminder.medication", id, &reminder("metformin", due)).await;
        let ledger = world.ledger(id).await;
        assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
        world.queues_are_empty().await;
        assert!(worker.terminate().await.success());
        let lines = lines(&worker);
        let mut said = said(&lines, id);
        if id == "verbose" {
            let pushes = said.extract_if(.., |line| line.0 == "DEBUG").collect::<Vec<_>>();
            assert_eq!(pushes, [("DEBUG", "deliver.web_push done", "done", None); 4]);
            for delivery in ledger {
                assert_eq!(of(&lines, &delivery.id).len(), 1, "each has its own");
            }
        }
        said.sort_unstable();
        assert_eq!(said, [notified(4), REMINDED], "{id}");
    }
}

/// Failed pushes do not count as sent.
#[tokio::test]
async fn a_push_that_fails_has_its_line() {
    let world = World::with_overrides(STEADY).await;
    world.push.behave_times("ana", 1, Behaviour::status(503));
    world.push.behave_times("ben", 1, Behaviour::retry_after(429, "1"));
    world.push.behave_always("chloe", Some(Behaviour::status(400)));
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("dose").await;
    world.ledger("dose").await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());
    let lines = lines(&worker);
    let mut said = said(&lines, "dose");
    said.sort_unstable();
    let by_message = ("INFO", "deliver.web_push done", "done", None);
    let expected = [
        ("ERROR", "deliver.web_push is dead", "dead", None),
        // Ana's and ben's last attempts.
        by_message,
        by_message,
        ("INFO", "deliver.web_push waits", "waits", None),
        notified(1),
        REMINDED,
        ("WARN", "deliver.web_push failed, again soon", "retry", None),
    ];
    assert_eq!(said, expected, "only dan's direct send succeeded");
}
