//! Servers that stop and return: no lost job, no burnt attempt, the worker stays.

use std::{collections::BTreeMap, time::Duration};

use carebell::dev::guard;
use serde_json::json;

use crate::support::{LIMIT, Process, World, own_postgres, programs, utc_now};

#[tokio::test]
async fn nats_stopped_and_started() {
    let mut world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("before").await;
    world.everyone_has_it_once("before").await;

    world.nats.stop().await;
    world
        .eventually("health shows that NATS is away", async || {
            let (status, body) = worker.get("/health").await;
            (status == 503 && body.contains("\"nats\":{\"state\":\"down\"")).then_some(())
        })
        .await;
    assert_eq!(worker.get("/livez").await.0, 200);
    world.nats.start_again().await.unwrap();
    // The test's own client must reconnect first.
    world.eventually("NATS is back", async || world.context.query_account().await.ok()).await;
    let since = tokio::time::Instant::now();
    world.remind("after").await;
    world.ledger("after").await;
    assert!(since.elapsed() < Duration::from_secs(15), "pulls resume at once: {:?}", since.elapsed());
    world.push.wait_for(8, LIMIT).await.unwrap();
    assert_eq!(worker.get("/health").await.0, 200);
    // Carebell's own streams are pulled on the connection that was made anew.
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "x" });
    let since = tokio::time::Instant::now();
    for number in 0..5 {
        let id = format!("own-{number}");
        world.publish_json("work.notification.normal", &id, &body).await;
        assert_eq!(world.ended(&id).await.0, "done");
    }
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "none was lost with a pull: {:?} {}",
        since.elapsed(),
        worker.output()
    );
    world.push.wait_for(13, LIMIT).await.unwrap();
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 13);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0);
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn nats_killed_while_jobs_are_under_way() {
    let mut world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    for number in 0..30 {
        let body = crate::support::reminder("metformin", utc_now() - chrono::TimeDelta::minutes(number));
        world.publish_json("jobs.reminder.medication", &format!("dose-{number}"), &body).await;
    }
    world.push.wait_until(LIMIT, |counts| counts.accepted >= 10).await.unwrap();
    world.nats.kill().await;
    world.nats.start_again().await.unwrap();
    for number in 0..30 {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert_eq!((ledger.len(), ledger.iter().all(|line| line.state == "sent")), (4, true), "{ledger:?}");
    }
    world.queues_are_empty().await;
    // A killed server repeats deliveries still being sent.
    let counts = world.push.counts();
    assert_eq!(counts.accepted - counts.replaced, 120, "nothing lost, nothing doubled");
    let second_claims = world.count("SELECT sum(claims - 1)::bigint FROM deliveries").await;
    assert!(i64::try_from(counts.replaced).unwrap() <= second_claims, "{counts:?}, {second_claims} explained");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 120);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM deliveries").await, 0);
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn postgres_stopped_and_started() {
    let (mut postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), crate::support::QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;

    postgres.stop().await;
    world.remind("meanwhile").await;
    world
        .eventually("health shows that Postgres is away", async || {
            let (status, body) = worker.get("/health").await;
            (status == 503 && body.contains("\"postgres\":{\"state\":\"down\"")).then_some(())
        })
        .await;
    postgres.start_again().await.unwrap();
    world.everyone_has_it_once("meanwhile").await;
    // The scheduler says that it is well again when it has looked.
    world.eventually("all is well again", async || (worker.get("/health").await.0 == 200).then_some(())).await;
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0, "an outage burns no attempt");
    assert!(world.dead_letters().await.is_empty());

    postgres.kill().await;
    postgres.start_again().await.unwrap();
    world.publish_json("jobs.reminder.medication", "after", &crate::support::reminder("metformin", utc_now())).await;
    world.ledger("after").await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_without_its_servers_says_so_and_exits() {
    let directory = guard::private_dir().unwrap();
    let environment = |nats: &str, database: &str| -> BTreeMap<String, String> {
        let values = [
            ("NATS_URL", nats),
            ("DATABASE_URL", database),
            ("HEALTH_PORT", "0"),
            ("START_TIMEOUT", "2s"),
            ("LOG_FORMAT", "json"),
        ];
        values.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    };
    // Nothing listens on port 1.
    let mut process =
        Process::start(&["run"], &environment("nats://127.0.0.1:1", "postgres://127.0.0.1:1/x"), directory.path());
    let answer = process.get("/ready").await;
    assert_eq!(answer, (503, "starting\n".into()));
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.output().contains("NATS_URL"), "{}", process.output());

    let nats = carebell::dev::nats::NatsServer::start(&programs().await.nats_server, directory.path()).await.unwrap();
    let mut process = Process::start(&["run"], &environment(&nats.url(), "postgres://127.0.0.1:1/x"), directory.path());
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.output().contains("carebell streams apply"), "{}", process.output());
}

#[tokio::test]
async fn a_database_without_the_schema_is_told_of() {
    let (postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), crate::support::QUICK).await;
    let mut process = Process::worker(&world, &[("DATABASE_URL", &postgres.url("template1")), ("START_TIMEOUT", "1s")]);
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.output().contains("carebell migrate"), "{}", process.output());
}

/// Only somebody who may write to Carebell's own streams can do that, past any client library: see `poison.rs` for
/// producers.
#[tokio::test]
async fn a_worker_whose_own_client_is_ended_by_a_message_ends_and_says_so() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let address = ("127.0.0.1", world.nats.port());
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let header = "NATS/1.0\r\nX-Note: a\rb\r\n\r\n";
    let publish = format!(
        "CONNECT {{\"headers\":true,\"verbose\":false}}\r\nHPUB work.reminder.medication {0} {0}\r\n{header}\r\nPING\r\n",
        header.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut connection, publish.as_bytes()).await.unwrap();
    assert_eq!(worker.ended().await.code(), Some(1), "{}", worker.output());
    assert!(worker.output().contains("NATS client has ended"), "{}", worker.output());
}
