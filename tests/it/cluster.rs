//! Three NATS servers: a worker of theirs goes on with two.

use std::time::{Duration, Instant};

use carebell::streams::Streams;

use crate::support::{Cluster, Process, QUICK, World, adjustments, reminder, utc_now};

/// Nobody closes the connections of a frozen server, as of one that has lost its power.
#[tokio::test]
async fn a_frozen_node_holds_no_job_for_long() {
    const BEFORE: usize = 3;
    const AFTER: usize = 12;
    let world = World::new().await;
    let cluster = Cluster::start().await;
    // The test's own client stays off the node that freezes.
    let context = cluster.context(1).await;
    let mut streams = adjustments(QUICK);
    streams.replicas = 3;
    cluster.has_a_leader(&context).await;
    Streams::embedded(&streams).unwrap().apply(&context).await.unwrap();
    let urls = cluster.urls();
    let mut worker = Process::worker(&world, &[("NATS_URL", &urls), ("STREAMS_REPLICAS", "3")]);
    worker.ready().await;
    let publish = async |number: usize| {
        let due = utc_now() - chrono::TimeDelta::minutes(i64::try_from(number).unwrap());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Carebell-Job-Id", format!("dose-{number}"));
        headers.insert("Nats-Msg-Id", format!("dose-{number}"));
        headers.insert("Content-Type", "application/json");
        let body = reminder("metformin", due).to_string();
        let published = async || {
            let sent = context.publish_with_headers("jobs.reminder.medication", headers.clone(), body.clone().into());
            sent.await.ok()?.await.ok()
        };
        // A leader that is frozen is missed after some seconds.
        world.eventually("a server takes it", published).await;
    };
    for number in 0..BEFORE {
        publish(number).await;
        world.ledger(&format!("dose-{number}")).await;
    }

    assert!(cluster.connections(0) > 0, "of the worker, whose clients take any node");
    cluster.freeze(0);
    let since = Instant::now();
    let publishing = async {
        for number in BEFORE..BEFORE + AFTER {
            publish(number).await;
        }
    };
    let left = async || (cluster.connections(0) == 0).then(|| since.elapsed());
    let ((), left) = tokio::join!(publishing, world.eventually("the worker has left the frozen node", left));
    assert!(left < Duration::from_secs(20), "after {left:?}");
    for number in BEFORE..BEFORE + AFTER {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    }
    eprintln!("all connections moved after {left:?}, all sent after {:?}", since.elapsed());
    world.eventually("all is well with two", async || (worker.get("/health").await.0 == 200).then_some(())).await;

    cluster.thaw(0);
    publish(BEFORE + AFTER).await;
    world.ledger(&format!("dose-{}", BEFORE + AFTER)).await;
    world.all_is_published().await;
    assert_eq!(world.push.counts().accepted, 4 * (BEFORE + AFTER + 1), "none twice");
    assert_eq!(worker.terminate().await.code(), Some(0));
}
