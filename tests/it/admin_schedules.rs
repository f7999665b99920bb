//! Schedules over the API and in the console: previewed, saved, changed without losing another's change, run now.

use carebell::admin::access::Role;
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Answer, Browser, Console, Settings, Worker, World, answer};

const ENTER: &str = "\u{e007}";

fn tea(name: &str) -> Value {
    json!({
        "name": name, "expression": "30 2 * * *", "zone": "America/New_York", "kind": "notification", "lane": "bulk",
        "payload": { "recipients": [{ "userId": "ana" }], "title": "Tea for <b>Rose</b>" },
    })
}

/// Replaces a schedule, with this `If-Match`.
async fn put(console: &Console, name: &str, tag: Option<&str>, body: &Value) -> Answer {
    let request = console.request(Method::PUT, &format!("/admin/api/v1/schedules/{name}")).bearer_auth(ADMIN_TOKEN);
    let request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
    answer(match tag {
        Some(tag) => request.header("If-Match", tag),
        None => request,
    })
    .await
}

fn tag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_schedule_is_previewed_saved_changed_and_run() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    let operator = console.token("olga", Role::Operator).await;

    let asked =
        json!({ "expression": "30 2 * * *", "zone": "America/New_York", "starts_at": "2027-03-13", "count": 3 });
    let preview = console.api(Method::POST, "/schedules/preview", &operator, Some(asked)).await;
    assert_eq!(preview.status, StatusCode::OK, "{preview:?}");
    let first = json!({ "at": "2027-03-13T02:30:00-05:00", "local": "2027-03-13T02:30:00", "note": null });
    let moved = json!({ "at": "2027-03-14T03:00:00-04:00", "local": "2027-03-14T02:30:00", "note": "moved" });
    assert_eq!(preview.body["items"].as_array().unwrap()[..2], [first, moved]);

    let added = console.api(Method::POST, "/schedules", &operator, Some(tea("tea"))).await;
    assert_eq!((added.status, added.body["name"].as_str()), (StatusCode::CREATED, Some("tea")), "{added:?}");
    assert!(added.body.get("payload").is_none() && added.body["upcoming"].as_array().unwrap().len() == 5, "{added:?}");
    let again = console.api(Method::POST, "/schedules", &operator, Some(tea("tea"))).await;
    assert_eq!(again.status, StatusCode::CONFLICT);

    let mut change = tea("tea");
    change["expression"] = "0 9 * * 1-5".into();
    change.as_object_mut().unwrap().remove("payload");
    assert_eq!(put(&console, "tea", None, &change).await.status, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(put(&console, "tea", Some("yesterday"), &change).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let changed = put(&console, "tea", Some(&tag(&added)), &change).await;
    assert_eq!(
        (changed.status, changed.body["expression"].as_str()),
        (StatusCode::OK, Some("0 9 * * 1-5")),
        "{changed:?}"
    );
    let late = put(&console, "tea", Some(&tag(&added)), &change).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED, "another's change is not lost: {late:?}");
    assert_eq!(put(&console, "tea", Some("*"), &change).await.status, StatusCode::OK);
    assert_eq!(
        put(&console, "coffee", Some("*"), &json!({ "expression": "@daily", "zone": "UTC", "kind": "notification" }))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    let kept = world.store.schedule("tea").await.unwrap().unwrap();
    assert_eq!(kept.spec.payload["title"], "Tea for <b>Rose</b>", "a change without a job keeps it");

    let mut jobs = Vec::new();
    for _ in 0..2 {
        let run = console.request(Method::POST, "/admin/api/v1/schedules/tea/run").bearer_auth(&operator);
        let run = answer(run.header("Idempotency-Key", "once")).await;
        assert_eq!(run.status, StatusCode::ACCEPTED, "{run:?}");
        jobs.push(run.body["job_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(jobs, ["schedule~tea:now:once"; 2]);
    assert_eq!(world.ended(&jobs[0]).await.0, "done");
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1);

    let acts: Vec<String> = sqlx::query_scalar("SELECT action FROM audit_log WHERE actor = 'olga' ORDER BY id")
        .fetch_all(&world.db)
        .await
        .unwrap();
    assert_eq!(acts, ["schedule.added", "schedule.run_now", "schedule.run_now"]);
    worker.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_named_by_its_field() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let long = "9,".repeat(5000);
    let cases: [(&str, Value); 18] = [
        ("name", json!("a b")),
        ("name", json!("preview")),
        ("name", json!("x".repeat(65))),
        ("expression", json!("0 25 * * *")),
        ("expression", json!("0 0 30 2 *")),
        ("expression", json!(long)),
        ("zone", json!("Mars/Olympus")),
        ("kind", json!("deliver.web_push")),
        ("lane", json!("fast")),
        ("payload", json!({ "title": 7 })),
        ("gap", json!("jump")),
        ("fold", json!("third")),
        ("missed", json!("some")),
        ("missed_limit", json!(0)),
        ("missed_window_s", json!(-1)),
        ("jitter_s", json!(1_000_000_000)),
        ("expires_s", json!(0)),
        ("starts_at", json!("soon")),
    ];
    for (field, value) in cases {
        let mut body = tea("tea");
        body[field] = value;
        let refused = console.api(Method::POST, "/schedules", ADMIN_TOKEN, Some(body)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}: {refused:?}");
        assert_eq!(refused.body["errors"][0]["path"], field, "{refused:?}");
    }
    for (body, field) in [
        (json!({ "expression": "@daily", "zone": "UTC", "kind": "notification", "payload": {} }), "name"),
        (json!({ "name": "x", "expression": "@daily", "zone": "UTC", "kind": "notification" }), "payload"),
        (json!({ "name": "x", "cron": "@daily" }), "cron"),
    ] {
        let refused = console.api(Method::POST, "/schedules", ADMIN_TOKEN, Some(body)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.body["detail"].as_str().unwrap().contains(field), "{refused:?}");
    }
    for (body, field) in [
        (json!({ "expression": "x", "zone": "UTC" }), "expression"),
        (json!({ "expression": "@daily", "zone": "UTC", "count": 101 }), "count"),
        (json!({ "expression": "@daily", "zone": "UTC", "count": 0 }), "count"),
        (json!({ "expression": "@daily", "zone": "UTC", "gap": "x" }), "gap"),
    ] {
        let refused = console.api(Method::POST, "/schedules/preview", ADMIN_TOKEN, Some(body)).await;
        assert_eq!(
            (refused.status, refused.body["errors"][0]["path"].as_str()),
            (StatusCode::UNPROCESSABLE_ENTITY, Some(field))
        );
    }
    for key in ["", "a b", &"x".repeat(37)] {
        let run = console.request(Method::POST, "/admin/api/v1/schedules/carebell.prune/run").bearer_auth(ADMIN_TOKEN);
        assert_eq!(answer(run.header("Idempotency-Key", key)).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(world.count("SELECT count(*) FROM schedules").await, 2, "none was saved");
}

#[tokio::test]
async fn of_two_changes_at_once_one_is_made() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let added = console.api(Method::POST, "/schedules", ADMIN_TOKEN, Some(tea("tea"))).await;
    let (version, change) = (tag(&added), tea("tea"));
    let changes = (0..8).map(|_| put(&console, "tea", Some(&version), &change));
    let answers = futures::future::join_all(changes).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::PRECONDITION_FAILED).count();
    assert_eq!((made, refused), (1, 7));
}

#[tokio::test]
async fn a_schedule_is_added_after_its_preview_in_a_browser() {
    for without_scripts in [false, true] {
        let world = World::new().await;
        let worker = Worker::start(&world);
        let console = Console::start(&world).await;
        let Some(browser) = Browser::start(Settings { without_scripts, ..Settings::default() }).await else { return };
        browser.open(&format!("{}/console/schedules", console.url)).await;
        browser.write("#token", ADMIN_TOKEN).await;
        browser.press(ENTER).await;
        browser.click("a[href='/console/new-schedule']").await;
        browser.shows("h1", "New schedule").await;
        browser.write("input[name=name]", "tea").await;
        browser.write("input[name=expression]", "30 25 * * *").await;
        browser.write("textarea[name=payload]", r#"{"recipients":[{"userId":"ana"}],"title":"Tea"}"#).await;
        browser.click("button[value=preview]").await;
        browser.shows("#expression-why", "hour").await;
        let refused = browser.complaints().await;
        assert!(refused.iter().all(|line| line.contains("422")), "{refused:?}");
        browser.fill("input[name=expression]", "30 2 * * *").await;
        browser.fill("input[name=zone]", "America/New_York").await;
        browser.resize(360, 800).await;
        assert!(!browser.overflows().await, "the form is wider than a telephone");
        browser.click("button[value=preview]").await;
        browser.shows("main", "Nothing is saved yet").await;
        browser.shows("main", "is skipped by the clock").await;
        if !without_scripts {
            assert_eq!(browser.findings().await, Vec::<String>::new());
            browser.picture("schedule-preview").await;
        }
        assert!(!browser.overflows().await, "the preview is wider than a telephone");
        browser.click("button[value=save]").await;
        browser.shows(".note", "It is saved.").await;
        browser.click("form[action$='/run'] button").await;
        browser.shows("h1", "Job schedule~tea:now:").await;
        world
            .eventually("its job has run", async || {
                (world.count("SELECT count(*) FROM notifications").await == 1).then_some(())
            })
            .await;
        browser.open(&format!("{}/console/schedules/tea/change", console.url)).await;
        browser.fill("input[name=expression]", "@daily").await;
        if !without_scripts {
            assert_eq!(browser.findings().await, Vec::<String>::new());
        }
        browser.click("button[value=preview]").await;
        browser.click("button[value=save]").await;
        browser.shows(".facts", "@daily").await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
        browser.close().await;
        worker.stop().await;
    }
}
