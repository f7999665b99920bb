//! Workers that end between two steps of a task, as by `kill -9`. Another carries on, and nothing is done twice that must
//! not be.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use carebell::{
    checkpoint::{self, Step},
    declared::{AfterUnknown, Mode},
};
use serde_json::json;

use super::site::{Options, Site, work};
use crate::support::{World, endpoint::answer, store};

/// How the worker of a process of its own is told what to do.
const ENDS_AT: &str = "TASKS_TEST_ENDS_AT";

const OVERRIDES: &str = "*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s";

/// Ended when dropped.
struct Doomed(Child);

impl Drop for Doomed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Doomed {
    fn start(world: &World, site: &Site<'_>, ends_at: &str) -> Self {
        let Options { mode, after_unknown, .. } = site.options;
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["tasks::crashes::a_worker_in_a_process_of_its_own", "--exact", "--include-ignored", "--nocapture"])
            .env(ENDS_AT, ends_at)
            .env("TASKS_TEST_NATS", world.nats.url())
            .env("TASKS_TEST_DATABASE", &world.database_url)
            .env("TASKS_TEST_URL", site.endpoint.url.as_str())
            .env("TASKS_TEST_SECRET", &site.endpoint.secret_file)
            .env("TASKS_TEST_ASYNC", if mode == Mode::Sync { "" } else { "yes" })
            .env("TASKS_TEST_STOPS", if after_unknown == AfterUnknown::Stop { "yes" } else { "" })
            .env("TASKS_TEST_PORT_FILE", world.directory.path().join("port"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    async fn ended(mut self, world: &World) {
        let status = world.eventually("the worker aborts", async || self.0.try_wait().unwrap()).await;
        assert!(!status.success(), "{status}");
    }
}

#[tokio::test]
#[ignore = "soak: the other tests here start it as a process, and alone it does nothing"]
async fn a_worker_in_a_process_of_its_own() {
    let var_of = |name: &str| std::env::var_os(name).map(|value| value.into_string().unwrap());
    let Some(ends_at) = var_of(ENDS_AT) else { return };
    let var = |name: &str| var_of(&format!("TASKS_TEST_{name}")).unwrap();
    checkpoint::abort_at(Step::parse(&ends_at).unwrap());
    let options = Options {
        mode: if var("ASYNC").is_empty() { Mode::Sync } else { Mode::Async },
        after_unknown: if var("STOPS").is_empty() { AfterUnknown::SendAgain } else { AfterUnknown::Stop },
        ..Options::default()
    };
    let client = async_nats::connect(var("NATS")).await.unwrap();
    let secret = PathBuf::from(var("SECRET"));
    let store = store(&var("DATABASE"), 6);
    let context = carebell::nats::jetstream(&client);
    let running = work(&store, context, OVERRIDES, (&var("URL"), &secret), &options).await;
    std::fs::write(var("PORT_FILE"), running.port.to_string()).unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
}

const TOLD: &str = r#"{"result": {"n": 1}, "effects": [{"id": "next", "kind": "search.index", "job": {"page": 1}}]}"#;

async fn world() -> World {
    World::with_overrides(OVERRIDES).await
}

/// One effect, done once; nothing left behind.
async fn is_finished(world: &World, job: &str) {
    assert_eq!(world.ended(job).await, ("done".into(), None));
    assert_eq!(world.ended(&format!("{job}~next")).await, ("done".into(), None));
    world.queues_are_empty().await;
    world.all_is_published().await;
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 2);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0, "a crash burns no attempt");
}

#[tokio::test]
async fn a_job_that_is_answered_at_once_is_finished_after_a_crash_at_each_step() {
    for step in ["answered", "worked", "committed", "published", "settled"] {
        let world = world().await;
        let mut site = Site::without_worker(&world, Options::default()).await;
        site.endpoint.always("job", answer(200, TOLD));
        site.publish("job", &json!({})).await;
        Doomed::start(&world, &site, step).ended(&world).await;
        site.work().await;
        is_finished(&world, "job").await;
        let requests = site.endpoint.posted("job");
        let again = ["answered", "worked"].contains(&step);
        assert_eq!(requests.len(), 1 + usize::from(again), "{step}");
        assert!(requests.iter().all(|posted| posted.header("webhook-id") == requests[0].header("webhook-id")));
        site.stop().await;
    }
}

#[tokio::test]
async fn a_task_that_is_accepted_is_finished_after_a_crash_at_each_step() {
    for (step, requests) in [("opened", 1), ("answered", 2), ("accepted", 1), ("parked", 1), ("completed", 1)] {
        let world = world().await;
        let mut site = Site::without_worker(&world, Options::later()).await;
        site.endpoint.always("job", answer(202, ""));
        site.publish("job", &json!({})).await;
        let doomed = Doomed::start(&world, &site, step);
        if step == "completed" {
            let token = site.accepted("job", 1).await;
            let port = std::fs::read_to_string(world.directory.path().join("port")).unwrap();
            let url = format!("http://127.0.0.1:{port}/tasks/job/done");
            let answer = reqwest::Client::new().post(url).bearer_auth(token).body(TOLD).send().await;
            assert!(answer.is_err(), "it ended before its answer");
        }
        doomed.ended(&world).await;
        site.work().await;
        if step != "completed" {
            site.accepted("job", requests).await;
            // The first token of the attempt is as good as the last: the endpoint may have taken the first request.
            let token = site.endpoint.posted("job")[0].token().to_owned();
            assert_eq!(site.report("job", "done", &token, TOLD).await.0, 200, "{step}");
        }
        site.endpoint.always("job~next", answer(200, "{}"));
        is_finished(&world, "job").await;
        assert_eq!(site.endpoint.posted("job").len(), requests, "{step}");
        site.stop().await;
    }
}

#[tokio::test]
async fn a_request_that_must_not_be_repeated_is_unknown_after_a_crash() {
    for (step, state) in [("answered", "dead"), ("worked", "done")] {
        let world = world().await;
        let options = Options { after_unknown: AfterUnknown::Stop, ..Options::default() };
        let mut site = Site::without_worker(&world, options).await;
        site.endpoint.always("bill", answer(200, "{}"));
        site.publish("bill", &json!({})).await;
        Doomed::start(&world, &site, step).ended(&world).await;
        site.work().await;
        assert_eq!(world.ended("bill").await.0, state, "{step}");
        if state == "dead" {
            let error = site.error("bill").await;
            assert!(error.starts_with("unknown: a worker was lost while the request was under way"), "{error}");
        }
        assert_eq!(site.endpoint.posted("bill").len(), 1, "{step}");
        site.stop().await;
    }
}
