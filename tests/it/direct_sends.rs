//! Direct sends: the worker that plans a push sends it, without a message.

use std::{sync::Arc, time::Duration};

use carebell::{
    channels::{Sender, web_push::WebPush},
    clock::Clock,
    config::Source,
    dev::push_service::Behaviour,
    jobs,
    meta::NO_MESSAGE,
    store::{Claimed, Committed, DirectClaims},
};
use chrono::TimeDelta;
use serde_json::json;

use crate::{
    records::{ask_by, planned, store},
    support::{Custom, FAMILY, QUICK, Worker, World, utc_now},
};

/// Number of messages ever stored in DELIVERIES.
async fn messages(world: &World) -> u64 {
    world.context.get_stream("DELIVERIES").await.unwrap().info().await.unwrap().state.last_sequence
}

#[tokio::test]
async fn a_push_that_goes_well_has_no_message() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    assert_eq!(messages(&world).await, 0);
    let claims =
        "SELECT count(*) FROM deliveries WHERE claims = 1 AND attempts = 0 AND claim_seq = 0 AND answer = '201'";
    assert_eq!(world.count(claims).await, 4, "recorded like any other send");
    worker.stop().await;
}

#[tokio::test]
async fn a_queue_with_a_rate_starts_what_is_pulled_and_nothing_else() {
    let world = World::with_overrides(&format!("{QUICK},deliver_web_push_critical.rate=50/s")).await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(messages(&world).await, 4);
    worker.stop().await;
}

#[tokio::test]
async fn what_has_no_place_has_a_message() {
    let world = World::with_overrides(&format!("{QUICK},deliver_web_push_critical.concurrency=1")).await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    assert!(messages(&world).await > 0);
    world.queues_are_empty().await;
    worker.stop().await;
}

/// A slow push service delays no notification.
#[tokio::test]
async fn what_takes_long_gets_a_message_and_is_not_sent_twice() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    // The first push opens the connection.
    world.remind("first").await;
    world.everyone_has_it_once("first").await;
    world.push.behave("ana", Behaviour::Slow(Duration::from_secs(8)));
    world.remind("dose").await;
    let noted = "SELECT count(*) FROM job_runs WHERE job_id = 'dose~notification' AND NOT children_pending";
    world.eventually("the notification is done", async || (world.count(noted).await == 1).then_some(())).await;
    assert_eq!(world.delivery_to("dose", "ana").await.state, "sending", "the slow push continues");
    let ledger = world.ledger("dose").await;
    assert!(ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    assert!(messages(&world).await >= 1);
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().requests, 8, "the message found the push sent or being sent");
    worker.stop().await;
}

/// Only the holder of a run's message may give up its claims.
#[tokio::test]
async fn a_job_that_is_published_again_meanwhile_has_no_push_sent_twice() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("first").await;
    world.everyone_has_it_once("first").await;
    // The push's message, published after a second, looks again before this ends.
    world.push.behave("ana", Behaviour::Slow(Duration::from_secs(8)));
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish_json("jobs.notification.critical", "news", &body).await;
    let noted = "SELECT count(*) FROM job_runs WHERE job_id = 'news' AND state = 'done' AND NOT children_pending";
    world.eventually("the notification is done", async || (world.count(noted).await == 1).then_some(())).await;
    world.publish_json("jobs.notification.critical", "news", &body).await;
    world.ledger("news").await;
    world.queues_are_empty().await;
    let line = world.delivery_to("news", "ana").await;
    assert_eq!((line.state.as_str(), line.claims), ("sent", 1));
    assert_eq!(world.push.counts().requests, 5);
    worker.stop().await;
}

/// The database may have changed since the recipients were read.
#[tokio::test]
async fn what_was_read_too_long_before_its_commit_gets_a_message() {
    for (took, by_message) in [(5, false), (6, true)] {
        let world = World::new().await;
        let clock = Clock::manual(utc_now());
        let settings = Source::of(world.environment()).web_push().unwrap().unwrap();
        let push: Arc<dyn Sender> = Arc::new(WebPush::new(settings, clock.clone()).unwrap());
        let pipeline = Custom::sending(&world, jobs::registry(), clock.clone(), vec![push]);
        // Reads pass, and writes wait.
        let mut held = world.db.begin().await.unwrap();
        sqlx::query("LOCK TABLE job_runs IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
        world.remind("dose").await;
        let waits = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database \
                     WHERE datname = current_database() AND relation = 'job_runs'::regclass AND NOT granted";
        world.eventually("its commit waits", async || (world.count(waits).await == 1).then_some(())).await;
        world.sql("DELETE FROM push_subscriptions WHERE id = 'dan'").await;
        clock.advance(TimeDelta::seconds(took));
        held.rollback().await.unwrap();

        let ledger = world.ledger("dose").await;
        world.queues_are_empty().await;
        let sent = ledger.iter().filter(|line| line.state == "sent").count();
        assert_eq!((ledger.len(), sent), if by_message { (4, 3) } else { (4, 4) }, "{ledger:?}");
        assert_eq!(messages(&world).await, if by_message { 4 } else { 0 });
        assert_eq!(world.push.counts().requests, sent);
        assert!(ledger.iter().all(|line| line.attempts == 0), "{ledger:?}");
        world.all_is_published().await;
        pipeline.stop().await;
    }
}

/// A failed direct send loses no attempt and repeats none.
#[tokio::test]
async fn what_fails_goes_on_by_a_message() {
    let world = World::new().await;
    world.push.behave("ana", Behaviour::status(503));
    world.push.behave_always("ben", Some(Behaviour::status(503)));
    world.push.behave("chloe", Behaviour::status(400));
    world.push.behave("dan", Behaviour::status(410));
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.ledger("dose").await;
    world.queues_are_empty().await;
    let mut ended = Vec::new();
    for user in FAMILY {
        let line = world.delivery_to("dose", user).await;
        ended.push((line.state, line.attempts));
    }
    let expected = [("sent", 1), ("dead", 3), ("dead", 1), ("failed", 0)];
    assert_eq!(ended, expected.map(|(state, attempts)| (state.to_owned(), attempts)));
    assert_eq!(world.push.counts().requests, 2 + 3 + 1 + 1);
    let letters = world.dead_letters_once(2).await;
    assert_eq!(letters.len(), 2);
    for (subject, headers, _) in letters {
        assert!(subject.starts_with("dead.deliver.web_push.DELIVERIES."), "{subject}");
        let reason = headers.get("Carebell-Dead-Reason").unwrap().as_str();
        assert!(["permanent", "exhausted"].contains(&reason), "{reason}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_claim_that_was_planned_is_held_and_given_up() {
    let store = store().await;
    let plan = |id: &str, worker: &str| {
        let mut commit = planned(id);
        let ids = [id.to_owned()].into();
        commit.direct = Some(DirectClaims { worker: worker.into(), ids });
        commit
    };
    let committed = store.commit(&[plan("a", "one"), plan("b", "one"), planned("c")]).await.unwrap();
    assert!(committed.iter().all(|noted| noted.committed == Committed::Fresh));
    let claimed: Vec<usize> = committed.iter().map(|noted| noted.claimed.len()).collect();
    assert_eq!(claimed, [1, 1, 0]);
    let again = store.commit(&[plan("a", "two")]).await.unwrap().remove(0);
    assert_eq!((again.committed, again.claimed.len()), (Committed::Duplicate, 0));

    let now = utc_now();
    let claim = async |worker: &str, id: &str, now| {
        store.claim_deliveries(&[ask_by(worker, id, 7, 1, now)]).await.unwrap().remove(0)
    };
    for worker in ["one", "two"] {
        let found = claim(worker, "a", now + TimeDelta::seconds(30)).await;
        assert!(matches!(found, Claimed::Busy(_)), "it is being sent: {found:?}");
    }
    // Asking for pending children publishes the push's message, and frees only claims made before `before`.
    let pending = async |run: &str, before| store.pending_children(run, before).await.unwrap();
    let early = pending("job-a", now - TimeDelta::seconds(15)).await;
    assert_eq!(early.children, [], "its worker may be sending it");
    assert!(early.claimed_at.is_some_and(|at| (at - now).abs() < TimeDelta::seconds(5)), "{early:?}");
    assert!(matches!(claim("two", "a", now).await, Claimed::Busy(_)));
    let late = pending("job-a", now + TimeDelta::seconds(1)).await;
    assert_eq!((late.children.len(), late.claimed_at), (1, None));
    let taken = claim("two", "a", now).await;
    assert!(matches!(&taken, Claimed::Taken(claim) if claim.unsettled && claim.claims == 2), "{taken:?}");

    store.release_direct("job-b", "two").await.unwrap();
    assert!(matches!(claim("two", "b", now).await, Claimed::Busy(_)), "two does not own this claim");
    store.release_direct("job-b", "one").await.unwrap();
    assert!(matches!(claim("two", "b", now).await, Claimed::Taken(_)));
    let third = claim("two", "c", now).await;
    assert!(matches!(&third, Claimed::Taken(claim) if !claim.unsettled), "{third:?}");
    assert_eq!(NO_MESSAGE, 0, "no message has this sequence");
}
