//! Applications that are kept apart: an account, a stream and ids for each, with the chart's own configuration.

use std::collections::BTreeSet;

use async_nats::{Client, ConnectOptions, HeaderMap, client::RequestErrorKind};
use carebell::streams::{Adjustments, Application, Streams};
use chrono::{SecondsFormat, TimeDelta};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{ADMIN_TOKEN, Console, Process, QUICK, World, database, peek, reminder, utc_now},
};

/// Two applications: `care`, with all kinds, and `board`, with notifications only.
const ACCOUNTS: &str = include_str!("../../helm/carebell/nats/accounts.conf");
const APPLICATIONS: &str = "care=reminder.* alert.* notification,board=notification";

pub struct Installation {
    pub world: World,
    pub care: Client,
    pub board: Client,
    pub worker: Process,
}

impl Installation {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(more: &[(&str, &str)]) -> Self {
        // The test itself is one more user, who may do all.
        let mut config = ACCOUNTS.replacen("users: [", "users: [ { user: test, password: x }", 1);
        for user in ["SETUP", "WORKER", "OPS", "ADMIN", "GATEWAY", "CARE", "BOARD"] {
            config = config.replace(&format!("${user}_PASSWORD"), "x");
        }
        let world = World::on_both(database().await, &format!("no_auth_user: test\n{config}"), QUICK).await;
        let adjustments = Adjustments {
            applications: APPLICATIONS.split(',').map(|text| Application::parse(text).unwrap()).collect(),
            ..crate::support::adjustments(QUICK)
        };
        Streams::embedded(&adjustments).unwrap().apply(&world.context).await.unwrap();
        let url = format!("nats://worker:x@127.0.0.1:{}", world.nats.port());
        let settings = [&[("APPLICATIONS", APPLICATIONS), ("NATS_URL", &url)], more].concat();
        let worker = Process::worker(&world, &settings);
        let (care, board) = (client(&world, "care").await, client(&world, "board").await);
        Self { world, care, board, worker }
    }

    pub async fn stop(mut self) {
        self.world.queues_are_empty().await;
        assert!(!self.worker.says("iolation"), "{}", self.worker.output());
        assert_eq!(self.worker.terminate().await.code(), Some(0));
    }
}

pub async fn client(world: &World, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.into(), "x".into());
    options.custom_inbox_prefix(format!("_INBOX_{user}")).connect(world.nats.url()).await.unwrap()
}

pub async fn publish(
    app: &Client,
    subject: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Result<Value, RequestErrorKind> {
    let mut map = HeaderMap::new();
    map.append("Content-Type", "application/json");
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let answer = app.request_with_headers(subject.to_owned(), map, body.to_string().into()).await;
    answer.map(|answer| serde_json::from_slice(&answer.payload).unwrap()).map_err(|error| error.kind())
}

pub fn news(user: &str, title: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": title })
}

#[tokio::test]
async fn one_id_is_a_job_of_each_application() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let id = [("Carebell-Job-Id", "visit-1"), ("Nats-Msg-Id", "visit-1")];
    let stored = publish(&care, "jobs.notification.normal", &id, &news("ana", "of care")).await.unwrap();
    assert_eq!(stored["stream"], "INTAKE_care");
    let stored = publish(&board, "jobs.notification.normal", &id, &news("ana", "of board")).await.unwrap();
    assert_eq!((&stored["stream"], &stored["duplicate"]), (&json!("INTAKE_board"), &Value::Null));
    for job in ["~care~visit-1", "~board~visit-1"] {
        assert_eq!(world.ended(job).await.0, "done");
        assert_eq!(world.ledger(job).await.len(), 1);
    }
    let again = publish(&board, "jobs.notification.normal", &id[..1], &news("ana", "again")).await.unwrap();
    assert_eq!(again["seq"], 2);
    world.queues_are_empty().await;
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT application, job_id, title FROM notifications ORDER BY application")
            .fetch_all(&world.db)
            .await
            .unwrap();
    let row = |application: &str, title: &str| (application.to_owned(), "visit-1".to_owned(), title.to_owned());
    assert_eq!(rows, [row("board", "of board"), row("care", "of care")], "the inbox keeps the id as it was given");
    let (well, said, error) = carebell(&world, &["jobs", "show", "~care~visit-1"], &[]).await;
    assert!(well && said.contains("ana: unread"), "{said}{error}");
    Installation { world, care, board, worker }.stop().await;
}

#[tokio::test]
async fn delayed_jobs_of_one_are_not_another_s() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let at = |seconds| (utc_now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let (soon, hour) = (at(2), at(3600));
    let later = "jobs.later.notification.normal";
    let headers = |at| [("Carebell-Job-Id", "tea"), ("Carebell-At", at)];
    publish(&care, later, &headers(&soon), &news("ana", "tea")).await.unwrap();
    publish(&board, later, &headers(&hour), &news("ben", "other")).await.unwrap();
    let parked = async || (peek(&world.context, "HOLD", "hold.>").await == 2).then_some(());
    world.eventually("both wait", parked).await;
    publish(&board, "jobs.cancel", &[("Carebell-Job-Id", "tea")], &Value::Null).await.unwrap();
    world.ledger("~care~tea").await;
    let states: Vec<(String, String)> =
        sqlx::query_as("SELECT job_id, state FROM delayed_jobs ORDER BY job_id").fetch_all(&world.db).await.unwrap();
    let state = |job: &str, state: &str| (job.to_owned(), state.to_owned());
    assert_eq!(states, [state("~board~tea", "cancelled"), state("~care~tea", "fired")]);
    let (_, list, _) = carebell(&world, &["jobs", "delayed", "--application", "board"], &[]).await;
    assert!(list.starts_with("0 delayed jobs"), "{list}");
    Installation { world, care, board, worker }.stop().await;
}

#[tokio::test]
async fn an_application_publishes_its_kinds_and_nothing_else() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let dose = reminder("metformin", utc_now());
    for subject in ["jobs.reminder.medication", "jobs.later.reminder.medication", "jobs.notification.urgent"] {
        let refused = publish(&board, subject, &[], &dose).await;
        assert_eq!(refused, Err(RequestErrorKind::NoResponders), "{subject}");
    }
    for subject in ["jobs.maintenance.prune", "jobs.later.maintenance.prune"] {
        assert_eq!(publish(&care, subject, &[], &json!({})).await, Err(RequestErrorKind::NoResponders), "{subject}");
    }
    publish(&care, "jobs.reminder.medication", &[("Carebell-Job-Id", "dose")], &dose).await.unwrap();
    assert_eq!(world.ledger("~care~dose").await.len(), 4);
    Installation { world, care, board, worker }.stop().await;
}

/// The first three rows of the table, in an account of its own.
#[tokio::test]
async fn nothing_of_an_application_reaches_beyond_its_stream() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let before: BTreeSet<String> = subjects(&world).await;
    for reply in [
        "dead.notification.INTAKE_care.1",
        "hold.DELIVERIES.13",
        "work.notification.normal",
        "$JS.API.STREAM.PURGE.HOLD",
        "intake.care.notification.bulk",
    ] {
        for app in [&board] {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", "mirror");
            headers.insert("Content-Type", "application/json");
            let body = news("ana", "mirror").to_string();
            app.publish_with_reply_and_headers("jobs.notification.bulk", reply, headers, body.into()).await.unwrap();
            app.flush().await.unwrap();
        }
    }
    let forged = [("Nats-Rollup", "all"), ("Carebell-Root-Id", "dose"), ("Nats-Schedule-Next", "purge")];
    for (number, (name, value)) in forged.into_iter().enumerate() {
        let id = format!("forged-{number}");
        // The server may refuse it, or Carebell does.
        let _ =
            publish(&board, "jobs.notification.normal", &[("Carebell-Job-Id", &id), (name, value)], &news("ana", "x"))
                .await;
    }
    for subject in [
        "hold.JOBS.1",
        "intake.care.notification.normal",
        "work.notification.normal",
        "dead.x.JOBS.1",
        "$JS.API.STREAM.PURGE.HOLD",
    ] {
        assert!(publish(&board, subject, &[], &json!({})).await.is_err(), "{subject}");
    }
    publish(&care, "jobs.notification.normal", &[("Carebell-Job-Id", "kept")], &news("ana", "kept")).await.unwrap();
    assert_eq!(world.ended("~care~kept").await.0, "done");
    world.queues_are_empty().await;
    let after = subjects(&world).await;
    let new: Vec<&String> =
        after.difference(&before).filter(|subject| !subject.starts_with("dead.notification.INTAKE_board.")).collect();
    assert_eq!(new, Vec::<&String>::new(), "only letters of its own jobs are left");
    for (_, letter, _) in world.dead_letters().await {
        assert_eq!(letter.get("Carebell-Dead-Reason").unwrap().as_str(), "permanent");
        assert!(letter.get("Carebell-Job-Id").unwrap().as_str().starts_with("~board~forged-"));
    }
    Installation { world, care, board, worker }.stop().await;
}

/// Of all streams but the intakes.
/// By the console and by a command, each with exactly its user's rights.
#[tokio::test]
async fn a_queue_of_applications_is_emptied_in_each_of_their_streams() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let url = |user: &str| format!("nats://{user}:x@127.0.0.1:{}", world.nats.port());
    let (by_console, by_command) = (url("admin"), url("ops"));
    let console = Console::with(&world, &[("APPLICATIONS", APPLICATIONS), ("NATS_URL", &by_console)]).await;
    let queue = "/queues/notification_bulk";
    world.eventually("NATS is reached", async || console.get("/queues").await.status.is_success().then_some(())).await;
    let why = json!({ "reason": "wrong text" });
    let paused = console.api(Method::POST, &format!("{queue}/pause"), ADMIN_TOKEN, Some(why)).await;
    assert!(paused.status.is_success(), "{paused:?}");
    world.eventually("the worker knows it", async || (console.get(queue).await.body["pulls"] == 0).then_some(())).await;
    let publish_some = async |round: &str| {
        for (app, user) in [(&care, "ana"), (&board, "ben")] {
            for number in 0..3 {
                let id = format!("news-{round}-{number}");
                publish(app, "jobs.notification.bulk", &[("Carebell-Job-Id", &id)], &news(user, "News")).await.unwrap();
            }
        }
    };
    let left =
        async || peek(&world.context, "INTAKE_care", ">").await + peek(&world.context, "INTAKE_board", ">").await;
    publish_some("one").await;
    assert_eq!(left().await, 6);
    let emptying = json!({ "count": 6, "reason": "wrong text" });
    let begun = console.api(Method::POST, &format!("{queue}/empty"), ADMIN_TOKEN, Some(emptying)).await;
    let place = format!("/operations/{}", begun.body["operation"]);
    let end = async || Some(console.get(&place).await.body).filter(|row| row["state"] != "running");
    let row = world.eventually("it is emptied", end).await;
    assert!(row["state"] == "done" && row["done"] == 6 && row["note"].is_null(), "{row}");
    assert_eq!(left().await, 0);

    publish_some("two").await;
    let args = ["queues", "empty", "notification_bulk", "--count", "6", "--reason", "x", "--by", "olga"];
    let settings = [("APPLICATIONS", APPLICATIONS), ("NATS_URL", by_command.as_str())];
    let (well, said, error) = carebell(&world, &args, &settings).await;
    assert!(well && said.contains("6 done"), "{said}{error}");
    assert_eq!(left().await, 0);
    let cancelled = "SELECT count(*) FROM job_runs WHERE state = 'skipped' AND reason = 'cancelled' AND job_id LIKE ";
    for application in ["~care~", "~board~"] {
        assert_eq!(world.count(&format!("{cancelled} '{application}%'")).await, 6, "{application}");
    }
    assert_eq!(world.push.counts().requests, 0);
    assert!(!console.output().contains("iolation"), "{}", console.output());
    drop(console);
    Installation { world, care, board, worker }.stop().await;
}

async fn subjects(world: &World) -> BTreeSet<String> {
    use futures::TryStreamExt;
    let mut all = BTreeSet::new();
    for name in ["WORK", "DELIVERIES", "HOLD", "DEAD_LETTERS"] {
        let stream = world.context.get_stream(name).await.unwrap();
        let found: Vec<(String, usize)> = stream.info_with_subjects(">").await.unwrap().try_collect().await.unwrap();
        all.extend(found.into_iter().map(|(subject, _)| subject));
    }
    all
}

#[tokio::test]
async fn a_dead_job_of_an_application_is_redriven_as_its_own() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let headers = [("Carebell-Job-Id", "bad"), ("Carebell-Timeout", "soon")];
    publish(&board, "jobs.notification.normal", &headers, &news("ana", "mended")).await.unwrap();
    let (subject, ..) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(subject, "dead.notification.INTAKE_board.1");
    assert_eq!(world.ended("~board~bad").await.0, "dead");
    let (well, said, error) =
        carebell(&world, &["dead-letters", "redrive", "1", "--header", "Carebell-Timeout="], &[]).await;
    assert!(well, "{said}{error}");
    world.ledger("~board~bad").await;
    assert!(world.dead_letters().await.is_empty());
    Installation { world, care, board, worker }.stop().await;
}

#[test]
fn mistakes_in_the_list_of_applications_are_named() {
    let streams = |text: &str| {
        let applications: Option<Vec<Application>> = text.split(',').map(Application::parse).collect();
        let adjustments = Adjustments { applications: applications.ok_or("malformed")?, ..Adjustments::default() };
        Streams::embedded(&adjustments).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(streams(APPLICATIONS), Ok(()));
    for (text, expected) in [
        ("care", "malformed"),
        ("care=", "malformed"),
        ("a b=notification", "malformed"),
        ("a.b=notification", "malformed"),
        ("A=notification", "malformed"),
        ("worker=notification", "malformed"),
        ("default=notification", "malformed"),
        ("care=notification,care=notification", "APPLICATIONS: care is there twice"),
        ("care=reminder.dinner", "care may publish no kind \"reminder.dinner\"; there are alert.refill"),
        ("care=*", "care may publish no kind \"*\""),
        ("care=maintenance.prune", "care may publish no kind"),
    ] {
        let error = streams(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// `doctor --producer` as the producer of a server, in words.
async fn doctor(world: &World, user: &str) -> (bool, String) {
    let producer = format!("{user}:x");
    let inbox = format!("_INBOX_{user}");
    let args = ["doctor", "--producer", &producer, "--producer-inbox", &inbox];
    let url = format!("nats://test:x@127.0.0.1:{}", world.nats.port());
    let (well, said, _) = carebell(world, &args, &[("NATS_URL", &url)]).await;
    (well, said)
}

#[tokio::test]
async fn the_doctor_tries_the_shipped_configurations_as_their_producers() {
    let Installation { world, care, board, worker } = Installation::start().await;
    let before = subjects(&world).await;
    for (user, jobs) in
        [("care", "jobs.reminder.medication"), ("board", "it may publish to jobs.notification.critical")]
    {
        let (well, said) = doctor(&world, user).await;
        assert!(well && said.contains(jobs), "{user}: {said}");
        assert!(said.contains("answers to it reach no subject of Carebell's account"), "{user}: {said}");
        assert!(!said.contains("FAIL") && !said.contains("WARN"), "{user}: {said}");
    }
    assert_eq!(subjects(&world).await, before, "it has changed nothing");
    assert!(world.dead_letters().await.is_empty());
    Installation { world, care, board, worker }.stop().await;

    // One account: all is refused but the server's answers.
    let one = format!(
        "no_auth_user: test\nauthorization {{ users: [\n{{ user: test, password: x }}\n\
         {{ user: app, password: x, permissions: {{\n{}\n}} }}\n{{ user: loose, password: x }}\n] }}\n",
        include_str!("../../helm/carebell/nats/producer.conf")
    );
    let world = World::on_both(database().await, &one, QUICK).await;
    let before = subjects(&world).await;
    let (well, said) = doctor(&world, "app").await;
    assert!(well && said.contains("it is in Carebell's account"), "{said}");
    assert!(!said.contains("FAIL"), "{said}");
    let (well, said) = doctor(&world, "loose").await;
    assert!(!well, "{said}");
    for failure in
        ["it may publish to subjects of Carebell's own: work.", "it may ask the API", "it may subscribe to >"]
    {
        assert!(said.contains(failure), "{failure}: {said}");
    }
    assert_eq!(subjects(&world).await, before, "even then it has changed nothing");
}
