//! Three NATS servers of which some are away: told apart from streams that are not there, warned of and waited for.

use std::collections::BTreeMap;

use async_nats::{
    HeaderMap,
    jetstream::{Context, context::PublishError},
};
use carebell::{
    effects::{
        publish::is_in_process,
        submit::{Submission, Submitted, submit},
    },
    streams::Streams,
};
use futures::future::join_all;

use crate::{
    cli::carebell,
    secure::{Certificates, certificates},
    support::{Cluster, Process, QUICK, World, adjustments, peek, reminder, utc_now},
};

const WORKER_CONF: &str = include_str!("../../helm/carebell/nats/worker.conf");
const SETUP_CONF: &str = include_str!("../../helm/carebell/nats/setup.conf");

const MISSING: &str = "not on the server";

async fn apply(context: &Context, replicas: usize) {
    let mut streams = adjustments(QUICK);
    streams.replicas = replicas;
    Streams::embedded(&streams).unwrap().apply(context).await.unwrap();
}

/// The words of `carebell doctor` on this node with so many replicas, once it says this.
async fn doctor_says(world: &World, url: &str, replicas: &str, words: &str) -> String {
    let variables = [("NATS_URL", url), ("STREAMS_REPLICAS", replicas)];
    let asked = async || {
        let (_, said, error) = carebell(world, &["doctor", "--offline"], &variables).await;
        assert!(!said.contains(MISSING) && !said.contains("does not take"), "{said}{error}");
        said.contains(words).then_some(said)
    };
    world.eventually(&format!("the doctor says {words}"), asked).await
}

/// Waits until a starting worker says in its health why it waits.
async fn waits_because(world: &World, worker: &mut Process, words: &str) {
    let port = worker.health_port().await;
    let asked = async || {
        let health = reqwest::get(format!("http://127.0.0.1:{port}/health")).await.unwrap().text().await.unwrap();
        assert!(!health.contains(MISSING), "{health}");
        health.contains(words).then_some(())
    };
    world.eventually(&format!("a starting worker says {words}"), asked).await;
}

#[tokio::test]
async fn streams_whose_node_is_away_have_no_leader() {
    let world = World::new().await;
    let mut cluster = Cluster::start().await;
    let context = cluster.context(0).await;
    cluster.has_a_leader(&context).await;
    apply(&context, 1).await;
    let away = cluster.leader_of(&context, "HOLD").await.unwrap();
    let url = cluster.url((away + 1) % 3);
    doctor_says(&world, &url, "1", "warn  streams: one replica in a cluster").await;
    doctor_says(&world, &url, "3", "num_replicas: streams/ has 3, the server has 1").await;

    for is_killed in [true, false] {
        if is_killed {
            cluster.kill(away).await;
        } else {
            cluster.stop(away).await;
        }
        let said = doctor_says(&world, &url, "1", "HOLD: no leader").await;
        assert!(said.contains("FAIL  streams: ") && said.contains("ok    JetStream: on"), "{said}");
        let (well, said, error) = carebell(&world, &["streams", "check"], &[("NATS_URL", &url)]).await;
        // The server says so only of a node that took its leave.
        let words = if is_killed { ": no answer: in a cluster" } else { ": no leader: more than half" };
        assert!(!well && error.contains(words), "{said}{error}");
        let mut worker = Process::worker(&world, &[("NATS_URL", &url)]);
        waits_because(&world, &mut worker, "HOLD: no leader").await;

        cluster.start_again(away).await;
        worker.ready().await;
        assert_eq!(worker.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_cluster_without_a_leader_says_so() {
    let world = World::new().await;
    let mut cluster = Cluster::start().await;
    let context = cluster.context(0).await;
    cluster.has_a_leader(&context).await;
    apply(&context, 3).await;
    let url = cluster.url(0);
    doctor_says(&world, &url, "3", "ok    streams: ").await;

    cluster.kill(1).await;
    let said = doctor_says(&world, &url, "3", "HOLD: node-1 has ").await;
    assert!(said.contains("warn  streams: ") && said.contains("(2 of 3 replicas)"), "{said}");
    assert!(said.contains("ok    JetStream: on"), "{said}");

    cluster.kill(2).await;
    let said = doctor_says(&world, &url, "3", "FAIL  JetStream: no leader: more than half").await;
    assert!(said.contains("streams: not checked: the cluster has no leader"), "{said}");
    let said = doctor_says(&world, &url, "3", "(away: node-1, node-2)").await;
    assert!(said.contains("start the nodes that are down"), "{said}");
    let (well, said, error) = carebell(&world, &["streams", "check"], &[("NATS_URL", &url)]).await;
    assert!(!well && error.contains(": no leader: more than half"), "{said}{error}");
    let mut worker = Process::worker(&world, &[("NATS_URL", &url)]);
    waits_because(&world, &mut worker, "no leader: more than half").await;
    let given_up = [("NATS_URL", url.as_str()), ("START_TIMEOUT", "1s")];
    let mut other = Process::worker(&world, &given_up);
    assert_eq!(other.ended().await.code(), Some(1));
    assert!(other.output().contains("no leader: more than half"), "{}", other.output());

    cluster.start_again(1).await;
    worker.ready().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Replicas take a moment, in which the server refuses what it would soon call a duplicate.
#[tokio::test]
async fn a_job_whose_first_publish_is_in_process_is_published_once() {
    let world = World::new().await;
    let cluster = Cluster::start().await;
    let context = cluster.context(0).await;
    cluster.has_a_leader(&context).await;
    apply(&context, 3).await;
    let leader = cluster.leader_of(&context, "JOBS").await.unwrap();
    let context = cluster.context(leader).await;
    let body = reminder("metformin", utc_now()).to_string();

    // A publish that comes after the replicas have the first one is a duplicate, and refused by nobody.
    let mut rounds = 0;
    let refuses_some = async || {
        rounds += 1;
        let id = format!("raw-{rounds}");
        let refusals = join_all((0..50).map(|_| publish_once(&context, &id, &body))).await;
        refusals.iter().flatten().any(is_in_process).then_some(())
    };
    world.eventually("the server refuses some", refuses_some).await;
    let submissions = (0..50).map(|_| submit(&context, submission("kept", &body)));
    let submitted: Vec<Submitted> = join_all(submissions).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(submitted.iter().filter(|one| !one.duplicate).count(), 1, "{submitted:?}");

    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for node in &others {
        cluster.freeze(*node);
    }
    // Nobody waits for its acknowledgement, which cannot come.
    let first = context.publish_with_headers("jobs.reminder.medication", headers("stuck"), body.clone().into());
    let _acknowledgement = first.await.unwrap();
    context.client().flush().await.unwrap();
    let args = ["publish", "reminder.medication", "--json", &body, "--job-id", "stuck"];
    let url = cluster.url(leader);
    let variables = [("NATS_URL", url.as_str())];
    let (well, said, error) = carebell(&world, &args, &variables).await;
    assert!(!well && error.contains("job stuck is not replicated yet"), "{said}{error}");
    assert!(error.contains("publish it again later under the same id"), "{error}");

    for node in others {
        cluster.thaw(node);
    }
    let again = async || carebell(&world, &args, &variables).await.0.then_some(());
    world.eventually("it is published", again).await;
    let stored = async || (peek(&context, "JOBS", "jobs.reminder.medication").await == rounds + 2).then_some(());
    world.eventually("each is there once", stored).await;
}

fn headers(job_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Carebell-Job-Id", job_id);
    headers.insert("Nats-Msg-Id", job_id);
    headers.insert("Content-Type", "application/json");
    headers
}

/// The refusal, as any client gets it.
async fn publish_once(context: &Context, job_id: &str, body: &str) -> Option<PublishError> {
    let sent = context.publish_with_headers("jobs.reminder.medication", headers(job_id), body.to_owned().into());
    sent.await.unwrap().await.err()
}

fn submission(job_id: &str, body: &str) -> Submission {
    Submission {
        subject: "jobs.reminder.medication".into(),
        job_id: job_id.into(),
        body: body.to_owned().into(),
        content_type: "application/json",
        not_after: None,
        at: None,
        due: None,
    }
}

#[tokio::test]
async fn streams_apply_waits_for_a_new_cluster() {
    let world = World::new().await;
    let mut cluster = Cluster::start().await;
    let url = cluster.url(0);
    // Nobody has led it yet.
    let three = [("NATS_URL", url.as_str()), ("STREAMS_REPLICAS", "3")];
    let (well, said, error) = carebell(&world, &["streams", "apply"], &three).await;
    assert!(well && said.contains("JOBS.reminder_medication: applied"), "{said}{error}");
    let (well, said, error) = carebell(&world, &["streams", "check"], &three).await;
    assert!(well, "{said}{error}");

    let five = [("NATS_URL", url.as_str()), ("STREAMS_REPLICAS", "5")];
    let (well, _, error) = carebell(&world, &["streams", "apply", "--wait", "1s"], &five).await;
    assert!(!well && error.contains("too few nodes"), "{error}");
    assert_eq!(error.matches("waiting up to 1s: apply").count(), 1, "{error}");

    for node in [1, 2] {
        cluster.kill(node).await;
    }
    let refused = async || {
        let (well, said, error) = carebell(&world, &["streams", "apply", "--wait", "0"], &three).await;
        assert!(!well && !error.contains("waiting"), "{said}{error}");
        error.contains("no leader: more than half").then_some(())
    };
    world.eventually("nobody leads", refused).await;
    let mut apply = Process::start(&["streams", "apply"], &with(&world, &three), world.directory.path());
    let waits = async || apply.says("waiting up to 1m: apply").then_some(());
    world.eventually("it waits", waits).await;
    cluster.start_again(1).await;
    assert_eq!(apply.ended().await.code(), Some(0), "{}", apply.output());
}

fn with(world: &World, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut environment = world.environment();
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

/// Its permissions suffice to tell a lost leader from a missing stream.
#[tokio::test]
async fn the_worker_of_a_cluster_with_tls_and_users_waits_for_a_leader_too() {
    let world = World::new().await;
    let directory = world.directory.path();
    let Certificates { root, certificate, key } = certificates();
    let path = |name: &str| directory.join(name).display().to_string();
    for (name, text) in [("root.pem", &root), ("server.pem", &certificate), ("server.key", &key)] {
        std::fs::write(path(name), text).unwrap();
    }
    let mut cluster = Cluster::start_with(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}\nauthorization {{ users: [\n\
         {{ user: worker, password: s3cret, permissions: {{\n{WORKER_CONF}\n}} }}\n\
         {{ user: setup, password: s3cret, permissions: {{\n{SETUP_CONF}\n}} }}\n] }}\n",
        path("server.pem"),
        path("server.key")
    ))
    .await;
    let port = cluster.url(0).rsplit(':').next().unwrap().to_owned();
    let [setup, worker] = ["setup", "worker"].map(|user| format!("tls://{user}:s3cret@127.0.0.1:{port}"));
    let ca = path("root.pem");
    let of = |url| [("NATS_URL", url), ("NATS_CA_FILE", ca.as_str()), ("STREAMS_REPLICAS", "3")];
    let (well, said, error) = carebell(&world, &["streams", "apply"], &of(&setup)).await;
    assert!(well, "{said}{error}");
    let (well, said, error) = carebell(&world, &["streams", "check"], &of(&setup)).await;
    assert!(well, "{said}{error}");
    let (well, said, error) = carebell(&world, &["doctor", "--offline"], &of(&worker)).await;
    assert!(well && said.contains("consumers match streams/"), "{said}{error}");

    for node in [1, 2] {
        cluster.kill(node).await;
    }
    let says_so = async || {
        let (_, said, error) = carebell(&world, &["doctor", "--offline"], &of(&worker)).await;
        assert!(!said.contains(MISSING) && !said.contains("may not publish"), "{said}{error}");
        said.contains("FAIL  JetStream: no leader: more than half").then_some(())
    };
    world.eventually("the doctor misses a leader", says_so).await;
    let mut process = Process::worker(&world, &of(&worker));
    waits_because(&world, &mut process, "no leader: more than half").await;
    cluster.start_again(1).await;
    process.ready().await;
    assert!(!process.says("refuses") && !process.says("s3cret"), "{}", process.output());
    assert_eq!(process.terminate().await.code(), Some(0));
}
