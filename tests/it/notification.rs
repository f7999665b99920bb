//! `notification`: recipients, channels, and rejected input.

use serde_json::{Value, json};
use sqlx::Row;

use crate::support::{FAMILY, LIMIT, Worker, World, decode, sorted};

fn to(recipients: &Value) -> Value {
    json!({ "recipients": recipients, "title": "Visit moved", "body": "To Friday", "url": "/visits?id=3" })
}

#[tokio::test]
async fn each_known_recipient_gets_it_once() {
    let world = World::new().await;
    world.sql("INSERT INTO users (id, name) VALUES ('eve', 'Eve')").await;
    let worker = Worker::start(&world);
    let recipients = json!([
        { "userId": "ana" }, { "userId": "ana" }, { "userId": "eve" }, { "userId": "nobody" },
        { "email": "nurse@example.org" }, { "phone": "+4366012345678" },
    ]);
    world.publish_json("jobs.notification.bulk", "news", &to(&recipients)).await;
    assert_eq!(world.ended("news").await.0, "done");
    world.push.wait_for(1, LIMIT).await.unwrap();

    let inbox: Vec<String> = sqlx::query_scalar("SELECT user_id FROM notifications WHERE job_id = 'news' ORDER BY 1")
        .fetch_all(&world.db)
        .await
        .unwrap();
    assert_eq!(inbox, ["ana", "eve"], "a user without a subscription has an inbox; one that does not exist has none");
    let ledger: Vec<(String, String)> = world
        .eventually("the push is recorded", async || {
            let rows =
                sqlx::query("SELECT channel, state FROM deliveries ORDER BY 1, 2").fetch_all(&world.db).await.ok()?;
            let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            rows.iter().any(|(_, state)| state == "sent").then_some(rows)
        })
        .await;
    let expected = [
        ("email", "failed"),
        ("sms", "failed"),
        ("web_push", "sent"),
        // Eve's and nobody's.
        ("web_push", "skipped"),
        ("web_push", "skipped"),
    ];
    assert_eq!(ledger, expected.map(|(channel, state)| (channel.to_owned(), state.to_owned())));

    let push = &world.push.received()[0];
    assert_eq!((push.name.as_str(), push.urgency.as_str()), ("ana", "low"));
    let row = sqlx::query("SELECT type, data FROM notifications LIMIT 1").fetch_one(&world.db).await.unwrap();
    assert_eq!(row.get::<&str, _>("type"), "GENERAL");
    assert_eq!(row.get::<Value, _>("data")["type"], "GENERAL");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn nobody_known_is_skipped() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "void", &to(&json!([{ "userId": "nobody" }]))).await;
    assert_eq!(world.ended("void").await, ("skipped".into(), Some("no_recipients".into())));
    worker.stop().await;
}

#[tokio::test]
async fn the_job_may_name_its_channels() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let mut body = to(&json!(FAMILY.map(|name| json!({ "userId": name }))));
    body["channels"] = json!(["CHANNEL_IN_APP"]);
    world.publish_json("jobs.notification.normal", "quiet", &body).await;
    assert_eq!(world.ended("quiet").await.0, "done");
    let inbox: Vec<String> =
        sqlx::query_scalar("SELECT user_id FROM notifications").fetch_all(&world.db).await.unwrap();
    assert_eq!(sorted(inbox), FAMILY);
    let recorded = "SELECT count(*) FROM deliveries WHERE reason = 'inbox_only' AND subject IS NULL";
    assert_eq!(world.count(recorded).await, 4);
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 4);
    worker.stop().await;
}

#[tokio::test]
async fn without_vapid_keys_the_inbox_is_still_filled() {
    let world = World::new().await;
    let worker = Worker::with(&world, &[("VAPID_PUBLIC_KEY", ""), ("VAPID_PRIVATE_KEY", "")]);
    world.publish_json("jobs.notification.normal", "keyless", &to(&json!([{ "userId": "ana" }]))).await;
    assert_eq!(world.ended("keyless").await.0, "done");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 1);
    assert_eq!(world.delivery_to("keyless", "ana").await.reason.as_deref(), Some("no_channel"));
    worker.stop().await;
}

#[test]
fn each_mistake_names_its_field() {
    let ana = json!([{ "userId": "ana" }]);
    let with = |field: &str, value: Value| {
        let mut body = to(&ana);
        body[field] = value;
        body
    };
    let cases = [
        (with("recipients", json!([])), "recipients"),
        (with("recipients", json!([{}])), "recipients"),
        (with("recipients", json!([{ "userId": "" }])), "recipients.user_id"),
        (with("recipients", json!([{ "email": "nobody" }])), "recipients.email"),
        (with("recipients", json!([{ "email": "a@b.c\r\nBcc: x@y.z" }])), "recipients.email"),
        (with("recipients", json!([{ "phone": "0660 1234" }])), "recipients.phone"),
        (with("title", json!("  ")), "title"),
        (with("title", json!("x".repeat(201))), "title"),
        (with("title", json!("x\u{0}")), "title"),
        (with("body", json!("x".repeat(2001))), "body"),
        (with("type", json!("x".repeat(65))), "type"),
        (with("url", json!("javascript:alert(1)")), "url"),
        (with("url", json!("//elsewhere.example/x")), "url"),
        (with("url", json!("http://elsewhere.example/x")), "url"),
        (with("template", json!("welcome")), "template"),
        (with("channels", json!(["CHANNEL_UNSPECIFIED"])), "channels"),
        (with("data", json!({ "x": "y".repeat(17_000) })), "data"),
        (with("data", json!({ "x": ["\u{0}"] })), "data"),
    ];
    for (body, field) in cases {
        let error = decode("notification", &body).expect_err(&body.to_string());
        assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
    }
    let fine = with("url", json!("https://app.example.org/visits"));
    assert!(decode("notification", &fine).is_ok());
    let fine = with("data", json!({ "path": "C:\\u0000" }));
    assert_eq!(decode("notification", &fine), Ok(()), "a backslash is not a control character");
}
