//! `docs/bridge/bullmq`: jobs of real `BullMQ` queues reach Carebell once each, however often the bridge is killed.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command as AsyncCommand},
    time::{sleep, timeout},
};

use crate::support::{LIMIT, Worker, World, node_packages, not_checked, utc_now};

const BRIDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bridge/bullmq");

/// Adds jobs to `BullMQ` queues, and tells what is in them.
const PRODUCER: &str = r#"
import { Queue } from "bullmq";
const [queue, act, argument] = process.argv.slice(1);
const bull = new Queue(queue, { connection: { url: process.env.REDIS_URL } });
if (act === "add") await bull.addBulk(JSON.parse(argument));
if (act === "schedule") await bull.upsertJobScheduler(...JSON.parse(argument));
console.log(JSON.stringify(await bull.getJobCounts()));
await bull.close();
"#;

/// Redis, the bridge's packages, and the bridge beside them.
struct Bull {
    directory: tempfile::TempDir,
    redis: String,
    _server: Child,
}

impl Bull {
    /// `None`, with a word about it, if anything is missing that cannot be installed.
    async fn start() -> Option<Self> {
        let installed = node_packages("bullmq", Path::new(BRIDGE))?;
        if !has_redis() {
            not_checked("redis-server is missing, and apt-get cannot install it: the bridge from BullMQ is not tested");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        for name in ["package.json", "bridge.mjs", "jobs.mjs"] {
            fs::copy(Path::new(BRIDGE).join(name), directory.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(installed.join("node_modules"), directory.path().join("node_modules")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = AsyncCommand::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(directory.path())
            .args(["--port", &port.to_string()])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let answers = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, answers).await.expect("Redis answers");
        Some(Self { directory, redis: format!("redis://127.0.0.1:{port}"), _server: server })
    }

    fn node(&self, world: &World) -> AsyncCommand {
        let mut node = AsyncCommand::new("node");
        node.current_dir(&self.directory).env("REDIS_URL", &self.redis).env("NATS_URL", world.nats.url());
        // A killed bridge's jobs come back after it.
        node.env("BRIDGE_LOCK_MS", "1000").env("BRIDGE_CONCURRENCY", "5").env("TZ", "Europe/London");
        node.stdin(Stdio::null()).kill_on_drop(true);
        node
    }

    /// What is in the queue after it.
    async fn producer(&self, world: &World, queue: &str, act: &str, argument: &Value) -> Value {
        let mut node = self.node(world);
        node.args(["--input-type=module", "--eval", PRODUCER, "--", queue, act, &argument.to_string()]);
        serde_json::from_str(&succeeded(node).await).unwrap()
    }

    async fn bridge(&self, world: &World, act: &str) -> String {
        let mut node = self.node(world);
        node.args(["bridge.mjs", act, "jobs.mjs"]);
        succeeded(node).await
    }

    /// A bridge that takes jobs.
    async fn runs(&self, world: &World) -> Child {
        let mut node = self.node(world);
        let mut bridge = node.args(["bridge.mjs", "run", "jobs.mjs"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(bridge.stdout.take().unwrap()).lines();
        let line = timeout(LIMIT, lines.next_line()).await.expect("it starts").unwrap();
        assert_eq!(line.as_deref(), Some("takes jobs of medication-reminders, notifications"));
        bridge
    }
}

async fn succeeded(mut node: AsyncCommand) -> String {
    let output = node.output().await.unwrap();
    let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{node:?}: {}\n{said}{errors}", output.status);
    said
}

/// Installs it first where that is possible.
fn has_redis() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    let finds = || Command::new("redis-server").arg("--version").output().is_ok_and(|answer| answer.status.success());
    *THERE.get_or_init(|| {
        let is_root = || Command::new("id").arg("-u").output().is_ok_and(|answer| answer.stdout == b"0\n");
        if finds() || !is_root() {
            return finds();
        }
        let install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server";
        let _ = Command::new("sh").args(["-c", install]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        finds()
    })
}

fn message(number: usize) -> Value {
    json!({ "name": "moved", "data": { "userIds": ["ana"], "title": format!("Visit {number}"), "body": "Friday" } })
}

/// Titles in Ana's inbox, sorted.
async fn titles(world: &World) -> Vec<String> {
    let titles = sqlx::query_scalar("SELECT title FROM notifications WHERE user_id = 'ana' ORDER BY title");
    titles.fetch_all(&world.db).await.unwrap()
}

fn expected(count: usize) -> Vec<String> {
    let mut titles: Vec<String> = (0..count).map(|number| format!("Visit {number}")).collect();
    titles.sort();
    titles
}

#[tokio::test]
async fn jobs_of_a_queue_arrive_once_each_although_the_bridge_is_killed_again_and_again() {
    let Some(bull) = Bull::start().await else { return };
    let world = World::new().await;
    let worker = Worker::start(&world);
    let jobs: Vec<Value> = (0..300).map(message).collect();
    bull.producer(&world, "notifications", "add", &json!(jobs)).await;
    for round in 1..=5 {
        let mut bridge = bull.runs(&world).await;
        let some = async || (titles(&world).await.len() >= round * 20).then_some(());
        world.eventually("some have arrived", some).await;
        bridge.kill().await.unwrap();
    }
    let mut bridge = bull.runs(&world).await;
    let all = async || (titles(&world).await.len() >= 300).then_some(());
    world.eventually("all have arrived", all).await;
    let is_empty = async || {
        let counts = bull.producer(&world, "notifications", "count", &Value::Null).await;
        (counts["active"] == 0 && counts["waiting"] == 0).then_some(counts)
    };
    let counts = world.eventually("the queue of BullMQ is empty", is_empty).await;
    assert_eq!((&counts["completed"], &counts["failed"]), (&json!(300), &json!(0)), "{counts}");
    world.queues_are_empty().await;
    assert_eq!(titles(&world).await, expected(300));
    terminate(&mut bridge).await;
    worker.stop().await;
}

#[tokio::test]
async fn delayed_jobs_are_handed_over_at_once_and_run_at_their_instants() {
    let Some(bull) = Bull::start().await else { return };
    let world = World::new().await;
    let worker = Worker::start(&world);
    let added = utc_now();
    let delayed = |number: usize, delay: u64| {
        let mut job = message(number);
        job["opts"] = json!({ "delay": delay, "jobId": format!("a job of {number}") });
        job
    };
    let soon = (0..3).map(|number| delayed(number, 6000));
    let jobs: Vec<Value> = soon.chain((3..600).map(|number| delayed(number, 86_400_000))).collect();
    bull.producer(&world, "notifications", "add", &json!(jobs)).await;
    let said = bull.bridge(&world, "move").await;
    assert!(said.ends_with("notifications: moved 600; left 0 waiting, 0 active, 0 delayed\n"), "{said}");
    let waits =
        async || (world.count("SELECT count(*) FROM delayed_jobs WHERE state = 'waiting'").await >= 597).then_some(());
    world.eventually("the others wait", waits).await;
    world.eventually("three have arrived", async || (world.push.received().len() >= 3).then_some(())).await;
    assert_eq!(titles(&world).await, expected(3));
    let first = world.push.received().iter().map(|push| push.received).min().unwrap();
    assert!(first >= added + TimeDelta::seconds(6), "{first} is too soon after {added}");
    worker.stop().await;
}

#[tokio::test]
async fn repeatable_jobs_are_taken_as_they_come_due_and_printed_as_schedules() {
    let Some(bull) = Bull::start().await else { return };
    let world = World::new().await;
    let worker = Worker::start(&world);
    let every = json!(["tea", { "every": 1000, "limit": 3 }, message(0)]);
    let nightly = json!(["nightly", { "pattern": "0 2 * * *", "tz": "Europe/Berlin" }, message(1)]);
    bull.producer(&world, "notifications", "schedule", &every).await;
    bull.producer(&world, "notifications", "schedule", &nightly).await;

    let printed = bull.bridge(&world, "schedules").await;
    let commands: Vec<&str> = printed.lines().filter(|line| line.starts_with("carebell")).collect();
    assert_eq!(commands.len(), 2, "{printed}");
    assert!(printed.contains(": ended after 3 runs there"), "{printed}");
    // As somebody would paste them.
    let mut shell = AsyncCommand::new("sh");
    let function = format!("carebell() {{ '{}' \"$@\"; }}", env!("CARGO_BIN_EXE_carebell"));
    shell.args(["-ec", &format!("{function}\n{}", commands.join("\n"))]).envs(world.environment());
    succeeded(shell).await;
    let saved: Vec<(String, String, String)> =
        sqlx::query_as("SELECT name, expression, zone FROM schedules WHERE name LIKE 'notifications%' ORDER BY name")
            .fetch_all(&world.db)
            .await
            .unwrap();
    let saved: Vec<[&str; 3]> =
        saved.iter().map(|(name, expression, zone)| [&**name, &**expression, &**zone]).collect();
    assert_eq!(
        saved,
        [["notifications-nightly", "0 2 * * *", "Europe/Berlin"], ["notifications-tea", "@every 1s", "Europe/London"],],
    );
    sqlx::query("DELETE FROM schedules").execute(&world.db).await.unwrap();

    let said = bull.bridge(&world, "move").await;
    assert!(said.contains("notifications: moved 0; left "), "{said}");
    let mut bridge = bull.runs(&world).await;
    world.eventually("it came three times", async || (titles(&world).await.len() >= 3).then_some(())).await;
    terminate(&mut bridge).await;
    world.queues_are_empty().await;
    assert_eq!(titles(&world).await, ["Visit 0"; 3]);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_nobody_can_map_stays_among_the_failed_with_its_reason() {
    let Some(bull) = Bull::start().await else { return };
    let world = World::new().await;
    let odd = json!([{ "name": "moved", "data": { "title": "no users" } }]);
    bull.producer(&world, "notifications", "add", &odd).await;
    let mut bridge = bull.runs(&world).await;
    let failed = async || {
        let counts = bull.producer(&world, "notifications", "count", &Value::Null).await;
        (counts["failed"] == 1).then_some(())
    };
    world.eventually("it has failed", failed).await;
    terminate(&mut bridge).await;
}

async fn terminate(bridge: &mut Child) {
    let id = bridge.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(timeout(LIMIT, bridge.wait()).await.expect("it ends").unwrap().success());
}
