//! The console runs with the permissions of `helm/servers/admin.sql` and `helm/carebell/nats/admin.conf`, and no more.

use std::time::Duration;

use carebell::{
    admin::access::Role,
    dev::{push_service::Behaviour, trail::Line},
};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode, header::RETRY_AFTER};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{ADMIN_TOKEN, Console, Process, QUICK, Worker, World, database, peek, utc_now},
};

const ADMIN_CONF: &str = include_str!("../../helm/carebell/nats/admin.conf");

#[tokio::test]
async fn the_console_needs_no_more_than_its_role_and_its_user() {
    let config = format!(
        "no_auth_user: test\nauthorization {{ users: [\n {{ user: test, password: test }}\n \
         {{ user: admin, password: x, permissions: {{\n{ADMIN_CONF}\n}} }}\n] }}\n"
    );
    let world = World::on_both(database().await, &config, QUICK).await;
    let worker = Worker::start(&world);
    world.remind("seen").await;
    world.everyone_has_it_once("seen").await;
    let role = world.role_with("admin").await;
    let nats = format!("nats://admin:x@127.0.0.1:{}", world.nats.port());
    let console = Console::with(&world, &[("DATABASE_URL", &role.url), ("NATS_URL", &nats)]).await;
    let token = console.token("ana", Role::Operator).await;
    for _ in 0..2 {
        assert_eq!(console.api(Method::GET, "/jobs/seen", &token, None).await.status, StatusCode::OK);
        // So that its next use is noted too.
        world.sql("UPDATE admin_tokens SET last_used_at = now() - interval '1 hour'").await;
    }
    let cookie = console.sign_in(&token).await;
    world.sql("UPDATE admin_sessions SET seen_at = now() - interval '30 minutes'").await;
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::OK);
    let seen = "SELECT count(*) FROM admin_sessions WHERE seen_at > now() - interval '1 minute'";
    assert_eq!(world.count(seen).await, 1, "its use is noted");
    acts(&world, &console, &token).await;
    acts_on_many(&world, &console).await;
    let out = console.submit("/console/sign-out", &cookie, &[]).send().await.unwrap();
    assert_eq!(out.status(), StatusCode::SEE_OTHER);

    for beyond in ["INSERT INTO admin_tokens SELECT * FROM admin_tokens", "SELECT title FROM notifications"] {
        let refused = sqlx::query(beyond).execute(&crate::support::pool(&role.url)).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
    let (well, _, error) = carebell(&world, &["tokens", "revoke", "ana"], &[("DATABASE_URL", &role.url)]).await;
    assert!(!well && error.contains("42501"), "a stolen console makes and revokes no tokens: {error}");
    assert!(!console.output().contains("iolation"), "{}", console.output());
    drop(console);
    worker.stop().await;
    role.drop(&world).await;
}

/// All that the API does.
async fn acts(world: &World, console: &Console, token: &str) {
    let later = (utc_now() + TimeDelta::hours(1)).to_rfc3339();
    let delayed = [("Carebell-Job-Id", "tomorrow"), ("Carebell-At", &*later), ("Content-Type", "application/json")];
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish("jobs.later.notification.normal", &delayed, news.to_string()).await;
    world.push.behave("ana", Behaviour::retry_after(429, "3600"));
    world.publish_json("jobs.notification.normal", "later", &news).await;
    world.eventually("it is parked", async || (peek(&world.context, "HOLD", "hold.>").await == 2).then_some(())).await;
    let why = json!({ "reason": "tried" });
    let paused = console.api(Method::POST, "/queues/notification_bulk/pause", token, Some(why)).await;
    assert!(paused.status.is_success(), "{paused:?}");
    world
        .eventually("its worker knows it", async || {
            let queue = console.api(Method::GET, "/queues/notification_bulk", token, None).await;
            (queue.body["pulls"] == 0).then_some(())
        })
        .await;
    world.publish_json("jobs.notification.bulk", "waits", &news).await;
    for id in ["broken-1", "broken-2"] {
        world.publish("jobs.notification.normal", &[("Carebell-Job-Id", id)], "none").await;
    }
    world.dead_letters_once(2).await;
    world
        .eventually("it is noted", async || {
            (world.count("SELECT count(*) FROM delayed_jobs WHERE state = 'waiting'").await == 1).then_some(())
        })
        .await;
    let schedule = "/schedules/carebell.prune";
    let why = || Some(json!({ "why": "by mistake" }));
    for (method, path, body) in [
        (Method::GET, "/queues", None),
        (Method::GET, "/queues/notification_bulk/stats", None),
        (Method::GET, "/jobs", None),
        (Method::GET, "/jobs?status=waiting&queue=notification_bulk", None),
        (Method::GET, "/jobs?status=held", None),
        (Method::GET, "/jobs?user=ana", None),
        (Method::GET, "/counts", None),
        (Method::GET, "/workers", None),
        (Method::GET, "/providers", None),
        (Method::GET, "/people/ana/reminders", None),
        (Method::GET, "/people/ana/reminders?medication=metformin&at=2026-12-01T09:00", None),
        (Method::POST, "/channels/email/pause", Some(json!({ "reason": "tried" }))),
        (Method::POST, "/channels/email/resume", None),
        (Method::GET, "/dead-letters", None),
        (Method::POST, "/dead-letters/1/redrive", None),
        (Method::DELETE, "/dead-letters/2", why()),
        (Method::DELETE, "/jobs/tomorrow", None),
        (Method::POST, "/jobs/later/retry?dry_run=true", None),
        (Method::POST, "/jobs/later/retry", None),
        (Method::DELETE, "/jobs/waits", None),
        (Method::POST, "/queues/notification_bulk/pause", Some(json!({ "reason": "tried" }))),
        (Method::POST, "/queues/notification_bulk/resume", None),
        (Method::GET, schedule, None),
        (Method::POST, "/schedules/carebell.prune/pause", None),
        (Method::POST, "/schedules/carebell.prune/resume", None),
        (Method::DELETE, schedule, None),
        (
            Method::POST,
            "/schedules",
            Some(json!({
                "name": "tea", "expression": "@daily", "zone": "UTC", "kind": "notification",
                "payload": { "recipients": [{ "userId": "ana" }], "title": "Tea" },
            })),
        ),
        (Method::POST, "/schedules/tea/run", None),
        (Method::POST, "/queues/notification_normal/jobs", Some(json!({ "job": news }))),
        (Method::POST, "/schedules/preview", Some(json!({ "expression": "@daily", "zone": "UTC" }))),
        (Method::POST, "/operations/preview", Some(json!({ "act": "retry" }))),
        (Method::GET, "/operations", None),
        (Method::GET, "/audit", None),
        (Method::GET, "/health", None),
    ] {
        let answer = console.api(method.clone(), path, token, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
        assert!(answer.body["unread"].as_array().is_none_or(Vec::is_empty), "a table cannot be read: {answer:?}");
    }
}

/// Of each sort. A part that is refused would stay.
async fn acts_on_many(world: &World, console: &Console) {
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    let begin = async |path: &str, body: Value| {
        let begun = console.api(Method::POST, path, ADMIN_TOKEN, Some(body)).await;
        assert_eq!(begun.status, StatusCode::ACCEPTED, "{begun:?}");
        let path = format!("/operations/{}", begun.body["operation"]);
        let end = async || Some(console.get(&path).await.body).filter(|row| row["state"] != "running");
        let row = world.eventually("the operation ends", end).await;
        assert!(row["state"] == "done" && row["done"] == row["counted"] && row["note"].is_null(), "{row}");
    };
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken-3")], "none").await;
    world.dead_letters_once(2).await;
    begin(
        "/operations",
        json!({ "act": "retry", "filter": { "reason": "undecodable" }, "count": 9, "reason": "tried" }),
    )
    .await;
    let why = json!({ "reason": "tried" });
    for queue in ["notification_bulk", "deliver_web_push_normal"] {
        let paused = console.api(Method::POST, &format!("/queues/{queue}/pause"), ADMIN_TOKEN, Some(why.clone())).await;
        assert!(paused.status.is_success(), "{paused:?}");
        world
            .eventually("its worker knows it", async || {
                (console.get(&format!("/queues/{queue}")).await.body["pulls"] == 0).then_some(())
            })
            .await;
    }
    world.publish_json("jobs.notification.bulk", "emptied", &news).await;
    begin("/queues/notification_bulk/empty", json!({ "count": 1, "reason": "tried" })).await;
    world.publish_json("jobs.notification.normal", "planned", &news).await;
    world
        .eventually("it waits", async || {
            (peek(&world.context, "DELIVERIES", "deliver.web_push.normal").await == 1).then_some(())
        })
        .await;
    begin("/queues/deliver_web_push_normal/empty", json!({ "count": 1, "reason": "tried" })).await;
    assert_eq!(peek(&world.context, "DELIVERIES", ">").await, 0);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cancelled_and_told() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let mut blocking = world.db.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE").execute(&mut *blocking).await.unwrap();
    let since = tokio::time::Instant::now();
    let slow = console.get("/jobs/any").await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(
        (slow.status, &slow.body["type"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("urn:carebell:problem:unavailable"))
    );
    assert!(slow.body["detail"].as_str().unwrap().contains("took too long"), "{}", slow.body);
    assert!(slow.headers.contains_key(RETRY_AFTER));
    blocking.rollback().await.unwrap();
    assert_eq!(console.api(Method::GET, "/jobs/any", ADMIN_TOKEN, None).await.status, StatusCode::NOT_FOUND);
}

/// It says where it is served as `carebell admin` does.
#[tokio::test]
async fn a_worker_serves_the_console_only_when_it_is_asked_to() {
    let world = World::new().await;
    let mut environment = world.environment();
    environment
        .extend([("ADMIN_PORT", "0"), ("ADMIN_TOKEN", ADMIN_TOKEN)].map(|(name, value)| (name.into(), value.into())));
    let mut usual = Process::start(&["run"], &environment, world.directory.path());
    usual.ready().await;
    assert!(!usual.output().contains("the console is served"), "{}", usual.output());
    usual.terminate().await;
    drop(usual);

    let mut own = Process::start(&["run", "--only", "admin"], &environment, world.directory.path());
    let port = own.line("the console is served", Line::console_port).await;
    own.ready().await;
    let url = format!("http://127.0.0.1:{port}/admin/api/v1");
    let get = async |path: &str| {
        let request = reqwest::Client::new().get(format!("{url}{path}")).bearer_auth(ADMIN_TOKEN);
        request.send().await.unwrap().status()
    };
    assert_eq!(get("/jobs/unknown").await, StatusCode::NOT_FOUND);
    assert_eq!(get("/dead-letters").await, StatusCode::OK);
    // Its statements end as those of `carebell admin` do, and the worker's go on.
    let mut blocking = world.db.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE").execute(&mut *blocking).await.unwrap();
    assert_eq!(get("/jobs/unknown").await, StatusCode::SERVICE_UNAVAILABLE);
    blocking.rollback().await.unwrap();
    world.remind("waits").await;
    assert!(own.terminate().await.success());
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 0, "it runs no jobs");
}
