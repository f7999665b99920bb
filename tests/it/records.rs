//! Idempotence of the store: repeats count once, and a worker believed dead never overwrites its successor.

use carebell::{
    kind::{Kind, Lane},
    meta::{Meta, StreamPosition},
    plan::{Channel, Content, DeadReason, Delivered, InboxRow, Mark, Plan, PlannedDelivery, Receipt, Shortage},
    policy::Wishes,
    store::{
        ClaimAsk, Claimed, Commit, Committed, FailedRun, LedgerEntry, LedgerRecord, RunAsk, RunState, Store,
        StoreError, Verdict,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::Map;

use crate::support::{database, utc_now};

pub async fn store() -> Store {
    crate::support::store(&database().await, 8)
}

pub fn meta(job_id: &str, sequence: i64, delivered: i64) -> Meta {
    Meta {
        job_id: job_id.into(),
        root_id: job_id.into(),
        kind: Kind::reminder("reminder.medication"),
        lane: Lane::Critical,
        position: StreamPosition { stream: "JOBS".into(), sequence, delivered, published: utc_now() },
        resumed: false,
        not_after: None,
        trace: None,
        wishes: Wishes::default(),
        delay: None,
        due: None,
        waited: None,
    }
}

pub fn failed(meta: Meta, verdict: Verdict) -> FailedRun {
    FailedRun { meta, verdict, now: utc_now() }
}

pub fn attempt() -> Verdict {
    Verdict::Attempt { error: "no luck".into(), until: None }
}

pub fn death() -> Verdict {
    Verdict::Dead { error: "no luck".into(), reason: DeadReason::Exhausted }
}

pub fn commit(meta: Meta, plan: Plan) -> Commit {
    let now = utc_now();
    Commit {
        meta,
        state: RunState::Done,
        reason: None,
        plan,
        children: vec![],
        next: None,
        not_after: now,
        direct: None,
        now,
    }
}

/// Writes runs without claims and without combined commits.
pub async fn put(store: &Store, commits: &[Commit]) -> Result<Vec<Committed>, StoreError> {
    let answers = store.commit(commits).await?;
    assert!(answers.iter().all(|answer| !answer.followed && answer.claimed.is_empty()), "{answers:?}");
    Ok(answers.into_iter().map(|answer| answer.committed).collect())
}

async fn run_of(store: &Store, job_id: &str) -> (String, i32) {
    let record = store.look_up_runs(&[RunAsk { job_id: job_id.into() }]).await.unwrap().remove(0).unwrap();
    (record.state, record.attempts)
}

#[tokio::test]
async fn an_attempt_that_is_recorded_twice_is_burnt_once() {
    let store = store().await;
    for _ in 0..3 {
        assert_eq!(store.record_run_failures(&[failed(meta("a", 1, 1), attempt())]).await.unwrap(), [true]);
    }
    assert_eq!(run_of(&store, "a").await, ("open".into(), 1));
    store.record_run_failures(&[failed(meta("a", 1, 2), attempt())]).await.unwrap();
    assert_eq!(run_of(&store, "a").await, ("open".into(), 2), "the next delivery is another attempt");
    store.record_run_failures(&[failed(meta("a", 7, 1), attempt())]).await.unwrap();
    assert_eq!(
        run_of(&store, "a").await,
        ("open".into(), 3),
        "and so is the first of another sequence, as after a wait"
    );
}

#[tokio::test]
async fn a_death_is_final_for_its_message_and_not_for_another() {
    let store = store().await;
    for _ in 0..2 {
        assert_eq!(store.record_run_failures(&[failed(meta("a", 1, 1), death())]).await.unwrap(), [true]);
    }
    store.record_run_failures(&[failed(meta("a", 1, 1), Verdict::Released(None))]).await.unwrap();
    assert_eq!(run_of(&store, "a").await, ("dead".into(), 1), "a late release does not revive it");
    let same = commit(meta("a", 1, 2), Plan::default());
    assert_eq!(put(&store, &[same]).await.unwrap(), [Committed::Duplicate]);
    let again = commit(meta("a", 9, 1), Plan::default());
    assert_eq!(put(&store, &[again]).await.unwrap(), [Committed::Fresh], "published again, it runs again");
    let late = failed(meta("a", 1, 3), attempt());
    assert_eq!(store.record_run_failures(&[late]).await.unwrap(), [false], "a job that has ended does not fail");
    assert_eq!(run_of(&store, "a").await.0, "done");
}

pub fn planned(id: &str) -> Commit {
    let mut plan = Plan { contents: vec![content()], ..Plan::default() };
    plan.inbox.push(InboxRow { id: format!("inbox-{id}"), user_id: "ana".into(), locale: String::new() });
    plan.deliveries.push(PlannedDelivery {
        id: id.into(),
        user_id: "ana".into(),
        channel: Channel::WebPush,
        address: "phone".into(),
        lane: Lane::Critical,
        locale: String::new(),
        named: false,
        unsent: None,
    });
    let mut commit = commit(meta(&format!("job-{id}"), 1, 1), plan);
    commit.not_after = utc_now() + TimeDelta::hours(1);
    commit
}

/// Planned rows belong to the root they were planned under.
#[tokio::test]
async fn a_job_that_is_published_again_under_another_root_is_brought_to_its_end() {
    let store = store().await;
    let now = utc_now();
    for (id, verdict) in [("failed", attempt()), ("dead", death())] {
        let mut again = planned(id);
        again.meta.position.sequence = 9;
        let first = Meta { root_id: "first".into(), ..meta(&again.meta.job_id, 1, 1) };
        store.record_run_failures(&[failed(first, verdict)]).await.unwrap();
        again.plan.deliveries[0].user_id = id.into();
        let run = again.meta.job_id.clone();
        assert_eq!(put(&store, &[again]).await.unwrap(), [Committed::Fresh], "{id}");
        let pending = store.pending_children(&run, now).await.unwrap();
        assert_eq!(pending.children.iter().map(|child| child.job_id.as_str()).collect::<Vec<_>>(), [id]);
        assert_eq!(store.runs_of(&run).await.unwrap().len(), 1);
    }
}

fn content() -> Content {
    Content {
        locale: String::new(),
        kind: "T".into(),
        title: "T".into(),
        body: String::new(),
        url: None,
        data: Map::new(),
        tag: None,
    }
}

pub fn ask(id: &str, sequence: i64, delivered: i64, now: DateTime<Utc>) -> ClaimAsk {
    ask_by("one", id, sequence, delivered, now)
}

pub fn ask_by(worker: &str, id: &str, sequence: i64, delivered: i64, now: DateTime<Utc>) -> ClaimAsk {
    ClaimAsk { id: id.into(), sequence, delivered, worker: worker.into(), patience: PATIENCE, lease: LEASE, now }
}

/// A claim this old is a dead worker's.
pub const PATIENCE: TimeDelta = TimeDelta::seconds(15);

/// Of another message, too.
pub const LEASE: TimeDelta = TimeDelta::seconds(40);

async fn claim(store: &Store, ask: ClaimAsk) -> Claimed {
    store.claim_deliveries(&[ask]).await.unwrap().remove(0)
}

fn entry(id: &str, sequence: i64, delivered: i64, record: LedgerRecord) -> LedgerEntry {
    entry_by("one", id, sequence, delivered, record, utc_now())
}

pub fn entry_by(
    worker: &str,
    id: &str,
    sequence: i64,
    delivered: i64,
    record: LedgerRecord,
    now: DateTime<Utc>,
) -> LedgerEntry {
    LedgerEntry { id: id.into(), sequence, delivered, worker: worker.into(), record, now }
}

pub fn receipt(state: Delivered) -> LedgerRecord {
    let provider = "web_push".to_owned();
    LedgerRecord::Receipt(Receipt {
        state,
        reason: None,
        provider,
        provider_id: None,
        answer: "201".into(),
        tried: None,
        address_gone: false,
        overrode_quiet_hours: false,
    })
}

#[tokio::test]
async fn a_success_that_is_told_late_counts_for_more_than_not_to_know() {
    let store = store().await;
    store.commit(&[planned("d")]).await.unwrap();
    claim(&store, ask("d", 1, 1, utc_now())).await;
    let unsure = entry("d", 1, 1, receipt(Delivered::Unknown));
    assert_eq!(store.record_deliveries(&[unsure]).await.unwrap(), [true]);
    let late = entry_by("two", "d", 1, 1, receipt(Delivered::Sent), utc_now());
    assert_eq!(store.record_deliveries(&[late]).await.unwrap(), [true]);
    let failed = entry_by("two", "d", 1, 1, receipt(Delivered::Failed), utc_now());
    store.record_deliveries(&[failed]).await.unwrap();
    let state: String =
        sqlx::query_scalar("SELECT state FROM deliveries WHERE id = 'd'").fetch_one(store.pool()).await.unwrap();
    assert_eq!(state, "sent");
}

#[tokio::test]
async fn a_claim_is_one_workers_until_its_message_comes_again_or_its_lease_ends() {
    let store = store().await;
    store.commit(&[planned("d")]).await.unwrap();
    let now = utc_now();
    let taken = join_all((0..8).map(|sequence| claim(&store, ask("d", sequence, 1, now)))).await;
    assert_eq!(taken.iter().filter(|claimed| matches!(claimed, Claimed::Taken(_))).count(), 1, "eight at once");
    let holder = (0..8).zip(&taken).find(|(_, claimed)| matches!(claimed, Claimed::Taken(_))).unwrap().0;

    let other = 100;
    assert!(matches!(claim(&store, ask("d", other, 1, now)).await, Claimed::Busy(until) if until > now));
    let same = claim(&store, ask("d", holder, 1, now)).await;
    assert!(matches!(same, Claimed::Taken(_)), "the same ask, whose answer was lost");
    // After a crash a server may redeliver too soon, perhaps under the same count.
    for delivered in [1, 2] {
        let too_soon = claim(&store, ask_by("two", "d", holder, delivered, now + TimeDelta::seconds(5))).await;
        assert!(
            matches!(too_soon, Claimed::Again(until) if until == now + TimeDelta::seconds(15)),
            "the first worker is at it: {too_soon:?}"
        );
    }
    let again = claim(&store, ask_by("two", "d", holder, 2, now + TimeDelta::seconds(16))).await;
    assert!(matches!(again, Claimed::Taken(_)), "the same message, again, when the first must be dead: {again:?}");
    let stale = entry("d", holder, 1, LedgerRecord::Verdict(attempt()));
    assert_eq!(store.record_deliveries(&[stale]).await.unwrap(), [false], "the first worker's failure does not count");
    let sent = entry("d", holder, 1, receipt(Delivered::Sent));
    assert_eq!(store.record_deliveries(&[sent]).await.unwrap(), [true], "but what it has sent is sent");
    assert!(matches!(claim(&store, ask("d", holder, 2, now)).await, Claimed::Ended(end) if end == "sent"));

    store.commit(&[planned("e")]).await.unwrap();
    claim(&store, ask("e", 1, 1, now)).await;
    let later = now + LEASE + TimeDelta::seconds(1);
    assert!(matches!(claim(&store, ask("e", 2, 1, later)).await, Claimed::Taken(_)), "after the lease");
}

/// A crashed server counts deliveries anew.
#[tokio::test]
async fn a_failure_from_before_a_crash_of_the_server_does_not_end_the_claim_after_it() {
    let store = store().await;
    store.commit(&[planned("d")]).await.unwrap();
    let now = utc_now();
    claim(&store, ask_by("one", "d", 1, 1, now)).await;
    let failed = entry_by("one", "d", 1, 1, LedgerRecord::Verdict(attempt()), now);
    assert_eq!(store.record_deliveries(&[failed]).await.unwrap(), [true]);
    let anew = claim(&store, ask_by("two", "d", 1, 1, now)).await;
    assert!(matches!(anew, Claimed::Taken(_)), "its failure is on record: {anew:?}");
    for worker in ["two", "three"] {
        let too_soon = claim(&store, ask_by(worker, "d", 1, 2, now + TimeDelta::seconds(5))).await;
        assert!(
            matches!(too_soon, Claimed::Again(until) if until == now + TimeDelta::seconds(15)),
            "the second worker is at it: {too_soon:?}"
        );
    }
    let failed = entry_by("two", "d", 1, 1, LedgerRecord::Verdict(attempt()), now);
    assert_eq!(store.record_deliveries(&[failed]).await.unwrap(), [true]);
    let next = claim(&store, ask_by("three", "d", 1, 2, now + TimeDelta::seconds(5))).await;
    assert!(matches!(next, Claimed::Taken(_)), "{next:?}");
}

#[tokio::test]
async fn a_delivery_that_is_held_is_not_claimed_before_its_time_unless_it_has_expired() {
    let store = store().await;
    store.commit(&[planned("d")]).await.unwrap();
    let now = utc_now();
    claim(&store, ask("d", 1, 1, now)).await;
    let until = now + TimeDelta::hours(5);
    let held = entry("d", 1, 1, LedgerRecord::Held(until, "retry_later"));
    for _ in 0..2 {
        assert_eq!(store.record_deliveries(std::slice::from_ref(&held)).await.unwrap(), [true], "twice is once");
    }
    assert!(matches!(claim(&store, ask("d", 2, 1, now)).await, Claimed::Busy(busy) if busy == until));
    let expired = now + TimeDelta::hours(2);
    let claimed = claim(&store, ask("d", 2, 1, expired)).await;
    assert!(matches!(claimed, Claimed::Taken(_)), "claimed in order to expire: {claimed:?}");
}

#[tokio::test]
async fn one_mark_has_one_owner_whatever_the_grouping() {
    let store = store().await;
    let mark = Mark { record_id: "m".into(), instant: utc_now(), lead_minutes: 0 };
    let jobs: Vec<Commit> = (0..20)
        .map(|number| {
            let plan = Plan { mark: Some(mark.clone()), ..Plan::default() };
            commit(meta(&format!("job-{number}"), number, 1), plan)
        })
        .collect();
    let groups = join_all(jobs.chunks(5).map(async |group| {
        // A group that meets a concurrent mark is refused, and then repeated.
        loop {
            match put(&store, group).await {
                Err(StoreError::Busy(_)) => {}
                committed => break committed.unwrap(),
            }
        }
    }))
    .await;
    let results: Vec<Committed> = groups.into_iter().flatten().collect();
    assert_eq!(results.iter().filter(|result| **result == Committed::Fresh).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| **result == Committed::MarkTaken).count(), 19, "{results:?}");
    let again = put(&store, &jobs).await.unwrap();
    assert!(again.iter().all(|result| *result == Committed::Duplicate));
}

fn shortage(job_id: &str, shortage: Shortage) -> Commit {
    commit(meta(job_id, 1, 1), Plan { shortage: Some(shortage), ..Plan::default() })
}

fn found(job_id: &str) -> Commit {
    shortage(job_id, Shortage::Found { medication_id: "m".into(), refill_at: 10 })
}

fn over(job_id: &str, told_by: &str) -> Commit {
    shortage(job_id, Shortage::Over { medication_id: "m".into(), told_by: told_by.into() })
}

#[tokio::test]
async fn one_shortage_has_one_owner_whatever_the_grouping() {
    let store = store().await;
    let jobs: Vec<Commit> = (0..20).map(|number| found(&format!("job-{number}"))).collect();
    let groups = join_all(jobs.chunks(5).map(|group| put(&store, group))).await;
    let results: Vec<Committed> = groups.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(results.iter().filter(|result| **result == Committed::Fresh).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| **result == Committed::MarkTaken).count(), 19);
    let again = put(&store, &jobs).await.unwrap();
    assert!(again.iter().all(|result| *result == Committed::Duplicate));
}

#[tokio::test]
async fn a_shortage_of_which_nobody_was_told_is_the_next_jobs() {
    let store = store().await;
    let one = async |commit| put(&store, &[commit]).await.unwrap().remove(0);
    assert_eq!(one(found("first")).await, Committed::Fresh);
    assert_eq!(one(found("second")).await, Committed::MarkTaken, "its notification is on its way");
    let mut late = commit(meta("first~notification", 5, 1), Plan::default());
    late.state = RunState::Expired;
    assert_eq!(one(late).await, Committed::Fresh);
    assert_eq!(one(found("third")).await, Committed::Fresh, "the first's came too late");
    assert_eq!(one(found("fourth")).await, Committed::MarkTaken, "the third's is on its way");
}

#[tokio::test]
async fn a_job_that_the_server_delivers_no_more_is_given_up_once_and_only_if_it_has_not_ended() {
    let store = store().await;
    let now = utc_now();
    store.record_run_failures(&[failed(meta("open", 1, 1), attempt())]).await.unwrap();
    put(&store, &[commit(meta("done", 2, 1), Plan::default())]).await.unwrap();
    store.commit(&[planned("d")]).await.unwrap();
    let give_up = async |id| store.give_up(id, DeadReason::Exhausted, "too often", now).await.unwrap();
    assert!(give_up("open").await && give_up("open").await, "the second call changes nothing");
    assert_eq!(run_of(&store, "open").await, ("dead".into(), 1));
    assert!(!give_up("done").await, "a job that has ended only leaves its stream");
    assert!(give_up("never-seen").await);

    claim(&store, ask("d", 1, 1, now)).await;
    assert!(give_up("d").await);
    let sent = entry("d", 1, 1, receipt(Delivered::Sent));
    assert_eq!(store.record_deliveries(&[sent]).await.unwrap(), [true], "the worker was still sending it");
    assert!(matches!(claim(&store, ask("d", 1, 2, now)).await, Claimed::Ended(state) if state == "sent"));
}

#[tokio::test]
async fn a_shortage_ends_once_and_no_late_word_ends_the_next() {
    let store = store().await;
    let one = async |commit| put(&store, &[commit]).await.unwrap().remove(0);
    assert_eq!(one(found("first")).await, Committed::Fresh);
    assert_eq!(one(over("refilled", "first")).await, Committed::Fresh);
    assert_eq!(one(found("second")).await, Committed::Fresh, "the next shortage");
    assert_eq!(one(over("refilled-too", "first")).await, Committed::Fresh, "a job that saw the first one end");
    assert_eq!(one(found("third")).await, Committed::MarkTaken, "the second is still there");

    // In one group, the found shortage belongs to its owner, though the group ends it.
    let group = [over("refilled-again", "second"), found("fourth")];
    assert_eq!(put(&store, &group).await.unwrap(), [Committed::Fresh, Committed::MarkTaken]);
    assert_eq!(one(found("fifth")).await, Committed::Fresh);
}
