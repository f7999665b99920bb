//! `deliver.web_push`: effect of each answer, through the whole pipeline.

use carebell::{dev::push_service::Behaviour, store::LedgerLine};
use serde_json::json;

use crate::support::{LIMIT, Worker, World, utc_now};

/// Notifies Ana and returns her ledger line.
async fn push_to_ana(world: &World, times: usize, behaviour: Behaviour) -> LedgerLine {
    world.push.behave_times("ana", times, behaviour);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
    world.publish_json("jobs.notification.critical", "hello", &body).await;
    world.ledger("hello").await.remove(0)
}

async fn subscriptions_of_ana(world: &World) -> i64 {
    world.count("SELECT count(*) FROM push_subscriptions WHERE user_id = 'ana'").await
}

fn ended(line: &LedgerLine) -> (&str, Option<&str>, i32) {
    (line.state.as_str(), line.reason.as_deref(), line.attempts)
}

#[tokio::test]
async fn accepted_is_sent() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let line = push_to_ana(&world, 1, Behaviour::status(201)).await;
    assert_eq!(ended(&line), ("sent", None, 0));
    assert_eq!(line.answer.as_deref(), Some("201"));
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn an_ended_subscription_is_removed_and_is_no_dead_letter() {
    for status in [404, 410] {
        let world = World::new().await;
        let worker = Worker::start(&world);
        let line = push_to_ana(&world, 1, Behaviour::status(status)).await;
        assert_eq!(ended(&line), ("failed", Some("subscription_gone"), 0), "{status}");
        assert_eq!(subscriptions_of_ana(&world).await, 0, "{status}");
        world.queues_are_empty().await;
        assert!(world.dead_letters().await.is_empty(), "{status}");
        worker.stop().await;
    }
}

#[tokio::test]
async fn our_mistakes_and_refusals_are_dead_letters_at_once() {
    for status in [400, 403, 413] {
        let world = World::new().await;
        let worker = Worker::start(&world);
        let line = push_to_ana(&world, 1, Behaviour::status(status)).await;
        assert_eq!(ended(&line), ("dead", Some("permanent"), 1), "{status}");
        assert_eq!(subscriptions_of_ana(&world).await, 1, "{status}: the subscription stays");
        let (subject, headers, _) = world.dead_letters_once(1).await.remove(0);
        assert!(subject.starts_with("dead.deliver.web_push.DELIVERIES."), "{subject}");
        assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "permanent");
        assert_eq!(world.push.counts().requests, 1, "{status} is not tried again");
        world.queues_are_empty().await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let line = push_to_ana(&world, 1, Behaviour::status(401)).await;
    assert_eq!(ended(&line), ("sent", None, 0));
    worker.stop().await;

    let world = World::new().await;
    let worker = Worker::start(&world);
    let line = push_to_ana(&world, 5, Behaviour::status(401)).await;
    assert_eq!(ended(&line), ("dead", Some("permanent"), 1));
    assert_eq!(world.push.counts().requests, 2, "one more try with a fresh token, then no more");
    worker.stop().await;
}

#[tokio::test]
async fn a_wish_to_wait_is_honoured_and_burns_no_attempt() {
    for status in [429, 406] {
        let world = World::new().await;
        let worker = Worker::start(&world);
        let asked = utc_now();
        let line = push_to_ana(&world, 1, Behaviour::retry_after(status, "2")).await;
        assert_eq!(ended(&line), ("sent", None, 0), "{status}");
        assert_eq!(line.claims, 2, "{status}");
        let push = &world.push.wait_for(1, LIMIT).await.unwrap()[0];
        let waited = push.received - asked;
        assert!(waited.num_milliseconds() >= 2000, "{status}: came back after {waited}");
        world.queues_are_empty().await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_wait_beyond_the_expiry_ends_as_expired_and_does_not_spin() {
    let world = World::new().await;
    world.push.behave("ana", Behaviour::retry_after(429, "3600"));
    let not_after = (utc_now() + chrono::TimeDelta::seconds(10)).to_rfc3339();
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" }).to_string();
    let headers =
        [("Carebell-Job-Id", "hello"), ("Carebell-Not-After", &not_after), ("Content-Type", "application/json")];
    world.publish("jobs.notification.normal", &headers, body).await;
    let worker = Worker::start(&world);
    let line = world.ledger("hello").await.remove(0);
    assert_eq!(ended(&line), ("expired", Some("expired"), 0));
    assert_eq!(world.push.counts().requests, 1);
    world.queues_are_empty().await;
    let mut hold = world.context.get_stream("HOLD").await.unwrap();
    let published = hold.info().await.unwrap().state.last_sequence;
    assert!(published <= 4, "parked once or twice, and resumed as often: {published} messages");
    worker.stop().await;
}

#[tokio::test]
async fn a_failing_service_is_tried_again_until_the_attempts_are_burnt() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let line = push_to_ana(&world, 2, Behaviour::status(503)).await;
    assert_eq!(ended(&line), ("sent", None, 2), "the third attempt of three");
    assert_eq!(world.push.counts().requests, 3);
    worker.stop().await;

    let world = World::new().await;
    let worker = Worker::start(&world);
    let line = push_to_ana(&world, 10, Behaviour::status(500)).await;
    assert_eq!(ended(&line), ("dead", Some("exhausted"), 3));
    assert_eq!(world.push.counts().requests, 3);
    let (_, headers, body) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "exhausted");
    assert_eq!(headers.get("Carebell-Dead-Attempts").unwrap().as_str(), "3");
    assert!(headers.get("Carebell-Dead-Error").unwrap().as_str().contains("500"));
    assert!(!body.is_empty(), "the message is kept whole");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_subscription_that_cannot_be_right_is_never_sent_to() {
    let broken = [
        ("endpoint", "/path", "invalid_subscription"),
        ("endpoint", "http://169.254.169.254/", "invalid_subscription"),
        ("endpoint", "https://localhost/", "host_not_allowed"),
        ("endpoint", "https://127.1/", "host_not_allowed"),
        ("endpoint", "https://[::ffff:10.0.0.1]/", "host_not_allowed"),
        ("p256dh", "not-a-key", "invalid_subscription"),
        ("auth", "", "invalid_subscription"),
    ];
    let world = World::new().await;
    for (number, (column, value, _)) in broken.iter().enumerate() {
        let name = format!("broken-{number}");
        world.user(&name).await;
        world.sql(&format!("UPDATE push_subscriptions SET {column} = '{value}' WHERE id = '{name}'")).await;
    }
    let recipients: Vec<_> = (0..broken.len()).map(|number| json!({ "userId": format!("broken-{number}") })).collect();
    let body = json!({ "recipients": recipients, "title": "Hello" });
    world.publish_json("jobs.notification.normal", "hello", &body).await;
    let worker = Worker::start(&world);
    for line in world.ledger("hello").await {
        let number: usize = line.user_id.strip_prefix("broken-").unwrap().parse().unwrap();
        assert_eq!(ended(&line), ("failed", Some(broken[number].2), 0), "{line:?}");
        let answer = line.answer.unwrap();
        assert!(!answer.contains("169.254") && !answer.contains("//"), "no endpoint in a record: {answer}");
    }
    assert_eq!(world.push.counts().requests, 0);
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(world.count("SELECT count(*) FROM push_subscriptions WHERE problem IS NOT NULL").await, 4);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_subscription_that_vanished_meanwhile_is_recorded() {
    let world = World::new().await;
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
    world.push.behave("ana", Behaviour::status(503));
    let slow = Worker::with(&world, &[("QUEUE_OVERRIDES", "*.backoff=fixed 1s,*.jitter=0%,*.ack_wait=2s")]);
    world.publish_json("jobs.notification.critical", "hello", &body).await;
    world.push.wait_until(LIMIT, |counts| counts.requests == 1).await.unwrap();
    world.sql("DELETE FROM push_subscriptions WHERE user_id = 'ana'").await;
    let line = world.ledger("hello").await.remove(0);
    assert_eq!((line.state.as_str(), line.reason.as_deref()), ("failed", Some("subscription_gone")));
    slow.stop().await;
}
