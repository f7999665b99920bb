//! Connections of grouped statements: every waiter gets one, broken ones are detected, no answer is stale.

use carebell::{
    plan::{Plan, Shortage},
    store::{Claimed, Committed, MedicationAsk, PeopleAsk, RunAsk, Store, StoreError},
};
use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use tokio::time::timeout;

use crate::{
    records::{ask, attempt, commit, entry_by, failed, meta, planned, put, receipt},
    support::{LIMIT, Process, World, database, reminder, utc_now},
};

/// Half of the connections are for grouped statements. The pool is the test's own.
async fn store(connections: u32) -> (Store, PgPool) {
    let url = database().await;
    (crate::support::store(&url, connections), crate::support::pool(&url))
}

async fn state(store: &Store, job_id: &str) -> Result<Option<String>, StoreError> {
    let found = store.look_up_runs(&[RunAsk { job_id: job_id.into() }]).await?.remove(0);
    Ok(found.map(|record| record.state))
}

/// Waits until a statement waits for a lock.
async fn somebody_waits(db: &PgPool) {
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = 'carebell' AND wait_event_type = 'Lock'";
    let asking = async { while !sqlx::query_scalar::<_, bool>(waits).fetch_one(db).await.unwrap() {} };
    timeout(LIMIT, asking).await.expect("a statement waits for a lock");
}

/// Returns the number of terminated backends.
async fn terminate(db: &PgPool) -> usize {
    let ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = 'carebell'";
    let ended: Vec<bool> = sqlx::query_scalar(ended).fetch_all(db).await.unwrap();
    assert!(ended.iter().all(|ended| *ended), "{ended:?}");
    ended.len()
}

#[tokio::test]
async fn a_worker_with_the_fewest_connections_sends_all_that_it_is_asked_for() {
    const DOSES: usize = 20;
    let world = World::new().await;
    world.sql("INSERT INTO medications VALUES ('ramipril', 'rose', 'Ramipril', '5 mg', true, 3, 10)").await;
    let mut worker = Process::worker(&world, &[("DATABASE_CONNECTIONS", "2")]);
    worker.ready().await;
    let refill = json!({ "medicationId": "ramipril", "currentSupply": 3, "refillAt": 10 });
    for number in 0..DOSES {
        let due = utc_now() - chrono::TimeDelta::minutes(i64::try_from(number).unwrap());
        world.publish_json("jobs.reminder.medication", &format!("dose-{number}"), &reminder("metformin", due)).await;
        // A shortage is written in a transaction.
        world.publish_json("jobs.alert.refill", &format!("refill-{number}"), &refill).await;
    }
    for number in 0..DOSES {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
        let _ = world.ended(&format!("refill-{number}")).await;
    }
    world.queues_are_empty().await;
    world.all_is_published().await;
    assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE kind = 'alert.refill' AND state = 'done'").await, 1);
    assert_eq!(world.push.counts().requests, 4 * DOSES + 4);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0);
    assert_eq!(worker.terminate().await.code(), Some(0));
    // A vain wait would be logged as a lost database.
    // sqlx's own warning about a wait of two seconds only means a busy machine.
    for line in worker.output().lines().filter(|line| !line.contains("sqlx::pool::acquire")) {
        assert!(!line.contains("\"level\":\"WARN\"") && !line.contains("\"level\":\"ERROR\""), "{line}");
    }
}

#[tokio::test]
async fn more_statements_than_connections_take_turns() {
    const EACH: usize = 40;
    let (store, _) = store(2).await;
    let now = utc_now();
    let statements = (0..EACH).map(async |number| {
        let id = format!("d-{number}");
        let written = store.commit(&[planned(&id)]).await?.remove(0);
        assert_eq!(written.committed, Committed::Fresh);
        let claimed = store.claim_deliveries(&[ask(&id, 1, 1, now)]).await?.remove(0);
        assert!(matches!(claimed, Claimed::Taken(_)), "{claimed:?}");
        let sent = entry_by("one", &id, 1, 1, receipt(carebell::plan::Delivered::Sent), now);
        assert_eq!(store.record_deliveries(&[sent]).await?, [true]);
        let job = format!("f-{number}");
        assert_eq!(store.record_run_failures(&[failed(meta(&job, 1, 1), attempt())]).await?, [true]);
        assert_eq!(state(&store, &job).await?.as_deref(), Some("open"));
        store.children_published(&[format!("job-{id}")]).await?;
        let people = PeopleAsk { user_ids: vec!["ana".into()], kind: "T".into() };
        assert!(store.people(&[people]).await?[0].is_empty());
        let medication = MedicationAsk { kind: "T", id: id.clone(), scheduled_time: now, looks_at_schedule: false };
        assert_eq!(store.medications(&[medication]).await?, [None]);
        // A transaction uses the other pool.
        let shortage = Shortage::Found { medication_id: id.clone(), refill_at: 10 };
        let found = commit(meta(&format!("s-{number}"), 1, 1), Plan { shortage: Some(shortage), ..Plan::default() });
        assert_eq!(put(&store, &[found]).await?, [Committed::Fresh]);
        store.ledger_of(&format!("job-{id}")).await
    });
    for ended in join_all(statements).await {
        assert_eq!(ended.unwrap()[0].state, "sent");
    }
    // The plain pool gets its connection back a moment later.
    let unused = async {
        while store.connections() != [0, 2, 2] {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, unused).await.unwrap_or_else(|_| panic!("{:?} in use, idle, at most", store.connections()));
}

/// The transaction reuses the previous statement's connection.
#[tokio::test]
async fn a_transaction_does_not_wait_for_a_connection_that_nobody_uses() {
    let (store, _) = store(2).await;
    for number in 0..3 {
        let id = format!("m-{number}");
        assert_eq!(state(&store, &id).await, Ok(None));
        let found =
            Plan { shortage: Some(Shortage::Found { medication_id: id.clone(), refill_at: 10 }), ..Plan::default() };
        assert_eq!(put(&store, &[commit(meta(&id, 1, 1), found)]).await, Ok(vec![Committed::Fresh]));
        assert_eq!(state(&store, &id).await, Ok(Some("done".into())));
    }
}

#[tokio::test]
async fn a_connection_that_has_ended_costs_one_statement_at_most() {
    let (store, db) = store(8).await;
    put(&store, &[commit(meta("a", 1, 1), Plan::default())]).await.unwrap();
    let at_once = || join_all((0..12).map(|_| state(&store, "a")));
    for round in 0..3 {
        for found in at_once().await {
            assert_eq!(found, Ok(Some("done".into())), "round {round}");
        }
        let ended = terminate(&db).await;
        assert!(ended > 0);
        let found: Vec<_> = at_once().await.into_iter().chain(at_once().await).collect();
        let failed = found.iter().filter(|found| found.is_err()).count();
        assert!(failed <= ended, "{failed} of {ended} connections");
        for found in found {
            assert!(matches!(&found, Err(StoreError::Unavailable(_))) || found == Ok(Some("done".into())), "{found:?}");
        }
    }
    let (few, db) = self::store(2).await;
    for _ in 0..3 {
        assert_eq!(state(&few, "a").await, Ok(None));
        terminate(&db).await;
        let first = state(&few, "a").await;
        assert!(matches!(first, Err(StoreError::Unavailable(_)) | Ok(None)), "{first:?}");
        for _ in 0..5 {
            assert_eq!(state(&few, "a").await, Ok(None));
        }
    }
}

/// As behind a firewall that drops idle connections.
#[tokio::test]
async fn a_connection_that_rested_and_is_silent_now_is_replaced() {
    let (store, db) = store(2).await;
    put(&store, &[commit(meta("a", 1, 1), Plan::default())]).await.unwrap();
    let backends =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'carebell'";
    let backend: i32 = sqlx::query_scalar(backends).fetch_one(&db).await.unwrap();
    let signal = |name: &str| {
        assert!(std::process::Command::new("kill").args([name, &backend.to_string()]).status().unwrap().success());
    };
    signal("-STOP");
    // Longer than an idle connection is trusted.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let found = timeout(LIMIT, async { [state(&store, "a").await, state(&store, "a").await] }).await;
    signal("-CONT");
    assert_eq!(found.unwrap(), [Ok(Some("done".into())), Ok(Some("done".into()))]);
}

#[tokio::test]
async fn a_worker_whose_connections_end_goes_on() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    for round in 0..3 {
        let id = format!("dose-{round}");
        let due = utc_now() - chrono::TimeDelta::minutes(round);
        world.publish_json("jobs.reminder.medication", &id, &reminder("metformin", due)).await;
        terminate(&world.db).await;
        let ledger = world.ledger(&id).await;
        assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    }
    world.queues_are_empty().await;
    world.all_is_published().await;
    assert_eq!(world.push.counts().accepted, 12);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0, "an outage burns no attempt");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_statement_that_is_given_up_leaves_its_answer_to_nobody() {
    let (store, db) = store(2).await;
    put(&store, &[commit(meta("done", 1, 1), Plan::default())]).await.unwrap();
    store.record_run_failures(&[failed(meta("open", 1, 1), attempt())]).await.unwrap();
    let shortage = Shortage::Found { medication_id: "m".into(), refill_at: 10 };
    let found = commit(meta("found", 1, 1), Plan { shortage: Some(shortage), ..Plan::default() });
    for round in 0..3 {
        let mut held = db.begin().await.unwrap();
        sqlx::query("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
        tokio::select! {
            found = state(&store, "done") => panic!("it read what is locked: {found:?}"),
            () = somebody_waits(&db) => {}
        }
        held.rollback().await.unwrap();
        assert_eq!(state(&store, "open").await, Ok(Some("open".into())), "round {round}");
        assert_eq!(state(&store, "done").await, Ok(Some("done".into())), "round {round}");
        let people = PeopleAsk { user_ids: vec!["ana".into()], kind: "T".into() };
        assert_eq!(store.people(&[people]).await.unwrap(), [std::collections::BTreeMap::new()]);

        // An abandoned transaction must leave nothing behind.
        let mut held = db.begin().await.unwrap();
        sqlx::query("LOCK TABLE refill_shortages IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
        tokio::select! {
            written = put(&store, std::slice::from_ref(&found)) => panic!("it wrote what is locked: {written:?}"),
            () = somebody_waits(&db) => {}
        }
        held.rollback().await.unwrap();
        assert_eq!(state(&store, "found").await, Ok(None), "round {round}");
    }
    assert_eq!(put(&store, &[found]).await, Ok(vec![Committed::Fresh]));
}

/// The statement's connection is closed too.
#[tokio::test]
async fn a_store_is_closed_when_the_statement_under_way_has_ended() {
    let (store, db) = store(2).await;
    put(&store, &[commit(meta("a", 1, 1), Plan::default())]).await.unwrap();
    let mut held = db.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let (asking, closing) = (store.clone(), store.clone());
    let found = tokio::spawn(async move { state(&asking, "a").await });
    somebody_waits(&db).await;
    let closed = tokio::spawn(async move { closing.close().await });
    let refused = async { while !matches!(store.ping().await, Err(StoreError::Unavailable(_))) {} };
    timeout(LIMIT, refused).await.expect("the store is closing");
    held.rollback().await.unwrap();
    assert_eq!(found.await.unwrap(), Ok(Some("done".into())));
    timeout(LIMIT, closed).await.expect("nothing is left to wait for").unwrap();
    assert!(matches!(state(&store, "a").await, Err(StoreError::Unavailable(_))));
    let gone = async { while terminate(&db).await > 0 {} };
    timeout(LIMIT, gone).await.expect("no connection is reopened");
}
