//! Operations: acts on all that a filter finds, and the emptying of queues.

use std::collections::BTreeSet;

use carebell::{
    admin::access::Role,
    clock::Clock,
    dead_letter::{Change, Letters, Redriver, wake},
    dev::push_service::Behaviour,
    store::{Progress, RunAsk},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    acts::console_of,
    cli::carebell,
    retries::{LONG, news, parked, pipeline},
    support::{ADMIN_TOKEN, Answer, Console, Worker, World, peek, reminder},
};

const NEWS: &str = "jobs.notification.normal";

/// Two batches and a part of a third.
const MANY: usize = 120;

async fn post(console: &Console, path: &str, body: Value) -> Answer {
    console.api(Method::POST, path, ADMIN_TOKEN, Some(body)).await
}

async fn begin(console: &Console, act: &str, filter: Value, count: usize) -> i64 {
    let body = json!({ "act": act, "filter": filter, "count": count, "reason": "tried" });
    let begun = post(console, "/operations", body).await;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{begun:?}");
    begun.body["operation"].as_i64().unwrap()
}

async fn end_of(world: &World, console: &Console, id: i64) -> Value {
    let path = format!("/operations/{id}");
    let end = async || Some(console.get(&path).await.body).filter(|row| row["state"] != "running");
    world.eventually("the operation ends", end).await
}

/// Once its holder has been silent for long enough.
async fn its_lease_ends(world: &World) {
    world.sql("UPDATE operations SET leased_until = now() - interval '1 second'").await;
}

/// Dead deliveries, one for each job.
async fn dead_ones(world: &World, count: usize) {
    world.push.behave_always("ana", Some(Behaviour::status(400)));
    for number in 0..count {
        world.publish_json(NEWS, &format!("news-{number}"), &news("ana")).await;
    }
    world.dead_letters_once(count).await;
    world.queues_are_empty().await;
    world.push.behave_always("ana", None);
}

async fn all_are_sent_once(world: &World, count: usize) {
    let sent = "SELECT count(*) FROM deliveries WHERE state = 'sent'";
    world
        .eventually("all are sent", async || (world.count(sent).await == i64::try_from(count).unwrap()).then_some(()))
        .await;
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, count, "nobody is told twice");
}

async fn acts(world: &World, action: &str) -> usize {
    let text = format!("SELECT count(*) FROM audit_log WHERE action = '{action}' AND detail ? 'operation'");
    usize::try_from(world.count(&text).await).unwrap()
}

#[tokio::test]
async fn dead_jobs_are_retried_by_the_count_that_was_shown_also_after_the_console_is_killed() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    dead_ones(&world, MANY).await;
    let mut console = console_of(&world).await;
    let filter = json!({ "kind": "deliver.web_push", "reason": "permanent", "since": "1h" });
    let preview = post(&console, "/operations/preview", json!({ "act": "retry", "filter": filter })).await;
    assert_eq!((preview.status, &preview.body["count"]), (StatusCode::OK, &json!(MANY)), "{preview:?}");
    assert_eq!(preview.body["sample"][0]["prediction"], "would_run", "{preview:?}");
    let none = json!({ "act": "retry", "filter": { "reason": "crashed" } });
    assert_eq!(post(&console, "/operations/preview", none).await.body["count"], 0);
    let few = json!({ "act": "retry", "filter": filter, "count": MANY - 1, "reason": "x" });
    let few = post(&console, "/operations", few).await;
    assert_eq!(few.status, StatusCode::CONFLICT);
    assert!(few.body["detail"].as_str().unwrap().contains(&format!("confirm {MANY}")), "{few:?}");

    let id = begin(&console, "retry", filter, MANY).await;
    let done = format!("SELECT done FROM operations WHERE id = {id}");
    world.eventually("it is in the middle", async || (world.count(&done).await > 0).then_some(())).await;
    console.kill().await;
    assert!(world.count(&done).await < i64::try_from(MANY).unwrap(), "it is not over");
    let other = console_of(&world).await;
    its_lease_ends(&world).await;
    let row = end_of(&world, &other, id).await;
    assert!(row["state"] == "done" && row["done"] == MANY && row["skipped"] == json!({}), "{row}");
    all_are_sent_once(&world, MANY).await;
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(acts(&world, "dead_letter.redriven").await, MANY);
    assert_eq!((acts(&world, "operation.started").await, acts(&world, "operation.done").await), (1, 1));
    worker.stop().await;
}

/// A holder that is killed between an act and its note is the worst case.
#[tokio::test]
async fn a_batch_that_was_begun_by_another_is_neither_done_nor_counted_twice() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    dead_ones(&world, 3).await;
    let (well, said, error) =
        carebell(&world, &["operations", "start", "retry", "--count", "3", "--reason", "x", "--detach", "--json"], &[])
            .await;
    assert!(well, "{error}");
    let id = serde_json::from_str::<Value>(&said).unwrap()["operation"].as_i64().unwrap();
    let row = world.store.lease_operation(None, "lost").await.unwrap().unwrap();
    assert!(world.store.lease_operation(None, "other").await.unwrap().is_none(), "one holds it");
    let letters = Letters::open(&world.context).await.unwrap();
    let numbers = [1, 2, 3];
    let progress = Progress { cursor: json!({ "next": 4, "last": 3, "todo": numbers }), ..Progress::default() };
    assert!(world.store.advance_operation(&row, &progress, None, crate::support::utc_now()).await.unwrap());
    let first = letters.get(1).await.unwrap().unwrap();
    let clock = Clock::system();
    let redriver =
        Redriver { context: &world.context, letters: &letters, store: &world.store, clock: &clock, actor: "x" };
    let change = Change { operation: Some(id), ..Change::default() };
    redriver.redrive(&[first], &change).await.unwrap()[0].as_ref().unwrap();
    letters.erase(2).await.unwrap();
    its_lease_ends(&world).await;
    let (well, said, error) = carebell(&world, &["operations", "run", &id.to_string(), "--json"], &[]).await;
    assert!(well, "{error}");
    let after: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&after["done"], &after["skipped"]), (&json!(2), &json!({ "somebody was faster": 1 })), "{after}");
    assert!(!world.store.advance_operation(&row, &progress, None, crate::support::utc_now()).await.unwrap(), "fenced");
    all_are_sent_once(&world, 2).await;
    assert_eq!(acts(&world, "dead_letter.redriven").await, 2);
    worker.stop().await;
}

#[tokio::test]
async fn of_two_consoles_one_carries_an_operation_out() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    dead_ones(&world, MANY).await;
    let (one, other) = (console_of(&world).await, console_of(&world).await);
    let id = begin(&one, "discard", json!({}), MANY).await;
    let row = end_of(&world, &other, id).await;
    assert!(row["state"] == "done" && row["done"] == MANY && row["skipped"] == json!({}), "{row}");
    assert_eq!(acts(&world, "dead_letter.discarded").await, MANY);
    assert!(world.dead_letters().await.is_empty());
    let again = post(&one, "/operations", json!({ "act": "discard", "count": MANY, "reason": "x" })).await;
    assert!(
        again.status == StatusCode::CONFLICT && again.body["detail"].as_str().unwrap().contains("0 jobs"),
        "{again:?}"
    );
    let listed = other.get("/operations?limit=1").await;
    assert_eq!((&listed.body["items"][0]["operation"], &listed.body["next"]), (&json!(id), &Value::Null));
    worker.stop().await;
}

#[tokio::test]
async fn an_operation_is_cancelled_in_the_middle_and_the_rest_stays() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    dead_ones(&world, MANY).await;
    let console = console_of(&world).await;
    let id = begin(&console, "discard", json!({ "status": "dead" }), MANY).await;
    let path = format!("/operations/{id}");
    world
        .eventually("it is in the middle", async || {
            (console.get(&path).await.body["done"].as_u64() > Some(0)).then_some(())
        })
        .await;
    let stopped = console.api(Method::DELETE, &path, ADMIN_TOKEN, None).await;
    assert_eq!((stopped.status, &stopped.body["state"]), (StatusCode::OK, &json!("cancelled")), "{stopped:?}");
    let again = console.api(Method::DELETE, &path, ADMIN_TOKEN, None).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let unknown = console.api(Method::DELETE, "/operations/99", ADMIN_TOKEN, None).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    // The batch under way is the last one.
    drop(console);
    let left = world.dead_letters().await.len();
    assert!(left > 0 && left < MANY, "{left}");
    assert_eq!(acts(&world, "dead_letter.discarded").await + left, MANY);
    assert_eq!((acts(&world, "operation.cancelled").await, acts(&world, "operation.done").await), (1, 0));
    worker.stop().await;
}

#[tokio::test]
async fn parked_and_delayed_jobs_are_cancelled_or_woken_those_that_changed_meanwhile_are_left_alone() {
    let world = World::with_overrides(LONG).await;
    let worker = Worker::start(&world);
    let console = console_of(&world).await;
    world.push.behave_always("ana", Some(Behaviour::retry_after(429, "3600")));
    for id in ["one", "two", "three"] {
        world.publish_json(NEWS, id, &news("ana")).await;
    }
    parked(&world, 3).await;
    let held = json!({ "status": "held", "queue": "deliver_web_push_normal" });
    let preview = post(&console, "/operations/preview", json!({ "act": "cancel", "filter": held })).await;
    assert_eq!(
        (&preview.body["count"], &preview.body["sample"][0]["state"]),
        (&json!(3), &json!("held")),
        "{preview:?}"
    );
    world.publish_json(NEWS, "four", &news("ana")).await;
    parked(&world, 4).await;
    let more = json!({ "act": "cancel", "filter": held, "count": 3, "reason": "x" });
    let more = post(&console, "/operations", more).await;
    assert!(
        more.status == StatusCode::CONFLICT && more.body["detail"].as_str().unwrap().contains("4 jobs"),
        "{more:?}"
    );
    let by_hand = console.api(Method::DELETE, "/jobs/one", ADMIN_TOKEN, None).await;
    assert_eq!(by_hand.status, StatusCode::NO_CONTENT);
    world.push.behave_always("ana", None);
    let woken = post(&console, "/jobs/two/retry", json!({})).await;
    assert_eq!(woken.status, StatusCode::OK, "{woken:?}");
    world.eventually("it is sent", async || (world.ledger("two").await[0].state == "sent").then_some(())).await;
    let id = begin(&console, "cancel", held.clone(), 4).await;
    let row = end_of(&world, &console, id).await;
    assert!(row["done"] == 2 && row["counted"] == 2 && row["state"] == "done", "{row}");
    assert_eq!(acts(&world, "job.cancelled").await, 2);
    assert_eq!(world.delivery_to("two", "ana").await.state, "sent");

    world.push.behave("ana", Behaviour::retry_after(429, "3600"));
    world.publish_json(NEWS, "five", &news("ana")).await;
    world
        .eventually("it is parked", async || {
            (world.count("SELECT count(*) FROM deliveries WHERE state = 'held'").await == 1).then_some(())
        })
        .await;
    let id = begin(&console, "retry", held, 1).await;
    let row = end_of(&world, &console, id).await;
    assert!(row["done"] == 1 && row["state"] == "done", "{row}");
    world.eventually("it is sent", async || (world.ledger("five").await[0].state == "sent").then_some(())).await;
    assert_eq!(world.push.counts().accepted, 2);

    let later = (crate::support::utc_now() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let headers = [("Carebell-Job-Id", "later"), ("Carebell-At", &*later), ("Content-Type", "application/json")];
    world.publish("jobs.later.notification.normal", &headers, news("ana").to_string()).await;
    world
        .eventually("it is noted", async || (peek(&world.context, "HOLD", "hold.at.>").await == 1).then_some(()))
        .await;
    let args =
        ["operations", "start", "cancel", "--state", "delayed", "--count", "1", "--reason", "moved", "--by", "olga"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well && said.contains("1 done, 0 passed over, 0 failed"), "{said}{error}");
    assert_eq!(peek(&world.context, "HOLD", "hold.at.>").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM delayed_jobs WHERE state = 'cancelled'").await, 1);
    worker.stop().await;
}

async fn pause(world: &World, console: &Console, queue: &str) {
    let paused = post(console, &format!("/queues/{queue}/pause"), json!({ "reason": "tried" })).await;
    assert!(paused.status.is_success(), "{paused:?}");
    world
        .eventually("its worker knows it", async || {
            (console.get(&format!("/queues/{queue}")).await.body["pulls"] == 0).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_queue_is_emptied_up_to_what_was_confirmed_also_after_a_kill() {
    const WAITING: usize = 700;
    let world = World::new().await;
    let worker = Worker::start(&world);
    let mut console = console_of(&world).await;
    pause(&world, &console, "notification_bulk").await;
    for number in 0..WAITING {
        world.publish_json("jobs.notification.bulk", &format!("bulk-{number}"), &news("ana")).await;
    }
    world.publish_json(NEWS, "other", &news("ana")).await;
    let path = "/queues/notification_bulk/empty";
    for (count, status) in [(WAITING - 1, StatusCode::CONFLICT), (WAITING, StatusCode::ACCEPTED)] {
        let answer = post(&console, path, json!({ "count": count, "reason": "wrong text" })).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    world.publish_json("jobs.notification.bulk", "after", &news("ana")).await;
    let done = "SELECT done FROM operations WHERE id = 1";
    world.eventually("it is in the middle", async || (world.count(done).await > 0).then_some(())).await;
    console.kill().await;
    assert!(world.count(done).await < i64::try_from(WAITING).unwrap(), "it is not over");
    let console = console_of(&world).await;
    its_lease_ends(&world).await;
    let row = end_of(&world, &console, 1).await;
    assert!(row["done"] == WAITING && row["skipped"] == json!({}) && row["state"] == "done", "{row}");
    assert_eq!(peek(&world.context, "JOBS", "jobs.notification.bulk").await, 1, "the one that came later stays");
    let resumed = console.api(Method::POST, "/queues/notification_bulk/resume", ADMIN_TOKEN, None).await;
    assert!(resumed.status.is_success());
    all_are_sent_once(&world, 2).await;
    let sent: BTreeSet<String> = world.push.received().iter().map(|push| push.json()["title"].to_string()).collect();
    assert_eq!(sent.len(), 1);
    let cancelled = "SELECT count(*) FROM job_runs WHERE state = 'skipped' AND reason = 'cancelled'";
    assert_eq!(world.count(cancelled).await, i64::try_from(WAITING).unwrap());
    assert_eq!(acts(&world, "job.cancelled").await, WAITING);
    worker.stop().await;
}

#[tokio::test]
async fn emptying_deliveries_leaves_no_ledger_row_pending() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = console_of(&world).await;
    pause(&world, &console, "deliver_web_push_normal").await;
    for id in ["one", "two"] {
        world.publish_json(NEWS, id, &news("ana")).await;
    }
    world.eventually("they wait", async || (peek(&world.context, "DELIVERIES", ">").await == 2).then_some(())).await;
    let (well, said, error) =
        carebell(&world, &["queues", "empty", "deliver_web_push_normal", "--reason", "x"], &[]).await;
    assert!(!well && said.starts_with("2 jobs to empty") && error.contains("--count 2"), "{said}{error}");
    let args = ["queues", "empty", "deliver_web_push_normal", "--count", "2", "--reason", "x", "--by", "olga"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well && said.contains("2 done"), "{said}{error}");
    assert_eq!(peek(&world.context, "DELIVERIES", ">").await, 0);
    for id in ["one", "two"] {
        let line = world.delivery_to(id, "ana").await;
        assert_eq!((line.state.as_str(), line.reason.as_deref()), ("skipped", Some("cancelled")));
    }
    assert_eq!(
        world.count("SELECT count(*) FROM audit_log WHERE actor = 'olga' AND action LIKE 'operation.%'").await,
        2
    );
    let (well, _, error) = carebell(&world, &["queues", "empty", "later", "--count", "1", "--reason", "x"], &[]).await;
    assert!(!well && error.contains("there is no queue"), "{error}");
    assert_eq!(world.push.counts().requests, 0);
    worker.stop().await;
}

/// What runs while its queue is emptied goes on, and nothing of it is lost.
#[tokio::test]
async fn what_runs_while_its_queue_is_emptied_goes_on() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = console_of(&world).await;
    world.push.behave("ana", Behaviour::Slow(std::time::Duration::from_secs(4)));
    pause(&world, &console, "deliver_web_push_normal").await;
    world.publish_json(NEWS, "runs", &news("ana")).await;
    world.eventually("it waits", async || (peek(&world.context, "DELIVERIES", ">").await == 1).then_some(())).await;
    let resumed = console.api(Method::POST, "/queues/deliver_web_push_normal/resume", ADMIN_TOKEN, None).await;
    assert!(resumed.status.is_success());
    world
        .eventually("it is being sent", async || {
            (world.count("SELECT count(*) FROM deliveries WHERE state = 'sending'").await == 1).then_some(())
        })
        .await;
    let begun = post(&console, "/queues/deliver_web_push_normal/empty", json!({ "count": 1, "reason": "x" })).await;
    let row = end_of(&world, &console, begun.body["operation"].as_i64().unwrap()).await;
    assert!(row["done"] == 0 && row["skipped"].as_object().unwrap().len() == 1, "{row}");
    all_are_sent_once(&world, 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn operations_need_their_role_and_say_what_is_malformed() {
    let world = World::new().await;
    let console = console_of(&world).await;
    let coordinator = console.token("cora", Role::Coordinator).await;
    let operator = console.token("otto", Role::Operator).await;
    let body = || json!({ "act": "retry", "count": 1, "reason": "x" });
    for (method, path, body) in [
        (Method::POST, "/operations", Some(body())),
        (Method::POST, "/operations/preview", Some(json!({ "act": "retry" }))),
        (Method::GET, "/operations", None),
        (Method::GET, "/operations/1", None),
        (Method::DELETE, "/operations/1", None),
    ] {
        let answer = console.api(method, path, &coordinator, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}: {answer:?}");
    }
    let as_operator = async |path: &str, body: Value| console.api(Method::POST, path, &operator, Some(body)).await;
    let emptying = json!({ "count": 1, "reason": "x" });
    assert_eq!(as_operator("/queues/notification_bulk/empty", emptying.clone()).await.status, StatusCode::FORBIDDEN);
    let emptied = json!({ "act": "empty", "filter": { "queue": "notification_bulk" }, "count": 1, "reason": "x" });
    assert_eq!(as_operator("/operations", emptied).await.status, StatusCode::FORBIDDEN, "nor by the other way");
    assert_eq!(post(&console, "/queues/notification_bulk/empty", emptying.clone()).await.status, StatusCode::CONFLICT);
    assert_eq!(post(&console, "/queues/bulk/empty", emptying.clone()).await.status, StatusCode::NOT_FOUND);
    let later = post(&console, "/queues/later/empty", emptying).await;
    assert!(
        later.status == StatusCode::CONFLICT && later.body["detail"].as_str().unwrap().contains("no jobs"),
        "{later:?}"
    );
    for (body, path) in [
        (json!({ "act": "burn" }), "act"),
        (json!({ "act": "retry", "filter": { "status": "done" } }), "status"),
        (json!({ "act": "cancel" }), "status"),
        (json!({ "act": "cancel", "filter": { "status": "held", "reason": "permanent" } }), "reason"),
        (json!({ "act": "retry", "filter": { "reason": "boredom" } }), "reason"),
        (json!({ "act": "retry", "filter": { "since": "soon" } }), "since"),
        (json!({ "act": "retry", "filter": { "user": "ana" } }), "user"),
        (json!({ "act": "retry", "filter": { "colour": "red" } }), "filter.colour"),
    ] {
        let answer = as_operator("/operations/preview", body).await;
        let told = (answer.status, answer.body["errors"][0]["path"].as_str());
        assert_eq!(told, (StatusCode::UNPROCESSABLE_ENTITY, Some(path)), "{answer:?}");
    }
    let looks = "SELECT count(*) FROM audit_log WHERE action = 'person.viewed' AND actor = 'otto'";
    let body = json!({ "act": "cancel", "filter": { "status": "held", "user": "ana" } });
    assert_eq!(as_operator("/operations/preview", body).await.status, StatusCode::OK);
    assert_eq!(world.count(looks).await, 2, "looks at people are on record");
    let wordless = json!({ "act": "retry", "count": 1, "reason": " " });
    assert_eq!(as_operator("/operations", wordless).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let (well, _, error) = carebell(&world, &["operations", "show", "7"], &[]).await;
    assert!(!well && error.contains("there is no operation 7"), "{error}");
}

/// A holder that is killed after it has woken a run, and before it has noted it.
#[tokio::test]
async fn a_run_that_was_woken_by_a_lost_console_is_counted_as_done() {
    let world = World::with_overrides(LONG).await;
    let pipeline = pipeline(&world);
    for id in ["one", "two"] {
        let dose = reminder("ill", crate::support::utc_now());
        world.publish_json("jobs.reminder.medication", id, &dose).await;
    }
    let waits = async || (peek(&world.context, "HOLD", "hold.>").await == 2).then_some(());
    world.eventually("both wait for their next attempt", waits).await;
    pipeline.stop().await;
    let args =
        ["operations", "start", "retry", "--state", "open", "--count", "2", "--reason", "x", "--detach", "--json"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well, "{error}");
    let id = serde_json::from_str::<Value>(&said).unwrap()["operation"].as_i64().unwrap();
    let row = world.store.lease_operation(None, "lost").await.unwrap().unwrap();
    let cursor = json!({ "page": null, "is_last": true, "todo": ["one", "two"] });
    let progress = Progress { cursor, ..Progress::default() };
    assert!(world.store.advance_operation(&row, &progress, None, crate::support::utc_now()).await.unwrap());
    let run = &world.store.look_up_runs(&[RunAsk { job_id: "one".into() }]).await.unwrap()[0];
    let run = run.as_ref().unwrap();
    world
        .sql(&format!(
            "INSERT INTO audit_log (at, actor, action, job_id, root_id, detail) \
             VALUES (now(), 'x', 'job.woken', 'one', 'one', '{{\"operation\": \"{id}\"}}')"
        ))
        .await;
    let parked = wake::parked_run(&world.context, &run.stream, run.sequence).await.unwrap().unwrap();
    wake::run(&world.context, parked).await.unwrap();
    its_lease_ends(&world).await;
    let (well, said, error) = carebell(&world, &["operations", "run", &id.to_string(), "--json"], &[]).await;
    assert!(well, "{error}");
    let after: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&after["done"], &after["skipped"]), (&json!(2), &json!({})), "{after}");
    assert_eq!(peek(&world.context, "HOLD", "hold.>").await, 0, "the other one is woken too");
    assert_eq!(acts(&world, "job.woken").await, 2, "each once");
}
