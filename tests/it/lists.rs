//! Lists of jobs: filters, pages, and what is refused.

use std::collections::BTreeSet;

use carebell::{
    clock::Random,
    dev::push_service::Behaviour,
    kind::{Kind, Lane},
    store::lists::{JobFilter, JobLine, JobState, ListError},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Worker, World, reminder, utc_now},
};

async fn ids(world: &World, filter: &JobFilter) -> BTreeSet<String> {
    lines(world, filter, 100).await.into_iter().map(|line| line.job_id).collect()
}

/// All pages.
async fn lines(world: &World, filter: &JobFilter, limit: u32) -> Vec<JobLine> {
    let (mut lines, mut cursor) = (Vec::new(), None);
    loop {
        let page = world.store.jobs(filter, limit, cursor.as_deref(), utc_now()).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        lines.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return lines;
        }
    }
}

fn in_state(text: &str) -> JobFilter {
    JobFilter { states: JobState::named(text), ..JobFilter::default() }
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn each_filter_finds_its_jobs_and_no_others() {
    let world = World::new().await;
    world.push.behave_always("dan", Some(Behaviour::status(410)));
    let worker = Worker::without_scheduler(&world);
    world.remind("dose").await;
    let unknown = reminder("no-such-medication", utc_now());
    world.publish_json("jobs.reminder.medication", "skipped", &unknown).await;
    let late = [
        ("Carebell-Job-Id", "expired"),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", "2020-01-01T00:00:00Z"),
    ];
    world.publish("jobs.reminder.medication", &late, reminder("metformin", utc_now()).to_string()).await;
    world.publish_json("jobs.reminder.medication", "dead", &json!({ "medicationId": 3 })).await;
    let at = (utc_now() + TimeDelta::hours(1)).to_rfc3339();
    let delayed = [("Carebell-Job-Id", "later"), ("Content-Type", "application/json"), ("Carebell-At", at.as_str())];
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Tea" }).to_string();
    world.publish("jobs.later.notification.bulk", &delayed, body).await;
    world.dead_letters_once(1).await;
    let waits = async || (world.count("SELECT count(*) FROM delayed_jobs").await == 1).then_some(());
    world.eventually("a job is delayed", waits).await;
    let failed = "SELECT count(*) FROM deliveries WHERE state IN ('sent', 'failed')";
    world.eventually("all pushes have ended", async || (world.count(failed).await == 4).then_some(())).await;
    for id in ["skipped", "expired", "dead"] {
        world.ended(id).await;
    }
    worker.stop().await;
    world.sql("UPDATE deliveries SET state = 'delivered', delivered_at = now() WHERE user_id = 'ben'").await;

    let push = async |user: &str| world.delivery_to("dose", user).await.id;
    let [ana, ben, chloe, dan] = [push("ana").await, push("ben").await, push("chloe").await, push("dan").await];
    let runs = ["dose", "dose~notification", "skipped", "expired", "dead"];
    let all: BTreeSet<String> = set(&runs).into_iter().chain(set(&["later", &ana, &ben, &chloe, &dan])).collect();
    assert_eq!(ids(&world, &JobFilter::default()).await, all);
    for (state, found) in [
        ("done", set(&["dose", "dose~notification"])),
        ("skipped", set(&["skipped"])),
        ("expired", set(&["expired"])),
        ("dead", set(&["dead"])),
        ("failed", set(&["expired", "dead", &dan])),
        ("sent", set(&[&ana, &chloe])),
        ("delivered", set(&[&ben])),
        ("completed", set(&["dose", "dose~notification", "skipped", &ana, &ben, &chloe])),
        ("delayed", set(&["later"])),
        ("active", set(&[])),
        ("waiting", set(&[])),
        ("paused", set(&[])),
        ("stalled", set(&[])),
    ] {
        assert_eq!(ids(&world, &in_state(state)).await, found, "{state}");
    }
    let of_kind = |kind| JobFilter { kind: Some(kind), ..JobFilter::default() };
    assert_eq!(
        ids(&world, &of_kind(Kind::reminder("reminder.medication"))).await,
        set(&["dose", "skipped", "expired", "dead"])
    );
    assert_eq!(ids(&world, &of_kind(Kind::reminder("alert.refill"))).await, set(&[]));
    assert_eq!(ids(&world, &of_kind(Kind::notification("notification"))).await, set(&["dose~notification", "later"]));
    let pushes = of_kind(Kind::delivery("deliver.web_push"));
    assert_eq!(ids(&world, &pushes).await, set(&[&ana, &ben, &chloe, &dan]));
    let in_lane = |lane| JobFilter { lane: Some(lane), ..pushes.clone() };
    assert_eq!(ids(&world, &in_lane(Lane::Critical)).await.len(), 4);
    assert_eq!(ids(&world, &in_lane(Lane::Normal)).await.len(), 0);
    let bulk = JobFilter { lane: Some(Lane::Bulk), ..of_kind(Kind::notification("notification")) };
    assert_eq!(ids(&world, &bulk).await, set(&["later"]));
    let critical = JobFilter { lane: Some(Lane::Critical), ..bulk };
    assert_eq!(ids(&world, &critical).await, set(&["dose~notification"]));

    let of_user = |user: &str| JobFilter { user: Some(user.into()), ..JobFilter::default() };
    assert_eq!(ids(&world, &of_user("dan")).await, set(&["dose", "dose~notification", &dan]));
    assert_eq!(ids(&world, &JobFilter { states: JobState::named("failed"), ..of_user("dan") }).await, set(&[&dan]));
    assert_eq!(ids(&world, &of_user("nobody")).await, set(&[]));
    let since = |at| JobFilter { since: Some(at), ..JobFilter::default() };
    assert_eq!(ids(&world, &since(utc_now() - TimeDelta::hours(1))).await, all);
    assert_eq!(ids(&world, &since(utc_now())).await, set(&[]));

    world
        .sql("UPDATE job_runs SET job_id = '~clinic~skipped', root_id = '~clinic~skipped' WHERE job_id = 'skipped'")
        .await;
    let of_clinic = JobFilter { application: Some("clinic".into()), ..JobFilter::default() };
    assert_eq!(ids(&world, &of_clinic).await, set(&["~clinic~skipped"]));
    assert_eq!(world.store.count_jobs(&JobFilter::default()).await.unwrap().to_string(), "10");

    let due = world.store.due_before(utc_now() + TimeDelta::hours(2)).await.unwrap();
    assert_eq!((due.delayed.number, due.lines[0].id.as_str()), (1, "later"));
}

/// Runs and deliveries of an instant, and inbox rows of ana. Answers their ids.
async fn add(world: &World, at: DateTime<Utc>, rows: u32, prefix: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for row in 0..rows {
        // Several share an instant.
        let at = at - TimeDelta::milliseconds((row / 3).into());
        let state = ["done", "dead", "skipped"][row as usize % 3];
        let root = format!("{prefix}-{row}");
        let id = Random::system().uuid(at).to_string();
        let delivery = ["sent", "failed", "expired", "held"][row as usize % 4];
        world
            .sql(&format!(
                "WITH run AS (INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
                     VALUES ('{root}', '{root}', 'notification', 'JOBS', 1, '{state}', '{at}', '{at}')), \
                 inbox AS (INSERT INTO notifications (id, job_id, user_id, type, title, body, created_at) \
                     VALUES ('{root}', '{root}', 'ana', 'GENERAL', 'x', '', '{at}')) \
                 INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, not_after, created_at, \
                                         updated_at) \
                     VALUES ('{id}', '{root}', '{root}', 'ana', 'web_push', 'x', 'normal', '{delivery}', '{at}', '{at}', '{at}')"
            ))
            .await;
        world
            .sql(&format!(
                "INSERT INTO unsent_deliveries SELECT id, state, reason, channel, 'deliver_web_push_normal', updated_at \
                 FROM deliveries WHERE id = '{id}' AND state <> 'sent'"
            ))
            .await;
        ids.extend([root, id]);
    }
    ids
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_jobs_while_others_are_added() {
    let world = World::new().await;
    let begin = utc_now() - TimeDelta::minutes(10);
    let there: BTreeSet<String> = add(&world, begin, 60, "there").await.into_iter().collect();
    let user = JobFilter { user: Some("ana".into()), ..JobFilter::default() };
    for (filter, limit) in [
        (JobFilter::default(), 7),
        (in_state("failed"), 5),
        (in_state("completed"), 1),
        (in_state("delayed"), 4),
        (user.clone(), 3),
        (JobFilter { states: JobState::named("failed"), ..user }, 2),
    ] {
        let whole: Vec<String> = lines(&world, &filter, 100).await.into_iter().map(|line| line.job_id).collect();
        assert!(!whole.is_empty() && whole.iter().collect::<BTreeSet<_>>().len() == whole.len());
        let (mut found, mut cursor, mut pages): (Vec<String>, _, usize) = (Vec::new(), None, 0);
        loop {
            let page = world.store.jobs(&filter, limit, cursor.as_deref(), utc_now()).await.unwrap();
            found.extend(page.items.into_iter().map(|line| line.job_id));
            pages += 1;
            if pages < 5 {
                let now = utc_now();
                add(&world, now, 4, &format!("since-{}", now.timestamp_micros())).await;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, whole, "{filter:?}");
        let whole: BTreeSet<String> = whole.into_iter().collect();
        let missing: Vec<_> = there.difference(&whole).collect();
        assert!(filter != JobFilter::default() || missing.is_empty(), "{missing:?}");
    }
}

#[tokio::test]
async fn a_rare_job_behind_many_others_is_found_by_further_pages() {
    let world = World::new().await;
    world
        .sql(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
             SELECT 'n-' || n, 'n-' || n, 'notification', 'JOBS', n, 'done', now() - n * interval '1 ms', now() \
             FROM generate_series(1, 45000) AS n",
        )
        .await;
    world.sql("UPDATE job_runs SET kind = 'reminder.medication' WHERE job_id = 'n-44999'").await;
    let filter = JobFilter { kind: Some(Kind::reminder("reminder.medication")), ..JobFilter::default() };
    let first = world.store.jobs(&filter, 10, None, utc_now()).await.unwrap();
    assert!(first.items.is_empty() && first.next.is_some(), "one page looks at a bounded number");
    assert_eq!(ids(&world, &filter).await, set(&["n-44999"]));
    let many = world.store.count_jobs(&in_state("done")).await.unwrap();
    assert_eq!(many.to_string(), "10,000+");
}

#[tokio::test]
async fn limits_and_cursors_that_are_not_valid_are_refused_in_words() {
    let world = World::new().await;
    add(&world, utc_now(), 6, "job").await;
    for limit in [0, 101, u32::MAX] {
        let refused = world.store.jobs(&JobFilter::default(), limit, None, utc_now()).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("the limit is {limit}: it must be 1 to 100"));
    }
    let page = world.store.jobs(&in_state("failed"), 1, None, utc_now()).await.unwrap();
    let cursor = page.next.unwrap();
    let foreign = world.store.jobs(&JobFilter::default(), 1, Some(&cursor), utc_now()).await.unwrap_err();
    assert!(matches!(foreign, ListError::ForeignCursor), "{foreign}");
    for text in ["", "1", "' OR 1=1", &cursor[..cursor.len() / 2]] {
        let refused = world.store.jobs(&in_state("failed"), 1, Some(text), utc_now()).await.unwrap_err();
        assert!(matches!(refused, ListError::MalformedCursor), "{text}: {refused}");
    }

    for (args, expected) in [
        (&["--limit", "0"][..], "0 is not in 1..=100"),
        (&["--limit", "1000000000"], "1000000000 is not in 1..=100"),
        (&["--limit=-1"], "-1 is not in 1..=100"),
        (&["--cursor", "x"], "the cursor is malformed"),
        (&["--cursor", &cursor], "a list with other filters"),
        (&["--state", "fine"], "there is no state \"fine\"; there are delayed, open"),
        (&["--kind", "tea"], "there is no kind \"tea\"; there are reminder.medication"),
        (&["--queue", "tea"], "there is no queue \"tea\"; there are reminder_medication"),
        (&["--since", "soon"], "--since: expected an instant"),
        (&["--user", "x' OR '1'='1", "--json"], ""),
    ] {
        let (well, _, error) = carebell(&world, &[&["jobs", "list"], args].concat(), &[]).await;
        assert!(well == expected.is_empty() && error.contains(expected), "{args:?}: {error}");
    }
}

#[tokio::test]
async fn the_commands_show_jobs_a_queue_and_the_workers() {
    let world = World::new().await.at_pace(5);
    let worker = Worker::without_scheduler(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let counted = "SELECT coalesce(sum(count), 0)::bigint FROM outcome_counts WHERE queue = 'reminder_medication'";
    world.eventually("it is counted", async || (world.count(counted).await == 1).then_some(())).await;

    let said = async |args: &[&str]| -> (Value, String) {
        let (well, json, error) = carebell(&world, &[args, &["--json"]].concat(), &[]).await;
        assert!(well, "{error}");
        (serde_json::from_str(&json).unwrap(), carebell(&world, args, &[]).await.1)
    };
    let (page, text) = said(&["jobs", "list", "--kind", "reminder.medication"]).await;
    let job = &page["jobs"][0];
    assert_eq!((&job["job_id"], &job["queue"]), (&json!("dose"), &json!("reminder_medication")));
    assert_eq!((&job["state"], &page["next"]), (&json!("done"), &Value::Null));
    assert!(text.ends_with("  reminder_medication dose: done\n"), "{text}");
    let (page, text) = said(&["jobs", "list", "--limit", "2", "--user", "ana"]).await;
    assert!(text.contains(&format!("there may be more: --cursor {}", page["next"].as_str().unwrap())), "{text}");

    let (queue, text) = said(&["queues", "show", "reminder_medication"]).await;
    assert_eq!((&queue["queue"], &queue["counts"]["last_hour"]["done"]), (&json!("reminder_medication"), &json!(1)));
    assert_eq!(queue["throughput"]["minutes"].as_array().unwrap().len(), 60);
    assert_eq!(queue["workers"].as_array().unwrap().len(), 1);
    assert!(text.contains("\nlast hour: 1 done\n") && text.contains("throughput: "), "{text}");

    let (workers, text) = said(&["workers", "list"]).await;
    assert_eq!(workers["workers"][0]["duties"], json!(["pipeline", "dead-letters"]));
    assert!(text.contains(" idle on ") && text.contains("processed "), "{text}");
    worker.stop().await;
    let (_, text, _) = carebell(&world, &["workers", "list"], &[]).await;
    assert_eq!(text, "no worker has been seen within the last day\n");
}
