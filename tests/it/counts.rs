//! How runs ended, by queue and minute, and which workers live.

use std::{collections::BTreeMap, sync::Arc};

use carebell::{
    clock::Clock,
    dev::push_service::Behaviour,
    effects::counts::{Counts, Identity},
    kind::Kind,
    plan::JobOutcome,
    store::{CountRow, WorkerReport},
    telemetry::tally::{EndKey, Tally},
};
use chrono::TimeDelta;
use serde_json::json;

use crate::support::{Process, Worker, World, reminder, utc_now};

/// Ends of which each job has one.
const ENDS: [&str; 6] = ["done", "skipped", "expired", "dead", "failed", "unknown"];

async fn counted(world: &World) -> BTreeMap<(String, String), u64> {
    let counts = world.store.outcome_counts(None, utc_now() - TimeDelta::hours(1)).await.unwrap();
    let ends = counts.into_iter().filter(|count| ENDS.contains(&count.outcome.as_str()));
    ends.map(|count| ((count.queue, count.outcome), count.count)).collect()
}

/// As the tables have it. Jobs of a test have the lanes of medication. The line of somebody who is not reached has no run.
async fn on_record(world: &World) -> BTreeMap<(String, String), u64> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT replace(kind, '.', '_') || CASE kind WHEN 'notification' THEN '_critical' ELSE '' END, state, count(*) \
         FROM job_runs GROUP BY 1, 2 \
         UNION ALL \
         SELECT 'deliver_' || channel || '_' || lane, CASE state WHEN 'sent' THEN 'done' ELSE state END, count(*) \
         FROM deliveries WHERE claims > 0 GROUP BY 1, 2",
    )
    .fetch_all(&world.db)
    .await
    .unwrap();
    rows.into_iter().map(|(queue, state, count)| ((queue, state), count.try_into().unwrap())).collect()
}

/// Jobs that end in each way.
async fn publish(world: &World, name: &str) {
    for number in 0..3 {
        world.remind(&format!("{name}-{number}")).await;
    }
    let body = reminder("no-such-medication", utc_now());
    world.publish_json("jobs.reminder.medication", &format!("{name}-skipped"), &body).await;
    let late = [
        ("Carebell-Job-Id", &*format!("{name}-expired")),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", "2020-01-01T00:00:00Z"),
    ];
    world.publish("jobs.reminder.medication", &late, reminder("metformin", utc_now()).to_string()).await;
}

#[tokio::test]
async fn counts_equal_what_was_done_after_a_restart_and_with_two_workers() {
    let world = World::new().await.at_pace(5);
    world.push.behave_always("dan", Some(Behaviour::status(410)));
    let worker = Worker::without_scheduler(&world);
    publish(&world, "first").await;
    world.ended("first-skipped").await;
    world.ended("first-expired").await;
    world.ended("first-2").await;
    world.queues_are_empty().await;
    worker.stop().await;
    assert_eq!(counted(&world).await, on_record(&world).await);

    let workers = [Worker::without_scheduler(&world), Worker::without_scheduler(&world)];
    let two = async || (world.count("SELECT count(*) FROM workers").await == 2).then_some(());
    world.eventually("both workers are listed", two).await;
    publish(&world, "second").await;
    world.ended("second-skipped").await;
    world.ended("second-expired").await;
    world.ended("second-2").await;
    world.queues_are_empty().await;
    for worker in workers {
        worker.stop().await;
    }
    let counts = counted(&world).await;
    assert_eq!(counts, on_record(&world).await);
    let count = |queue: &str, outcome: &str| counts.get(&(queue.into(), outcome.into())).copied().unwrap_or(0);
    assert_eq!(count("reminder_medication", "expired"), 2);
    assert!(count("deliver_web_push_critical", "failed") > 0);

    let failures = world.store.failures_since(utc_now() - TimeDelta::hours(1)).await.unwrap();
    let found = |outcome: &str, reason: &str| {
        failures.iter().find(|line| line.outcome == outcome && line.reason.as_deref() == Some(reason)).cloned()
    };
    assert_eq!(found("failed", "subscription_gone").unwrap().queue, "deliver_web_push_critical");
    assert_eq!(found("skipped", "gone").unwrap().count, 2);
}

#[tokio::test]
async fn a_lost_write_is_kept_and_one_that_is_repeated_counts_once() {
    let world = World::new().await;
    let tally = Tally::default();
    let queue = Kind::notification("notification").queues()[1];
    let end = |outcome, reason| tally.ended(EndKey { queue, outcome, reason });
    let identity = Identity::here(&Arc::from("one"), &["pipeline"]);
    let mut counts = Counts::new(world.store.clone(), tally.clone(), Clock::system(), identity);
    let total = "SELECT coalesce(sum(count), 0)::bigint FROM outcome_counts";

    end(JobOutcome::Done, None);
    world.sql("ALTER TABLE outcome_counts RENAME TO away").await;
    counts.write().await.unwrap_err();
    end(JobOutcome::Done, None);
    end(JobOutcome::Dead, Some("exhausted"));
    counts.write().await.unwrap_err();
    world.sql("ALTER TABLE away RENAME TO outcome_counts").await;
    counts.write().await.unwrap();
    counts.write().await.unwrap();
    assert_eq!(world.count(total).await, 3);
    let worker = world.store.workers(utc_now()).await.unwrap().remove(0);
    assert_eq!((worker.processed, worker.failed, worker.is_lost), (3, 1, false));

    // The answer is lost, and the write is not.
    let report = WorkerReport {
        id: "two",
        host: "here",
        duties: &[],
        started_at: utc_now(),
        seen_at: utc_now(),
        busy: 0,
        processed: 1,
        failed: 0,
        running: &[],
        batch: 1,
    };
    let rows = [CountRow { minute: utc_now(), queue: queue.durable(), outcome: "done", reason: "", count: 1 }];
    for _ in 0..2 {
        world.store.add_outcome_counts(&report, &rows).await.unwrap();
    }
    assert_eq!(world.count(total).await, 4);
}

#[tokio::test]
async fn a_worker_is_listed_while_it_lives_and_a_lost_one_is_shown_as_lost() {
    let world = World::new().await.at_pace(5);
    let mut first = Process::worker(&world, &[]);
    let mut second = Process::start(&["run", "--only", "dead-letters"], &world.environment(), world.directory.path());
    first.ready().await;
    second.ready().await;
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let lines = world
        .eventually("the first says what it did", async || {
            let lines = world.store.workers(utc_now()).await.unwrap();
            (lines.len() == 2 && lines.iter().any(|line| line.processed >= 6)).then_some(lines)
        })
        .await;
    let [one, other] = lines
        .iter()
        .find(|line| line.processed > 0)
        .map_or_else(|| panic!("{lines:?}"), |one| [one, lines.iter().find(|line| line.id != one.id).unwrap()]);
    assert_eq!(one.duties, ["pipeline", "scheduler", "dead-letters"]);
    assert_eq!(other.duties, ["dead-letters"]);
    assert_eq!((one.failed, one.is_lost, one.version.as_str()), (0, false, env!("CARGO_PKG_VERSION")));
    assert_eq!(world.count("SELECT count(DISTINCT claimed_by) FROM deliveries").await, 1);
    assert_eq!(
        world.count(&format!("SELECT count(*) FROM deliveries WHERE claimed_by <> '{}'", one.id)).await,
        0,
        "by the name in claims"
    );

    second.kill().await;
    let in_a_while = utc_now() + TimeDelta::seconds(90);
    world.sql("UPDATE workers SET seen_at = seen_at + interval '60 seconds' WHERE processed > 0").await;
    let lines = world.store.workers(in_a_while).await.unwrap();
    assert!(lines.iter().all(|line| line.is_lost == (line.id == other.id)), "{lines:?}");
    assert_eq!(first.terminate().await.code(), Some(0));
    let left = world.store.workers(utc_now()).await.unwrap();
    assert_eq!(left.iter().map(|line| &line.id).collect::<Vec<_>>(), [&other.id], "a stop takes it off the list");
    assert_eq!(world.store.workers(utc_now() + TimeDelta::days(2)).await.unwrap(), []);
}

#[tokio::test]
async fn a_run_is_shown_as_long_as_it_goes_on() {
    let world = World::new().await.at_pace(5);
    world.push.behave_always("ana", Some(Behaviour::Hang));
    let worker = Worker::without_scheduler(&world);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Tea" });
    world.publish_json("jobs.notification.normal", "tea", &body).await;
    let running = world
        .eventually("the push is shown", async || {
            let lines = world.store.workers(utc_now()).await.unwrap();
            lines.into_iter().flat_map(|line| line.running).find(|job| job.queue.starts_with("deliver_"))
        })
        .await;
    assert_eq!(running.queue, "deliver_web_push_normal");
    assert_eq!(running.job_id, world.ledger("tea").await[0].id);
    world.push.behave_always("ana", None);
    drop(worker);
}
