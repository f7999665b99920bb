//! `docs/PRODUCERS.md`: its programs run, its permissions suffice, its errors are the server's. JSON is read and
//! written as by Python.

use std::{fs, path::Path, process::Stdio};

use async_nats::{
    ConnectOptions, Event, HeaderMap,
    client::RequestErrorKind,
    jetstream::{self, stream},
};
use carebell::{
    dev::{guard, nats::NatsServer},
    streams::Streams,
    wire,
};
use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use prost::Message;
use prost_reflect::ReflectMessage;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command, sync::mpsc};

use crate::support::{Node, Python, Worker, World, adjustments, peek, programs, reminder, utc_now};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn doc() -> String {
    fs::read_to_string(Path::new(ROOT).join("docs/PRODUCERS.md")).unwrap()
}

#[test]
fn the_programs_shown_are_the_files() {
    let doc = doc();
    for (language, file) in
        [("python", "python/remind.py"), ("js", "node/remind.mjs"), ("json", "node/package.json"), ("go", "go/main.go")]
    {
        let text = fs::read_to_string(Path::new(ROOT).join("docs/producers").join(file)).unwrap();
        assert!(
            doc.contains(&format!("\n```{language}\n{text}```\n")),
            "docs/PRODUCERS.md does not show the current {file}"
        );
    }
    let lock = fs::read_to_string(Path::new(ROOT).join("docs/producers/node/package-lock.json")).unwrap();
    assert!(!lock.contains("\"resolved\""), "the lock file holds checksums, and no addresses");
}

async fn run(url: &str, mut producer: Command, args: &[&str]) -> String {
    let output = producer.args(args).env("NATS_URL", url).stdin(Stdio::null()).output().await.unwrap();
    let [said, errors] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{producer:?}: {}\n{said}{errors}", output.status);
    said
}

/// An instant in RFC 3339, and as in job ids.
fn written(instant: DateTime<Utc>) -> (String, String) {
    (instant.to_rfc3339_opts(SecondsFormat::Secs, true), instant.format("%Y%m%dT%H%M%SZ").to_string())
}

async fn reminds_at_once(producer: impl Fn() -> Command) {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let (time, token) = written(utc_now());
    let job = format!("dose:metformin:{token}:0");
    for _ in 0..2 {
        let said = run(&world.nats.url(), producer(), &["metformin", &time]).await;
        assert_eq!(said, format!("{job} is in JOBS as 1\n"), "the second is a duplicate of the first");
    }
    world.everyone_has_it_once(&job).await;
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 4);
    worker.stop().await;
}

async fn reminds_later(producer: impl Fn() -> Command) {
    let world = World::new().await;
    let url = world.nats.url();

    let (time, token) = written(utc_now() + TimeDelta::days(1));
    let job = |minutes: u32| format!("dose:metformin:{token}:{minutes}");
    let worker = Worker::start(&world);
    let waiting = async |count: usize| {
        let parked = async || {
            let is_read = peek(&world.context, "JOBS", ">").await == 0;
            (is_read && peek(&world.context, "HOLD", "hold.>").await == count).then_some(())
        };
        world.eventually(&format!("{count} wait"), parked).await;
    };
    for round in [0, 2] {
        let said = run(&url, producer(), &["metformin", &time, "0", "30"]).await;
        let [first, second] = [(0, 1), (30, 2)].map(|(minutes, sequence)| {
            let sequence = sequence + round;
            format!("{} is in JOBS as {sequence}\n", job(minutes))
        });
        assert_eq!(said, first + &second);
        waiting(2).await;
    }
    let said = run(&url, producer(), &["--cancel", "metformin", &time, "30"]).await;
    assert_eq!(said, format!("{} is taken back\n", job(30)));
    waiting(1).await;
    run(&url, producer(), &["--cancel", "metformin", &time]).await;
    waiting(0).await;
    let due = (utc_now() + TimeDelta::seconds(5)).trunc_subsecs(0);
    let (time, token) = written(due + TimeDelta::minutes(2));
    run(&url, producer(), &["metformin", &time, "2"]).await;
    world.everyone_has_it_once(&format!("dose:metformin:{token}:2")).await;
    let first = world.push.received().iter().map(|push| push.received).min().unwrap();
    assert!(first >= due, "{first} is before {due}");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn the_python_program_reminds_at_once() {
    let Some(python) = Python::find() else { return };
    reminds_at_once(|| python.producer()).await;
}

#[tokio::test]
async fn the_python_program_reminds_later() {
    let Some(python) = Python::find() else { return };
    reminds_later(|| python.producer()).await;
}

#[tokio::test]
async fn the_node_program_reminds_at_once() {
    let Some(node) = Node::find() else { return };
    reminds_at_once(|| node.producer()).await;
}

#[tokio::test]
async fn the_node_program_reminds_later() {
    let Some(node) = Node::find() else { return };
    reminds_later(|| node.producer()).await;
}

fn blocks(doc: &str, language: &str) -> Vec<String> {
    let fence = format!("\n```{language}\n");
    doc.split(&fence).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// Permissions of a producer: the file that users include.
const PRODUCER_CONF: &str = include_str!("../../helm/carebell/nats/producer.conf");

#[test]
fn the_permissions_shown_are_the_file() {
    let lines: Vec<&str> = PRODUCER_CONF.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(blocks(&doc(), "conf"), [format!("permissions: {{\n  {}\n}}\n", lines.join("\n  "))]);
}

/// A server where anonymous clients are producers, and `ops` may do everything.
async fn guarded_server() -> (NatsServer, jetstream::Context, guard::PrivateDir) {
    let config = format!(
        "no_auth_user: app\nauthorization {{ users: [\n{{ user: ops, password: ops }}\n\
         {{ user: app, password: app, permissions: {{\n{PRODUCER_CONF}\n}} }}\n] }}\n"
    );
    let directory = guard::private_dir().unwrap();
    let server = NatsServer::start_with(&programs().await.nats_server, directory.path(), &config).await.unwrap();
    let ops = ConnectOptions::with_user_and_password("ops".into(), "ops".into()).connect(server.url()).await.unwrap();
    let context = carebell::nats::jetstream(&ops);
    Streams::embedded(&adjustments("")).unwrap().apply(&context).await.unwrap();
    (server, context, directory)
}

#[tokio::test]
async fn the_permissions_let_a_producer_publish_and_nothing_else() {
    let (server, ops, _directory) = guarded_server().await;
    let (time, _) = written(utc_now());
    let (later, _) = written(utc_now() + TimeDelta::days(1));
    let mut published = 0;
    if let Some(python) = Python::find() {
        run(&server.url(), python.producer(), &["python", &time]).await;
        run(&server.url(), python.producer(), &["python", &later]).await;
        published += 1;
    }
    if let Some(node) = Node::find() {
        run(&server.url(), node.producer(), &["node", &time]).await;
        run(&server.url(), node.producer(), &["node", &later]).await;
        published += 1;
    }
    assert_eq!(peek(&ops, "JOBS", "jobs.reminder.>").await, published);
    assert_eq!(peek(&ops, "JOBS", "jobs.later.>").await, published);

    let (violations, mut violated) = mpsc::unbounded_channel();
    let options = ConnectOptions::new().custom_inbox_prefix("_INBOX_app").event_callback(move |event| {
        let violations = violations.clone();
        async move {
            if let Event::ServerError(error) = event {
                let _ = violations.send(error.to_string());
            }
        }
    });
    let app = options.connect(server.url()).await.unwrap();
    let internal =
        ["work.reminder.medication", "deliver.web_push.normal", "hold.JOBS.1", "resume.work.x", "dead.x.JOBS.1"];
    for subject in internal.into_iter().chain(["jobs.maintenance.prune", "jobs.later.maintenance.prune"]) {
        app.publish(subject, "x".into()).await.unwrap();
        let said = violated.recv().await.unwrap();
        assert!(said.contains("Violation") && said.contains(subject), "{subject}: {said}");
    }
    for subject in ["$JS.API.STREAM.PURGE.HOLD", "$JS.API.STREAM.MSG.GET.JOBS", "$JS.API.STREAM.DELETE.JOBS"] {
        app.publish(subject, "".into()).await.unwrap();
        let said = violated.recv().await.unwrap();
        assert!(said.contains("Violation"), "{subject}: {said}");
    }
    // Workers receive jobs below `_INBOX_carebell.`, so producers must not subscribe.
    for subject in ["_INBOX_carebell.>", "_INBOX.>", "jobs.>", ">"] {
        let _subscription = app.subscribe(subject).await.unwrap();
        let said = violated.recv().await.unwrap();
        assert!(said.contains("Violation for Subscription"), "{subject}: {said}");
    }
    assert_eq!(peek(&ops, "JOBS", ">").await, 2 * published);
}

/// Returns the server's error code.
async fn refused(world: &World, subject: &str, headers: &[(&str, &str)], size: usize) -> i64 {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let client = world.context.client();
    let answer = client.request_with_headers(subject.to_owned(), map, vec![b'x'; size].into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["error"]["err_code"].as_i64().unwrap_or_else(|| panic!("{subject} {headers:?}: {answer}"))
}

#[tokio::test]
async fn the_errors_are_those_that_the_server_gives() {
    let world = World::new().await;
    let doc = doc();
    let listed = |code: i64| assert!(doc.contains(&format!("| `{code}` |")), "docs/PRODUCERS.md lacks {code}");

    listed(refused(&world, "jobs.notification.bulk", &[], 512 * 1024 + 1).await);
    let schedule =
        [("Nats-Schedule", "@at 2030-01-01T00:00:00Z"), ("Nats-Schedule-Target", "jobs.notification.normal")];
    listed(refused(&world, "jobs.notification.bulk", &schedule, 1).await);

    let jobs = world.context.get_stream("JOBS").await.unwrap();
    let mut config: stream::Config = jobs.get_info().await.unwrap().config;
    for (messages, bytes) in [(1, -1), (-1, 10)] {
        (config.max_messages, config.max_bytes) = (messages, bytes);
        world.context.update_stream(&config).await.unwrap();
        world.context.client().request("jobs.notification.bulk", "x".into()).await.unwrap();
        listed(refused(&world, "jobs.notification.bulk", &[], 100).await);
    }

    let silence = world.context.client().request("job.notification.bulk", "x".into()).await.unwrap_err();
    assert_eq!(silence.kind(), RequestErrorKind::NoResponders);
    assert!(doc.contains("no responders"));
}

#[tokio::test]
async fn a_delayed_job_that_is_replaced_by_an_expired_one_is_cancelled() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let publish = async |at: DateTime<Utc>, not_after: DateTime<Utc>| {
        let (at, not_after) = (at.to_rfc3339(), not_after.to_rfc3339());
        let headers = [
            ("Carebell-At", at.as_str()),
            ("Carebell-Job-Id", "off"),
            ("Carebell-Not-After", &not_after),
            ("Content-Type", "application/json"),
        ];
        world.publish("jobs.later.reminder.medication", &headers, reminder("metformin", utc_now()).to_string()).await;
    };
    let now = utc_now();
    publish(now + TimeDelta::hours(1), now + TimeDelta::hours(2)).await;
    publish(now, now).await;
    assert_eq!(world.ended("off").await.0, "expired");
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 0);
    worker.stop().await;
}

/// Reads texts with Python. Returns the bytes and canonical forms of each, or None if refused.
async fn asked(python: &Python, texts: &[(String, String)]) -> Vec<Option<Value>> {
    let directory = tempfile::tempdir().unwrap();
    let descriptors = directory.path().join("descriptors.bin");
    fs::write(&descriptors, wire::DESCRIPTORS.encode_to_vec()).unwrap();
    let mut command = python.run(&Path::new(ROOT).join("tests/it/support/canonical_json.py"));
    let mut process =
        command.arg(&descriptors).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let lines: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    process.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).await.unwrap();
    let output = process.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let answers: Vec<_> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), texts.len());
    answers
}

/// Returns our JSON, or None if both refuse the text.
fn agreed<M>(text: &str, theirs: Option<&Value>) -> Option<String>
where
    M: Message + Default + ReflectMessage + PartialEq + std::fmt::Debug,
{
    let ours = wire::from_json::<M>(text.as_bytes());
    let Some(theirs) = theirs else {
        assert!(ours.is_err(), "only we take {text}");
        return None;
    };
    let message = ours.unwrap_or_else(|error| panic!("only Python takes {text}: {error}"));
    let hex = theirs["bytes"].as_str().unwrap();
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    assert_eq!(wire::from_protobuf::<M>(&bytes).unwrap(), message, "{text}");
    for form in theirs["forms"].as_array().unwrap() {
        let form = form.as_str().unwrap();
        assert_eq!(wire::from_json::<M>(form.as_bytes()).unwrap(), message, "{form}");
    }
    Some(wire::to_json(&message).to_string())
}

#[tokio::test]
async fn json_is_read_as_python_reads_and_writes_it() {
    let Some(python) = Python::find() else { return };
    let texts: Vec<(String, String)> = taken().chain(refusals()).collect();
    let answers = asked(&python, &texts).await;
    let mut written = Vec::new();
    for (index, ((message, text), theirs)) in texts.iter().zip(&answers).enumerate() {
        let read = match message.as_str() {
            "MedicationReminder" => agreed::<wire::MedicationReminder>(text, theirs.as_ref()),
            _ => agreed::<wire::Notification>(text, theirs.as_ref()),
        };
        assert_eq!(read.is_some(), index < taken().count(), "{text}");
        written.extend(read.map(|text| (message.clone(), text)));
    }
    // And back: Python reads the same from our JSON.
    let again = asked(&python, &written).await;
    let first: Vec<&Value> = answers.iter().flatten().map(|answer| &answer["bytes"]).collect();
    let again: Vec<&Value> = again.iter().map(|answer| &answer.as_ref().unwrap()["bytes"]).collect();
    assert_eq!(first, again);
}

fn texts(message: &'static str, bodies: &'static [&'static str]) -> impl Iterator<Item = (String, String)> {
    bodies.iter().map(move |body| (message.to_owned(), (*body).to_owned()))
}

fn taken() -> impl Iterator<Item = (String, String)> {
    let reminders = texts(
        "MedicationReminder",
        &[
            "{}",
            r#"{"medicationId":"m1","scheduledTime":"2027-03-01T09:00:00Z","reminderMinutes":30}"#,
            r#"{"medication_id":"m1","scheduled_time":"2027-03-01T09:00:00.5Z","reminder_minutes":"30"}"#,
            r#"{"scheduledTime":"2027-03-01T11:00:00.123456789+02:00"}"#,
            r#"{"scheduledTime":"2027-03-01T03:30:00.000001-05:30","reminderMinutes":3e1}"#,
            r#"{"scheduledTime":"1969-12-31T23:59:59.999Z","reminderMinutes":30.0}"#,
            r#"{"scheduledTime":"0001-01-01T00:00:00Z","reminderMinutes":-2147483648}"#,
            r#"{"scheduledTime":"9999-12-31T23:59:59.999999999Z","reminderMinutes":2147483647}"#,
            r#"{"medicationId":null,"scheduledTime":null,"reminderMinutes":null}"#,
            r#"  {"medicationId" : "Ünïcödé \"\\\/\b\f\n\r\t\u00e9\ud83d\udc8a"} "#,
        ],
    );
    let notifications = texts(
        "Notification",
        &[
            r#"{"recipients":[{"userId":"ana"},{"email":"a@b.org"},{"phone":"+4366012345678"},{}],"title":"T"}"#,
            r#"{"channels":["CHANNEL_PUSH",2,"CHANNEL_IN_APP",0,99]}"#,
            r#"{"channels":["in_app","web_push","email","sms","whatsapp","voice","webhook"]}"#,
            r#"{"data":{"text":"x","yes":true,"none":null,"list":[1,-2.5,"a",[],{}],"deep":{"a":{"b":[{"c":1e300}]}}}}"#,
            r#"{"data":{},"dedupeKey":"k","type":"NEWS","template":"","url":"/a?b=c#d"}"#,
            r#"{"data":{"big":9007199254740993,"small":1e-300,"zero":-0.0,"":"empty","\u0000":"\u0000"}}"#,
        ],
    );
    reminders.chain(notifications)
}

fn refusals() -> impl Iterator<Item = (String, String)> {
    let reminders = texts(
        "MedicationReminder",
        &[
            "",
            "null",
            "{",
            "{} {}",
            r#"{"medicationID":"m1"}"#,
            r#"{"medicationId":"m1","unknown":1}"#,
            r#"{"medicationId":7}"#,
            r#"{"scheduledTime":"2027-03-01T09:00:00"}"#,
            r#"{"scheduledTime":"2027-03-01"}"#,
            r#"{"scheduledTime":"2027-02-29T09:00:00Z"}"#,
            r#"{"scheduledTime":"2028-02-29T24:00:00Z"}"#,
            r#"{"scheduledTime":1798794000}"#,
            r#"{"scheduledTime":{"seconds":1}}"#,
            r#"{"scheduledTime":"0000-01-01T00:00:00Z"}"#,
            r#"{"reminderMinutes":1.5}"#,
            r#"{"reminderMinutes":2147483648}"#,
            r#"{"reminderMinutes":true}"#,
            r#"{"reminderMinutes":"thirty"}"#,
        ],
    );
    let notifications = texts(
        "Notification",
        &[
            r#"{"channels":["CHANNEL_PIGEON"]}"#,
            r#"{"channels":["channel_push"]}"#,
            r#"{"channels":["push"]}"#,
            r#"{"channels":"CHANNEL_PUSH"}"#,
            r#"{"channels":[null]}"#,
            r#"{"recipients":[{"userId":"ana","email":"a@b.org"}]}"#,
            r#"{"recipients":[{"user":"ana"}]}"#,
            r#"{"recipients":{"userId":"ana"}}"#,
            r#"{"data":[]}"#,
            r#"{"data":"x"}"#,
            r#"{"title":"\ud83d"}"#,
        ],
    );
    reminders.chain(notifications)
}
