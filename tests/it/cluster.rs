//! Three NATS servers: a worker of theirs goes on with two.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use carebell::streams::Streams;

use crate::support::{Cluster, Process, QUICK, World, adjustments, reminder, utc_now};

/// A worker beside three servers, of which the test itself uses one.
struct Trio {
    world: World,
    cluster: Cluster,
    context: jetstream::Context,
    worker: Process,
}

impl Trio {
    /// The node that the test uses.
    const OURS: usize = 1;

    async fn start() -> Self {
        let world = World::new().await;
        let cluster = Cluster::start().await;
        let context = cluster.context(Self::OURS).await;
        let mut streams = adjustments(QUICK);
        streams.replicas = cluster.size();
        cluster.has_a_leader(&context).await;
        Streams::embedded(&streams).unwrap().apply(&context).await.unwrap();
        cluster.is_whole(&context).await;
        let urls = cluster.urls();
        let mut worker = Process::worker(&world, &[("NATS_URL", &urls), ("STREAMS_REPLICAS", "3")]);
        worker.ready().await;
        Self { world, cluster, context, worker }
    }

    /// Publishes a reminder, again and again until a server takes it: a leader that is gone is missed after seconds.
    async fn publish(&self, number: usize) {
        let due = utc_now() - chrono::TimeDelta::minutes(i64::try_from(number).unwrap());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Carebell-Job-Id", format!("dose-{number}"));
        headers.insert("Nats-Msg-Id", format!("dose-{number}"));
        headers.insert("Content-Type", "application/json");
        let body = reminder("metformin", due).to_string();
        let published = async || {
            let sent =
                self.context.publish_with_headers("jobs.reminder.medication", headers.clone(), body.clone().into());
            sent.await.ok()?.await.ok()
        };
        self.world.eventually("a server takes it", published).await;
    }

    async fn is_sent(&self, number: usize) {
        let ledger = self.world.ledger(&format!("dose-{number}")).await;
        assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    }

    async fn is_well(&mut self) {
        let Self { world, worker, .. } = self;
        world.eventually("all is well", async || (worker.get("/health").await.0 == 200).then_some(())).await;
    }

    async fn ends_well(mut self, jobs: usize) {
        self.world.all_is_published().await;
        assert_eq!(self.world.push.counts().accepted, 4 * jobs, "none twice");
        assert_eq!(self.worker.terminate().await.code(), Some(0));
    }
}

/// Nobody closes the connections of a frozen server, as of one that has lost its power.
#[tokio::test]
async fn a_frozen_node_holds_no_job_for_long() {
    const BEFORE: usize = 3;
    const AFTER: usize = 12;
    let mut trio = Trio::start().await;
    for number in 0..BEFORE {
        trio.publish(number).await;
        trio.is_sent(number).await;
    }

    assert!(trio.cluster.connections(0) > 0, "of the worker, whose clients take any node");
    trio.cluster.freeze(0);
    let since = Instant::now();
    let publishing = async {
        for number in BEFORE..BEFORE + AFTER {
            trio.publish(number).await;
        }
    };
    let left = async || (trio.cluster.connections(0) == 0).then(|| since.elapsed());
    let ((), left) = tokio::join!(publishing, trio.world.eventually("the worker has left the frozen node", left));
    assert!(left < Duration::from_secs(20), "after {left:?}");
    for number in BEFORE..BEFORE + AFTER {
        trio.is_sent(number).await;
    }
    eprintln!("all connections moved after {left:?}, all sent after {:?}", since.elapsed());
    trio.is_well().await;

    trio.cluster.thaw(0);
    trio.publish(BEFORE + AFTER).await;
    trio.is_sent(BEFORE + AFTER).await;
    trio.ends_well(BEFORE + AFTER + 1).await;
}

#[tokio::test]
async fn without_a_majority_health_says_so_and_keeps_to_it() {
    let mut trio = Trio::start().await;
    trio.publish(0).await;
    trio.is_sent(0).await;
    trio.is_well().await;

    for node in [0, 2] {
        trio.cluster.freeze(node);
    }
    let since = Instant::now();
    let Trio { world, worker, .. } = &mut trio;
    let is_down = async || {
        let (status, body) = worker.get("/health").await;
        (status == 503 && body.contains(r#""jetstream":{"state":"down""#)).then_some(())
    };
    world.eventually("health says that nobody answers pulls", is_down).await;
    eprintln!("health is 503 after {:?}", since.elapsed());
    for _ in 0..50 {
        let (status, body) = worker.get("/health").await;
        assert_eq!(status, 503, "nothing has changed: {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(worker.get("/livez").await.0, 200);

    for node in [0, 2] {
        trio.cluster.thaw(node);
    }
    trio.publish(1).await;
    trio.is_sent(1).await;
    trio.is_well().await;
    trio.ends_well(2).await;
}

/// Whoever leads the queue takes the waiting pull with it.
#[tokio::test]
async fn a_pull_whose_leader_died_is_asked_anew() {
    let mut trio = Trio::start().await;
    trio.publish(0).await;
    trio.is_sent(0).await;
    let leader = async || {
        let consumer: jetstream::consumer::PullConsumer =
            trio.context.get_consumer_from_stream("reminder_medication", "JOBS").await.ok()?;
        consumer.cached_info().cluster.as_ref()?.leader.clone()
    };
    let leader = trio.world.eventually("the queue has a leader", leader).await;
    let node = leader.strip_prefix("node-").unwrap().parse().unwrap();
    trio.cluster.kill(node).await;
    if node == Trio::OURS {
        trio.context = trio.cluster.context((node + 1) % trio.cluster.size()).await;
    }
    let since = Instant::now();
    trio.publish(1).await;
    trio.is_sent(1).await;
    eprintln!("sent {:?} after the death of its queue's leader", since.elapsed());
    trio.cluster.start_again(node).await;
    trio.is_well().await;
    trio.ends_well(2).await;
}
