//! Paths of older systems: the shapes of their answers, as their users' programs read them.

use carebell::admin::access::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Answer, Console, Worker, World, answer};

async fn get(console: &Console, path: &str) -> Answer {
    answer(console.request(Method::GET, path).bearer_auth(ADMIN_TOKEN)).await
}

/// A value with each number, text and truth replaced by its sort, so that shapes can be compared.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
    }
}

async fn lived_in() -> (World, Worker, Console) {
    let world = World::new().await.at_pace(5);
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.publish_json("jobs.reminder.medication", "dead", &json!({ "medicationId": 3 })).await;
    world.dead_letters_once(1).await;
    world.ended("dead").await;
    let counted = "SELECT coalesce(sum(count), 0)::bigint FROM outcome_counts \
                   WHERE queue = 'reminder_medication' AND outcome IN ('done', 'dead')";
    world.eventually("both are counted", async || (world.count(counted).await == 2).then_some(())).await;
    world.sql("UPDATE outcome_counts SET minute = minute - interval '1 minute'").await;
    let console = Console::start(&world).await;
    (world, worker, console)
}

#[tokio::test]
async fn jobs_and_counts_have_the_shape_of_the_admin_path() {
    let (_world, worker, console) = lived_in().await;
    let failed = get(&console, "/admin/jobs?status=failed&limit=10").await.body;
    let expected = json!({
        "id": "text", "name": "text", "queue": "text", "status": "text", "attemptsMade": "number",
        "failedReason": "text", "timestamp": "number", "finishedOn": "number", "delayedUntil": null,
    });
    assert_eq!(shape(&failed), json!({ "jobs": [expected], "next": null }));
    let job = &failed["jobs"][0];
    assert_eq!(
        (&job["id"], &job["name"], &job["status"]),
        (&json!("dead"), &json!("reminder.medication"), &json!("failed"))
    );
    let counts = get(&console, "/admin/jobs/counts").await.body;
    let names = ["active", "completed", "delayed", "failed", "total", "waiting"];
    assert_eq!(counts.as_object().unwrap().keys().collect::<Vec<_>>(), names);
    assert!(counts["failed"] == 1 && counts["waiting"] == 0 && counts["completed"].as_u64() >= Some(1), "{counts}");
    assert_eq!(
        get(&console, "/admin/jobs/dose").await.body["root_id"],
        get(&console, "/admin/api/v1/jobs/dose").await.body["root_id"]
    );
    worker.stop().await;
}

#[tokio::test]
async fn health_and_a_queue_have_the_shape_of_the_older_health() {
    let (_world, worker, console) = lived_in().await;
    let health = get(&console, "/admin/jobs/health").await.body;
    let words = json!({ "waiting": "number", "active": "number", "completed": "number", "failed": "number", "delayed": "number" });
    let throughput = json!({ "perMinute": "number", "perHour": "number" });
    let queue = json!({ "isPaused": "bool", "stats": { "jobs": words, "throughput": throughput } });
    assert_eq!(shape(&health["queues"]["reminder_medication"]), queue);
    assert_eq!(health["queues"]["reminder_medication"]["stats"]["throughput"]["perHour"], 2, "{health}");
    let expected =
        json!({ "id": "text", "status": "text", "processed": "number", "failed": "number", "uptime": "number" });
    assert_eq!(shape(&health["workers"]), json!([expected]));
    assert_eq!(shape(&health["status"]), json!("text"));
    let stats = get(&console, "/admin/jobs/queues/reminder-medication/stats").await.body;
    assert_eq!(shape(&stats), json!({ "queue": "text", "isPaused": "bool", "jobs": words, "throughput": throughput }));
    assert_eq!((&stats["jobs"]["completed"], &stats["jobs"]["failed"]), (&json!(1), &json!(1)));
    worker.stop().await;
}

#[tokio::test]
async fn a_queue_has_its_counts_recent_jobs_and_schedules() {
    let (_world, worker, console) = lived_in().await;
    let queue = get(&console, "/api/admin/jobs/reminder.medication").await.body;
    assert_eq!(queue["recent"]["completed"][0]["id"], "dose", "{queue}");
    assert_eq!((&queue["recent"]["failed"][0]["id"], &queue["recent"]["active"]), (&json!("dead"), &json!([])));
    assert_eq!((&queue["counts"]["completed"], &queue["counts"]["failed"]), (&json!(1), &json!(1)));
    let pruning = get(&console, "/api/admin/jobs/maintenance_prune").await.body;
    let expected = json!({ "key": "text", "pattern": "text", "tz": "text", "next": "number" });
    assert_eq!(shape(&pruning["scheduled"]), json!([expected]));
    assert_eq!(pruning["scheduled"][0]["key"], "carebell.prune");
    let schedules = get(&console, "/admin/jobs/schedules").await.body;
    let first = &schedules["schedules"][0];
    assert_eq!(
        (&first["name"], &first["options"]["queue"]),
        (&json!("carebell.prune"), &json!("maintenance_prune")),
        "{schedules}"
    );
    assert!(first["cronExpression"].is_string() && first["options"]["timezone"].is_string());
    let all_lanes = get(&console, "/api/admin/jobs/notification").await.body;
    assert_eq!(all_lanes["recent"]["completed"][0]["id"], "dose~notification", "{all_lanes}");
    for (path, status) in [
        ("/api/admin/jobs/notificaton_bulk", StatusCode::NOT_FOUND),
        ("/api/admin/jobs/later", StatusCode::NOT_FOUND),
        ("/api/admin/jobs/%00", StatusCode::NOT_FOUND),
        ("/admin/jobs?limit=0", StatusCode::UNPROCESSABLE_ENTITY),
        ("/admin/jobs?status=fine", StatusCode::UNPROCESSABLE_ENTITY),
        ("/admin/jobs/nothing", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(get(&console, path).await.status, status, "{path}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn older_paths_pause_a_queue_and_take_a_job_back_for_the_same_rights() {
    let (world, worker, console) = lived_in().await;
    let (viewer, operator) = (console.token("vera", Role::Viewer).await, console.token("otto", Role::Operator).await);
    let act = async |method: Method, path: &str, token: &str, body: &str| {
        let request = console.request(method, path).bearer_auth(token);
        let request = if body.is_empty() { request } else { request.header("content-type", "application/json") };
        answer(request.body(body.to_owned())).await
    };
    let pause = "/admin/jobs/queues/notification/pause";
    assert_eq!(act(Method::POST, pause, &viewer, "").await.status, StatusCode::FORBIDDEN);
    assert_eq!(act(Method::POST, pause, &operator, "{\"unti\": 1}").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let paused = act(Method::POST, pause, &operator, "").await;
    assert_eq!(paused.body, json!({ "queue": "notification", "isPaused": true }));
    assert_eq!(world.count("SELECT count(*) FROM pauses WHERE actor = 'otto'").await, 3, "one of each lane");
    assert_eq!(get(&console, "/admin/api/v1/queues/notification_bulk").await.status, StatusCode::OK);
    let resumed = act(Method::POST, "/admin/jobs/queues/notification/resume", &operator, "").await;
    assert_eq!(resumed.body, json!({ "queue": "notification", "isPaused": false }));

    let at = (crate::support::utc_now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let delayed = [("Carebell-Job-Id", "later"), ("Content-Type", "application/json"), ("Carebell-At", at.as_str())];
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Tea" }).to_string();
    world.publish("jobs.later.notification.bulk", &delayed, body).await;
    let waits = async || (world.count("SELECT count(*) FROM delayed_jobs").await == 1).then_some(());
    world.eventually("a job is delayed", waits).await;
    assert_eq!(get(&console, "/api/admin/jobs/notification_bulk").await.body["counts"]["delayed"], 1);
    assert_eq!(act(Method::DELETE, "/admin/jobs/later", &viewer, "").await.status, StatusCode::FORBIDDEN);
    assert_eq!(act(Method::DELETE, "/admin/jobs/later", &operator, "").await.status, StatusCode::NO_CONTENT);
    let acts = world.count("SELECT count(*) FROM audit_log WHERE actor = 'otto'").await;
    assert_eq!(acts, 7);
    worker.stop().await;
}
