//! Two notifications of one root may reach the same people: the first writes their rows, the second still completes.

use carebell::{
    job::Job,
    jobs::notification::Notification,
    meta::Meta,
    plan::{InboxRow, Mark, Plan},
    store::{Commit, CommitOutcome, Committed, DirectClaims, Store, StoreError},
};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::json;

use crate::{
    records::{commit, meta, planned, store},
    support::{LIMIT, Worker, World, sorted, utc_now},
};

/// A notification of the root `r` to ana and `others`.
fn notification(name: &str, others: &[&str]) -> Commit {
    let mut commit = planned(&format!("{name}-ana"));
    commit.meta = Meta { root_id: "r".into(), kind: Notification::KIND, ..meta(name, 7, 1) };
    commit.plan.contents[0].title = format!("Of {name}");
    let first = commit.plan.deliveries[0].clone();
    for user in others {
        let id = format!("{name}-{user}");
        commit.plan.inbox.push(InboxRow { id: format!("inbox-{id}"), user_id: (*user).into(), locale: String::new() });
        commit.plan.deliveries.push(carebell::plan::PlannedDelivery { id, user_id: (*user).into(), ..first.clone() });
    }
    let ids = commit.plan.deliveries.iter().map(|delivery| delivery.id.clone()).collect();
    commit.direct = Some(DirectClaims { worker: "one".into(), ids });
    commit
}

/// A reminder that owns the mark of its own dose.
fn reminder(name: &str, instant: DateTime<Utc>) -> Commit {
    let mark = Mark { record_id: name.into(), instant, lead_minutes: 0 };
    commit(meta(name, 7, 1), Plan { mark: Some(mark), ..Plan::default() })
}

fn fresh(claimed: &[&str]) -> CommitOutcome {
    let claimed = claimed.iter().map(|id| (*id).to_owned()).collect();
    CommitOutcome { committed: Committed::Fresh, followed: false, claimed, earlier: None }
}

/// Commits again when the group collides with another.
async fn put(store: &Store, group: &[Commit]) -> Vec<CommitOutcome> {
    loop {
        match store.commit(group).await {
            Err(StoreError::Busy(_)) => {}
            answers => break answers.unwrap(),
        }
    }
}

async fn rows(store: &Store) -> Vec<String> {
    let rows = "SELECT concat_ws(' ', 'text', job_id, title) FROM contents \
                UNION ALL SELECT concat_ws(' ', 'inbox', job_id, user_id, id, title) FROM notifications \
                UNION ALL SELECT concat_ws(' ', 'delivery', job_id, user_id, id, run_id, state, claims) FROM deliveries \
                ORDER BY 1";
    sqlx::query_scalar(rows).fetch_all(store.pool()).await.unwrap()
}

async fn texts(store: &Store, query: &str) -> Vec<String> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned())).fetch_all(store.pool()).await.unwrap()
}

/// The rows if `a` came first and `b` added only dan.
const FIRST_STAYS: [&str; 7] = [
    "delivery r ana a-ana a sending 1",
    "delivery r ben a-ben a sending 1",
    "delivery r dan b-dan b sending 1",
    "inbox r ana inbox-a-ana Of a",
    "inbox r ben inbox-a-ben Of a",
    "inbox r dan inbox-b-dan Of b",
    "text r Of a",
];

async fn all_are_done(store: &Store, jobs: &[&str]) {
    let done = texts(store, "SELECT job_id FROM job_runs WHERE state = 'done' ORDER BY 1").await;
    assert_eq!(done, jobs);
}

#[tokio::test]
async fn in_one_group_the_first_by_its_id_is_written_and_both_are_done() {
    let store = store().await;
    let now = utc_now();
    let group =
        [reminder("m", now), notification("b", &["ben", "dan"]), notification("a", &["ben"]), reminder("z", now)];
    let answers = store.commit(&group).await.unwrap();
    // One statement writes both, so either may come first.
    assert!(answers.iter().all(|answer| answer.committed == Committed::Fresh && !answer.followed), "{answers:?}");
    let claimed = sorted(answers.iter().flat_map(|answer| answer.claimed.iter().cloned()).collect());
    assert_eq!(claimed, ["a-ana", "a-ben", "b-dan"]);
    assert_eq!(rows(&store).await, FIRST_STAYS);
    all_are_done(&store, &["a", "b", "m", "z"]).await;
    assert_eq!(texts(&store, "SELECT job_id FROM reminder_marks ORDER BY 1").await, ["m", "z"]);
    // A repeat is a duplicate in any group.
    let again = store.commit(&[group.as_slice(), &[reminder("y", now)]].concat()).await.unwrap();
    assert_eq!(again.iter().map(|answer| answer.committed).collect::<Vec<_>>(), {
        let mut expected = vec![Committed::Duplicate; 4];
        expected.push(Committed::Fresh);
        expected
    });
    assert_eq!(rows(&store).await, FIRST_STAYS);
}

#[tokio::test]
async fn in_two_groups_the_first_is_written_and_both_are_done() {
    let store = store().await;
    let now = utc_now();
    let first = store.commit(&[notification("a", &["ben"]), reminder("m", now)]).await.unwrap();
    assert_eq!(first, [fresh(&["a-ana", "a-ben"]), fresh(&[])]);
    let second = store.commit(&[reminder("n", now), notification("b", &["ben", "dan"])]).await.unwrap();
    assert_eq!(second, [fresh(&[]), fresh(&["b-dan"])]);
    assert_eq!(rows(&store).await, FIRST_STAYS);
    all_are_done(&store, &["a", "b", "m", "n"]).await;
    assert_eq!(texts(&store, "SELECT job_id FROM reminder_marks ORDER BY 1").await, ["m", "n"]);
    // A taken mark is reported in any group.
    let mut third = reminder("o", now);
    third.plan.mark = reminder("m", now).plan.mark;
    let third = store.commit(&[notification("c", &[]), third]).await.unwrap();
    assert_eq!(
        third.iter().map(|answer| answer.committed).collect::<Vec<_>>(),
        [Committed::Fresh, Committed::MarkTaken]
    );
    assert_eq!(rows(&store).await, FIRST_STAYS);
}

/// The same in a combined commit, and in the transaction of a shortage.
#[tokio::test]
async fn with_a_reminder_or_a_shortage_it_is_the_same() {
    let store = store().await;
    store.commit(&[notification("a", &["ben"])]).await.unwrap();
    let mut of_reminder = reminder("m", utc_now());
    of_reminder.next = Some(Box::new(notification("b", &["ben", "dan"])));
    let answers = store.commit(&[of_reminder]).await.unwrap();
    assert_eq!(answers, [CommitOutcome { followed: true, ..fresh(&["b-dan"]) }]);
    let shortage = carebell::plan::Shortage::Found { medication_id: "m".into(), refill_at: 10 };
    let shortage = commit(meta("s", 7, 1), Plan { shortage: Some(shortage), ..Plan::default() });
    assert_eq!(store.commit(&[shortage, notification("c", &["dan"])]).await.unwrap(), [fresh(&[]), fresh(&[])]);
    assert_eq!(rows(&store).await, FIRST_STAYS);
    all_are_done(&store, &["a", "b", "c", "m", "s"]).await;
}

#[tokio::test]
async fn of_groups_at_the_same_time_one_is_first() {
    const ROUNDS: usize = 10;
    let store = store().await;
    let now = utc_now();
    for round in 0..ROUNDS {
        let root = format!("r-{round}");
        let group = |number: usize| {
            let name = format!("{root}-{number}");
            let mut told = notification(&name, &["ben", "chloe", "dan"]);
            told.meta.root_id.clone_from(&root);
            // Each group has its own order.
            let at = number % told.plan.deliveries.len();
            told.plan.deliveries.rotate_left(at);
            told.plan.inbox.rotate_left(at);
            [told, reminder(&format!("m-{round}-{number}"), now)]
        };
        let groups: Vec<[Commit; 2]> = (0..6).map(group).collect();
        let answers = join_all(groups.iter().map(|group| put(&store, group))).await.concat();
        assert!(answers.iter().all(|answer| answer.committed == Committed::Fresh), "{answers:?}");
        let claimed: Vec<&String> = answers.iter().flat_map(|answer| &answer.claimed).collect();
        assert_eq!(claimed.len(), 4, "each push is one worker's: {claimed:?}");
    }
    let rounds = i64::try_from(ROUNDS).unwrap();
    let counts = "SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM notifications), \
                         (SELECT count(*) FROM deliveries), (SELECT count(*) FROM reminder_marks), \
                         (SELECT count(*) FROM job_runs WHERE state = 'done')";
    let counts: (i64, i64, i64, i64, i64) = sqlx::query_as(counts).fetch_one(store.pool()).await.unwrap();
    assert_eq!(counts, (rounds, 4 * rounds, 4 * rounds, 6 * rounds, 12 * rounds));
}

#[tokio::test]
async fn people_who_are_told_twice_of_one_root_get_it_once() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let tell = async |id: &str, users: &[&str]| {
        let users: Vec<_> = users.iter().map(|user| json!({ "userId": user })).collect();
        let body = json!({ "recipients": users, "title": format!("From {id}") }).to_string();
        let headers = [("Carebell-Job-Id", id), ("Carebell-Root-Id", "root"), ("Content-Type", "application/json")];
        world.publish("work.notification.critical", &headers, body).await;
    };
    tell("one", &["ana", "ben"]).await;
    let ended = |id: &'static str| {
        let (world, query) =
            (&world, format!("SELECT count(*) FROM job_runs WHERE job_id = '{id}' AND state = 'done'"));
        async move { world.eventually(id, async || (world.count(&query).await == 1).then_some(())).await }
    };
    ended("one").await;
    tell("two", &["ana", "ben", "chloe", "dan"]).await;
    ended("two").await;
    world.push.wait_for(4, LIMIT).await.unwrap();
    let ledger = world.ledger("root").await;
    world.queues_are_empty().await;
    world.all_is_published().await;
    let by: Vec<(&str, &str)> = ledger.iter().map(|line| (line.user_id.as_str(), line.run_id.as_str())).collect();
    assert_eq!(sorted(by), [("ana", "one"), ("ben", "one"), ("chloe", "two"), ("dan", "two")]);
    assert!(ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE job_id = 'root'").await, 4);
    assert_eq!(world.push.counts().requests, 4);
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}
