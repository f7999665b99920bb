//! Long links, clusters of characters, unusual addresses, malformed subscriptions and large numbers.

use carebell::dev::smtp_server::{Protection, SmtpServer};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{LIMIT, NUMBER, Phones, Worker, World},
};

#[tokio::test]
async fn a_link_of_up_to_two_thousand_characters_reaches_a_browser_and_a_phone() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    let body = "Bring the insurance card. ".repeat(30);
    for length in [600, 1000, 1400, 1550, 2000] {
        let url = format!("https://app.example.org/{}", "x".repeat(length - 24));
        let recipients = json!([{ "userId": "ana" }, { "phone": NUMBER }]);
        let job = json!({ "recipients": recipients, "title": "Visit moved", "body": body, "url": url,
                          "data": { "visitId": "v-1" } });
        let id = format!("long-{length}");
        world.publish_json("jobs.notification.normal", &id, &job).await;
        for line in world.ledger(&id).await {
            assert_eq!(line.state, "sent", "{length}: {line:?}");
        }
        let push = world.push.received().pop().unwrap().json();
        assert_eq!(push["data"]["url"], url, "{length}");
        assert!(push["body"].as_str().unwrap().starts_with("Bring the insurance card."), "{length}: {push}");
        let text = phones.first.received().pop().unwrap().body;
        // 1,600 characters are the most that a provider takes.
        assert_eq!(text.ends_with(&format!("\n{url}")), length < 1560, "{length}: {text}");
        assert!(text.starts_with("Visit moved"), "{length}: {text}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn texts_are_cut_between_the_characters_that_readers_see() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    // 106 characters, 314 bytes: there is room for it.
    let title: String = "रोज़ की दवा ".repeat(10).chars().take(106).collect();
    let body = "👩‍👧‍👦🇦🇹क्ष".repeat(200);
    let job = json!({ "recipients": [{ "userId": "ana" }], "title": title.trim(), "body": body });
    world.publish_json("jobs.notification.normal", "hindi", &job).await;
    world.push.wait_for(1, LIMIT).await.unwrap();
    let push = world.push.received().pop().unwrap().json();
    assert_eq!(push["title"], title.trim());
    let shown = push["body"].as_str().unwrap();
    let kept = shown.strip_suffix('…').unwrap();
    let whole = ["👩‍👧‍👦", "👩‍👧‍👦🇦🇹", "👩‍👧‍👦🇦🇹क्ष"].iter().any(|end| kept.ends_with(end));
    assert!(whole && body.starts_with(kept) && kept.len() > 700, "{shown}");
    worker.stop().await;
}

#[tokio::test]
async fn unusual_mail_addresses_are_sent_to_or_marked() {
    let world = World::new().await;
    let server = SmtpServer::start(Protection::Tls, None).await.unwrap();
    let ca_file = world.directory.path().join("mail-server.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let variables = [
        ("SMTP_URL", server.url()),
        ("SMTP_FROM", "care@example.org".into()),
        ("SMTP_CA_FILE", ca_file.display().to_string()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = Worker::with(&world, &variables);
    let addresses = [r#""a b"@example.org"#, "user@[127.0.0.1]", r#""a@b"@example.org"#, "ana@example.org"];
    world.sql("UPDATE users SET email = '\"c d\"@example.org' WHERE id = 'ben'").await;
    world.sql("UPDATE users SET email = 'none' WHERE id = 'dan'").await;
    let raw = addresses.iter().map(|address| json!({ "email": address }));
    let recipients: Vec<Value> = raw.chain([json!({ "userId": "ben" }), json!({ "userId": "dan" })]).collect();
    let job = json!({ "recipients": recipients, "title": "Hello", "channels": ["CHANNEL_EMAIL"] });
    world.publish_json("jobs.notification.normal", "mails", &job).await;
    let lines = world.ledger("mails").await;
    assert_eq!(lines.len(), 6, "{lines:?}");
    for line in &lines {
        let ended = (line.state.as_str(), line.reason.as_deref());
        assert!([("sent", None), ("failed", Some("invalid_address"))].contains(&ended), "{line:?}");
    }
    assert!(lines.iter().any(|line| line.state == "sent"));
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_subscription_that_chrome_has_removed_is_gone() {
    let world = World::new().await;
    world.sql("UPDATE push_subscriptions SET endpoint = 'https://permanently-removed.invalid/fcm/send/x' WHERE id = 'ana'").await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    let lines = world.ledger("dose").await;
    let anas = lines.iter().find(|line| line.user_id == "ana").unwrap();
    assert_eq!((anas.state.as_str(), anas.reason.as_deref()), ("failed", Some("subscription_gone")));
    assert_eq!(world.count("SELECT count(*) FROM push_subscriptions WHERE id = 'ana'").await, 0);
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_malformed_subscription_is_marked_once_and_a_corrected_one_tried_anew() {
    let world = World::new().await;
    world.sql("UPDATE push_subscriptions SET p256dh = 'not-a-key' WHERE id = 'ana'").await;
    let worker = Worker::start(&world);
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello", "channels": ["CHANNEL_PUSH"] });
    world.publish_json("jobs.notification.normal", "first", &news).await;
    let line = world.ledger("first").await.remove(0);
    assert_eq!((line.state.as_str(), line.reason.as_deref()), ("failed", Some("invalid_subscription")), "{line:?}");
    world.publish_json("jobs.notification.normal", "second", &news).await;
    assert_eq!(world.ended("second").await.0, "done");
    let line = world.ledger("second").await.remove(0);
    assert_eq!(
        (line.state.as_str(), line.reason.as_deref()),
        ("skipped", Some("no_subscription")),
        "it is passed over"
    );
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE job_id = 'second'").await, 1);
    assert!(world.dead_letters().await.is_empty());
    let problem = "SELECT problem FROM push_subscriptions WHERE id = 'ana'";
    let problem: String = sqlx::query_scalar(problem).fetch_one(&world.db).await.unwrap();
    assert!(problem.starts_with("p256dh is not"), "{problem}");
    let (well, said, _) = carebell(&world, &["doctor"], &[]).await;
    let line = said.lines().find(|line| line.contains("push subscriptions")).unwrap();
    assert!(well && line.contains("passed over: 1. The first is ana: p256dh is not"), "{line}");

    // The application stores what the browser says now, and need not know of the mark.
    let subscription = world.push.subscribe("ana");
    sqlx::query("UPDATE push_subscriptions SET endpoint = $1, p256dh = $2, auth = $3 WHERE id = 'ana'")
        .bind(subscription.endpoint)
        .bind(subscription.p256dh)
        .bind(subscription.auth)
        .execute(&world.db)
        .await
        .unwrap();
    world.publish_json("jobs.notification.normal", "third", &news).await;
    assert_eq!(world.ledger("third").await.remove(0).state, "sent");
    let (_, said, _) = carebell(&world, &["doctor"], &[]).await;
    assert!(said.contains("ok    push subscriptions"), "{said}");
    worker.stop().await;
}

#[tokio::test]
async fn whole_numbers_are_kept_exactly_or_refused_with_their_path() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let job = |data: &str| {
        format!(
            r#"{{"recipients": [{{"userId": "ana"}}], "title": "x", "channels": ["CHANNEL_IN_APP"], "data": {data}}}"#
        )
    };
    let kept = r#"{"a": 9007199254740991, "b": -9007199254740991, "c": 0.5, "d": [1, {"e": "9007199254740993"}]}"#;
    let args = ["publish", "notification", "--job-id", "kept", "--json", &job(kept)];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well, "{said}{error}");
    assert_eq!(world.ended("kept").await.0, "done");
    let data: Value =
        sqlx::query_scalar("SELECT data FROM notifications WHERE job_id = 'kept'").fetch_one(&world.db).await.unwrap();
    for (key, value) in serde_json::from_str::<Value>(kept).unwrap().as_object().unwrap() {
        assert_eq!(&data[key], value, "{key}");
    }
    for (data, path) in [
        (r#"{"orderId": 9007199254740993}"#, "data.orderId is one"),
        (r#"{"orderId": 9007199254740992}"#, "data.orderId is one"),
        (r#"{"a": {"items": [1, {"id": -12345678901234567890}]}}"#, "data.a.items[1].id is one"),
        (r#"{"Rose Miller": 1e17}"#, "data.… is one"),
    ] {
        let (well, _, error) = carebell(&world, &["publish", "notification", "--json", &job(data)], &[]).await;
        assert!(!well && error.contains(path) && error.contains("string") && !error.contains("Rose"), "{error}");
    }
    worker.stop().await;
}
