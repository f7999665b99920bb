//! `carebell testkit`, and the examples of `docs/testkit/` that use it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::support::{LIMIT, not_checked, python_packages};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/testkit");

struct Kit {
    introduction: Value,
    client: reqwest::Client,
    _process: Child,
}

impl Kit {
    async fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carebell"));
        command.args(["testkit", "--json"]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = timeout(LIMIT, lines.next_line()).await.expect("it starts in time").unwrap().expect("a line");
        let introduction = serde_json::from_str(&line).unwrap();
        Self { introduction, client: reqwest::Client::new(), _process: process }
    }

    fn variable(&self, name: &str) -> &str {
        self.introduction["env"][name].as_str().unwrap_or_else(|| panic!("{name} is in {}", self.introduction))
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.variable("KIT_URL"));
        let mut request = self.client.request(method.clone(), url);
        if method != Method::GET {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.done(Method::GET, path, Value::Null).await
    }

    async fn publish(&self, id: &str, more: Value) {
        let mut job = json!({ "kind": "notification", "jobId": id, "job": { "title": "Tea", "recipients": [
            { "userId": "ana" }, { "userId": "ben" }, { "userId": "chloe" }, { "userId": "dan" },
        ] } });
        job.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let request = self.client.post(format!("{}/v1/jobs", self.variable("GATEWAY_URL")));
        let request = request.bearer_auth(self.variable("GATEWAY_TOKEN"));
        let answer = request.header("content-type", "application/json").body(job.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", answer.text().await.unwrap());
    }

    async fn sent(&self) -> Vec<Value> {
        self.get("/sent").await["sent"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn a_job_is_waited_for_and_seen_decrypted_on_each_channel() {
    let kit = Kit::start().await;
    assert_eq!(kit.introduction["users"], json!(["ana", "ben", "chloe", "dan"]));
    for name in ["NATS_URL", "DATABASE_URL", "GATEWAY_URL", "GATEWAY_TOKEN", "KIT_URL"] {
        kit.variable(name);
    }
    kit.publish("tea", json!({})).await;
    let job = kit.get("/jobs/tea?wait=20s").await;
    assert_eq!((&job["state"], &job["ended"]), (&json!("done"), &json!(true)), "{job}");
    assert_eq!(job["trail"]["deliveries"].as_array().map(Vec::len), Some(7), "{job}");
    let mut sent: Vec<(String, String)> = kit
        .sent()
        .await
        .iter()
        .map(|sent| (sent["channel"].as_str().unwrap().to_owned(), sent["user"].as_str().unwrap().to_owned()))
        .collect();
    sent.sort();
    let expected = [
        ("email", "ben"),
        ("sms", "chloe"),
        ("web_push", "ana"),
        ("web_push", "ben"),
        ("web_push", "chloe"),
        ("web_push", "dan"),
        ("webhook", "dan"),
    ];
    assert_eq!(sent, expected.map(|(channel, user)| (channel.to_owned(), user.to_owned())));
    let mail = kit.get("/sent?user=ben&channel=email").await;
    assert_eq!(mail["sent"][0]["title"], "Tea");
}

#[tokio::test]
async fn by_a_moved_clock_delayed_jobs_schedules_and_doses_are_due() {
    let kit = Kit::start().await;
    kit.publish("later", json!({ "delay": "2h" })).await;
    let by = kit.get("/jobs/later?wait=1s").await;
    assert_eq!(by["state"], "delayed", "{by}");
    let before = kit.get("/clock").await["now"].as_str().unwrap().to_owned();
    let after = kit.done(Method::POST, "/clock", json!({ "by": "3h" })).await["now"].as_str().unwrap().to_owned();
    let instant = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap();
    assert!((instant(&after) - instant(&before)).num_minutes() >= 180, "{before} {after}");
    assert_eq!(kit.get("/jobs/later?wait=20s").await["state"], "done");
    assert!(!kit.sent().await.is_empty());

    // A job that is published now is as young as it would be without the move.
    kit.publish("now", json!({})).await;
    let job = kit.get("/jobs/now?wait=20s").await;
    assert_eq!(job["state"], "done", "{job}");

    let database = sqlx::PgPool::connect(kit.variable("DATABASE_URL")).await.unwrap();
    let due = instant(&after) + chrono::TimeDelta::days(1);
    sqlx::query(
        "INSERT INTO appointments (id, care_recipient_id, title, starts_at) VALUES ('dentist', 'rose', 'Dentist', $1)",
    )
    .bind(due)
    .execute(&database)
    .await
    .unwrap();
    kit.done(Method::POST, "/clock", json!({ "to": due - chrono::TimeDelta::seconds(3602) })).await;
    let since = Instant::now();
    loop {
        let sent = kit.sent().await;
        if sent.iter().any(|sent| sent.to_string().contains("Dentist")) {
            break;
        }
        assert!(since.elapsed() < LIMIT, "no reminder of the appointment among {sent:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn after_a_reset_nothing_is_left_and_ids_are_free_again() {
    let kit = Kit::start().await;
    kit.publish("tea", json!({})).await;
    kit.get("/jobs/tea?wait=20s").await;
    kit.publish("later", json!({ "delay": "1h" })).await;
    kit.done(Method::PUT, "/providers/web_push", json!({ "status": 410 })).await;
    kit.done(Method::POST, "/clock", json!({ "by": "1h" })).await;
    kit.get("/jobs/later?wait=20s").await;

    let reset = kit.done(Method::POST, "/reset", json!({})).await;
    let now = chrono::DateTime::parse_from_rfc3339(reset["now"].as_str().unwrap()).unwrap();
    assert!((now.to_utc() - carebell::clock::Clock::system().now()).num_minutes().abs() < 1, "{reset}");
    assert_eq!(kit.sent().await, Vec::<Value>::new());
    assert_eq!(kit.ask(Method::GET, "/jobs/tea", Value::Null).await.0, StatusCode::NOT_FOUND);
    kit.publish("tea", json!({})).await;
    assert_eq!(kit.get("/jobs/tea?wait=20s").await["state"], "done");
    assert_eq!(kit.sent().await.len(), 7, "all subscriptions are good again");
}

#[tokio::test]
async fn a_provider_behaves_as_it_is_told() {
    let kit = Kit::start().await;
    kit.done(Method::PUT, "/providers/sms", json!({ "status": 400 })).await;
    kit.publish("tea", json!({})).await;
    let job = kit.get("/jobs/tea?wait=20s").await;
    assert_eq!((&job["deliveries"]["sent"], &job["deliveries"]["unsent"]), (&json!(6), &json!(1)), "{job}");
    kit.done(Method::PUT, "/providers/sms", json!({})).await;
    kit.publish("again", json!({})).await;
    assert_eq!(kit.get("/jobs/again?wait=20s").await["deliveries"]["sent"], 7);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let kit = Kit::start().await;
    for (method, path, body, expected) in [
        (Method::POST, "/clock", json!({ "by": "soon" }), "by: expected a duration"),
        (Method::POST, "/clock", json!({ "to": "2020-01-01T00:00:00Z" }), "forward only"),
        (Method::PUT, "/providers/pigeon", json!({ "status": 503 }), "expected web_push"),
        (Method::PUT, "/providers/sms", json!({ "stauts": 503 }), "unknown field `stauts`"),
        (Method::GET, "/jobs/tea?wait=1h", Value::Null, "at most 1m"),
        (Method::GET, "/sent?usr=ana", Value::Null, "usr: expected user or channel"),
    ] {
        let (status, answer) = kit.ask(method, path, body).await;
        let why = answer["error"].as_str().unwrap_or_default();
        assert!(status == StatusCode::BAD_REQUEST && why.contains(expected), "{path}: {status} {answer}");
    }
}

async fn runs(mut command: Command) {
    let output = command.env("CAREBELL", env!("CARGO_BIN_EXE_carebell")).output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn the_example_in_python_passes() {
    let directory = Path::new(EXAMPLES).join("python");
    let Some(packages) = python_packages(&directory.join("requirements.txt")) else {
        return not_checked("Python is missing");
    };
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(directory);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]);
    runs(command).await;
}

#[tokio::test]
async fn the_example_in_node_passes() {
    let file: PathBuf = Path::new(EXAMPLES).join("node/producer.test.mjs");
    if Command::new("node").arg("--version").output().await.is_err() {
        return not_checked("Node is missing");
    }
    let mut command = Command::new("node");
    command.arg("--test").arg(file);
    runs(command).await;
}
