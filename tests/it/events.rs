//! Events: what applications hear of the ends of their jobs (`docs/EVENTS.md`).

use std::{process::Stdio, time::Duration};

use async_nats::{
    ConnectOptions, HeaderMap,
    jetstream::{
        self,
        consumer::{PullConsumer, pull::Config},
    },
};
use carebell::{
    clock::Clock,
    dead_letter::{Change, Letters, Redriver, sweep},
    effects::Effects,
    health::Health,
    streams::Streams,
};
use chrono::{SecondsFormat, TimeDelta};
use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::Instant,
};

use crate::{
    applications::{self, Installation, client},
    cli::carebell,
    poison::publish_raw,
    support::{Door, LIMIT, Process, Python, QUICK, Worker, World, adjustments, database, peek, reminder, utc_now},
};

const NEWS: &str = "jobs.notification.normal";
const LATER: &str = "jobs.later.notification.normal";

/// In all texts of these tests, and in no event.
const PERSONAL: &str = "Rose";

fn news() -> Value {
    json!({ "recipients": [{ "userId": "ana" }], "title": "Rose is well", "channels": ["in_app"] })
}

async fn submit(world: &World, subject: &str, id: &str, headers: &[(&str, &str)], body: &Value) -> u64 {
    let own = [("Carebell-Job-Id", id), ("Content-Type", "application/json")];
    world.publish(subject, &[&own, headers].concat(), body.to_string()).await
}

/// Subjects, headers and bodies of what is in EVENTS.
async fn stored(world: &World) -> Vec<(String, HeaderMap, Value)> {
    let mut stream = world.context.get_stream("EVENTS").await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut events = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        assert!(!text.contains(PERSONAL) && !text.contains('@'), "{text}");
        events.push((message.subject.to_string(), message.headers, serde_json::from_str(&text).unwrap()));
    }
    events
}

/// `<application> <job> <outcome> <reason>` of each, in their order.
async fn told(world: &World) -> Vec<String> {
    let line = |(subject, _, event): (String, HeaderMap, Value)| {
        let parts: Vec<&str> = subject.split('.').collect();
        let outcome = event["outcome"].as_str().unwrap();
        assert_eq!((parts[0], parts[2], parts[3], parts.len()), ("events", "job", outcome, 4), "{subject}");
        let reason = event["reason"].as_str().unwrap_or_default();
        format!("{} {} {outcome} {reason}", parts[1], event["jobId"].as_str().unwrap()).trim().to_owned()
    };
    stored(world).await.into_iter().map(line).collect()
}

async fn told_of(world: &World, line: &str) {
    world.eventually(line, async || told(world).await.iter().any(|told| told == line).then_some(())).await;
}

fn seconds_from_now(seconds: i64) -> String {
    (utc_now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[tokio::test]
async fn an_end_is_told_where_the_job_asks_for_it_and_only_there() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    let past = seconds_from_now(-60);
    let dose = reminder("metformin", utc_now());
    for (subject, id, headers, body) in [
        (NEWS, "silent", &[][..], &news()),
        (NEWS, "asks-for-others", &[("Carebell-Notify", "skipped,expired")], &news()),
        (NEWS, "done", &[("Carebell-Notify", "done")], &news()),
        (NEWS, "late", &[("Carebell-Notify", "all"), ("Carebell-Not-After", &past)], &news()),
        ("jobs.reminder.medication", "dose", &[("Carebell-Notify", "done, skipped")], &dose),
        ("jobs.reminder.medication", "twin", &[("Carebell-Notify", "done, skipped")], &dose),
        ("jobs.reminder.medication", "gone", &[("Carebell-Notify", "all")], &reminder("none", utc_now())),
    ] {
        submit(&world, subject, id, headers, body).await;
        world.ended(id).await;
        world.queues_are_empty().await;
    }
    worker.stop().await;
    let expected = [
        "default done done",
        "default late expired expired",
        "default dose done",
        "default twin skipped already_sent",
        "default gone skipped gone",
    ];
    assert_eq!(told(&world).await, expected, "the notification of a reminder has no event of its own");
    let (subject, headers, event) = stored(&world).await.remove(2);
    assert_eq!(subject, "events.default.job.done");
    let header = |name| headers.get(name).map(async_nats::HeaderValue::as_str);
    assert_eq!((header("Content-Type"), header("Nats-Msg-Id")), (Some("application/json"), Some("dose~done")));
    assert!(event["at"].as_str().unwrap().ends_with('Z'), "{event}");
    let mut rest = event.clone();
    rest.as_object_mut().unwrap().remove("at");
    assert_eq!(
        rest,
        json!({ "eventId": "dose~done", "jobId": "dose", "kind": "reminder.medication", "outcome": "done", "attempts": 1 })
    );
    assert_eq!(stored(&world).await[0].2["lane"], "normal");
}

#[tokio::test]
async fn a_producer_learns_of_a_malformed_job_within_a_second() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    submit(&world, NEWS, "first", &[("Carebell-Notify", "done")], &news()).await;
    told_of(&world, "default first done").await;
    let mut events = world.context.client().subscribe("events.default.job.dead").await.unwrap();
    let mut body = news();
    body["recipients"][0] = json!({ "userId": 7, "email": "rose@example.org" });
    let since = Instant::now();
    submit(&world, NEWS, "broken", &[], &body).await;
    let event = tokio::time::timeout(Duration::from_secs(1), events.next()).await.expect("within a second").unwrap();
    eprintln!("told after {:?}", since.elapsed());
    let event: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!((&event["jobId"], &event["reason"]), (&json!("broken"), &json!("undecodable")));
    let error = event["error"].as_str().unwrap();
    assert!(error.contains("`recipients[0]") && !error.contains("rose"), "{error}");

    // The header itself, and headers that no producer may set.
    for (id, header, expected) in [
        ("misspelt", ("Carebell-Notify", "done, skiped"), "there is no skiped; did you mean skipped?"),
        ("foreign", ("Carebell-Notfy", "done"), "did you mean Carebell-Notify?"),
    ] {
        submit(&world, NEWS, id, &[header], &news()).await;
        let event: Value = serde_json::from_slice(&events.next().await.unwrap().payload).unwrap();
        assert_eq!(event["jobId"], id);
        assert!(event["error"].as_str().unwrap().contains(expected), "{event}");
    }
    // A cancellation names a job that is not its own.
    world.publish("jobs.cancel", &[("Carebell-Job-Id", "first"), ("Carebell-Root-Id", "x")], "").await;
    world.dead_letters_once(4).await;
    world.queues_are_empty().await;
    assert_eq!(told(&world).await.len(), 4, "{:?}", told(&world).await);
    worker.stop().await;
}

#[tokio::test]
async fn headers_that_cannot_be_parsed_are_told_under_the_id_that_the_message_has() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    publish_raw(&world, NEWS, &[b"NATS/1.0\r\nCarebell-Job-Id: odd\r\nX: a\rb\r\n\r\n"]).await;
    told_of(&world, "default JOBS~1 dead undecodable").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_kind_that_nobody_runs_is_told_of_by_the_sweep() {
    let world = World::new().await;
    submit(&world, "jobs.notification.urgent", "odd", &[], &news()).await;
    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    let streams = Streams::embedded(&adjustments(QUICK)).unwrap();
    assert_eq!(sweep::pass(&effects, &streams, &clock, sweep::AGE).await.unwrap(), 1);
    assert_eq!(told(&world).await, ["default odd dead unknown_kind"]);
}

#[tokio::test]
async fn a_delayed_job_keeps_its_wish_and_a_cancelled_one_is_told_of_at_once() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    let (soon, hour) = (seconds_from_now(2), seconds_from_now(3600));
    let all = ("Carebell-Notify", "all");
    submit(&world, LATER, "soon", &[all, ("Carebell-At", &soon)], &news()).await;
    for id in ["off", "silent", "by-hand"] {
        let headers = [("Carebell-At", hour.as_str()), all];
        submit(&world, LATER, id, &headers[..if id == "silent" { 1 } else { 2 }], &news()).await;
    }
    told_of(&world, "default soon done").await;
    for id in ["off", "silent"] {
        world.publish("jobs.cancel", &[("Carebell-Job-Id", id)], "").await;
    }
    told_of(&world, "default off cancelled cancelled").await;
    let (well, _, error) = carebell(&world, &["jobs", "cancel", "by-hand", "--by", "olga"], &[]).await;
    assert!(well, "{error}");
    world.queues_are_empty().await;
    let expected = ["default soon done", "default off cancelled cancelled", "default by-hand cancelled cancelled"];
    assert_eq!(told(&world).await, expected);
    assert_eq!(peek(&world.context, "HOLD", "hold.>").await, 0);

    // Delayed and taken back once more: another end.
    submit(&world, LATER, "off", &[all, ("Carebell-At", &hour)], &news()).await;
    world.eventually("it waits", async || (peek(&world.context, "HOLD", "hold.>").await == 1).then_some(())).await;
    world.publish("jobs.cancel", &[("Carebell-Job-Id", "off")], "").await;
    world.eventually("it is told", async || (told(&world).await.len() == 4).then_some(())).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_cancellation_that_a_worker_began_is_told_by_the_next_one() {
    let world = World::new().await;
    let hour = seconds_from_now(3600);
    let headers = [("Carebell-Notify", "cancelled"), ("Carebell-At", hour.as_str())];
    submit(&world, LATER, "off", &headers, &news()).await;
    let first = Worker::without_scheduler(&world);
    world.eventually("it waits", async || (peek(&world.context, "HOLD", "hold.>").await == 1).then_some(())).await;
    first.stop().await;
    world.publish("jobs.cancel", &[("Carebell-Job-Id", "off")], "").await;
    let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", "noted")]);
    doomed.ended().await;
    assert!(told(&world).await.is_empty());
    let heir = Worker::without_scheduler(&world);
    told_of(&world, "default off cancelled cancelled").await;
    world.queues_are_empty().await;
    assert_eq!(peek(&world.context, "HOLD", "hold.>").await, 0);
    heir.stop().await;
}

/// A reminder that is not due waits in HOLD for hours.
async fn park(world: &World, id: &str, notify: &str) {
    let mut body = reminder("metformin", utc_now() + TimeDelta::hours(3));
    body["reminderMinutes"] = 5.into();
    submit(world, "jobs.reminder.medication", id, &[("Carebell-Notify", notify)], &body).await;
}

#[tokio::test]
async fn a_job_that_people_cancel_is_told_of_wherever_it_waits() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    // In its queue: the worker that takes it tells.
    submit(&world, NEWS, "queued", &[("Carebell-Notify", "all")], &news()).await;
    let (well, _, error) = carebell(&world, &["jobs", "cancel", "queued", "--by", "olga"], &[]).await;
    assert!(well, "{error}");
    let worker = Worker::without_scheduler(&world);
    told_of(&world, "default queued cancelled cancelled").await;
    // Parked: whoever cancels tells.
    park(&world, "parked", "cancelled").await;
    park(&world, "parked-silent", "done").await;
    let mut at_the_door = reminder("metformin", utc_now() + TimeDelta::hours(3));
    at_the_door["reminderMinutes"] = 15.into();
    let job = json!({ "kind": "reminder.medication", "jobId": "door", "notify": ["cancelled"], "job": at_the_door });
    assert_eq!(door.post(&job).await.status, StatusCode::ACCEPTED);
    world.eventually("they wait", async || (peek(&world.context, "HOLD", "hold.due.>").await == 3).then_some(())).await;
    for id in ["parked", "parked-silent"] {
        let (well, _, error) = carebell(&world, &["jobs", "cancel", id, "--by", "olga"], &[]).await;
        assert!(well, "{error}");
    }
    told_of(&world, "default parked cancelled cancelled").await;
    assert_eq!(door.delete("door").await.status, StatusCode::OK);
    told_of(&world, "default door cancelled cancelled").await;
    world.queues_are_empty().await;
    assert_eq!(told(&world).await.len(), 3, "{:?}", told(&world).await);
    worker.stop().await;
}

#[tokio::test]
async fn jobs_of_an_emptied_queue_and_of_an_operation_are_told_of() {
    let world = World::new().await;
    for (id, notify) in [("one", "all"), ("two", "cancelled"), ("three", "done")] {
        submit(&world, "jobs.notification.bulk", id, &[("Carebell-Notify", notify)], &news()).await;
    }
    let args = ["queues", "empty", "notification_bulk", "--count", "3", "--reason", "x", "--by", "olga"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well, "{said}{error}");
    let expected = ["default one cancelled cancelled", "default two cancelled cancelled"];
    assert_eq!(told(&world).await, expected);
    let worker = Worker::without_scheduler(&world);
    let hour = seconds_from_now(3600);
    submit(&world, LATER, "later", &[("Carebell-Notify", "all"), ("Carebell-At", &hour)], &news()).await;
    park(&world, "parked", "all").await;
    world.eventually("they wait", async || (peek(&world.context, "HOLD", "hold.>").await == 2).then_some(())).await;
    // A reminder that is not due counts as delayed.
    let args = ["operations", "start", "cancel", "--state", "delayed", "--count", "2", "--reason", "x", "--by", "olga"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well, "{said}{error}");
    told_of(&world, "default later cancelled cancelled").await;
    told_of(&world, "default parked cancelled cancelled").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_between_any_two_steps_tells_once() {
    for step in ["committed", "published", "told"] {
        let world = World::new().await;
        let dose = reminder("metformin", utc_now());
        submit(&world, "jobs.reminder.medication", "dose", &[("Carebell-Notify", "all")], &dose).await;
        let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", step)]);
        doomed.ended().await;
        assert_eq!(told(&world).await.len(), usize::from(step == "told"), "{step}");
        let heir = Worker::without_scheduler(&world);
        told_of(&world, "default dose done").await;
        world.queues_are_empty().await;
        world.everyone_has_it_once("dose").await;
        assert_eq!(told(&world).await, ["default dose done"], "{step}");
        heir.stop().await;
    }
    for step in ["buried", "told"] {
        let world = World::new().await;
        world.publish_json(NEWS, "broken", &json!({ "title": 7 })).await;
        let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", step)]);
        doomed.ended().await;
        let heir = Worker::without_scheduler(&world);
        world.queues_are_empty().await;
        assert_eq!(told(&world).await, ["default broken dead undecodable"], "{step}");
        heir.stop().await;
    }
}

#[tokio::test]
async fn an_event_waits_for_nats_and_the_message_with_it() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    submit(&world, NEWS, "first", &[], &news()).await;
    world.ended("first").await;
    world.context.delete_stream("EVENTS").await.unwrap();
    submit(&world, NEWS, "news", &[("Carebell-Notify", "all")], &news()).await;
    submit(&world, NEWS, "silent", &[], &news()).await;
    assert_eq!(world.ended("news").await.0, "done");
    assert_eq!(world.ended("silent").await.0, "done");
    let only = async || (peek(&world.context, "JOBS", NEWS).await == 1).then_some(());
    world.eventually("the silent one is acknowledged, and the other waits", only).await;
    Streams::embedded(&adjustments(QUICK)).unwrap().apply(&world.context).await.unwrap();
    told_of(&world, "default news done").await;
    world.queues_are_empty().await;
    assert_eq!(told(&world).await, ["default news done"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_published_again_is_told_of_again_and_a_redriven_one_keeps_its_wish() {
    let world = World::new().await;
    let worker = Worker::without_scheduler(&world);
    let headers = [("Carebell-Notify", "done"), ("Carebell-Timeout", "soon")];
    submit(&world, NEWS, "mended", &headers, &news()).await;
    told_of(&world, "default mended dead undecodable").await;
    // A second death of the same id within the server's dedupe window is another event.
    submit(&world, NEWS, "mended", &headers, &news()).await;
    world.dead_letters_once(2).await;
    world.eventually("both are told", async || (told(&world).await.len() == 2).then_some(())).await;
    world.queues_are_empty().await;
    let letters = Letters::open(&world.context).await.unwrap();
    let letter = letters.get(2).await.unwrap().unwrap();
    assert_eq!(letter.headers.get("Carebell-Notify").unwrap().as_str(), "done");
    let clock = Clock::system();
    let redriver =
        Redriver { context: &world.context, letters: &letters, store: &world.store, clock: &clock, actor: "olga" };
    let change = Change { headers: vec![("carebell-timeout".into(), String::new())], ..Change::default() };
    for sent in redriver.redrive(&[letter], &change).await.unwrap() {
        sent.unwrap();
    }
    told_of(&world, "default mended done").await;
    world.queues_are_empty().await;
    submit(&world, NEWS, "mended", &[("Carebell-Notify", "done")], &news()).await;
    world.queues_are_empty().await;
    let (_, headers, _) = stored(&world).await.pop().unwrap();
    assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), "mended~done", "its copy within two minutes is dropped");
    assert_eq!(told(&world).await.len(), 3);
    worker.stop().await;
}

/// A durable's messages, as an application reads them.
async fn read(consumer: &PullConsumer, most: usize) -> Vec<jetstream::Message> {
    let batch = consumer.batch().max_messages(most).expires(Duration::from_secs(2)).messages().await.unwrap();
    batch.map(|message| message.unwrap()).collect().await
}

fn ids(messages: &[jetstream::Message]) -> Vec<String> {
    let id = |message: &jetstream::Message| {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        event["eventId"].as_str().unwrap().to_owned()
    };
    messages.iter().map(id).collect()
}

/// The application's view of the account that Carebell has.
fn imported(application: &async_nats::Client) -> jetstream::Context {
    jetstream::with_prefix(application.clone(), "$JS.CAREBELL.API")
}

#[tokio::test]
async fn an_application_in_an_account_of_its_own_reads_its_events_durably_and_no_others() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let done = [("Carebell-Job-Id", "visit-1"), ("Carebell-Notify", "done")];
    applications::publish(&care, NEWS, &done, &news()).await.unwrap();
    let bad = [("Carebell-Job-Id", "visit-1")];
    applications::publish(&board, NEWS, &bad, &json!({ "title": 7 })).await.unwrap();
    told_of(&world, "care visit-1 done").await;
    told_of(&world, "board visit-1 dead undecodable").await;

    let reader: PullConsumer = imported(&care).get_consumer_from_stream("events_care", "EVENTS").await.unwrap();
    let found = read(&reader, 10).await;
    assert_eq!(ids(&found), ["~care~visit-1~done"]);
    assert_eq!(found[0].headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap().as_str(), "~care~visit-1~done");
    drop((found, reader));
    // Not acknowledged: it comes again, to another connection as well.
    let care_again = client(&world, "care").await;
    let mut reader: PullConsumer =
        imported(&care_again).get_consumer_from_stream("events_care", "EVENTS").await.unwrap();
    let again = world
        .eventually("it comes again", async || Some(read(&reader, 10).await).filter(|found| !found.is_empty()))
        .await;
    assert_eq!(ids(&again), ["~care~visit-1~done"]);
    again[0].ack().await.unwrap();
    let acknowledged = async || (reader.info().await.unwrap().num_ack_pending == 0).then_some(());
    world.eventually("it is acknowledged", acknowledged).await;
    assert_eq!(reader.cached_info().num_pending, 0);

    // The other's durable, its acknowledgements, and the API of Carebell's account are out of reach.
    let others = imported(&care).get_consumer_from_stream::<Config, _, _>("events_board", "EVENTS").await;
    assert!(others.is_err());
    let mine = imported(&board).get_consumer_from_stream::<Config, _, _>("events_board", "EVENTS").await.unwrap();
    assert_eq!(ids(&read(&mine, 10).await), ["~board~visit-1~dead~INTAKE_board.1"]);
    for subject in [
        "$JS.CAREBELL.API.CONSUMER.MSG.NEXT.EVENTS.events_board",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.events_board",
        "$JS.ACK.EVENTS.events_board.1.2.1.1.0",
        "$JS.CAREBELL.API.STREAM.INFO.EVENTS",
        "$JS.CAREBELL.API.STREAM.MSG.GET.EVENTS",
        "$JS.CAREBELL.API.CONSUMER.CREATE.EVENTS",
        "events.board.job.done",
    ] {
        let request = async_nats::Request::new().payload("{}".into()).timeout(Some(Duration::from_millis(300)));
        assert!(care.send_request(subject, request).await.is_err(), "{subject}");
    }
    assert_eq!(told(&world).await.len(), 2, "nobody wrote an event but Carebell");
    Installation { world, care, board, worker }.stop().await;
}

#[tokio::test]
async fn the_application_of_a_simple_installation_reads_its_events_by_three_more_permissions() {
    let reads = "\"$JS.API.CONSUMER.INFO.EVENTS.events_default\", \
                 \"$JS.API.CONSUMER.MSG.NEXT.EVENTS.events_default\", \"$JS.ACK.EVENTS.events_default.>\"";
    let producer = include_str!("../../helm/carebell/nats/producer.conf");
    let config = format!(
        "no_auth_user: test\nauthorization {{ users: [\n{{ user: test, password: x }}\n\
         {{ user: app, password: x, permissions: {{\n{}\n}} }}\n] }}\n",
        producer.replacen("\"jobs.cancel\"", &format!("\"jobs.cancel\", {reads}"), 1)
    );
    let world = World::on_both(database().await, &config, QUICK).await;
    let worker = Worker::without_scheduler(&world);
    submit(&world, NEWS, "news", &[("Carebell-Notify", "done")], &news()).await;
    let options = ConnectOptions::with_user_and_password("app".into(), "x".into()).custom_inbox_prefix("_INBOX_app");
    let app = jetstream::new(options.connect(world.nats.url()).await.unwrap());
    let reader: PullConsumer = app.get_consumer_from_stream("events_default", "EVENTS").await.unwrap();
    let found =
        world.eventually("it comes", async || Some(read(&reader, 10).await).filter(|found| !found.is_empty())).await;
    assert_eq!((ids(&found), found[0].subject.as_str()), (vec!["news~done".to_owned()], "events.default.job.done"));
    found[0].double_ack().await.unwrap();
    worker.stop().await;
}

#[tokio::test]
async fn the_program_of_the_docs_reads_events_over_the_import() {
    let Some(python) = Python::find() else { return };
    let doc = include_str!("../../docs/EVENTS.md");
    let program = doc.split("\n```python\n").nth(1).unwrap().split("```").next().unwrap();
    let Installation { world, care, board, worker } = Installation::start().await;
    let path = world.directory.path().join("events.py");
    std::fs::write(&path, program).unwrap();
    let url = format!("nats://care:x@127.0.0.1:{}", world.nats.port());
    let mut reader = python.run(&path).env("NATS_URL", url).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    for (id, body, expected) in
        [("good", news(), "good done "), ("bad", json!({ "title": 7 }), "bad dead the body is not a carebell.v1.")]
    {
        let headers = [("Carebell-Job-Id", id), ("Carebell-Notify", "all")];
        applications::publish(&care, NEWS, &headers, &body).await.unwrap();
        let line = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.starts_with(expected), "{line}");
    }
    let mut reads: PullConsumer = world.context.get_consumer_from_stream("events_care", "EVENTS").await.unwrap();
    let acknowledged = async || (reads.info().await.unwrap().ack_floor.consumer_sequence == 2).then_some(());
    world.eventually("both are acknowledged", acknowledged).await;
    reader.kill().await.unwrap();
    Installation { world, care, board, worker }.stop().await;
}
