//! Combined commits: a reminder and its notification in one commit, with no message between them.

use std::{collections::HashSet, time::Duration};

use carebell::{
    clock::Clock,
    dev::push_service::Behaviour,
    effects::{Effects, PlannedNotification},
    health::Health,
    job::Job,
    jobs::notification::Notification,
    meta::{Meta, NO_MESSAGE},
    plan::{Mark, Plan},
    store::{Claimed, Commit, CommitOutcome, Committed, DirectClaims, EarlierCommit, RunAsk, RunState, Store},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::json;

use crate::{
    records::{ask_by, attempt, commit, death, failed, meta, planned, store},
    support::{FAMILY, Process, QUICK, Worker, World, database, peek, reminder, utc_now},
};

/// Number of messages ever stored in JOBS.
async fn messages(world: &World) -> u64 {
    let mut stored = 0;
    for stream in ["JOBS", "WORK"] {
        stored += world.context.get_stream(stream).await.unwrap().info().await.unwrap().state.last_sequence;
    }
    stored
}

async fn sequence(world: &World, job_id: &str) -> i64 {
    world.count(&format!("SELECT stream_seq FROM job_runs WHERE job_id = '{job_id}'")).await
}

async fn record(world: &World) -> Vec<String> {
    let rows = "SELECT r::text FROM job_runs r UNION ALL SELECT m::text FROM reminder_marks m \
                UNION ALL SELECT c::text FROM contents c UNION ALL SELECT n::text FROM notifications n \
                UNION ALL SELECT d::text FROM deliveries d ORDER BY 1";
    sqlx::query_scalar(rows).fetch_all(&world.db).await.unwrap()
}

/// Publishes a reminder again, as if the first were forgotten.
async fn remind_again(world: &World, job_id: &str, due: DateTime<Utc>) {
    let headers = [("Carebell-Job-Id", job_id), ("Nats-Msg-Id", "again"), ("Content-Type", "application/json")];
    world.publish("jobs.reminder.medication", &headers, reminder("metformin", due).to_string()).await;
}

#[tokio::test]
async fn a_reminder_that_goes_well_has_no_message_for_its_notification() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    world.all_is_published().await;
    assert_eq!(messages(&world).await, 1, "the reminder's own");
    let runs = world.runs("dose").await;
    for kind in ["reminder.medication", "notification"] {
        assert_eq!((runs[kind].state.as_str(), runs[kind].attempts), ("done", 0), "{kind}");
    }
    assert_eq!(sequence(&world, "dose").await, 1);
    assert_eq!(sequence(&world, "dose~notification").await, NO_MESSAGE);
    assert_eq!(world.count("SELECT count(*) FROM reminder_marks WHERE job_id = 'dose'").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_notification_whose_queue_has_a_rate_has_a_message() {
    let world = World::with_overrides(&format!("{QUICK},notification_critical.rate=50/s")).await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(messages(&world).await, 2);
    assert_eq!(sequence(&world, "dose~notification").await, 1);
    world.queues_are_empty().await;
    world.all_is_published().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_notification_whose_queue_pauses_has_a_message_and_waits() {
    const SLOW: usize = 12;
    // The pull that is open at the pause lets at most one more through.
    let critical = "notification_critical.pause_above=3,notification_critical.concurrency=1";
    let world = World::with_overrides(&format!("{QUICK},deliver_web_push_normal.concurrency=1,{critical}")).await;
    // Slow enough to stay behind throughout the test.
    world.push.behave_always("ana", Some(Behaviour::Slow(Duration::from_secs(5))));
    let mut worker = Process::worker(&world, &[]);
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    for number in 0..SLOW {
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &news).await;
    }
    let mut doses = 0;
    let mut remind = async || {
        let id = format!("dose-{doses}");
        let due = utc_now() - TimeDelta::minutes(doses);
        world.publish_json("jobs.reminder.medication", &id, &reminder("metformin", due)).await;
        assert_eq!(world.ended(&id).await.0, "done", "reminders do not pause");
        doses += 1;
        id
    };
    while !worker.says("pausing: deliveries are behind") {
        let id = remind().await;
        let through = async || {
            let done = world.runs(&id).await.contains_key("notification");
            (done || worker.says("pausing")).then_some(())
        };
        world.eventually("its notification is done, or the lane pauses", through).await;
    }
    let last = remind().await;
    let published = format!("SELECT count(*) FROM job_runs WHERE job_id = '{last}' AND NOT children_pending");
    world
        .eventually("its notification has a message", async || (world.count(&published).await == 1).then_some(()))
        .await;
    assert!(peek(&world.context, "WORK", "work.notification.critical").await >= 1);
    assert!(!world.runs(&last).await.contains_key("notification"), "it waits");

    world.push.behave_always("ana", None);
    let ledger = world.ledger(&last).await;
    assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    assert!(sequence(&world, &format!("{last}~notification")).await > 0);
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    assert_eq!(world.push.counts().requests, SLOW + 4 * usize::try_from(doses).unwrap());
}

#[tokio::test]
async fn of_two_reminders_of_one_dose_the_second_has_no_notification() {
    let world = World::new().await;
    let due = utc_now();
    let remind = async |id: &str| {
        world.publish_json("jobs.reminder.medication", id, &reminder("metformin", due)).await;
    };
    // The first two are pulled together.
    remind("one").await;
    remind("two").await;
    let worker = Worker::start(&world);
    let ends = [world.ended("one").await, world.ended("two").await];
    let done = ends.iter().position(|end| end.0 == "done").expect("one of them is done");
    let (first, second) = if done == 0 { ("one", "two") } else { ("two", "one") };
    let skipped = ("skipped".to_owned(), Some("already_sent".to_owned()));
    assert_eq!(ends[1 - done], skipped);
    world.everyone_has_it_once(first).await;
    remind("three").await;
    assert_eq!(world.ended("three").await, skipped);
    world.queues_are_empty().await;
    for skipped in [second, "three"] {
        assert_eq!(world.runs(skipped).await.len(), 1, "{skipped} has no notification");
    }
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 4);
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 4);
    assert_eq!(world.push.counts().requests, 4);
    assert_eq!(messages(&world).await, 3);
    worker.stop().await;
}

#[tokio::test]
async fn a_reminder_that_is_published_again_after_it_was_done_writes_nothing() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let due = utc_now();
    world.publish_json("jobs.reminder.medication", "dose", &reminder("metformin", due)).await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    world.all_is_published().await;
    let before = record(&world).await;
    remind_again(&world, "dose", due).await;
    world.queues_are_empty().await;
    assert_eq!(record(&world).await, before);
    assert_eq!(messages(&world).await, 2);
    assert_eq!(world.push.counts().requests, 4);
    worker.stop().await;
}

#[tokio::test]
async fn a_reminder_that_is_published_again_while_its_pushes_are_sent_has_none_sent_twice() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    // The first push opens the connection.
    let first = json!({ "recipients": [{ "userId": "ben" }], "title": "News" });
    world.publish_json("jobs.notification.normal", "first", &first).await;
    world.push.wait_for(1, crate::support::LIMIT).await.unwrap();
    // The push's message, published after a second, looks again before this ends.
    world.push.behave("ana", Behaviour::Slow(Duration::from_secs(8)));
    let due = utc_now();
    world.publish_json("jobs.reminder.medication", "dose", &reminder("metformin", due)).await;
    let sent = "SELECT count(*) FROM deliveries WHERE job_id = 'dose' AND state = 'sent'";
    world.eventually("three are sent", async || (world.count(sent).await == 3).then_some(())).await;
    remind_again(&world, "dose", due).await;
    let ledger = world.ledger("dose").await;
    world.queues_are_empty().await;
    assert_eq!(ledger.len(), 4);
    let ana = world.delivery_to("dose", "ana").await;
    assert_eq!((ana.state.as_str(), ana.claims), ("sent", 1));
    assert_eq!(world.push.counts().requests, 5);
    worker.stop().await;
}

/// Someone has published the notification by hand.
#[tokio::test]
async fn a_notification_that_is_done_already_is_not_written_again() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let everyone = FAMILY.map(|user| json!({ "userId": user }));
    let body = json!({ "recipients": everyone, "title": "By hand" });
    let headers =
        [("Carebell-Job-Id", "dose~notification"), ("Carebell-Root-Id", "dose"), ("Content-Type", "application/json")];
    world.publish("work.notification.critical", &headers, body.to_string()).await;
    assert_eq!(world.ended("dose~notification").await.0, "done");
    world.push.wait_for(4, crate::support::LIMIT).await.unwrap();
    world.queues_are_empty().await;
    world.all_is_published().await;
    let before = record(&world).await;
    world.remind("dose").await;
    assert_eq!(world.ended("dose").await.0, "done");
    world.queues_are_empty().await;
    // Only the reminder's run and mark are new.
    let after = record(&world).await;
    assert!(before.iter().all(|row| after.contains(row)), "{after:#?}");
    assert_eq!(after.len(), before.len() + 2, "{after:#?}");
    assert_eq!(sequence(&world, "dose~notification").await, 1);
    assert_eq!(world.push.counts().requests, 4);
    assert_eq!(messages(&world).await, 2);
    worker.stop().await;
}

/// A notification with one push claimed for a direct send.
fn notification(root: &str, sequence: i64) -> Commit {
    let id = format!("push-{root}");
    let mut commit = planned(&id);
    commit.meta =
        Meta { root_id: root.into(), kind: Notification::KIND, ..meta(&format!("{root}~notification"), sequence, 1) };
    commit.direct = Some(DirectClaims { worker: "one".into(), ids: [id].into() });
    commit
}

fn both(root: &str, sequence: i64) -> Commit {
    let mut commit = commit(meta(root, sequence, 1), Plan::default());
    commit.next = Some(Box::new(notification(root, NO_MESSAGE)));
    commit
}

fn of_dose(mut commit: Commit, instant: DateTime<Utc>) -> Commit {
    commit.plan.mark = Some(Mark { record_id: "m".into(), instant, lead_minutes: 0 });
    commit
}

fn answer(committed: Committed, followed: bool, claimed: &[&str]) -> CommitOutcome {
    let claimed = claimed.iter().map(|id| (*id).to_owned()).collect();
    CommitOutcome { committed, followed, claimed, earlier: None }
}

fn nothing_new() -> CommitOutcome {
    answer(Committed::Duplicate, false, &[])
}

async fn state(store: &Store, job_id: &str) -> Option<(String, i64)> {
    let record = store.look_up_runs(&[RunAsk { job_id: job_id.into() }]).await.unwrap().remove(0)?;
    Some((record.state, record.sequence))
}

async fn rows(store: &Store, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(store.pool()).await.unwrap()
}

#[tokio::test]
async fn both_are_written_once_however_often_they_are_put() {
    let store = store().await;
    let answers = store.commit(&[both("a", 7)]).await.unwrap();
    assert_eq!(answers, [answer(Committed::Fresh, true, &["push-a"])]);
    assert_eq!(state(&store, "a").await, Some(("done".into(), 7)));
    assert_eq!(state(&store, "a~notification").await, Some(("done".into(), NO_MESSAGE)));
    let record = store.look_up_runs(&["a", "a~notification"].map(|id| RunAsk { job_id: id.into() })).await.unwrap();
    let pending: Vec<bool> = record.into_iter().map(|record| record.unwrap().children_pending).collect();
    assert_eq!(pending, [false, true], "only the notification has children to publish");
    assert_eq!(store.pending_combined_run("a").await.unwrap().as_deref(), Some("a~notification"));
    for again in [both("a", 7), both("a", 9)] {
        assert_eq!(store.commit(&[again]).await.unwrap(), [nothing_new()]);
    }
    let in_one_group = store.commit(&[both("a", 7), both("b", 8), both("b", 8)]).await.unwrap();
    assert_eq!(in_one_group, [nothing_new(), answer(Committed::Fresh, true, &["push-b"]), nothing_new()]);
    assert_eq!((rows(&store, "notifications").await, rows(&store, "deliveries").await), (2, 2));
    store.children_published(&["a~notification".into()]).await.unwrap();
    assert_eq!(store.pending_combined_run("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_repeated_commit_is_told_from_that_of_another_message() {
    let store = store().await;
    let now = utc_now();
    let earlier = |is_mark_taken, followed| Some(EarlierCommit { is_mark_taken, followed });
    let first = of_dose(both("a", 7), now);
    let taken = of_dose(both("b", 8), now);
    let skipped = Commit { state: RunState::Skipped, reason: Some("gone"), ..commit(meta("c", 9, 1), Plan::default()) };
    let commits = [first.clone(), taken.clone(), skipped.clone()];
    let fresh = store.commit_or_find(&commits).await.unwrap();
    assert!(fresh.iter().all(|outcome| outcome.earlier.is_none()), "{fresh:?}");
    let again = store.commit_or_find(&commits).await.unwrap();
    let found: Vec<_> = again.into_iter().map(|outcome| outcome.earlier).collect();
    assert_eq!(found, [earlier(false, true), earlier(true, false), earlier(false, false)]);

    // Another message of the job, and the same with another end: what is on record is not theirs.
    let another = of_dose(both("a", 10), now);
    let cancelled = Commit { reason: None, state: RunState::Done, ..skipped };
    for outcome in store.commit_or_find(&[another, cancelled]).await.unwrap() {
        assert_eq!((outcome.committed, outcome.earlier), (Committed::Duplicate, None));
    }
}

#[tokio::test]
async fn a_group_may_have_a_notification_twice_with_its_reminder_and_by_itself() {
    let store = store().await;
    let by_itself = notification("a", 8);
    let answers = store.commit(&[by_itself, both("a", 7)]).await.unwrap();
    assert_eq!(answers, [nothing_new(), answer(Committed::Fresh, true, &["push-a"])], "in the order of their ids");
    assert_eq!(state(&store, "a~notification").await, Some(("done".into(), NO_MESSAGE)));

    // The same if its own comes first, with an id below the reminder's.
    let mut reminder = both("b", 7);
    if let Some(next) = &mut reminder.next {
        next.meta.job_id = "ab".into();
    }
    let mut by_itself = notification("b", 8);
    by_itself.meta.job_id = "ab".into();
    let answers = store.commit(&[reminder, by_itself]).await.unwrap();
    let [with_it, itself] = [answer(Committed::Fresh, false, &[]), answer(Committed::Fresh, false, &["push-b"])];
    assert_eq!(answers, [with_it, itself]);
    assert_eq!(state(&store, "ab").await, Some(("done".into(), 8)));
    assert_eq!((rows(&store, "notifications").await, rows(&store, "deliveries").await), (2, 2));
}

#[tokio::test]
async fn where_the_mark_is_anothers_neither_has_an_effect() {
    let store = store().await;
    let now = utc_now();
    let group = ["a", "b", "c"].map(|root| of_dose(both(root, 1), now));
    let taken = || answer(Committed::MarkTaken, false, &[]);
    let answers = store.commit(&group).await.unwrap();
    assert_eq!(answers, [answer(Committed::Fresh, true, &["push-a"]), taken(), taken()]);
    assert_eq!(store.commit(&[of_dose(both("d", 1), now)]).await.unwrap(), [taken()]);
    for root in ["b", "c", "d"] {
        assert_eq!(state(&store, root).await.unwrap().0, "skipped");
        assert_eq!(state(&store, &format!("{root}~notification")).await, None);
    }
    assert_eq!((rows(&store, "notifications").await, rows(&store, "deliveries").await), (1, 1));
}

#[tokio::test]
async fn a_notification_that_has_failed_before_is_written_and_one_that_has_ended_is_not() {
    let store = store().await;
    for (root, verdict) in [("open", attempt()), ("dead", death())] {
        let own = notification(root, 3).meta;
        store.record_run_failures(&[failed(own, verdict)]).await.unwrap();
        let push = format!("push-{root}");
        let answers = store.commit(&[both(root, 7)]).await.unwrap();
        assert_eq!(answers, [answer(Committed::Fresh, true, &[&push])], "{root}");
        assert_eq!(state(&store, &format!("{root}~notification")).await, Some(("done".into(), NO_MESSAGE)));
        // Its own message is delivered again, with nothing left to do.
        assert_eq!(store.commit(&[notification(root, 3)]).await.unwrap(), [nothing_new()]);
    }
    store.commit(&[notification("done", 3)]).await.unwrap();
    assert_eq!(store.commit(&[both("done", 7)]).await.unwrap(), [answer(Committed::Fresh, false, &[])]);
    assert_eq!(state(&store, "done~notification").await, Some(("done".into(), 3)));
    assert_eq!(store.pending_combined_run("done").await.unwrap(), None, "the worker with its message sees to it");
}

/// Groups that write the same rows in different orders.
#[tokio::test]
async fn groups_that_cross_end_well() {
    const ROOTS: usize = 30;
    let store = crate::support::store(&database().await, 8);
    let roots: Vec<String> = (0..ROOTS).map(|number| format!("r-{number:02}")).collect();
    let reminders: Vec<Commit> = roots.iter().map(|root| both(root, 1)).collect();
    let notifications: Vec<Commit> = roots.iter().map(|root| notification(root, 2)).collect();
    let put = async |group: Vec<Commit>| {
        loop {
            match store.commit(&group).await {
                Err(carebell::store::StoreError::Busy(_)) => {}
                answers => break answers.unwrap(),
            }
        }
    };
    let mut groups = Vec::new();
    for size in [7, 10, 30] {
        groups.extend(reminders.chunks(size).map(<[_]>::to_vec));
        groups.extend(notifications.chunks(size).map(<[_]>::to_vec));
        let mixed: Vec<Commit> = reminders.iter().chain(&notifications).rev().cloned().collect();
        groups.extend(mixed.chunks(size).map(<[_]>::to_vec));
    }
    let answers: Vec<CommitOutcome> = join_all(groups.into_iter().map(put)).await.into_iter().flatten().collect();
    let followed = answers.iter().filter(|answer| answer.followed).count();
    let fresh = answers.iter().filter(|answer| answer.committed == Committed::Fresh).count();
    let claimed: usize = answers.iter().map(|answer| answer.claimed.len()).sum();
    assert_eq!((fresh, claimed), (2 * ROOTS - followed, ROOTS), "{followed} with their reminders");
    let each = i64::try_from(ROOTS).unwrap();
    assert_eq!(rows(&store, "job_runs").await, 2 * each);
    assert_eq!((rows(&store, "notifications").await, rows(&store, "deliveries").await), (each, each));
}

/// A server that crashed redelivers a message that a worker still has.
#[tokio::test]
async fn whoever_claims_nothing_gives_nothing_up() {
    let world = World::new().await;
    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    let not_after = utc_now() + TimeDelta::hours(1);
    let carry_out = async |root: &str, claims: Option<&str>| {
        let next = notification(root, NO_MESSAGE);
        let claims = claims.map(|id| HashSet::from([id.to_owned()]));
        let next = Some(PlannedNotification { meta: next.meta, plan: next.plan });
        let done = effects.commit_and_claim(&meta(root, 1, 1), not_after, Plan::default(), next, claims).await.unwrap();
        (done.committed, done.followed, done.claimed.len())
    };
    let claimable = async |id: &str| {
        let asked = world.store.claim_deliveries(&[ask_by("two", id, 7, 1, utc_now())]).await.unwrap().remove(0);
        matches!(asked, Claimed::Taken(_))
    };
    for root in ["sending", "unsure"] {
        assert_eq!(carry_out(root, Some(&format!("push-{root}"))).await, (Committed::Fresh, true, 1));
    }
    let (again, followed, claimed) = carry_out("sending", None).await;
    assert!(matches!(again, Committed::InFlight(wait) if wait > Duration::from_secs(10)), "{again:?}");
    assert_eq!((followed, claimed), (false, 0));
    assert!(!claimable("push-sending").await, "the first is sending it");
    // A worker that lost the answer to its commit sends nothing.
    assert_eq!(carry_out("unsure", Some("push-unsure")).await, (Committed::Duplicate, false, 0));
    assert!(claimable("push-unsure").await, "another worker may");
}
