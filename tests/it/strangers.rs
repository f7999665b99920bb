//! A producer that is hostile, broken or taken over, with exactly the shipped permissions (`docs/SECURITY_MODEL.md`).

use async_nats::{Client, ConnectOptions, HeaderMap};
use carebell::{
    clock::Clock,
    dead_letter::{DeadJob, bury, sweep},
    dev::push_service::Behaviour,
    effects::{Death, Effects},
    health::Health,
    plan::DeadReason,
    streams::Streams,
};
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{FAMILY, Process, QUICK, Worker, World, adjustments, database, peek, reminder, utc_now};

const PRODUCER_CONF: &str = include_str!("../../helm/carebell/nats/producer.conf");

/// The test itself may do all.
async fn world() -> (World, Client) {
    let config = format!(
        "no_auth_user: ops\nauthorization {{ users: [\n{{ user: ops, password: ops }}\n\
         {{ user: app, password: app, permissions: {{\n{PRODUCER_CONF}\n}} }}\n] }}\n"
    );
    let world = World::on_both(database().await, &config, QUICK).await;
    let options = ConnectOptions::with_user_and_password("app".into(), "app".into()).custom_inbox_prefix("_INBOX_app");
    let app = options.connect(world.nats.url()).await.unwrap();
    (world, app)
}

/// Returns the server's acknowledgement.
async fn publish(app: &Client, subject: &str, headers: &[(&str, &str)], body: &Value) -> Value {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    map.append("Content-Type", "application/json");
    let answer = app.request_with_headers(subject.to_owned(), map, body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Has the server publish an acknowledgement to `subject`.
async fn reflect(app: &Client, subject: &str) {
    // Under a used id nothing is stored, and the server answers all the same.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "mirror");
    app.publish_with_reply_and_headers("jobs.notification.bulk", subject.to_owned(), headers, "x".into())
        .await
        .unwrap();
    app.flush().await.unwrap();
}

fn news(user: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": "News" })
}

fn error_of(letter: &HeaderMap) -> (&str, &str) {
    let header = |name: &str| letter.get(name).unwrap().as_str();
    (header("Carebell-Dead-Reason"), header("Carebell-Dead-Error"))
}

#[tokio::test]
async fn another_s_text_does_not_come_to_whoever_names_its_root() {
    let (world, app) = world().await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let eve = news("ben");
    let headers = [("Carebell-Job-Id", "eve"), ("Carebell-Root-Id", "dose")];
    publish(&app, "jobs.notification.normal", &headers, &eve).await;
    let (_, letter, _) = world.dead_letters_once(1).await.remove(0);
    let (reason, error) = error_of(&letter);
    assert_eq!(
        (reason, error.split(';').next().unwrap()),
        ("permanent", "a producer may not set the header Carebell-Root-Id")
    );
    assert_eq!(letter.get("Carebell-Job-Id").unwrap().as_str(), "eve");
    assert!(letter.get("Carebell-Root-Id").is_none(), "a redrive would believe it");
    assert_eq!(world.ended("eve").await, ("dead".into(), Some("permanent".into())));
    assert_eq!(world.ledger("dose").await.len(), FAMILY.len());

    // A redrive runs it for what it is.
    let (well, said, error) = crate::cli::carebell(&world, &["dead-letters", "redrive", "1"], &[]).await;
    assert!(well, "{said}{error}");
    assert_eq!(world.ledger("eve").await[0].user_id, "ben");
    assert_eq!(world.ledger("dose").await.len(), FAMILY.len());
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn ids_of_carebell_cannot_be_taken_first() {
    let (world, app) = world().await;
    let due = utc_now();
    let care = format!("care~reminder.medication:metformin:{}:0", due.format("%Y-%m-%dT%H:%M:%SZ"));
    let ids = [care.as_str(), "dose~notification", "JOBS~9", "WORK~1", "schedule~tea:now:x"];
    for (number, id) in ids.into_iter().enumerate() {
        let name = if number % 2 == 0 { "Carebell-Job-Id" } else { "Nats-Msg-Id" };
        publish(&app, "jobs.notification.normal", &[(name, id)], &news("ana")).await;
    }
    let worker = Worker::start(&world);
    for (number, (_, letter, _)) in (1..).zip(world.dead_letters_once(ids.len()).await) {
        let (reason, error) = error_of(&letter);
        assert!(reason == "undecodable" && error.contains("must be 1 to 128 of the characters"), "{error}");
        assert_eq!(letter.get("Carebell-Job-Id").unwrap().as_str(), format!("JOBS~{number}"));
    }
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 0, "none is on record under such an id");
    // The jobs whose ids these are.
    world.publish_json("work.reminder.medication", &care, &reminder("metformin", due)).await;
    world.everyone_has_it_once(&care).await;
    let shift = json!({ "medicationId": "metformin", "scheduledTime": "2020-01-01T00:00:00Z" });
    while publish(&app, "jobs.reminder.medication", &[], &shift).await["seq"] != 9 {}
    assert_eq!(world.ended("JOBS~9").await.0, "expired");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn the_place_of_a_dead_letter_cannot_be_taken() {
    let (world, app) = world().await;
    publish(&app, "jobs.notification.bulk", &[("Nats-Msg-Id", "mirror")], &news("ana")).await;
    let taken = "dead.reminder.medication.JOBS.2";
    reflect(&app, taken).await;
    assert_eq!(peek(&world.context, "DEAD_LETTERS", taken).await, 1);
    publish(&app, "jobs.reminder.medication", &[("Carebell-Job-Id", "broken")], &json!({ "medicationId": "" })).await;
    let worker = Worker::start(&world);
    let letter = world.dead_letters_with("Carebell-Job-Id", "broken").await;
    assert_eq!(error_of(&letter).0, "undecodable");
    assert_eq!(peek(&world.context, "DEAD_LETTERS", ">").await, 1, "what was there is not");
    world.queues_are_empty().await;

    // A second burial of the same job finds its letter, and leaves it.
    let again = DeadJob {
        kind: "reminder.medication".into(),
        stream: "JOBS".into(),
        sequence: 2,
        subject: "jobs.reminder.medication".into(),
        job_id: Some("broken".into()),
        headers: None,
        raw_headers: None,
        payload: "again".into(),
        last: utc_now(),
    };
    let death = Death { reason: DeadReason::Crashed, error: "again".into(), attempts: 1, first: utc_now() };
    bury(&world.context, &again, &death).await;
    let letters = world.dead_letters().await;
    assert_eq!((letters.len(), error_of(&letters[0].1).0), (1, "undecodable"));
    worker.stop().await;
}

#[tokio::test]
async fn a_parked_job_whose_place_is_taken_is_parked_again() {
    let (world, app) = world().await;
    publish(&app, "jobs.notification.bulk", &[("Nats-Msg-Id", "mirror")], &news("ben")).await;
    world.push.behave_times("ana", 1, Behaviour::retry_after(429, "3"));
    let worker = Worker::start(&world);
    publish(&app, "jobs.notification.normal", &[("Carebell-Job-Id", "news")], &news("ana")).await;
    let parked = async || (peek(&world.context, "HOLD", "hold.>").await == 1).then_some(());
    world.eventually("the push is parked", parked).await;
    let hold = world.context.get_stream("HOLD").await.unwrap();
    let subject = hold.get_first_raw_message_by_subject("hold.>", 1).await.unwrap().subject.to_string();
    reflect(&app, &subject).await;
    // One that is not taken yet.
    reflect(&app, "hold.DELIVERIES.999").await;
    assert_eq!(peek(&world.context, "HOLD", &subject).await, 2);

    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    let streams = Streams::embedded(&adjustments(QUICK)).unwrap();
    let mended = sweep::pass(&effects, &streams, &Clock::system(), sweep::AGE).await.unwrap();
    assert_eq!(mended, 1);
    assert_eq!(world.ledger("news").await[0].state, "sent");
    worker.stop().await;
}

/// Acknowledgements of the server in the streams of Carebell.
#[tokio::test]
async fn what_the_server_publishes_for_a_producer_is_not_taken_for_carebell_s() {
    let (world, app) = world().await;
    publish(&app, "jobs.notification.bulk", &[("Nats-Msg-Id", "mirror")], &news("ana")).await;
    let worker = Worker::start(&world);
    let subjects = [
        "work.notification.critical",
        "work.maintenance.prune",
        "resume.work.reminder.shift",
        "deliver.web_push.normal",
    ];
    for subject in subjects {
        reflect(&app, subject).await;
    }
    for (_, letter, _) in world.dead_letters_once(subjects.len()).await {
        assert_eq!(error_of(&letter), ("permanent", "Carebell did not write this message: it has no Carebell-Job-Id"));
    }
    assert_eq!(world.ledger("mirror").await.len(), 1);
    assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE state <> 'dead'").await, 1, "that of the producer");
    worker.stop().await;
}

/// Neither does a mistake pass silently: it would mean another time, or none.
#[tokio::test]
async fn a_misspelt_header_is_an_error_and_not_a_default() {
    let (world, app) = world().await;
    let worker = Worker::start(&world);
    let past = "2020-01-01T00:00:00Z";
    for (number, header) in (1..).zip(["carebell-not-after", "Carebell-Not-Aftr", "Carebell-Expires", "NATS-ROLLUP"]) {
        publish(&app, "jobs.notification.normal", &[("Carebell-Job-Id", header), (header, past)], &news("ana")).await;
        let letters = world.dead_letters_once(number).await;
        let (_, letter, _) = letters.last().unwrap();
        let (reason, error) = error_of(letter);
        assert!(reason == "permanent" && error.contains(&format!("the header {header}")), "{error}");
    }
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_header_that_is_there_twice_is_not_believed_by_a_redrive_either() {
    let (world, app) = world().await;
    let worker = Worker::start(&world);
    let past = ("Carebell-Not-After", "2020-01-01T00:00:00Z");
    publish(&app, "jobs.notification.normal", &[("Carebell-Job-Id", "twice"), past, past], &news("ana")).await;
    let (_, letter, _) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(error_of(&letter), ("permanent", "the header Carebell-Not-After is there 2 times; expected once"));
    let (well, said, error) = crate::cli::carebell(&world, &["dead-letters", "redrive", "1"], &[]).await;
    assert!(well, "{said}{error}");
    assert_eq!(world.ledger("twice").await[0].state, "sent", "it did not expire");
    worker.stop().await;
}

/// The output of commands.
#[tokio::test]
async fn a_dead_letter_steers_no_terminal() {
    let (world, app) = world().await;
    let worker = Worker::start(&world);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "", "body": "\u{202e}gpj.\u{9b}31m" });
    publish(&app, "jobs.notification.normal", &[("Carebell-Job-Id", "sly"), ("X-Note", "\u{1b}[2J\u{2066}")], &body)
        .await;
    world.dead_letters_once(1).await;
    for args in
        [&["dead-letters", "show", "1"][..], &["dead-letters", "show", "1", "--json"], &["dead-letters", "list"]]
    {
        let (well, said, error) = crate::cli::carebell(&world, args, &[]).await;
        assert!(well, "{error}");
        let steers = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}".contains(c);
        assert!(!said.contains(steers), "{said:?}");
    }
    worker.stop().await;
}

/// It would take the mark of the real reminder, and tell a family of tomorrow's dose.
#[tokio::test]
async fn a_reminder_that_is_not_due_waits_and_takes_no_mark() {
    let (world, app) = world().await;
    let worker = Worker::start(&world);
    let due = utc_now() + TimeDelta::seconds(4);
    let dose = json!({ "medicationId": "metformin", "scheduledTime": (due + TimeDelta::minutes(30)).to_rfc3339(), "reminderMinutes": 30 });
    publish(&app, "jobs.reminder.medication", &[("Carebell-Job-Id", "early")], &dose).await;
    // By way of a delay, whose message comes back in a stream of Carebell's.
    let soon = utc_now().to_rfc3339();
    publish(&app, "jobs.later.reminder.medication", &[("Carebell-Job-Id", "sly"), ("Carebell-At", &soon)], &dose).await;
    let waits = async || {
        let open = "SELECT count(*) FROM job_runs WHERE state = 'open' AND attempts = 0";
        (world.count(open).await == 2 && peek(&world.context, "HOLD", "hold.>").await == 2).then_some(())
    };
    world.eventually("both wait", waits).await;
    assert_eq!(world.count("SELECT count(*) FROM reminder_marks").await, 0);
    let room = world.store.count_delayed().await.unwrap()[""].room;
    assert!((2..=3).contains(&room), "both are bounded with the delayed jobs: {room}");
    // Published again and again, it takes no more room.
    for _ in 0..3 {
        publish(&app, "jobs.reminder.medication", &[("Carebell-Job-Id", "early")], &dose).await;
    }
    world
        .eventually("the repetitions are taken", async || {
            (peek(&world.context, "JOBS", "jobs.>").await == 0).then_some(())
        })
        .await;
    assert_eq!(peek(&world.context, "HOLD", "hold.>").await, 2);
    // Carebell's own is not held up.
    let own = format!(
        "care~reminder.medication:metformin:{}:30",
        (due + TimeDelta::minutes(30)).format("%Y-%m-%dT%H:%M:%SZ")
    );
    world.publish_json("work.reminder.medication", &own, &dose).await;
    world.everyone_has_it_once(&own).await;
    for id in ["early", "sly"] {
        assert_eq!(world.ended(id).await, ("skipped".into(), Some("already_sent".into())));
    }
    world.queues_are_empty().await;
    worker.stop().await;
}

/// They wait in HOLD, where nothing else bounds them.
#[tokio::test]
async fn reminders_that_are_not_due_are_bounded_and_small() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,later.pause_above=1").await.at_pace(50);
    let worker = Process::worker(&world, &[]);
    let publish = async |id: &str, hours: i64| {
        let dose = reminder("metformin", utc_now() + TimeDelta::hours(hours));
        world.publish_json("jobs.reminder.medication", id, &dose).await;
    };
    for (id, hours) in [("a", 1), ("b", 2)] {
        publish(id, hours).await;
    }
    let counted =
        async || world.store.count_delayed().await.unwrap().get("").is_some_and(|count| count.room == 2).then_some(());
    world.eventually("both wait", counted).await;
    let mut number = 0;
    let mut refused = async || {
        number += 1;
        publish(&format!("more-{number}"), 3).await;
        let error = |letter: &async_nats::HeaderMap| letter.get("Carebell-Dead-Error").unwrap().to_string();
        let letters = world.dead_letters().await;
        letters
            .iter()
            .any(|(_, headers, _)| error(headers).contains("it is not due, and 1 delayed jobs (each KiB counts) wait"))
            .then_some(())
    };
    world.eventually("further ones are dead", &mut refused).await;

    let mut large = reminder("metformin", utc_now());
    large["medicationId"] = json!("x".repeat(2500));
    world.publish_json("jobs.reminder.medication", "large", &large).await;
    assert_eq!(world.ended("large").await, ("dead".into(), Some("undecodable".into())));
    drop(worker);
}
