//! Reasons of the ledger.

use carebell::dev::push_service::Behaviour;

use super::*;

/// A notification to one person, by its own id.
async fn notify(world: &World, id: &str, user: &str, more: &[(&str, &str)]) {
    let body = json!({ "recipients": [{ "userId": user }], "title": "Checkup" }).to_string();
    let headers = [&[("Carebell-Job-Id", id), ("Content-Type", "application/json")], more].concat();
    world.publish("jobs.notification.normal", &headers, body).await;
}

#[tokio::test]
async fn each_of_a_family_is_told_or_has_a_reason() {
    let desk = Desk::new().await;
    let world = &desk.world;
    world.sql("DELETE FROM push_subscriptions WHERE user_id = 'chloe'").await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ben', '{}')").await;
    let worker = Worker::without_scheduler(world);
    let at = utc_now();
    world.publish_json("jobs.reminder.medication", "dose", &reminder("metformin", at)).await;
    world.ledger("dose").await;
    world.queues_are_empty().await;
    worker.stop().await;
    let at = rfc3339(at);
    desk.dose("ana", &at, "yes", "told", "; it is unread in their inbox").await;
    world.sql("UPDATE notifications SET read_at = now() WHERE user_id = 'ana'").await;
    desk.dose("ana", &at, "yes", "told", "; they read it at ").await;
    desk.dose("ana", &at, "yes", "told", " Europe/Vienna (").await;
    desk.dose("ben", &at, "no", "opted_out", "their preferences leave no channel").await;
    desk.dose("chloe", &at, "no", "no_subscription", "they had no usable push subscription").await;

    // The ledger says why it was then, the facts how it is now.
    world.sql("DELETE FROM preferences").await;
    world.subscribe("chloe", "chloe").await;
    world.sql("UPDATE push_subscriptions SET problem = 'its p256dh is no key' WHERE user_id = 'chloe'").await;
    desk.dose("ben", &at, "no", "opted_out", "their preferences leave no channel").await;
    let found = desk.ask(&["--user", "chloe", "--medication", "metformin", "--at", &at]).await;
    assert_eq!(found["reason"], "no_subscription");
    let fact = |reason: &str| {
        let facts = found["facts"].as_array().unwrap();
        facts.iter().find(|fact| fact["reason"] == reason).map(|fact| fact["text"].as_str().unwrap().to_owned())
    };
    let now = "they have 0 usable push subscriptions now, and 1 malformed: its p256dh is no key";
    assert_eq!(fact("subscriptions").as_deref(), Some(now));
    assert!(fact("inbox").unwrap().contains("it is in their inbox since "));
    assert_eq!((&found["facts"][0]["decides"], &found["facts"][0]["channel"]), (&json!(true), &json!("web_push")));
    desk.close().await;
}

#[tokio::test]
async fn a_delivery_that_waits_or_has_failed() {
    let desk =
        Desk::of(World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s,*.attempts=1").await).await;
    let world = &desk.world;
    world
        .sql(
            "INSERT INTO preferences (user_id, quiet_from, quiet_to, quiet_zone) \
             VALUES ('ben', '00:00', '24:00', 'Europe/Vienna')",
        )
        .await;
    let worker = Worker::without_scheduler(world);
    let state = async |id: &str, states: &[&str]| {
        let line = async || {
            let line = world.store.ledger_of(id).await.unwrap().pop();
            line.filter(|line| states.contains(&line.state.as_str()))
        };
        world.eventually(&format!("{id} is one of {states:?}"), line).await
    };
    let job = |user, id| ["--user", user, "--job", id];

    let never = [("Carebell-Not-After", "2999-01-01T00:00:00Z")];
    notify(world, "quiet", "ben", &never).await;
    state("quiet", &["held"]).await;
    desk.says(&job("ben", "quiet"), "not_yet", "quiet_hours", "web_push is held by their quiet hours until ").await;
    let soon = rfc3339(utc_now() + TimeDelta::minutes(1));
    notify(world, "quiet-too", "ben", &[("Carebell-Not-After", soon.as_str())]).await;
    state("quiet-too", &["expired"]).await;
    desk.says(&job("ben", "quiet-too"), "no", "quiet_hours", "web_push would have expired at ").await;

    world.push.behave_always("ana", Some(Behaviour::status(400)));
    notify(world, "broken", "ana", &[]).await;
    state("broken", &["dead"]).await;
    desk.says(&job("ana", "broken"), "no", "dead", "web_push failed for good at ").await;
    desk.says(&job("ana", "broken"), "no", "dead", "(permanent, ").await;

    world.push.behave_always("chloe", Some(Behaviour::status(410)));
    notify(world, "ended", "chloe", &[]).await;
    state("ended", &["failed"]).await;
    desk.says(&job("chloe", "ended"), "no", "subscription_gone", "the browser's subscription has ended").await;

    notify(world, "late", "dan", &[("Carebell-Not-After", "2020-01-01T00:00:00Z")]).await;
    world.ended("late").await;
    desk.says(&job("dan", "late"), "no", "expired", "notification late expired before it ran at ").await;

    world.push.behave_always("dan", Some(Behaviour::retry_after(429, "3600")));
    notify(world, "patient", "dan", &[]).await;
    state("patient", &["held"]).await;
    desk.says(&job("dan", "patient"), "not_yet", "retry_later", "asked for patience, and the next try is at ").await;
    worker.stop().await;

    // As a worker leaves them.
    let become_ = async |change: &str| {
        world.sql(&format!("UPDATE deliveries SET {change} WHERE job_id = 'patient'")).await;
    };
    become_("reason = 'provider_down', attempts = 2").await;
    desk.says(&job("dan", "patient"), "not_yet", "provider_down", "is down (2 failed attempts), and the next").await;
    become_("reason = 'retry', held_until = now() - interval '1 minute'").await;
    desk.says(&job("dan", "patient"), "not_yet", "retry", "which has passed: it waits for a worker").await;
    become_("state = 'pending', reason = NULL").await;
    desk.says(&job("dan", "patient"), "not_yet", "pending", "waits for a worker since ").await;
    become_("state = 'sending'").await;
    desk.says(&job("dan", "patient"), "perhaps", "sending", "has been sending web_push since ").await;
    become_("state = 'unknown', reason = 'no_answer'").await;
    desk.says(&job("dan", "patient"), "perhaps", "perhaps_told", "and it is not sent again").await;
    become_("state = 'expired', reason = 'expired'").await;
    desk.says(&job("dan", "patient"), "no", "expired", "web_push expired at ").await;
    world.sql("DELETE FROM deliveries").await;
    desk.says(&job("dan", "patient"), "no", "unrecorded", "and no delivery").await;
    desk.close().await;
}
