//! `carebell jobs cancel` of jobs that wait: either the cancellation or the commit is first.

use carebell::{
    clock::Clock,
    dead_letter::{Change, Letters, redrive::Redriver},
    plan::Plan,
    store::{AuditEntry, Cancellation, Committed, WaitingRun},
};
use serde_json::json;

use crate::{
    cli::carebell,
    records::{commit, meta},
    support::{Worker, World, peek, utc_now},
};

async fn cancel(world: &World, id: &str) -> (bool, String) {
    let (well, said, error) = carebell(world, &["jobs", "cancel", id, "--by", "olga"], &[]).await;
    (well, said + &error)
}

async fn pause(world: &World, args: &[&str]) {
    let args: Vec<&str> = ["queues", "pause", "--reason", "tried"].into_iter().chain(args.iter().copied()).collect();
    let (well, _, error) = carebell(world, &args, &[]).await;
    assert!(well, "{error}");
}

async fn resume(world: &World, args: &[&str]) {
    let args: Vec<&str> = ["queues", "resume"].into_iter().chain(args.iter().copied()).collect();
    let (well, _, error) = carebell(world, &args, &[]).await;
    assert!(well, "{error}");
}

fn cancelled() -> (String, Option<String>) {
    ("skipped".to_owned(), Some("cancelled".to_owned()))
}

#[tokio::test]
async fn a_job_that_waits_in_its_stream_is_skipped_when_it_comes() {
    let world = World::new().await;
    world.remind("dose").await;
    let (well, said) = cancel(&world, "dose").await;
    assert!(well && said.contains("job dose is cancelled"), "{said}");
    assert_eq!(world.ended("dose").await, cancelled());
    let worker = Worker::without_scheduler(&world);
    world.queues_are_empty().await;
    assert_eq!(world.ended("dose").await, cancelled());
    assert_eq!(world.push.counts().requests, 0);
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 0);
    assert_eq!(
        world.count("SELECT count(*) FROM audit_log WHERE action = 'job.cancelled' AND actor = 'olga'").await,
        1
    );
    let (well, said) = cancel(&world, "dose").await;
    assert!(!well && said.contains("job dose has ended before: skipped (cancelled)"), "{said}");
    let (well, said) = cancel(&world, "nothing").await;
    assert!(!well && said.contains("there is no job \"nothing\""), "{said}");
    worker.stop().await;
}

#[tokio::test]
async fn a_notification_that_waits_is_cancelled_by_the_id_of_its_reminder() {
    let world = World::new().await;
    pause(&world, &["notification"]).await;
    let worker = Worker::without_scheduler(&world);
    world.remind("dose").await;
    assert_eq!(world.ended("dose").await.0, "done");
    world
        .eventually("it waits", async || {
            (peek(&world.context, "WORK", "work.notification.critical").await == 1).then_some(())
        })
        .await;
    let (well, said) = cancel(&world, "dose").await;
    assert!(well && said.contains("job dose is cancelled"), "{said}");
    resume(&world, &["notification"]).await;
    world.queues_are_empty().await;
    assert_eq!(world.ended("dose~notification").await, cancelled());
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn deliveries_that_have_not_begun_are_cancelled_and_the_others_said_to_be_sent() {
    let world = World::new().await;
    pause(&world, &["--channel", "push"]).await;
    let worker = Worker::without_scheduler(&world);
    world.remind("dose").await;
    assert_eq!(world.ended("dose~notification").await.0, "done");
    world
        .eventually("they wait", async || {
            (peek(&world.context, "DELIVERIES", "deliver.web_push.critical").await == 4).then_some(())
        })
        .await;
    let (well, said) = cancel(&world, "dose~notification").await;
    assert!(well && said.contains("with 4 of its deliveries that had not begun"), "{said}");
    resume(&world, &["--channel", "push"]).await;
    world.queues_are_empty().await;
    let ledger = world.ledger("dose").await;
    assert!(ledger.iter().all(|line| (line.state.clone(), line.reason.clone()) == cancelled()), "{ledger:?}");
    assert_eq!(world.push.counts().requests, 0);

    world.remind("sent").await;
    assert_eq!(world.ended("sent").await.0, "done");
    world.ledger("sent").await;
    let (well, said) = cancel(&world, "sent").await;
    assert!(!well && said.contains("job sent has already run: done, 4 were sent before"), "{said}");
    worker.stop().await;
}

#[tokio::test]
async fn deliveries_that_are_parked_are_cancelled() {
    let world = World::new().await;
    let host = world.push.host_port();
    pause(&world, &["--provider", &host]).await;
    let worker = Worker::without_scheduler(&world);
    world.remind("dose").await;
    world
        .eventually("they are parked", async || (peek(&world.context, "HOLD", "hold.>").await == 4).then_some(()))
        .await;
    let (well, said) = cancel(&world, "dose").await;
    assert!(well && said.contains("with 4 of its deliveries"), "{said}");
    resume(&world, &["--provider", &host]).await;
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().requests, 0);
    worker.stop().await;
}

/// Whichever writes the run's row first has won, and says so; the other has no effect.
#[tokio::test]
async fn of_a_commit_and_a_cancellation_at_once_exactly_one_wins() {
    const ROUNDS: usize = 60;
    let world = World::without_family(crate::support::database().await, "").await;
    let store = &world.store;
    let (mut won, mut lost) = (0, 0);
    for round in 0..ROUNDS {
        let id = format!("job-{round}");
        let act = AuditEntry {
            at: utc_now(),
            actor: "olga".into(),
            action: "job.cancelled".into(),
            job_id: Some(id.clone()),
            root_id: Some(id.clone()),
            detail: json!({}),
        };
        let commits = [commit(meta(&id, 1, 1), Plan::default())];
        let root = WaitingRun::root(&id);
        let cancelling = store.cancel_waiting(&root, true, false, &act);
        let (committed, cancelled): (_, Result<Cancellation, _>) = if round % 2 == 0 {
            tokio::join!(store.commit(&commits), cancelling)
        } else {
            let (cancelled, committed) = tokio::join!(cancelling, store.commit(&commits));
            (committed, cancelled)
        };
        let (committed, cancelled) = (committed.unwrap()[0].committed, cancelled.unwrap());
        let is_cancelled = cancelled.runs.contains(&id);
        assert_eq!(is_cancelled, committed == Committed::Duplicate, "{committed:?} {cancelled:?}");
        let state = cancelled.root.unwrap().0;
        assert_eq!(state, if is_cancelled { "skipped" } else { "done" });
        won += usize::from(is_cancelled);
        lost += usize::from(!is_cancelled);
    }
    assert_eq!(won + lost, ROUNDS);
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE state = 'skipped' AND job_id NOT LIKE '%~notification'").await,
        i64::try_from(won).unwrap()
    );
}

#[tokio::test]
async fn a_cancelled_job_is_not_redriven() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken")], "x").await;
    world.dead_letters_once(1).await;
    let (well, said) = cancel(&world, "broken").await;
    assert!(!well && said.contains("job broken is dead: `carebell dead-letters discard 1`"), "{said}");
    world.sql("UPDATE job_runs SET state = 'skipped', reason = 'cancelled' WHERE job_id = 'broken'").await;
    let letters = Letters::open(&world.context).await.unwrap();
    let letter = letters.get(1).await.unwrap().unwrap();
    let redriver = Redriver {
        context: &world.context,
        letters: &letters,
        store: &world.store,
        clock: &Clock::system(),
        actor: "olga",
    };
    let done = redriver.redrive(&[letter], &Change::default()).await.unwrap();
    assert!(done[0].as_ref().is_err_and(|why| why.contains("the job is cancelled")), "{done:?}");
    assert_eq!(world.dead_letters().await.len(), 1, "its letter stays");
    worker.stop().await;
}
