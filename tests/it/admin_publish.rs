//! Jobs published by hand: over the API and in the console.

use carebell::admin::access::Role;
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Answer, Browser, Console, Settings, Worker, World, answer, utc_now};

const PATH: &str = "/queues/notification_normal/jobs";

fn tea() -> Value {
    json!({ "job": { "recipients": [{ "userId": "ana" }], "title": "Tea" } })
}

/// With an `Idempotency-Key`.
async fn once(console: &Console, token: &str, key: &str, body: &Value) -> Answer {
    let request = console.request(Method::POST, &format!("/admin/api/v1{PATH}")).bearer_auth(token);
    answer(request.header("Idempotency-Key", key).header("content-type", "application/json").body(body.to_string()))
        .await
}

#[tokio::test]
async fn a_job_is_published_once_and_on_record() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    let (viewer, operator) = (console.token("vera", Role::Viewer).await, console.token("otto", Role::Operator).await);
    assert_eq!(console.api(Method::POST, PATH, &viewer, Some(tea())).await.status, StatusCode::FORBIDDEN);
    for duplicate in [false, true] {
        let published = once(&console, &operator, "tea-1", &tea()).await;
        assert_eq!(published.status, StatusCode::ACCEPTED, "{published:?}");
        assert_eq!(published.body, json!({ "jobId": "tea-1", "duplicate": duplicate }));
    }
    assert_eq!(world.ended("tea-1").await.0, "done");
    let mut other = tea();
    other["job"]["title"] = "Coffee".into();
    assert_eq!(once(&console, &operator, "tea-1", &other).await.status, StatusCode::CONFLICT);
    assert_eq!(once(&console, &operator, "a b", &tea()).await.body["errors"][0]["path"], "Idempotency-Key");
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 1);
    let mut later = tea();
    later["delay"] = "1h".into();
    let later = console.api(Method::POST, PATH, &operator, Some(later)).await;
    let id = later.body["jobId"].as_str().unwrap();
    world
        .eventually("it is delayed", async || {
            let rows = format!("SELECT count(*) FROM delayed_jobs WHERE job_id = '{id}'");
            (world.count(&rows).await == 1).then_some(())
        })
        .await;
    let acts = "SELECT count(*) FROM audit_log WHERE actor = 'otto' AND action = 'job.published' AND job_id = 'tea-1'";
    assert_eq!(world.count(acts).await, 2);
    let told = "SELECT count(*) FROM audit_log WHERE detail::text LIKE '%Tea%'";
    assert_eq!(world.count(told).await, 0, "no text of people is in the log");
    worker.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_named_by_its_field() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let with = |field: &str, value: Value| {
        let mut body = tea();
        body[field] = value;
        body
    };
    for (body, field) in [
        (json!({}), "job"),
        (json!({ "job": { "recipients": [{ "userId": "ana" }], "titel": "Tea" } }), "job"),
        (json!({ "job": { "recipients": [], "title": "Tea" } }), "job.recipients"),
        (with("kind", json!("notification")), "kind"),
        (with("lane", json!("bulk")), "lane"),
        (with("jobId", json!("")), "jobId"),
        (with("at", json!("soon")), "at"),
        (with("delay", json!("11years")), "delay"),
        (with("notAfter", json!(7)), "notAfter"),
        (with("attempts", json!(-1)), "attempts"),
        (with("backoff", json!("often")), "backoff"),
        (with("timeout", json!("long")), "timeout"),
        (with("when", json!("now")), "when"),
        (json!([1]), "body"),
    ] {
        let refused = console.api(Method::POST, PATH, ADMIN_TOKEN, Some(body)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["path"], field, "{refused:?}");
    }
    for (queue, status) in [
        ("notification_norma", StatusCode::NOT_FOUND),
        ("maintenance_prune", StatusCode::CONFLICT),
        ("deliver_web_push_normal", StatusCode::CONFLICT),
        ("later", StatusCode::CONFLICT),
    ] {
        let refused = console.api(Method::POST, &format!("/queues/{queue}/jobs"), ADMIN_TOKEN, Some(tea())).await;
        assert_eq!(refused.status, status, "{queue}: {refused:?}");
    }
    let form = console.request(Method::POST, &format!("/admin/api/v1{PATH}")).bearer_auth(ADMIN_TOKEN).body("job=1");
    assert_eq!(answer(form).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(world.count("SELECT count(*) FROM gateway_jobs").await, 0);
}

#[tokio::test]
async fn a_job_is_published_after_its_preview_in_a_browser() {
    for without_scripts in [false, true] {
        let world = World::new().await;
        let worker = Worker::start(&world);
        let console = Console::start(&world).await;
        let Some(browser) = Browser::start(Settings { without_scripts, ..Settings::default() }).await else { return };
        browser.open(&format!("{}/console/publish", console.url)).await;
        browser.write("#token", ADMIN_TOKEN).await;
        browser.press("\u{e007}").await;
        browser.shows("h1", "Publish a job").await;
        browser.click("option[value='reminder.shift']").await;
        browser.click("form.filters button").await;
        browser.shows("textarea", "shiftId").await;
        browser.click("option[value='notification']").await;
        browser.click("option[value='bulk']").await;
        browser.click("form.filters button").await;
        browser.shows("textarea", "Tea at three").await;
        browser.resize(360, 800).await;
        assert!(!browser.overflows().await, "the form is wider than a telephone");
        browser.fill("textarea", r#"{"recipients":[],"title":"Tea"}"#).await;
        browser.click("button[value=preview]").await;
        browser.shows("#job-why", "must name at least one").await;
        let refused = browser.complaints().await;
        assert!(refused.iter().all(|line| line.contains("422")), "{refused:?}");
        let news = r#"{"recipients":[{"userId":"ana"}],"title":"Tea for <b>Rose</b>"}"#;
        browser.fill("textarea", news).await;
        browser.write("input[name=id]", "by-hand").await;
        browser.write("input[name=not_after]", "2h").await;
        if !without_scripts {
            assert_eq!(browser.findings().await, Vec::<String>::new());
        }
        browser.click("button[value=preview]").await;
        browser.shows("main", "Nothing is published yet").await;
        browser.shows("pre", "Tea for <b>Rose</b>").await;
        browser.shows(".facts", "notification_bulk").await;
        assert_eq!(world.count("SELECT count(*) FROM gateway_jobs").await, 0);
        if !without_scripts {
            assert_eq!(browser.findings().await, Vec::<String>::new());
            browser.picture("publish-preview").await;
        }
        assert!(!browser.overflows().await, "the preview is wider than a telephone");
        browser.click("button[value=edit]").await;
        browser.shows("textarea", "Rose").await;
        browser.click("button[value=preview]").await;
        browser.click("button[value=publish]").await;
        browser.shows("h1", "Job by-hand").await;
        browser.shows(".note", "The job is published.").await;
        assert_eq!(world.ended("by-hand").await.0, "done");
        browser.open(&format!("{}/console/publish", console.url)).await;
        browser.fill("textarea", news).await;
        browser.write("input[name=id]", "by-hand").await;
        browser.click("button[value=preview]").await;
        browser.shows("main", "There is a record of a job by-hand already").await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
        browser.close().await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_form_published_twice_publishes_once_and_needs_its_role() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let operator = console.sign_in(&console.token("otto", Role::Operator).await).await;
    let viewer = console.sign_in(&console.token("vera", Role::Viewer).await).await;
    let at = (utc_now() + TimeDelta::hours(1)).to_rfc3339();
    let job = tea()["job"].to_string();
    let fields = [("kind", "notification"), ("job", &*job), ("id", "tea"), ("at", &*at), ("act", "publish")];
    let send = async |cookie: &str, fields: &[(&str, &str)]| {
        console.submit("/console/publish", cookie, fields).send().await.unwrap().status()
    };
    assert_eq!(send(&viewer, &fields).await, StatusCode::FORBIDDEN);
    assert_eq!(console.page("/console/publish", &viewer).await.0, StatusCode::FORBIDDEN);
    for _ in 0..2 {
        assert_eq!(send(&operator, &fields).await, StatusCode::SEE_OTHER);
    }
    assert_eq!(world.count("SELECT count(*) FROM gateway_jobs").await, 1);
    for (field, value) in [
        ("kind", "deliver.web_push"),
        ("lane", "fast"),
        ("job", "{"),
        ("job", "{}, \"kind\": \"notification\""),
        ("id", "a b"),
        ("delay", "soon"),
        ("not_after", "soon"),
    ] {
        let mut wrong = vec![("kind", "notification"), ("job", &*job), ("act", "publish")];
        wrong.retain(|(name, _)| *name != field);
        wrong.push((field, value));
        assert_eq!(send(&operator, &wrong).await, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
    }
    assert_eq!(console.page("/console/publish?kind=x", &operator).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}
