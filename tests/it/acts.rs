//! Retry, cancellation and discarding of one job, by commands and by the console's API.

use std::time::Duration;

use carebell::{admin::access::Role, dev::push_service::Behaviour};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    retries::{LONG, news, parked, pipeline},
    support::{ADMIN_TOKEN, Answer, Console, Worker, World, peek, reminder, utc_now},
};

const NEWS: &str = "jobs.notification.normal";

async fn post(console: &Console, path: &str) -> Answer {
    console.api(Method::POST, path, ADMIN_TOKEN, None).await
}

/// Once it has reached NATS.
pub async fn console_of(world: &World) -> Console {
    let console = Console::start(world).await;
    world
        .eventually("NATS is reached", async || (console.get("/queues").await.status == StatusCode::OK).then_some(()))
        .await;
    console
}

async fn delete(console: &Console, id: &str) -> Answer {
    console.api(Method::DELETE, &format!("/jobs/{id}"), ADMIN_TOKEN, None).await
}

#[tokio::test]
async fn a_dead_job_is_retried_by_its_id_and_what_would_follow_is_said_before() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.push.behave_times("ana", 2, Behaviour::status(400));
    for id in ["one", "two"] {
        world.publish_json(NEWS, id, &news("ana")).await;
        world.ledger(id).await;
    }
    world.dead_letters_once(2).await;
    let (well, said, error) = carebell(&world, &["jobs", "retry", "one", "--dry-run"], &[]).await;
    assert!(well && said.contains("would be redriven; it would run now"), "{said}{error}");
    assert_eq!(world.dead_letters().await.len(), 2, "a dry run changes nothing");
    let (well, said, error) = carebell(&world, &["jobs", "retry", "one", "--by", "olga"], &[]).await;
    assert!(well && said.contains("job one is tried again: 1 redriven"), "{said}{error}");
    world.eventually("it is sent", async || (world.ledger("one").await[0].state == "sent").then_some(())).await;

    let console = console_of(&world).await;
    let viewer = console.token("vera", Role::Coordinator).await;
    assert_eq!(console.api(Method::POST, "/jobs/two/retry", &viewer, None).await.status, StatusCode::FORBIDDEN);
    let id = world.ledger("two").await[0].id.clone();
    let dry = post(&console, "/jobs/two/retry?dry_run=true").await;
    let expected = json!([{ "job_id": id, "act": "redrive", "letter": 2, "prediction": "would_run", "until": null }]);
    assert_eq!((dry.status, &dry.body["would_retry"]), (StatusCode::OK, &expected));
    world.sql("UPDATE deliveries SET state = 'skipped', reason = 'cancelled' WHERE state = 'dead'").await;
    let cancelled = post(&console, "/jobs/two/retry").await;
    assert_eq!(cancelled.status, StatusCode::CONFLICT, "{cancelled:?}");
    world.sql("UPDATE deliveries SET state = 'dead', reason = 'permanent' WHERE state = 'skipped'").await;
    let done = post(&console, &format!("/jobs/{id}/retry")).await;
    assert_eq!((done.status, &done.body["redriven"]), (StatusCode::OK, &json!([2])), "{done:?}");
    world.eventually("it is sent", async || (world.ledger("two").await[0].state == "sent").then_some(())).await;
    let again = post(&console, "/jobs/two/retry").await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert!(again.body["detail"].as_str().unwrap().contains("has ended: sent"), "{again:?}");
    assert_eq!(world.push.counts().accepted, 2, "nobody is told twice");
    let acts = "SELECT count(*) FROM audit_log WHERE action = 'dead_letter.redriven' AND actor = ";
    assert_eq!(world.count(&format!("{acts}'olga'")).await + world.count(&format!("{acts}'ADMIN_TOKEN'")).await, 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_dead_job_without_a_record_is_found_by_its_letter() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.publish(NEWS, &[("Carebell-Job-Id", "odd")], "none").await;
    world.dead_letters_once(1).await;
    world.sql("DELETE FROM job_runs").await;
    let console = console_of(&world).await;
    let dry = post(&console, "/jobs/odd/retry?dry_run").await;
    assert_eq!(dry.body["would_retry"][0]["letter"], 1, "{dry:?}");
    assert_eq!(delete(&console, "odd").await.status, StatusCode::NO_CONTENT);
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(world.count("SELECT count(*) FROM audit_log WHERE action = 'dead_letter.discarded'").await, 1);
    let again = post(&console, "/jobs/odd/retry").await;
    assert!(again.body["detail"].as_str().unwrap().contains("its dead letter was discarded"), "{again:?}");
    worker.stop().await;
}

#[tokio::test]
async fn parked_deliveries_go_on_now_and_leave_nothing_in_hold() {
    let world = World::with_overrides(LONG).await;
    let worker = Worker::start(&world);
    world.push.behave("ana", Behaviour::retry_after(429, "3600"));
    world.publish_json(NEWS, "later", &news("ana")).await;
    parked(&world, 1).await;
    let id = world.delivery_to("later", "ana").await.id;
    let (well, said, error) = carebell(&world, &["jobs", "retry", "later", "--dry-run"], &[]).await;
    assert!(well && said.contains("parked until") && said.contains("it would run now"), "{said}{error}");
    let console = console_of(&world).await;
    let woken = post(&console, "/jobs/later/retry").await;
    assert_eq!((woken.status, &woken.body["woken"]), (StatusCode::OK, &json!([id])), "{woken:?}");
    world.eventually("it is sent", async || (world.ledger("later").await[0].state == "sent").then_some(())).await;
    world.eventually("HOLD is empty", async || (peek(&world.context, "HOLD", "hold.>").await == 0).then_some(())).await;
    assert_eq!(world.push.counts().accepted, 1);
    assert_eq!(world.count("SELECT count(*) FROM audit_log WHERE action = 'job.woken' AND root_id = 'later'").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_parked_run_goes_on_now_with_its_failures() {
    let world = World::with_overrides(LONG).await;
    let custom = pipeline(&world);
    world.publish_json("jobs.reminder.medication", "dose", &reminder("metformin", utc_now())).await;
    parked(&world, 1).await;
    let (well, said, error) = carebell(&world, &["jobs", "retry", "dose", "--by", "olga"], &[]).await;
    assert!(well && said.contains("1 woken"), "{said}{error}");
    assert_eq!(world.ended("dose").await, ("dead".to_owned(), Some("exhausted".to_owned())), "it had two attempts");
    parked(&world, 0).await;
    assert_eq!(world.count("SELECT count(*) FROM audit_log WHERE action = 'job.woken' AND actor = 'olga'").await, 1);
    custom.stop().await;
}

#[tokio::test]
async fn what_waits_runs_or_has_ended_is_not_retried_and_says_why() {
    let world = World::new().await;
    let console = console_of(&world).await;
    let refused = async |id: &str, status: StatusCode, why: &str| {
        let answer = post(&console, &format!("/jobs/{id}/retry")).await;
        let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == status && detail.contains(why), "{id}: {answer:?}");
    };
    refused("nothing", StatusCode::NOT_FOUND, "there is no job").await;
    world.publish_json(NEWS, "waits", &news("ana")).await;
    refused("waits", StatusCode::CONFLICT, "waits for a worker").await;
    refused("a%20b", StatusCode::UNPROCESSABLE_ENTITY, "A-Z").await;
    let worker = Worker::start(&world);
    world.ledger("waits").await;
    refused("waits", StatusCode::CONFLICT, "has ended: sent").await;
    world.push.behave("ana", Behaviour::Hang);
    world.publish_json(NEWS, "runs", &news("ana")).await;
    world
        .eventually("it is being sent", async || {
            (world.count("SELECT count(*) FROM deliveries WHERE state = 'sending'").await == 1).then_some(())
        })
        .await;
    refused("runs", StatusCode::CONFLICT, "is running").await;
    let stopped = delete(&console, "runs").await;
    assert_eq!((stopped.status, &stopped.body["being_sent"]), (StatusCode::ACCEPTED, &json!(1)), "{stopped:?}");
    let later = (utc_now() + TimeDelta::hours(1)).to_rfc3339();
    let headers = [("Carebell-Job-Id", "tomorrow"), ("Carebell-At", &*later), ("Content-Type", "application/json")];
    world.publish("jobs.later.notification.normal", &headers, news("ana").to_string()).await;
    world
        .eventually("it is noted", async || {
            (world.count("SELECT count(*) FROM delayed_jobs WHERE state = 'waiting'").await == 1).then_some(())
        })
        .await;
    refused("tomorrow", StatusCode::CONFLICT, "is delayed until").await;
    assert_eq!(delete(&console, "tomorrow").await.status, StatusCode::NO_CONTENT);
    let wrong = post(&console, "/jobs/waits/retry?dry_run=perhaps").await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_waits_or_is_parked_is_cancelled_and_one_that_ended_keeps_its_record() {
    let world = World::with_overrides(LONG).await;
    let console = console_of(&world).await;
    world.publish_json(NEWS, "waits", &news("ana")).await;
    assert_eq!(delete(&console, "waits").await.status, StatusCode::NO_CONTENT);
    assert_eq!(delete(&console, "nothing").await.status, StatusCode::NOT_FOUND);
    let worker = Worker::start(&world);
    world.queues_are_empty().await;
    assert_eq!(world.ended("waits").await, ("skipped".to_owned(), Some("cancelled".to_owned())));
    world.push.behave("ana", Behaviour::retry_after(429, "3600"));
    world.publish_json(NEWS, "parked", &news("ana")).await;
    parked(&world, 1).await;
    assert_eq!(delete(&console, "parked").await.status, StatusCode::NO_CONTENT);
    let line = world.delivery_to("parked", "ana").await;
    assert_eq!((line.state.as_str(), line.reason.as_deref()), ("skipped", Some("cancelled")));
    world.push.behave("ana", Behaviour::status(400));
    world.publish_json(NEWS, "dead", &news("ana")).await;
    world.dead_letters_once(1).await;
    assert_eq!(delete(&console, "dead").await.status, StatusCode::NO_CONTENT);
    assert!(world.dead_letters().await.is_empty(), "it is discarded");
    let again = post(&console, "/jobs/dead/retry").await;
    assert!(again.body["detail"].as_str().unwrap().contains("discarded by ADMIN_TOKEN"), "{again:?}");
    world.publish_json(NEWS, "done", &news("ana")).await;
    world.eventually("it is sent", async || (world.ledger("done").await[0].state == "sent").then_some(())).await;
    let kept = delete(&console, "done").await;
    assert_eq!(kept.status, StatusCode::CONFLICT, "{kept:?}");
    let kept: Value = console.get("/jobs/done").await.body;
    assert_eq!(kept["deliveries"][0]["state"], "sent");
    worker.stop().await;
    assert_eq!(world.push.counts().accepted, 1);
}

#[tokio::test]
async fn two_who_retry_at_once_tell_nobody_twice() {
    let world = World::with_overrides(LONG).await;
    let worker = Worker::start(&world);
    world.push.behave("ana", Behaviour::status(400));
    world.publish_json(NEWS, "dead", &news("ana")).await;
    world.dead_letters_once(1).await;
    let consoles = [console_of(&world).await, console_of(&world).await];
    let [one, other] = &consoles;
    let (one, other) = tokio::join!(post(one, "/jobs/dead/retry"), post(other, "/jobs/dead/retry"));
    assert!(one.status.is_success() || other.status.is_success(), "{one:?} {other:?}");
    world.eventually("it is sent", async || (world.ledger("dead").await[0].state == "sent").then_some(())).await;
    world.queues_are_empty().await;
    tokio::time::timeout(Duration::from_secs(30), world.all_is_published()).await.unwrap();
    assert_eq!(world.push.counts().accepted, 1);
    worker.stop().await;
}
