//! Reads of the API: jobs, counts, queues, workers, providers, people.

use carebell::admin::access::Role;
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Console, Worker, World, utc_now};

fn ids(answer: &Answer) -> Vec<&str> {
    let items = answer.body["items"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    items.iter().map(|item| item["job_id"].as_str().unwrap()).collect()
}

fn paths(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
    answer.body["errors"].as_array().unwrap().iter().map(|error| error["path"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn jobs_are_found_by_filters_and_pages_go_on_where_the_last_ended() {
    let world = World::new().await.at_pace(5);
    let worker = Worker::without_scheduler(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.publish_json("jobs.reminder.medication", "dead", &json!({ "medicationId": 3 })).await;
    world.dead_letters_once(1).await;
    world.ended("dead").await;
    let console = Console::start(&world).await;

    assert_eq!(ids(&console.get("/jobs?status=failed").await), ["dead"]);
    assert_eq!(ids(&console.get("/jobs?queue=reminder_medication&since=1h").await), ["dead", "dose"]);
    assert_eq!(ids(&console.get("/jobs?kind=notification&status=&user=").await), ["dose~notification"]);
    assert!(ids(&console.get("/jobs?until=1h").await).is_empty(), "an age of an hour is before all of it");
    let until = utc_now().to_rfc3339().replace('+', "%2B");
    assert_eq!(ids(&console.get(&format!("/jobs?until={until}&kind=reminder.medication")).await), ["dead", "dose"]);
    let all = console.get("/jobs").await;
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = console.get(&format!("/jobs?limit=2&cursor={cursor}")).await;
        found.extend(ids(&page).into_iter().map(str::to_owned));
        match page.body["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(found, ids(&all));

    let counts = console.get("/counts").await.body;
    assert_eq!(
        (&counts["waiting"], &counts["active"], &counts["delayed"], &counts["exact"]),
        (&json!(0), &json!(0), &json!(0), &json!(true)),
        "{counts}"
    );
    let counted = async || {
        let counts = console.get("/counts").await.body;
        (counts["completed"].as_u64() >= Some(6) && counts["failed"] == 1).then_some(counts)
    };
    let counts = world.eventually("the worker counts them", counted).await;
    assert_eq!(counts["total"].as_u64().unwrap(), counts["completed"].as_u64().unwrap() + 1);
    let stats = console.get("/queues/reminder_medication/stats").await.body;
    assert_eq!((&stats["counts"]["last_hour"]["done"], &stats["counts"]["last_day"]["dead"]), (&json!(1), &json!(1)));
    assert_eq!(stats["throughput"]["minutes"].as_array().unwrap().len(), 60);
    let near = console.get("/queues/reminder_medicatoin/stats").await;
    assert!(near.status == StatusCode::NOT_FOUND && near.body["detail"].as_str().unwrap().contains("did you mean"));

    let workers = console.get("/workers").await.body;
    assert_eq!(workers["items"][0]["status"], "idle", "{workers}");
    let health = console.get("/health").await.body;
    assert!(health["workers"][0]["uptime_s"].is_u64() && health["workers"][0]["processed"].is_u64(), "{health}");
    assert_eq!(health["queues"]["notification_bulk"], json!({ "waiting": 0, "in_flight": 0, "is_paused": false }));
    worker.stop().await;
}

#[tokio::test]
async fn jobs_that_only_wait_in_a_queue_are_counted_and_the_first_are_shown() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "<b>Secret</b>" });
    for number in 0..103 {
        world.publish_json("jobs.notification.bulk", &format!("waits-{number}"), &news).await;
    }
    let answer = console.get("/jobs?status=waiting&queue=notification_bulk").await;
    let bulk = &answer.body["in_streams"][0];
    assert_eq!((&bulk["queue"], &bulk["messages"]), (&json!("notification_bulk"), &json!(103)), "{answer:?}");
    let first = bulk["first"].as_array().unwrap();
    assert_eq!((first.len(), &first[0]["job_id"], &first[99]["job_id"]), (100, &json!("waits-0"), &json!("waits-99")));
    assert!(!answer.body.to_string().contains("Secret"), "no texts");
    assert_eq!(console.get("/jobs?status=waiting").await.body["in_streams"].as_array().unwrap().len(), 1);
    assert_eq!(console.get("/jobs?status=failed").await.body["in_streams"], json!([]));
    assert_eq!(console.get("/counts").await.body["waiting"], 103);

    let cookie = console.sign_in(&console.token("vera", Role::Viewer).await).await;
    let (_, page) = console.page("/console/jobs?status=waiting&queue=notification_bulk", &cookie).await;
    assert!(page.contains("The first 100 of 103, by sequence") && !page.contains("Secret"), "{page}");
}

#[tokio::test]
async fn a_channel_and_a_provider_are_paused_and_resumed() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let operator = console.token("otto", Role::Operator).await;
    let viewer = console.token("vera", Role::Viewer).await;
    let post = async |path: &str, token: &str, body: Option<Value>| console.api(Method::POST, path, token, body).await;
    let why = || Some(json!({ "reason": "wrong text" }));
    for (pause, resume, of, name) in [
        ("/channels/push/pause", "/channels/push/resume", "channels", "web_push"),
        (
            "/providers/fcm.googleapis.com/pause",
            "/providers/fcm.googleapis.com/resume",
            "providers",
            "fcm.googleapis.com",
        ),
    ] {
        assert_eq!(post(pause, &viewer, why()).await.status, StatusCode::FORBIDDEN);
        assert_eq!(post(pause, &operator, Some(json!({ "reason": "" }))).await.body["errors"][0]["path"], "reason");
        let answer = post(pause, &operator, why()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let shown = console.api(Method::GET, "/providers", &viewer, None).await.body;
        let paused = shown[of].as_array().unwrap().iter().find(|one| one["paused"].is_object()).unwrap();
        assert_eq!((&paused[of.trim_end_matches('s')], &paused["paused"]["by"]), (&json!(name), &json!("otto")));
        assert_eq!(post(resume, &operator, None).await.status, StatusCode::OK);
        assert_eq!(post(resume, &operator, None).await.status, StatusCode::CONFLICT);
    }
    let near = post("/channels/emial/pause", &operator, why()).await;
    assert!(
        near.status == StatusCode::NOT_FOUND && near.body["detail"].as_str().unwrap().contains("did you mean email?")
    );
    for odd in ["/providers/nobody.example/pause", "/providers/%00/pause", "/channels/%3Cb%3E/pause"] {
        assert_eq!(post(odd, &operator, why()).await.status, StatusCode::NOT_FOUND, "{odd}");
    }
    for odd in ["/providers/%00/resume", "/channels/%F0%9F%92%8A/resume"] {
        assert_eq!(post(odd, &operator, None).await.status, StatusCode::CONFLICT, "{odd}");
    }
    let acts = world.count("SELECT count(*) FROM audit_log WHERE actor = 'otto' AND action LIKE '%.paused'").await;
    assert_eq!(acts, 2);
}

#[tokio::test]
async fn whoever_looks_at_a_person_needs_the_right_and_is_on_record() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let at = utc_now();
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let console = Console::start(&world).await;
    let viewer = console.token("vera", Role::Viewer).await;
    let coordinator = console.token("cora", Role::Coordinator).await;
    let looks = "SELECT count(*) FROM audit_log WHERE action = 'person.viewed' AND detail->>'user' = 'ana'";
    for path in ["/people/ana/reminders", "/jobs?user=ana"] {
        let refused = console.api(Method::GET, path, &viewer, None).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path}");
        assert!(refused.body["detail"].as_str().unwrap().contains("coordinator"));
    }
    assert_eq!(world.count(looks).await, 0);

    let get = async |path: &str| console.api(Method::GET, path, &coordinator, None).await;
    assert_eq!(ids(&get("/jobs?user=ana&kind=notification").await), ["dose~notification"]);
    assert_eq!(world.count(looks).await, 1);
    world.sql("UPDATE notifications SET read_at = now() WHERE user_id = 'ana'").await;
    let told = get("/people/ana/reminders").await.body;
    let first = &told["notifications"][0];
    assert_eq!(
        (&told["told"], &first["job_id"], &first["channel"]),
        (&json!("yes"), &json!("dose"), &json!("web_push"))
    );
    assert!(first["read_at"].is_string(), "{told}");
    let job = get("/people/ana/reminders?job=dose").await.body;
    assert!(job["sentence"].as_str().unwrap().starts_with("ana was told by the job dose"), "{job}");
    let later = (at + TimeDelta::days(3)).to_rfc3339().replace('+', "%2B");
    let dose = get(&format!("/people/ana/reminders?medication=metformin&at={later}")).await.body;
    assert!(dose["care_zone"].is_string() && dose["told"] != "yes", "{dose}");
    assert_eq!(world.count(looks).await, 4);
    let unknown = get("/people/nobody/reminders").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{unknown:?}");
    for (query, path) in [
        ("medication=metformin", "at"),
        ("at=2026-12-01T09:00", "medication"),
        ("medication=metformin&at=soon", "at"),
        ("shift=a&job=b", "job"),
        ("job=%00", "job"),
        ("since=soon", "since"),
        ("since=91d", "since"),
        ("appointment=a%0Ab", "appointment"),
    ] {
        assert_eq!(paths(&get(&format!("/people/ana/reminders?{query}")).await), [path], "{query}");
    }
    assert_eq!(paths(&get("/people/%00/reminders").await), ["user"]);
    worker.stop().await;
}

#[tokio::test]
async fn odd_filters_limits_and_cursors_are_refused_by_their_field() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    world
        .sql(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
         SELECT 'n-' || n, 'n-' || n, 'notification', 'JOBS', n, 'done', now(), now() FROM generate_series(1, 3) AS n",
        )
        .await;
    let next = console.get("/jobs?status=completed&limit=1").await.body["next"].as_str().unwrap().to_owned();
    for (query, path) in [
        ("limit=0".to_owned(), "limit"),
        ("limit=-1".into(), "limit"),
        ("limit=1000000000".into(), "limit"),
        ("limit=1;DROP".into(), "limit"),
        ("cursor=x".into(), "cursor"),
        (format!("cursor={next}"), "cursor"),
        (format!("status=failed&cursor={next}"), "cursor"),
        ("status=fine".into(), "status"),
        ("status=%27%20OR%201%3D1".into(), "status"),
        ("kind=tea".into(), "kind"),
        ("queue=later".into(), "queue"),
        ("kind=notification&queue=notification_bulk".into(), "queue"),
        ("since=tomorrow".into(), "since"),
        ("until=-1".into(), "until"),
        ("user=%00".into(), "user"),
        (format!("application={}", "x".repeat(101)), "application"),
        ("stats=failed".into(), "query"),
    ] {
        assert_eq!(paths(&console.get(&format!("/jobs?{query}")).await), [path], "{query}");
    }
    let quoted = console.get("/jobs?user=x%27%20OR%20%271%27%3D%271").await;
    assert!(quoted.status == StatusCode::OK && ids(&quoted).is_empty(), "{quoted:?}");
    let page = console.get(&format!("/jobs?status=completed&limit=1&cursor={next}")).await;
    assert_eq!(ids(&page).len(), 1);
}
