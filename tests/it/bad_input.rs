//! Bad input gets a clear error, is kept, and harms nothing else.

use carebell::{jobs, pipeline::Form};
use futures::future::join_all;
use proptest::prelude::*;
use serde_json::json;

use crate::support::{LIMIT, Worker, World, reminder, utc_now};

#[tokio::test]
#[ignore = "soak: 10,000 recipients"]
async fn ten_thousand_recipients_are_no_trouble() {
    let world = World::new().await;
    world.sql("INSERT INTO users (id, name) SELECT 'u' || n, 'U' FROM generate_series(1, 9996) n").await;
    let mut recipients: Vec<_> = (1..=9996).map(|number| json!({ "userId": format!("u{number}") })).collect();
    recipients.extend(crate::support::FAMILY.map(|name| json!({ "userId": name })));
    let body = json!({ "recipients": recipients, "title": "To all" });
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.bulk", "all", &body).await;
    world.push.wait_for(4, LIMIT).await.unwrap();
    assert_eq!(world.ended("all").await.0, "done");
    assert_eq!(world.count("SELECT count(DISTINCT user_id) FROM notifications WHERE job_id = 'all'").await, 10_000);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_title_of_a_megabyte_is_refused_at_publish_and_a_large_one_by_the_worker() {
    let world = World::new().await;
    let with_title =
        |bytes: usize| json!({ "recipients": [{ "userId": "ana" }], "title": "x".repeat(bytes) }).to_string();
    let headers = async_nats::HeaderMap::from_iter([(
        async_nats::HeaderName::from_static("Content-Type"),
        async_nats::HeaderValue::from("application/json"),
    )]);
    let subject = "jobs.notification.normal";
    let refused = world.context.publish_with_headers(subject, headers.clone(), with_title(600_000).into()).await;
    let refused = refused.unwrap().await.unwrap_err().to_string();
    assert!(refused.contains("message size exceeds maximum"), "the stream's limit, in the server's words: {refused}");

    let worker = Worker::start(&world);
    world.publish(subject, &[("Content-Type", "application/json")], with_title(400_000)).await;
    let (_, headers, body) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(headers.get("Carebell-Dead-Error").unwrap().as_str(), "`title` must be at most 200 characters");
    assert_eq!(body.len(), with_title(400_000).len(), "kept whole");
    worker.stop().await;
}

/// Its message would be refused for ever.
#[tokio::test]
async fn a_notification_that_no_stream_takes_is_dead_at_once() {
    let world = World::new().await;
    world.sql("INSERT INTO users (id, name) SELECT repeat('u', 60) || n, 'U' FROM generate_series(1, 9000) n").await;
    world.sql("INSERT INTO family_members SELECT 'browns', id FROM users WHERE id LIKE 'uuu%'").await;
    let worker = Worker::start(&world);
    world.remind("too-many").await;
    let (_, headers, _) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "permanent");
    let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
    assert!(error.contains("at most 524288 are possible; it has too many recipients"), "{error}");
    assert_eq!(world.count("SELECT count(*) FROM job_children").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_nul_among_good_jobs_of_the_same_moment_is_the_only_one_refused() {
    let world = World::new().await;
    let texts = (0..30).map(|number| if number == 17 { "bad\u{0}".to_owned() } else { format!("good {number}") });
    let jobs = texts.enumerate().map(|(number, title)| {
        let body = json!({ "recipients": [{ "userId": "ana" }], "title": title, "channels": ["CHANNEL_IN_APP"] });
        let world = &world;
        async move { world.publish_json("jobs.notification.critical", &format!("n-{number}"), &body).await }
    });
    join_all(jobs).await;
    let worker = Worker::start(&world);
    let (_, headers, _) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(headers.get("Carebell-Job-Id").unwrap().as_str(), "n-17");
    assert_eq!(headers.get("Carebell-Dead-Error").unwrap().as_str(), "`title` must not hold U+0000");
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 29);
    assert_eq!(world.ended("n-17").await, ("dead".into(), Some("undecodable".into())));
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_came_too_late_is_recorded_and_not_run() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let headers = [
        ("Carebell-Job-Id", "late"),
        ("Carebell-Not-After", "2020-01-01T00:00:00+01:00"),
        ("Content-Type", "application/json"),
    ];
    world.publish("jobs.reminder.medication", &headers, reminder("metformin", utc_now()).to_string()).await;
    assert_eq!(world.ended("late").await, ("expired".into(), Some("expired".into())));
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty(), "an expired job is not a failure");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_policy_that_does_not_parse_is_told_of_by_its_header() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let body = json!({ "recipients": [{ "userId": "nobody" }], "title": "x" }).to_string();
    for (header, value, expected) in [
        ("Carebell-Attempts", "none", "`Carebell-Attempts` must be a whole number of at least 1"),
        ("Carebell-Backoff", "5m", "`Carebell-Backoff` must be `fixed 5m` or `exponential 1m to 1h`"),
        ("Carebell-Timeout", "0", "`Carebell-Timeout` must be a duration such as 500ms, 30s, 5m or 1h 30m"),
    ] {
        let headers = [("Carebell-Job-Id", header), (header, value), ("Content-Type", "application/json")];
        world.publish("jobs.notification.normal", &headers, body.clone()).await;
        let letter = async || {
            let letters = world.dead_letters().await;
            let error = |letter: &async_nats::HeaderMap| letter.get("Carebell-Dead-Error").unwrap().to_string();
            letters.iter().any(|(_, headers, _)| error(headers) == expected).then_some(())
        };
        world.eventually(expected, letter).await;
    }
    worker.stop().await;
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    let keys = prop_oneof![
        Just("recipients".to_owned()),
        Just("userId".to_owned()),
        Just("title".to_owned()),
        Just("data".to_owned()),
        Just("medicationId".to_owned()),
        Just("scheduledTime".to_owned()),
        any::<String>()
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((keys.clone(), inner), 0..6)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn decoders_never_panic_on_bytes(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let body = bytes::Bytes::from(body);
        let registry = jobs::registry();
        for kind in registry.kinds() {
            for form in [Form::Protobuf, Form::Json] {
                if let Err(error) = registry.decoder(*kind).unwrap().decode(&body, form) {
                    prop_assert!(!error.is_empty());
                }
            }
        }
    }

    #[test]
    fn decoders_never_panic_on_json_and_never_repeat_it(body in any_json(), secret in "[q-z]{12}") {
        let body = json!({ "recipients": [{ "userId": "ana" }], "title": { "x": secret }, "more": body });
        let body = bytes::Bytes::from(body.to_string());
        let registry = jobs::registry();
        for kind in registry.kinds() {
            let error = registry.decoder(*kind).unwrap().decode(&body, Form::Json).err();
            prop_assert!(error.is_none_or(|error| !error.contains(&secret)));
        }
    }
}

/// Headers may hold any bytes that a NATS client can send.
#[tokio::test]
async fn random_headers_end_somewhere_and_stop_nobody() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    const USUAL: [(&str, &str); 8] = [
        ("Carebell-Job-Id", "job-1"),
        ("Carebell-Not-After", "2099-01-01T00:00:00Z"),
        ("Carebell-Attempts", "2"),
        ("Carebell-Backoff", "fixed 1s"),
        ("Carebell-Timeout", "3s"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("X-Other", "anything"),
    ];
    let world = World::new().await;
    let mut runner = TestRunner::deterministic();
    // No client sends CR or LF. All other characters are tried.
    let value = prop_oneof![4 => Just(None), 1 => "[^\\r\\n]{0,40}".prop_map(Some)];
    let headers = prop::collection::vec((prop::sample::select(&USUAL), value), 0..5);
    let published = 200;
    for _ in 0..published {
        let chosen = headers.new_tree(&mut runner).unwrap().current();
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(
            chosen.iter().map(|((name, usual), value)| (*name, value.as_deref().map_or(*usual, |value| value.trim()))),
        );
        let body = json!({ "recipients": [{ "userId": "ana" }], "title": "x", "channels": ["CHANNEL_IN_APP"] });
        world.publish("jobs.notification.normal", &headers, body.to_string()).await;
    }
    world.publish_json("jobs.reminder.medication", "good", &reminder("metformin", utc_now())).await;
    let worker = Worker::start(&world);
    world.everyone_has_it_once("good").await;
    world.queues_are_empty().await;
    let dead = world.dead_letters().await;
    let ran = world.count("SELECT count(*) FROM job_runs WHERE kind = 'notification' AND state <> 'dead'").await - 1;
    println!("{published} published: {} dead letters, {ran} job ids that ran", dead.len());
    assert!(dead.len() + usize::try_from(ran).unwrap() <= published);
    assert!(!dead.is_empty() && ran > 0, "both ends are reached");
    for (_, headers, _) in dead {
        assert!(headers.get("Carebell-Dead-Error").is_some());
    }
    worker.stop().await;
}
