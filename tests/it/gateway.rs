//! The HTTP door for producers: the contract of `docs/GATEWAY.md`.

use std::time::Duration;

use carebell::streams::Streams;
use chrono::TimeDelta;
use reqwest::{Method, StatusCode, header::RETRY_AFTER};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cli::carebell,
    support::{Door, QUICK, Worker, World, adjustments, answer, peek, reminder, utc_now},
};

fn news(user: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": "News", "channels": ["CHANNEL_IN_APP"] })
}

fn job(id: &str) -> Value {
    json!({ "kind": "notification", "jobId": id, "job": news("ana") })
}

fn stored(id: &str, duplicate: bool) -> Value {
    json!({ "jobId": id, "duplicate": duplicate })
}

#[tokio::test]
async fn a_job_is_published_once_and_its_end_is_waited_for() {
    let world = World::new().await;
    let mut door = Door::start(&world).await;
    let done = door.post(&job("hello")).await;
    assert_eq!((done.status, &done.body), (StatusCode::ACCEPTED, &stored("hello", false)));
    let waits = door.get("/v1/jobs/hello").await;
    assert_eq!((&waits.body["state"], &waits.body["ended"]), (&json!("accepted"), &json!(false)), "{}", waits.body);
    let same = json!({ "job": news("ana"), "jobId": "hello", "kind": "notification" });
    assert_eq!(door.post(&same).await.body, stored("hello", true), "the order of fields makes no other job");

    let ended = async |id: &str| door.get(&format!("/v1/jobs/{id}?wait=30s")).await.body;
    let (hello, worker) = tokio::join!(ended("hello"), async { Worker::start(&world) });
    assert_eq!(
        (&hello["state"], &hello["ended"], &hello["kind"]),
        (&json!("done"), &json!(true), &json!("notification"))
    );
    let medication = json!({ "kind": "reminder.medication", "jobId": "dose", "job": reminder("metformin", utc_now()) });
    assert_eq!(door.post(&medication).await.status, StatusCode::ACCEPTED);
    let reminded = ended("dose").await;
    assert_eq!((&reminded["state"], &reminded["deliveries"]["sent"]), (&json!("done"), &json!(4)), "{reminded}");
    assert_eq!(door.post(&job("hello")).await.body, stored("hello", true));
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE job_id = 'hello'").await, 1);
    assert!(!hello.to_string().contains("News"), "no text: {hello}");

    // Without an id it has a new one; with a key, that.
    let nameless = json!({ "kind": "notification", "lane": "bulk", "job": news("ben") });
    let first = door.post(&nameless).await.body;
    let second = door.post(&nameless).await.body;
    assert_ne!(first["jobId"], second["jobId"]);
    for (key, duplicate) in [("key-1", false), ("\"key-1\"", true)] {
        let request = door.json(nameless.to_string()).header("Idempotency-Key", key);
        assert_eq!(answer(request).await.body, stored("key-1", duplicate));
    }
    let named = door.json(job("named").to_string()).header("Idempotency-Key", "other");
    assert_eq!(answer(named).await.body["jobId"], "named");
    let metrics = door.metrics().await;
    for line in [
        "carebell_gateway_jobs_total{answer=\"accepted\"} 6",
        "carebell_gateway_jobs_total{answer=\"duplicate\"} 3",
        "carebell_gateway_requests_total{route=\"POST /v1/jobs\",status=\"2xx\"} 9",
        "carebell_gateway_request_duration_seconds_count{route=\"GET /v1/jobs/{id}\"} 3",
        "carebell_part_up{part=\"nats\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert_eq!(door.process.get("/health").await.0, 200);
    worker.stop().await;
    assert_eq!(door.process.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn an_id_is_one_jobs_alone_unless_that_is_delayed() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    assert_eq!(door.post(&job("a")).await.status, StatusCode::ACCEPTED);
    let mut other = job("a");
    other["job"]["title"] = "Other".into();
    let mut lane = job("a");
    lane["lane"] = "critical".into();
    for other in [&other, &lane] {
        let refused = door.post(other).await;
        assert_eq!(
            (refused.status, &refused.body["type"]),
            (StatusCode::CONFLICT, &json!("urn:carebell:problem:conflict"))
        );
    }
    let messages = async || world.context.get_stream("JOBS").await.unwrap().cached_info().state.messages;
    assert_eq!(messages().await, 1, "nothing of it was published");

    let later = |id: &str, title: &str, at: chrono::DateTime<chrono::Utc>| {
        let mut job = job(id);
        (job["at"], job["job"]["title"]) = (at.to_rfc3339().into(), title.into());
        job
    };
    let (soon, hour) = (utc_now() + TimeDelta::seconds(4), utc_now() + TimeDelta::hours(1));
    assert_eq!(door.post(&later("tea", "first", hour)).await.body, stored("tea", false));
    assert_eq!(door.post(&later("tea", "first", hour)).await.body, stored("tea", true));
    assert_eq!(door.post(&later("tea", "second", soon)).await.body, stored("tea", false), "it is replaced");
    let worker = Worker::start(&world);
    let waits = door.get("/v1/jobs/tea").await.body;
    assert_eq!(
        (&waits["state"], &waits["dueAt"]),
        (&json!("delayed"), &json!(carebell::text::instant(soon))),
        "{waits}"
    );
    assert_eq!(door.get("/v1/jobs/tea?wait=30s").await.body["state"], "done");
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE title = 'second' AND job_id = 'tea'").await, 1);
    let refused = door.post(&later("tea", "third", hour)).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "it has run: {}", refused.body);
    worker.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_path() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let with = |field: &str, value: Value| {
        let mut job = job("x");
        job[field] = value;
        job
    };
    let inner = |field: &str, value: Value| {
        let mut job = job("x");
        job["job"][field] = value;
        job
    };
    for (body, path, expected) in [
        (with("kind", json!("notificatoin")), "kind", "must be one of"),
        (with("kind", json!("deliver.sms")), "kind", "must be one of"),
        (with("kind", json!("maintenance.prune")), "kind", "must be one of"),
        (with("kind", json!(7)), "kind", "must be a string"),
        (with("jobId", json!("~care~x")), "jobId", "must be 1 to 128"),
        (with("jobId", json!("x".repeat(129))), "jobId", "must be 1 to 128"),
        (with("lane", json!("urgent")), "lane", "must be critical, normal or bulk"),
        (with("at", json!("2027-03-01T09:00:00")), "at", "RFC 3339 with its offset"),
        (with("at", json!("2137-03-01T09:00:00Z")), "at", "within ten years"),
        (with("delay", json!("soon")), "delay", "a duration such as 5m"),
        (with("notAfter", json!(1)), "notAfter", "must be a string"),
        (with("attempts", json!(0)), "attempts", "must be"),
        (with("backoff", json!("fixed 5m\r\nNats-Rollup: all")), "backoff", "must be"),
        (with("timeout", json!("long")), "timeout", "must be"),
        (with("aplication", json!("care")), "aplication", "is no field of a job"),
        (with("job", json!([])), "job", ""),
        (with("notify", json!(["done", "skiped"])), "notify", "there is no skiped; did you mean skipped?"),
        (with("notify", json!({ "done": true })), "notify", "must be a list of strings, or one string"),
        (with("at", json!("2027-03-01T09:00:00")), "at", "lacks an offset: it must be an instant"),
        (inner("channels", json!(["SMS"])), "job.channels[0]", "must be one of in_app, web_push, email, sms, "),
        (inner("channels", json!(["SMS"])), "job.channels[0]", "did you mean sms?"),
        (inner("recipients", json!([{ "userId": 7 }])), "job.recipients[0].userId", "must be a string"),
        (inner("recipients", json!([])), "job.recipients", ""),
    ] {
        let refused = door.post(&body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
        assert_eq!(refused.headers["content-type"], "application/problem+json");
        let error = &refused.body["errors"][0];
        assert_eq!(error["path"], path, "{}", refused.body);
        assert!(error["detail"].as_str().unwrap().contains(expected), "{}", refused.body);
    }
    for (header, path, expected) in [
        ("Carebell-Not-After", "carebell-not-after", "is no header of this door: set the job's field `notAfter`"),
        ("Carebell-Notfy", "carebell-notfy", "set the job's field `notify`"),
    ] {
        let request = door.json(job("x").to_string()).header(header, "done");
        let refused = answer(request).await;
        assert_eq!((refused.status.as_u16(), &refused.body["errors"][0]["path"]), (422, &json!(path)));
        assert!(refused.body["detail"].as_str().unwrap().contains(expected), "{}", refused.body);
    }
    let missing = door.post(&json!({ "kind": "notification" })).await;
    assert_eq!(missing.body["errors"][0]["path"], "job");
    for (text, expected) in [("{", "it ends too soon"), ("[]", "one JSON object"), ("{\"kind\":", "it ends too soon")] {
        let refused = answer(door.json(text)).await;
        assert!(refused.body["detail"].as_str().unwrap().contains(expected), "{}", refused.body);
    }
    let twice = answer(door.json("{\"kind\":\"notification\",\"kind\":\"x\"}")).await;
    assert_eq!(twice.body["errors"][0], json!({ "path": "kind", "detail": "is there twice" }));
    for (media, status) in [
        ("text/plain", 415),
        ("application/x-protobuf", 415),
        ("application/json; charset=utf-8", 202),
        ("Application/JSON", 202),
    ] {
        let request = door.request(Method::POST, "/v1/jobs").header("Content-Type", media);
        assert_eq!(answer(request.body(job("typed").to_string())).await.status.as_u16(), status, "{media}");
    }
    let wait = door.get("/v1/jobs/x?wait=soon").await;
    assert_eq!((wait.status.as_u16(), &wait.body["errors"][0]["path"]), (422, &json!("wait")));
    assert_eq!(answer(door.request(Method::PUT, "/v1/jobs")).await.status.as_u16(), 405);
    for missing in ["/v1/other", "/v1/jobs/%ff", "/v1/jobs/none"] {
        let missing = door.get(missing).await;
        assert_eq!((missing.status.as_u16(), &missing.body["type"]), (404, &json!("urn:carebell:problem:not-found")));
    }
    let document = door.get("/v1/openapi.json").await.body;
    assert_eq!(document["paths"].as_object().unwrap().len(), 2, "{document}");
    assert_eq!(world.count("SELECT count(*) FROM gateway_jobs").await, 1, "nothing else was taken");
}

#[tokio::test]
async fn each_line_of_a_batch_has_its_answer() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut other = job("a");
    other["job"]["title"] = "Other".into();
    let hostile = [
        job("a").to_string(),
        String::new(),
        "{".to_owned(),
        deep.clone(),
        format!("{{\"kind\":\"notification\",\"jobId\":\"deep\",\"job\":{{\"data\":{{\"x\":{deep}}}}}}}"),
        json!(["notification", "list", null, null, null, null, null, null, null, news("ana")]).to_string(),
        job("b").to_string() + "\r",
        job("a").to_string(),
        other.to_string(),
        "\u{0}".to_owned(),
        json!({ "kind": "notification", "jobId": "big", "job": { "body": "x".repeat(520 * 1024) } }).to_string(),
        "null".to_owned(),
        format!("{}{}", job("c"), job("d")),
        json!({ "kind": "notification", "job": news("ben"), "delay": "1h", "attempts": 2, "backoff": "fixed 5m" })
            .to_string(),
    ];
    let mut body = hostile.join("\n").into_bytes();
    body.extend_from_slice(b"\n\xff\xfe{}\n");
    let (status, headers, lines) = door.lines(body).await;
    assert_eq!((status, &headers["content-type"]), (StatusCode::OK, &"application/x-ndjson".parse().unwrap()));
    let told: Vec<(u64, u64)> =
        lines.iter().map(|line| (line["line"].as_u64().unwrap(), line["status"].as_u64().unwrap())).collect();
    let expected = [
        (1, 202),
        (3, 422),
        (4, 422),
        (5, 422),
        (6, 422),
        (7, 202),
        (8, 202),
        (9, 409),
        (10, 422),
        (11, 413),
        (12, 422),
        (13, 422),
        (14, 202),
        (15, 422),
    ];
    assert_eq!(told, expected, "{lines:#?}");
    assert_eq!(lines[0], json!({ "line": 1, "jobId": "a", "status": 202, "duplicate": false }));
    assert_eq!(lines[6], json!({ "line": 8, "jobId": "a", "status": 202, "duplicate": true }));
    assert_eq!(lines[7]["jobId"], "a");
    let policy = world.context.get_stream("JOBS").await.unwrap();
    let message = policy.get_last_raw_message_by_subject("jobs.later.notification.normal").await.unwrap();
    let header = |name: &str| message.headers.get(name).unwrap().as_str();
    assert_eq!((header("Carebell-Attempts"), header("Carebell-Backoff")), ("2", "fixed 5m"));
    let worker = Worker::start(&world);
    for id in ["a", "b"] {
        assert_eq!(world.ended(id).await.0, "done");
    }
    // Cancelled while it is parked, its message would stay until it is due.
    let is_parked = async || (peek(&world.context, "HOLD", "hold.>").await == 1).then_some(());
    world.eventually("the delayed one is parked", is_parked).await;
    assert_eq!(door.delete(lines[12]["jobId"].as_str().unwrap()).await.status, StatusCode::OK);
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 2);
    assert!(world.dead_letters().await.is_empty(), "whatever is accepted can be read");
    worker.stop().await;
}

#[tokio::test]
async fn jobs_that_wait_are_cancelled() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    assert_eq!(door.delete("none").await.status, StatusCode::NOT_FOUND);
    door.post(&job("queued")).await;
    let done = door.delete("queued").await;
    assert_eq!((done.status, &done.body["cancelled"]), (StatusCode::OK, &json!(true)), "{}", done.body);
    assert_eq!(door.get("/v1/jobs/queued").await.body["state"], "cancelled");
    let worker = Worker::start(&world);
    let mut later = job("later");
    later["delay"] = "1h".into();
    door.post(&later).await;
    // Perhaps before a worker has read it.
    assert_eq!(door.delete("later").await.status, StatusCode::OK);
    let state = door.get("/v1/jobs/later").await.body;
    assert_eq!((&state["state"], &state["ended"]), (&json!("cancelled"), &json!(true)), "{state}");
    door.post(&job("done")).await;
    assert_eq!(door.get("/v1/jobs/done?wait=30s").await.body["state"], "done");
    for ended in ["done", "queued"] {
        assert_eq!(door.delete(ended).await.status, StatusCode::CONFLICT, "{ended}");
    }
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1);
    let actor = "SELECT count(*) FROM audit_log WHERE action = 'job.cancelled' AND actor = 'test (gateway)'";
    assert_eq!(world.count(actor).await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_crash_between_the_row_and_the_message_loses_and_doubles_nothing() {
    let world = World::new().await;
    let doomed = Door::with(&world, &[("CAREBELL_ABORT_AT", "offered")]).await;
    let Door { mut process, token, .. } = {
        let unanswered = doomed.json(job("a").to_string()).send().await;
        assert!(unanswered.is_err(), "{unanswered:?}");
        doomed
    };
    assert_eq!(process.ended().await.code(), Some(134));
    assert_eq!(world.count("SELECT count(*) FROM gateway_jobs").await, 1);
    assert_eq!(world.context.get_stream("JOBS").await.unwrap().cached_info().state.messages, 0);
    let door = Door::with_token(&world, &[], token).await;
    let worker = Worker::start(&world);
    for _ in 0..3 {
        assert_eq!(door.post(&job("a")).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(door.get("/v1/jobs/a?wait=30s").await.body["state"], "done");
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn whatever_is_away_or_full_is_told_with_when_to_come_again() {
    let mut world = World::new().await;
    let door = Door::start(&world).await;
    let mut config = world.context.get_stream("JOBS").await.unwrap().cached_info().config.clone();
    config.max_messages_per_subject = 1;
    world.context.update_stream(config).await.unwrap();
    assert_eq!(door.post(&job("a")).await.status, StatusCode::ACCEPTED);
    let full = door.post(&job("b")).await;
    assert_eq!((full.status, &full.headers[RETRY_AFTER]), (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap()));
    assert!(full.body["detail"].as_str().unwrap().contains("the queue is full"), "{}", full.body);
    let critical = json!({ "kind": "notification", "jobId": "c", "lane": "critical", "job": news("ana") });
    let (status, _, lines) = door.lines(format!("{}\n{}\n{critical}", job("b"), job("d"))).await;
    let statuses: Vec<u64> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!((status, statuses), (StatusCode::OK, vec![503, 503, 202]), "other queues have room");
    let (status, headers, _) = door.lines(format!("{}\n{}", job("b"), job("d"))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "a batch of which nothing is stored");
    assert!(headers.contains_key(RETRY_AFTER));
    Streams::embedded(&adjustments(QUICK)).unwrap().apply(&world.context).await.unwrap();
    assert_eq!(door.post(&job("b")).await.status, StatusCode::ACCEPTED, "the row does not keep it from its second try");

    world.nats.stop().await;
    world
        .eventually("it is noticed", async || {
            let away = door.post(&job("e")).await;
            (away.status == StatusCode::SERVICE_UNAVAILABLE && away.body["detail"].as_str()?.contains("NATS is not"))
                .then_some(())
        })
        .await;
    world.nats.start_again().await.unwrap();
    world
        .eventually("NATS is back", async || (door.post(&job("e")).await.status == StatusCode::ACCEPTED).then_some(()))
        .await;

    let mut blocking = world.db.begin().await.unwrap();
    sqlx::query("LOCK TABLE gateway_jobs IN ACCESS EXCLUSIVE MODE").execute(&mut *blocking).await.unwrap();
    let since = Instant::now();
    let away = door.post(&job("f")).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE, "{}", away.body);
    assert!(away.headers.contains_key(RETRY_AFTER) && since.elapsed() < Duration::from_secs(10));
    blocking.rollback().await.unwrap();
    assert_eq!(door.post(&job("f")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_token_publishes_its_kinds_until_it_is_revoked_or_expires() {
    let world = World::new().await;
    let mut door = Door::start(&world).await;
    assert_eq!(door.post(&job("first")).await.status, StatusCode::ACCEPTED);
    let dose = json!({ "kind": "reminder.medication", "jobId": "dose", "job": reminder("metformin", utc_now()) });
    door.post(&dose).await;

    let all = std::mem::take(&mut door.token);
    assert_eq!(door.post(&job("x")).await.status, StatusCode::UNAUTHORIZED);
    door.token = Door::token(&world, "board", &["--kinds", "notification", "--expires", "1h"], &[]).await;
    assert_eq!(door.post(&job("x")).await.status, StatusCode::ACCEPTED);
    let refused = door.post(&dose).await;
    assert_eq!(
        (refused.status, &refused.body["type"]),
        (StatusCode::FORBIDDEN, &json!("urn:carebell:problem:forbidden"))
    );
    let (_, _, lines) = door.lines(format!("{dose}\n{}", job("y"))).await;
    assert_eq!((&lines[0]["status"], &lines[1]["status"]), (&json!(403), &json!(202)));
    assert_eq!(door.get("/v1/jobs/dose").await.status, StatusCode::NOT_FOUND, "of another kind than its own");
    assert_eq!(door.delete("dose").await.status, StatusCode::NOT_FOUND);
    let (_, list, _) = carebell(&world, &["gateway", "tokens", "list"], &[]).await;
    assert!(list.contains("board: notification, good until") && !list.contains("never used"), "{list}");
    assert!(!list.contains(&door.token) && !door.process.says(&door.token));

    let revoked = ["gateway", "tokens", "revoke", "board", "--by", "ana"];
    assert!(carebell(&world, &revoked, &[]).await.0);
    let ends = async || (door.post(&job("z")).await.status == StatusCode::UNAUTHORIZED).then_some(());
    world.eventually_within(Duration::from_secs(5), "it is refused", ends).await;
    assert!(!carebell(&world, &revoked, &[]).await.0, "there is none any more");
    door.token = all;
    world.sql("UPDATE gateway_tokens SET expires_at = now() WHERE name = 'test'").await;
    world
        .eventually_within(Duration::from_secs(5), "it has expired", async || {
            (door.post(&job("z")).await.status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;

    door.token = Door::token(&world, "slow", &["--kinds", "notification", "--rate", "2"], &[]).await;
    let (status, _, _) =
        door.lines((0..8).map(|n| job(&format!("r-{n}")).to_string() + "\n").collect::<String>()).await;
    assert_eq!(status, StatusCode::OK, "a batch is taken whole");
    let limited = door.post(&job("r-9")).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = limited.headers[RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=4).contains(&seconds), "{seconds}");
    for (args, expected) in [
        (&["--kinds", "deliver.sms"][..], "there are"),
        (&["--kinds", "notification", "--application", "care"], "APPLICATIONS"),
        (&["--kinds", "notification", "--rate", "0"], "rate"),
    ] {
        let args = [&["gateway", "tokens", "add", "wrong"], args].concat();
        let (well, _, error) = carebell(&world, &args, &[]).await;
        assert!(!well && error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_trace_goes_on() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = door.json(job("traced").to_string()).header("traceparent", parent).header("tracestate", "vendor=1");
    assert_eq!(answer(request).await.status, StatusCode::ACCEPTED);
    let stream = world.context.get_stream("JOBS").await.unwrap();
    let message = stream.get_last_raw_message_by_subject("jobs.notification.normal").await.unwrap();
    let header = |name: &str| message.headers.get(name).map(async_nats::HeaderValue::as_str);
    assert_eq!((header("traceparent"), header("tracestate")), (Some(parent), Some("vendor=1")));
    assert_eq!(header("Carebell-Job-Id"), Some("traced"));
}

/// The lines of the docs, run by a shell.
#[tokio::test]
async fn the_lines_of_the_page_work() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let worker = Worker::start(&world);
    let page = std::fs::read_to_string("docs/GATEWAY.md").unwrap();
    let lines = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let mut shell = tokio::process::Command::new("sh");
    let shell = shell.args(["-c", lines]).env("GATEWAY_TOKEN", &door.token).env("GATEWAY_URL", &door.url);
    let ran = shell.output().await.unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [published, shown, delayed, cancelled] = answers.try_into().unwrap();
    assert_eq!((published, delayed), (stored("visit-moved:3:2", false), stored("tea", false)));
    assert_eq!((&shown["state"], &cancelled["cancelled"]), (&json!("done"), &json!(true)));
    worker.stop().await;
}
