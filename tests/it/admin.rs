//! The console's server: who gets in, and what everybody is told who does not.

use carebell::admin::access::Role;
use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::json;

use crate::{
    cli::carebell,
    metrics::sum,
    support::{ADMIN_TOKEN, Answer, Console, Worker, World, answer, filled},
};

#[tokio::test]
async fn whoever_has_a_token_sees_the_way_of_a_job() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    world.remind("seen").await;
    world.everyone_has_it_once("seen").await;
    let (well, token, error) = carebell(&world, &["tokens", "add", "ana", "--role", "viewer"], &[]).await;
    assert!(well, "{error}");
    let answer = console.api(Method::GET, "/jobs/seen", token.trim(), None).await;
    assert_eq!((answer.status, &answer.body["root_id"]), (StatusCode::OK, &json!("seen")));
    let (_, shown, _) = carebell(&world, &["jobs", "show", "seen", "--json"], &[]).await;
    assert_eq!(answer.body, serde_json::from_str::<serde_json::Value>(&shown).unwrap());
    worker.stop().await;
}

#[tokio::test]
async fn without_a_token_that_is_good_nothing_is_shown() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let path = "/admin/api/v1/jobs/x";
    let nobody = answer(console.request(Method::GET, path)).await;
    assert_eq!(
        (nobody.status, nobody.body["type"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("urn:carebell:problem:unauthorized"))
    );
    assert_eq!(nobody.headers["content-type"], "application/problem+json");
    assert!(nobody.headers.contains_key(WWW_AUTHENTICATE));

    let short = console.token("short", Role::Viewer).await;
    let revoked = console.token("revoked", Role::Viewer).await;
    world.sql("UPDATE admin_tokens SET expires_at = now() WHERE name = 'short'").await;
    assert!(carebell(&world, &["tokens", "revoke", "revoked"], &[]).await.0);
    for bad in ["", "cbl_none", &short, &revoked] {
        assert_eq!(console.api(Method::GET, "/jobs/x", bad, None).await.status, StatusCode::UNAUTHORIZED, "{bad}");
    }
    let basic = answer(console.request(Method::GET, path).header(AUTHORIZATION, "Basic eDp5")).await;
    assert_eq!(basic.status, StatusCode::UNAUTHORIZED);
    // Six failures so far.
    for _ in 0..5 {
        console.api(Method::GET, "/jobs/x", "cbl_guess", None).await;
    }
    let limited = console.get("/jobs/x").await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "even with a good one, from this address");
    assert!(limited.headers[RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() <= 301);
    let kept = world.count("SELECT count(*) FROM admin_tokens WHERE encode(hash, 'escape') LIKE '%cbl%'").await;
    assert_eq!(kept, 0, "only hashes are kept");
}

#[tokio::test]
async fn requests_and_slow_statements_are_counted_on_a_port_of_their_own() {
    let world = World::new().await;
    let mut console = Console::with(&world, &[("ADMIN_METRICS_PORT", "0")]).await;
    let port = console.metrics_port().await;
    let metrics = async || {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap();
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        answer.text().await.unwrap()
    };
    let requests = "carebell_console_requests_total";
    let slow = "carebell_console_slow_queries_total";
    assert_eq!(sum(&metrics().await, slow, &[]), Some(0.0));
    assert_eq!(console.get("/jobs/one").await.status, StatusCode::NOT_FOUND);
    assert_eq!(console.get("/jobs/two").await.status, StatusCode::NOT_FOUND);
    assert_eq!(console.request(Method::GET, "/nothing/here").send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let strange = Method::from_bytes(b"STRANGE").unwrap();
    assert_eq!(console.request(strange, "/livez").send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    // An open page.
    let session = console.sign_in(ADMIN_TOKEN).await;
    let live = console.request(Method::GET, "/console/live").header(COOKIE, session).send().await.unwrap();
    assert_eq!(live.status(), StatusCode::OK);
    let text = metrics().await;
    for (route, method, status, count) in [
        ("/admin/api/v1/jobs/{id}", "GET", "4xx", 2.0),
        ("none", "GET", "4xx", 1.0),
        ("/livez", "other", "4xx", 1.0),
        ("/console/live", "GET", "2xx", 1.0),
    ] {
        let labels = [("route", route), ("method", method), ("status", status)];
        assert_eq!(sum(&text, requests, &labels), Some(count), "{route} in {text}");
    }
    let took = sum(&text, "carebell_console_request_duration_seconds_count", &[("route", "/admin/api/v1/jobs/{id}")]);
    assert_eq!((took, sum(&text, "carebell_console_event_streams", &[])), (Some(2.0), Some(1.0)));
    assert_eq!(sum(&text, "carebell_build_info", &[]), None, "it is no worker");
    assert!(!text.contains("jobs/one") && !text.contains("nothing"), "no ids: {text}");
    drop(live);

    // A statement that waits until it is given up.
    let mut lock = world.db.begin().await.unwrap();
    sqlx::query("LOCK TABLE audit_log").execute(&mut *lock).await.unwrap();
    assert!(!console.get("/audit").await.status.is_success());
    lock.rollback().await.unwrap();
    world
        .eventually("it was counted, and the page has gone", async || {
            let text = metrics().await;
            let counted = sum(&text, slow, &[]) >= Some(1.0);
            (counted && sum(&text, "carebell_console_event_streams", &[]) == Some(0.0)).then_some(())
        })
        .await;
    assert_eq!(console.request(Method::GET, "/metrics").send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_browser_signs_in_and_out() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let away = console.request(Method::GET, "/console?x=1").send().await.unwrap();
    assert_eq!(
        (away.status(), away.headers()[LOCATION].to_str().unwrap()),
        (StatusCode::SEE_OTHER, "/console/sign-in?next=%2Fconsole%3Fx%3D1")
    );
    assert!(away.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let (status, form) = console.page("/console/sign-in?next=%22%3E%3Cb%3E", "").await;
    assert!(status == StatusCode::OK && form.contains("&quot;&gt;&lt;b&gt;") && !form.contains("<b>"), "{form}");

    let cross = console.request(Method::POST, "/console/sign-in").header("Origin", "https://evil.example");
    assert_eq!(filled(cross, &[("token", ADMIN_TOKEN)]).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let wrong = console.submit("/console/sign-in", "", &[("token", "wrong")]).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.text().await.unwrap().contains("This token is not known"));

    let cookie = console.sign_in(ADMIN_TOKEN).await;
    let (status, page) = console.page("/console", &cookie).await;
    assert!(status == StatusCode::OK && page.contains("<h1>Overview</h1>"), "{page}");
    // Its cookie serves the API too, but no form of another site.
    let own = answer(console.request(Method::GET, "/admin/api/v1/jobs/none").header(COOKIE, &cookie)).await;
    assert_eq!(own.status, StatusCode::NOT_FOUND);
    let out = |site: &'static str| {
        console.request(Method::POST, "/console/sign-out").header(COOKIE, &cookie).header("Sec-Fetch-Site", site).send()
    };
    assert_eq!(out("cross-site").await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(out("same-origin").await.unwrap().status(), StatusCode::SEE_OTHER);
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_missing_path_a_wrong_method_and_an_odd_id_are_each_told() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    assert_eq!(console.get("/nothing").await.body["type"], "urn:carebell:problem:not-found");
    let method = console.api(Method::PATCH, "/jobs/x", ADMIN_TOKEN, None).await;
    assert_eq!(
        (method.status, &method.headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"DELETE, GET".parse().unwrap())
    );
    let odd = console.get("/jobs/%00%3Cscript%3E").await;
    assert_eq!((odd.status, &odd.body["errors"][0]["path"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("id")));
    assert_eq!(console.page("/console/nothing", "").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_api_lists_and_acts_as_the_commands_do() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    for number in 1..=3 {
        world.publish("jobs.notification.normal", &[("Carebell-Job-Id", &format!("broken-{number}"))], "none").await;
    }
    world.dead_letters_once(3).await;

    // Pages neither skip nor repeat, though one is added meanwhile.
    let first = console.get("/dead-letters?limit=2").await;
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken-4")], "none").await;
    world.dead_letters_once(4).await;
    let cursor = first.body["next"].as_str().unwrap().to_owned();
    let second = console.get(&format!("/dead-letters?limit=2&cursor={cursor}")).await;
    let numbers = |answer: &Answer| -> Vec<u64> {
        answer.body["items"].as_array().unwrap().iter().map(|item| item["letter"].as_u64().unwrap()).collect()
    };
    assert_eq!((numbers(&first), numbers(&second)), (vec![3, 2], vec![1]));
    assert_eq!(second.body["next"], serde_json::Value::Null);

    let viewer = console.token("vera", Role::Viewer).await;
    let operator = console.token("otto", Role::Operator).await;
    let refused = console.api(Method::POST, "/dead-letters/1/redrive", &viewer, None).await;
    assert_eq!(
        (refused.status, refused.body["detail"].as_str()),
        (StatusCode::FORBIDDEN, Some("this needs the role operator, and yours is viewer"))
    );
    let no_reason = console.api(Method::DELETE, "/dead-letters/1", &operator, Some(json!({ "why": "" }))).await;
    assert_eq!(no_reason.body["errors"][0]["path"], "why");
    let misspelt = console.api(Method::DELETE, "/dead-letters/1", &operator, Some(json!({ "wy": "x" }))).await;
    assert!(
        misspelt.status == StatusCode::UNPROCESSABLE_ENTITY && misspelt.body["detail"].as_str().unwrap().contains("wy"),
        "{misspelt:?}"
    );
    let gone = console.api(Method::DELETE, "/dead-letters/1", &operator, Some(json!({ "why": "by mistake" }))).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let again = console.api(Method::DELETE, "/dead-letters/1", &operator, Some(json!({ "why": "again" }))).await;
    assert!(
        again.status == StatusCode::NOT_FOUND && again.body["detail"].as_str().unwrap().contains("discarded by otto"),
        "{again:?}"
    );
    assert_eq!(console.api(Method::POST, "/dead-letters/2/redrive", &operator, None).await.status, StatusCode::OK);

    let queues = console.get("/queues").await;
    let names: Vec<_> =
        queues.body["queues"].as_array().unwrap().iter().map(|queue| queue["queue"].as_str().unwrap()).collect();
    assert!(names.contains(&"reminder_medication") && names.is_sorted(), "{names:?}");
    assert_eq!(console.get("/queues/reminder_medication").await.body["on_server"], true);
    let near = console.get("/queues/reminder_medicatoin").await;
    assert!(near.body["detail"].as_str().unwrap().contains("did you mean reminder_medication?"), "{near:?}");

    let pause = async |name: &str, body| {
        console.api(Method::POST, &format!("/queues/{name}/pause"), &operator, Some(body)).await
    };
    let gone_by = pause("notification_bulk", json!({ "reason": "x", "until": "2020-01-01T00:00:00Z" })).await;
    assert_eq!(gone_by.body["errors"][0]["path"], "until");
    let malformed = pause("notification_bulk", json!({ "reason": "x", "until": "soon" })).await;
    assert_eq!(malformed.body["errors"][0]["path"], "until");
    assert!(malformed.body["detail"].as_str().unwrap().contains("expected an instant such as"), "{malformed:?}");
    assert_eq!(pause("notification_bluk", json!({ "reason": "x" })).await.status, StatusCode::NOT_FOUND);
    assert_eq!(pause("notification_bulk", json!({ "reason": "x" })).await.status, StatusCode::OK);
    let resume = || console.api(Method::POST, "/queues/notification_bulk/resume", &operator, None);
    assert_eq!(resume().await.status, StatusCode::OK);
    assert_eq!(resume().await.status, StatusCode::CONFLICT);

    let schedules = console.get("/schedules").await;
    assert!(
        schedules.body["items"].as_array().unwrap().iter().all(|item| item.get("payload").is_none()),
        "{schedules:?}"
    );
    let pause = console.api(Method::POST, "/schedules/carebell.prune/pause", &operator, None).await;
    assert_eq!(pause.body["paused"], true);
    let resume = console.api(Method::POST, "/schedules/carebell.prune/resume", &operator, None).await;
    assert!(resume.body["paused"] == false && resume.body["next_at"].is_string(), "{resume:?}");
    assert_eq!(
        console.api(Method::DELETE, "/schedules/carebell.prune", &operator, None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(console.get("/schedules/carebell.prune").await.status, StatusCode::NOT_FOUND);

    let acts = console.api(Method::GET, "/audit?actor=otto", &operator, None).await;
    let actions: Vec<_> =
        acts.body["items"].as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    let expected = [
        "schedule.deleted",
        "schedule.resumed",
        "schedule.paused",
        "queue.resumed",
        "queue.paused",
        "dead_letter.redriven",
        "dead_letter.discarded",
    ];
    assert_eq!(actions, expected);
    assert_eq!(console.api(Method::GET, "/audit", &viewer, None).await.status, StatusCode::FORBIDDEN);
    worker.stop().await;
}

#[tokio::test]
async fn malformed_queries_and_bodies_are_refused_by_their_field() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    for limit in ["0", "-1", "1000000000", "many", "101"] {
        let answer = console.get(&format!("/dead-letters?limit={limit}")).await;
        assert_eq!(
            (answer.status, &answer.body["errors"][0]["path"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("limit")),
            "{limit}"
        );
    }
    for cursor in ["x", "b0", "b-1", "17", "b99999999999999999999"] {
        let answer = console.get(&format!("/audit?cursor={cursor}")).await;
        assert_eq!(answer.body["errors"][0]["path"], "cursor", "{cursor}");
    }
    let unknown = console.get("/audit?aktor=x").await;
    assert!(
        unknown.status == StatusCode::UNPROCESSABLE_ENTITY
            && unknown.body["detail"].as_str().unwrap().contains("aktor"),
        "{unknown:?}"
    );
    assert_eq!(console.get("/dead-letters/one").await.body["errors"][0]["path"], "path");
    assert_eq!(console.get("/dead-letters/99").await.status, StatusCode::NOT_FOUND);
    let request = |kind: &'static str, body: String| {
        let request = console.request(Method::DELETE, "/admin/api/v1/dead-letters/1").bearer_auth(ADMIN_TOKEN);
        answer(request.header("content-type", kind).body(body))
    };
    assert_eq!(request("text/plain", "{}".into()).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(request("application/json", "x".repeat(300_000)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(request("application/json", "{".into()).await.body["errors"][0]["path"], "body");
}

#[tokio::test]
async fn servers_that_are_away_are_named_and_come_back() {
    let mut world = World::new().await;
    let console = Console::start(&world).await;
    world
        .eventually("NATS is reached", async || (console.get("/health").await.status == StatusCode::OK).then_some(()))
        .await;
    world.nats.kill().await;
    let health = world
        .eventually("NATS is seen to be away", async || {
            let health = console.get("/health").await;
            (health.status == StatusCode::SERVICE_UNAVAILABLE).then_some(health)
        })
        .await;
    assert_eq!(
        (&health.body["parts"]["nats"]["state"], &health.body["parts"]["postgres"]["state"]),
        (&json!("down"), &json!("up"))
    );
    let queues = console.get("/queues").await;
    assert!(queues.status == StatusCode::SERVICE_UNAVAILABLE && queues.headers.contains_key(RETRY_AFTER), "{queues:?}");
    let cookie = console.sign_in(ADMIN_TOKEN).await;
    assert!(console.page("/console", &cookie).await.1.contains("NATS cannot be seen from here"));
    world.nats.start_again().await.unwrap();
    world
        .eventually("NATS is back", async || (console.get("/health").await.status == StatusCode::OK).then_some(()))
        .await;
}

/// The lines of the docs, run by a shell.
#[tokio::test]
async fn the_lines_of_the_page_about_the_api_work() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let page = std::fs::read_to_string("docs/ADMIN.md").unwrap();
    let blocks = page.split("\n```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    let lines: Vec<String> = blocks
        .flat_map(|block| block.split("curl ").skip(1).map(|line| format!("curl {}", line.trim())).collect::<Vec<_>>())
        .collect();
    assert!(lines.len() >= 6);
    for line in lines {
        let mut shell = tokio::process::Command::new("sh");
        let ran = shell
            .args(["-c", &line])
            .env("ADMIN_TOKEN", ADMIN_TOKEN)
            .env("CONSOLE_URL", &console.url)
            .output()
            .await
            .unwrap();
        let answer: serde_json::Value =
            serde_json::from_slice(&ran.stdout).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert!(answer.is_object() && answer.get("title").is_none(), "{line}: {answer}");
    }
}
