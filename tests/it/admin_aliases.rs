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

/// A request with the token of the first admin.
async fn send(console: &Console, method: Method, path: &str, body: &Value) -> Answer {
    let request = console.request(method, path).bearer_auth(ADMIN_TOKEN);
    answer(if body.is_null() {
        request
    } else {
        request.header("content-type", "application/json").body(body.to_string())
    })
    .await
}

fn tea() -> Value {
    json!({
        "name": "tea",
        "cronExpression": "0 9 * * 1-5",
        "data": { "recipients": [{ "userId": "ana" }], "title": "Tea" },
        "options": { "timezone": "Europe/London", "queue": "notification_bulk" },
    })
}

#[tokio::test]
async fn schedules_are_written_in_the_older_json() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    let place = "/admin/jobs/schedules/tea";
    let added = send(&console, Method::POST, "/admin/jobs/schedules", &tea()).await;
    assert_eq!(added.status, StatusCode::CREATED, "{added:?}");
    let next = added.body["next"].as_i64().unwrap();
    let golden = |expression: &str, zone: &str, queue: &str, paused: bool, next: Value| {
        json!({
            "name": "tea", "cronExpression": expression, "options": { "timezone": zone, "queue": queue },
            "isPaused": paused, "next": next, "last": null,
        })
    };
    assert_eq!(added.body, golden("0 9 * * 1-5", "Europe/London", "notification_bulk", false, next.into()));
    assert_eq!(get(&console, place).await.body, added.body);
    assert_eq!(send(&console, Method::POST, "/admin/jobs/schedules", &tea()).await.status, StatusCode::CONFLICT);

    // What is left out stays, and so does what the older JSON has no word for.
    world.sql("UPDATE schedules SET missed = 'all', owner = 'rose' WHERE name = 'tea'").await;
    let changed = json!({ "cronExpression": "@daily", "options": { "timezone": "America/New_York" } });
    let changed = send(&console, Method::PUT, place, &changed).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    assert_eq!(
        changed.body,
        golden("@daily", "America/New_York", "notification_bulk", false, changed.body["next"].clone())
    );
    let kept = world.store.schedule("tea").await.unwrap().unwrap().spec;
    assert_eq!((kept.missed.as_str(), kept.owner.as_deref()), ("all", Some("rose")));
    assert_eq!(kept.payload["title"], "Tea");
    let moved = send(&console, Method::PUT, place, &json!({ "options": { "queue": "notification-normal" } })).await;
    assert_eq!(moved.body["options"]["queue"], "notification_normal", "{moved:?}");
    let paused = send(&console, Method::POST, &format!("{place}/pause"), &Value::Null).await;
    assert_eq!(paused.body, golden("@daily", "America/New_York", "notification_normal", true, Value::Null));
    let resumed = send(&console, Method::POST, &format!("{place}/resume"), &Value::Null).await;
    assert_eq!(resumed.body["isPaused"], false);
    let ran = send(&console, Method::POST, &format!("{place}/run"), &Value::Null).await;
    let job = ran.body["jobId"].as_str().unwrap().to_owned();
    assert_eq!((ran.status, ran.body["name"].as_str()), (StatusCode::ACCEPTED, Some("tea")));
    assert_eq!(world.ended(&job).await.0, "done");
    let removed = send(&console, Method::DELETE, place, &Value::Null).await;
    assert_eq!((removed.status, removed.body), (StatusCode::OK, json!({ "name": "tea", "removed": true })));
    assert_eq!(get(&console, place).await.status, StatusCode::NOT_FOUND);
    worker.stop().await;
}

/// Of the clinic's corrections: each day at one in the morning, or on the days of a range.
#[tokio::test]
async fn daily_jobs_and_those_of_a_range_run_at_one_in_the_morning() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let data = json!({ "recipients": [{ "userId": "ana" }], "title": "Corrections" });
    let path = "/api/admin/jobs/notification_bulk";
    let daily = json!({ "type": "daily", "data": data, "options": { "timezone": "Europe/Berlin" } });
    let added = send(&console, Method::POST, path, &daily).await;
    assert_eq!(added.status, StatusCode::CREATED, "{added:?}");
    let next = added.body["next"].clone();
    let golden = |next: Value| json!({ "key": "notification.bulk.daily", "pattern": "0 1 * * *", "tz": "Europe/Berlin", "next": next });
    assert_eq!(added.body, golden(next.clone()));
    assert_eq!(get(&console, path).await.body["scheduled"], json!([golden(next.clone())]));
    let again = send(&console, Method::POST, path, &daily).await;
    assert_eq!((again.status, again.body), (StatusCode::OK, golden(next)), "sent again, it is changed");

    let range = json!({
        "name": "march", "type": "range", "startDate": "2090-03-30", "endDate": "2090-03-31", "data": data,
        "options": { "timezone": "UTC", "queue": "notification" },
    });
    let added = send(&console, Method::POST, "/admin/jobs/schedules", &range).await;
    assert_eq!(added.status, StatusCode::CREATED, "{added:?}");
    let spec = world.store.schedule("march").await.unwrap().unwrap().spec;
    let instant = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!(
        (spec.expression.as_str(), spec.starts_at, spec.ends_at),
        ("0 1 * * *", instant("2090-03-30T00:00:00Z"), Some(instant("2090-04-01T00:00:00Z"))),
        "its last day is one of it"
    );
    assert_eq!(added.body["next"], instant("2090-03-30T01:00:00Z").timestamp_millis());
    let preview = json!({ "type": "daily", "options": { "timezone": "Europe/Berlin" } });
    let preview = send(&console, Method::POST, "/admin/jobs/schedules/preview", &preview).await;
    let shape_of = json!({ "cronExpression": "text", "options": { "timezone": "text" }, "next": ["number"] });
    assert_eq!(shape(&preview.body), shape_of);
    assert_eq!(preview.body["next"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_wrong_field_of_the_older_json_is_named_as_it_is_written() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let schedules = "/admin/jobs/schedules";
    let queue = "/api/admin/jobs/notification_bulk";
    let changed = |field: &str, value: Value| {
        let mut body = tea();
        match field.split_once('.') {
            Some((outer, inner)) => body[outer][inner] = value,
            None => body[field] = value,
        }
        body
    };
    let without = |field: &str| {
        let mut body = tea();
        body.as_object_mut().unwrap().remove(field);
        body
    };
    let job =
        |options: Value| json!({ "data": { "recipients": [{ "userId": "ana" }], "title": "Tea" }, "options": options });
    for (path, body, field) in [
        (schedules, changed("name", json!("a b")), "name"),
        (schedules, changed("cronExpression", json!("0 25 * * *")), "cronExpression"),
        (schedules, changed("options.timezone", json!("Mars/Olympus")), "options.timezone"),
        (schedules, changed("options.queue", json!("notificaton_bulk")), "options.queue"),
        (schedules, changed("options.queue", json!("deliver_web_push_normal")), "options.queue"),
        (schedules, changed("options.priority", json!(1)), "options.priority"),
        (schedules, changed("data", json!({ "title": 7 })), "data"),
        (schedules, changed("type", json!("daily")), "type"),
        (schedules, changed("startDate", json!("soon")), "startDate"),
        (schedules, changed("endDate", json!("soon")), "endDate"),
        (schedules, without("data"), "data"),
        (schedules, without("name"), "name"),
        (schedules, without("options"), "options.queue"),
        (schedules, without("cronExpression"), "cronExpression"),
        (queue, json!({ "type": "weekly", "data": {} }), "type"),
        (queue, json!({ "type": "range", "startDate": "2090-01-01", "data": {} }), "endDate"),
        (queue, json!({ "data": { "recipients": [], "title": "Tea" } }), "data.recipients"),
        (queue, job(json!({ "jobId": "a b" })), "options.jobId"),
        (queue, job(json!({ "delay": 1e15 })), "options.delay"),
        (queue, job(json!({ "attempts": 0 })), "options.attempts"),
        (queue, job(json!({ "lifo": true })), "options.lifo"),
        (queue, json!({ "name": "tea", "data": {} }), "name"),
    ] {
        let refused = send(&console, Method::POST, path, &body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}: {refused:?}");
        let told = refused.body["errors"][0]["path"].as_str().unwrap();
        assert!(told == field || refused.body["detail"].as_str().unwrap().contains(field), "{field}: {refused:?}");
    }
    for path in ["/api/admin/jobs/maintenance_prune", "/api/admin/jobs/deliver.web_push"] {
        assert_eq!(
            send(&console, Method::POST, path, &json!({ "data": {} })).await.status,
            StatusCode::CONFLICT,
            "{path}"
        );
    }
    assert_eq!(
        world.count("SELECT count(*) FROM schedules WHERE name NOT LIKE 'carebell.%'").await,
        0,
        "none was saved"
    );
    assert_eq!(world.count("SELECT count(*) FROM gateway_jobs").await, 0, "none was published");
}

#[tokio::test]
async fn a_job_is_published_in_the_older_json() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    let data = json!({ "recipients": [{ "userId": "ana" }], "title": "Tea" });
    let body = json!({ "data": data, "options": { "jobId": "tea-1", "attempts": 2 } });
    for (duplicate, queue) in [(false, "notification-normal"), (true, "notification")] {
        let published = send(&console, Method::POST, &format!("/api/admin/jobs/{queue}"), &body).await;
        assert_eq!(
            (published.status, published.body),
            (StatusCode::ACCEPTED, json!({ "jobId": "tea-1", "duplicate": duplicate }))
        );
    }
    assert_eq!(world.ended("tea-1").await.0, "done");
    let later = json!({ "data": data, "options": { "jobId": "tea-2", "delay": 3_600_000 } });
    let published = send(&console, Method::POST, "/api/admin/jobs/notification_bulk", &later).await;
    assert_eq!(published.status, StatusCode::ACCEPTED, "{published:?}");
    let waits = async || (world.count("SELECT count(*) FROM delayed_jobs").await == 1).then_some(());
    world.eventually("it is delayed", waits).await;
    worker.stop().await;
}
