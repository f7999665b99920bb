//! `carebell dead-letters`: failures are listed with reasons, can be redriven, and have one effect.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use carebell::{
    clock::Clock,
    dead_letter::{Change, Filter, Letter, Letters, Redriver},
    dev::push_service::Behaviour,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{LIMIT, Process, Worker, World},
};

/// The command's JSON output.
async fn answer(world: &World, args: &[&str]) -> Value {
    let (well, said, error) = carebell(world, args, &[("USER", "olga")]).await;
    assert!(well, "{args:?}: {error}");
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{args:?}: {said}"))
}

async fn listed(world: &World) -> Vec<Value> {
    answer(world, &["dead-letters", "list", "--json"]).await.as_array().unwrap().clone()
}

/// A notification to Ana's inbox only.
fn to_ana(title: &str) -> Value {
    json!({ "recipients": [{ "userId": "ana" }], "title": title, "channels": ["CHANNEL_IN_APP"] })
}

#[tokio::test]
async fn a_poison_job_is_seen_with_its_reason_and_last_error() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "poison", &to_ana("bad\u{0}")).await;
    world.dead_letters_once(1).await;
    let letters = listed(&world).await;
    let [letter] = &letters[..] else { panic!("one letter: {letters:?}") };
    assert_eq!((&letter["kind"], &letter["job_id"]), (&json!("notification"), &json!("poison")));
    assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("undecodable"), &json!(1)));
    assert_eq!(letter["error"], "`title` must not hold U+0000");
    assert_eq!((&letter["subject"], &letter["redrives"]), (&json!("jobs.notification.normal"), &json!(0)));

    let (well, table, _) = carebell(&world, &["dead-letters", "list"], &[]).await;
    assert!(well && table.contains("poison") && table.contains("1 in all: 1 undecodable"), "{table}");
    assert!(!table.contains("bad"), "a list shows no message text: {table}");
    let (well, whole, _) = carebell(&world, &["dead-letters", "show", "poison"], &[]).await;
    assert!(
        well && whole.contains("undecodable after 1 failure\n") && whole.contains("\"userId\": \"ana\""),
        "{whole}"
    );
    let whole = answer(&world, &["dead-letters", "show", "1", "--json"]).await;
    assert_eq!(whole["headers"]["Carebell-Job-Id"], "poison");
    assert_eq!(whole["body"]["recipients"][0]["userId"], "ana");
    worker.stop().await;
}

#[tokio::test]
async fn filters_choose_by_kind_reason_job_and_time() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "first", &to_ana("bad\u{0}")).await;
    world.publish_json("jobs.reminder.medication", "second", &json!({ "medicationId": "" })).await;
    world.dead_letters_once(2).await;
    worker.stop().await;
    let jobs = async |args: &[&str]| {
        let all = [&["dead-letters", "list", "--json"], args].concat();
        let letters = answer(&world, &all).await;
        let jobs = letters.as_array().unwrap().iter().map(|letter| letter["job_id"].as_str().unwrap().to_owned());
        let mut jobs: Vec<String> = jobs.collect();
        jobs.sort();
        jobs
    };
    assert_eq!(jobs(&[]).await, ["first", "second"]);
    assert_eq!(jobs(&["--kind", "notification"]).await, ["first"]);
    assert_eq!(jobs(&["--kind", "reminder"]).await, [""; 0], "a kind, not a prefix of one");
    assert_eq!(jobs(&["--reason", "undecodable", "--job-id", "second"]).await, ["second"]);
    assert_eq!(jobs(&["--reason", "exhausted"]).await, [""; 0]);
    assert_eq!(jobs(&["--since", "1h"]).await, ["first", "second"]);
    assert_eq!(jobs(&["--before", "1h"]).await, [""; 0]);
    assert_eq!(jobs(&["--since", "2020-01-01T00:00:00Z", "--limit", "1"]).await.len(), 1);
    let first = listed(&world).await.into_iter().find(|letter| letter["job_id"] == "first").unwrap();
    let number = first["letter"].to_string();
    let discarded = ["dead-letters", "discard", &number, "--kind", "reminder.medication", "--yes"];
    let (well, said, note) = carebell(&world, &discarded, &[]).await;
    assert!(well && said.contains("0 dead letters"), "a number and a filter must both hold: {said}");
    assert!(note.contains(&format!("dead letter {number} does not match the filters")), "{note}");
    for (wrong, expected) in [("--since", "an age such as 2h"), ("--reason", "unknown_kind")] {
        let (well, _, error) = carebell(&world, &["dead-letters", "list", wrong, "soon"], &[]).await;
        assert!(!well && error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_dead_delivery_is_redriven_counts_afresh_and_has_one_effect() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    // Three failures exhaust the delivery, two follow its redrive, and the sixth push succeeds.
    world.push.behave_times("ana", 5, Behaviour::status(503));
    world.remind("dose").await;
    let (_, letter, _) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(letter.get("Carebell-Dead-Reason").unwrap().as_str(), "exhausted");
    let dead = world.delivery_to("dose", "ana").await;
    assert_eq!((dead.state.as_str(), dead.attempts), ("dead", 3));
    let kept = Letters::open(&world.context).await.unwrap().get(1).await.unwrap().unwrap();

    let said = answer(&world, &["dead-letters", "redrive", &dead.id, "--json"]).await;
    assert_eq!((&said["redriven"], &said["failed"], &said["expired"]), (&json!(1), &json!([]), &json!(0)));
    world.everyone_has_it_once("dose").await;
    let sent = world.delivery_to("dose", "ana").await;
    assert_eq!((sent.state.as_str(), sent.attempts), ("sent", 2), "earlier failures do not count");
    assert!(listed(&world).await.is_empty());

    // Redriven again: by someone unaware, and as after a stop before the letter was removed.
    let (well, said, note) = carebell(&world, &["dead-letters", "redrive", "1"], &[]).await;
    assert!(well && said.contains("0 of 0") && note.contains("dead letter 1 was redriven at 20"), "{said}{note}");
    assert!(note.contains("by olga"), "{note}");
    redrive_again(&world, &kept).await;
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 4, "one effect");
    worker.stop().await;

    let (_, way, _) = carebell(&world, &["jobs", "show", "dose"], &[]).await;
    assert!(way.contains("by hand\n  dead_letter.redriven") && way.contains("by olga, at 20"), "{way}");
    let (well, _, note) = carebell(&world, &["dead-letters", "redrive", &dead.id], &[]).await;
    assert!(well && note.contains("was redriven at 20"), "{note}");
    let (well, _, error) = carebell(&world, &["dead-letters", "discard", "nope", "--yes"], &[]).await;
    assert!(!well && error.contains("no such dead letter of job \"nope\""), "{error}");
    let (well, _, error) = carebell(&world, &["dead-letters", "redrive", "99"], &[]).await;
    assert!(!well && error.contains("there is no dead letter 99"), "{error}");
}

/// Within and beyond the server's dedupe window.
async fn redrive_again(world: &World, kept: &Letter) {
    let letters = Letters::open(&world.context).await.unwrap();
    let clock = Clock::system();
    let redrive =
        Redriver { context: &world.context, letters: &letters, store: &world.store, clock: &clock, actor: "twice" };
    let later = Letter { number: kept.number + 1000, ..kept.clone() };
    for letter in [kept, &later] {
        let sent = redrive.redrive(std::slice::from_ref(letter), &Change::default()).await.unwrap();
        assert_eq!(sent, [Ok(())]);
    }
}

#[tokio::test]
async fn a_corrected_body_runs_as_the_same_job_and_an_uncorrected_one_dies_again() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "typo", &to_ana("bad\u{0}")).await;
    world.dead_letters_once(1).await;
    answer(&world, &["dead-letters", "redrive", "typo", "--json"]).await;
    let again = world.dead_letters_with("Carebell-Redrives", "1").await;
    assert_eq!(again.get("Carebell-Redriven-From").unwrap().as_str(), "dead.notification.JOBS.1");

    let (_, _, error) = carebell(&world, &["dead-letters", "redrive", "typo", "--edit"], &[("EDITOR", "true")]).await;
    assert!(error.contains("the body is unchanged"), "{error}");
    let wrong = [("EDITOR", "sed -i s/title/titel/")];
    let (well, _, error) = carebell(&world, &["dead-letters", "redrive", "typo", "--edit"], &wrong).await;
    assert!(!well && error.contains("unrecognized field") && error.contains("is kept in"), "{error}");
    let kept = error.split("is kept in ").nth(1).unwrap().split(' ').next().unwrap();
    std::fs::remove_file(kept).unwrap();
    let right = [("EDITOR", r"sed -i s/.u0000//"), ("USER", "olga")];
    let (well, said, error) = carebell(&world, &["dead-letters", "redrive", "typo", "--edit"], &right).await;
    assert!(well && said.contains("1 of 1"), "{said}{error}");
    assert_eq!(world.ended_again("typo", "done").await, None);
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE job_id = 'typo' AND title = 'bad'").await, 1);
    let edited = "SELECT count(*) FROM audit_log WHERE root_id = 'typo' AND (detail ->> 'edited')::boolean";
    assert_eq!(world.count(edited).await, 1);

    // The mistake can be in a header, and the body can come from a file.
    let headers = [("Carebell-Job-Id", "no-number"), ("Carebell-Attempts", "x"), ("Content-Type", "application/json")];
    world.publish("jobs.notification.normal", &headers, to_ana("Hello").to_string()).await;
    world.dead_letters_once(1).await;
    let file = world.directory.path().join("body.json");
    std::fs::write(&file, to_ana("Good day").to_string()).unwrap();
    let file = file.display().to_string();
    assert_eq!(world.ended("no-number").await.0, "dead", "on record under its own id");
    let args = ["dead-letters", "redrive", "no-number", "--header", "carebell-attempts=3", "--body", &file, "--json"];
    answer(&world, &args).await;
    world.ended_again("no-number", "done").await;
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE title = 'Good day'").await, 1);
    for forbidden in ["Nats-Rollup=all", "carebell-job-id=x", "no header=x", "X-Y=a\nb"] {
        let (well, _, _) = carebell(&world, &["dead-letters", "redrive", "1", "--header", forbidden], &[]).await;
        assert!(!well, "{forbidden}");
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_is_past_its_expiry_is_told_of_and_can_be_given_time() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let headers = |id| {
        [("Carebell-Job-Id", id), ("Carebell-Not-After", "2020-01-01T00:00:00Z"), ("Content-Type", "application/json")]
    };
    for id in ["a", "b"] {
        world.publish("jobs.notification.normal", &headers(id), to_ana("bad\u{0}").to_string()).await;
    }
    world.dead_letters_once(2).await;
    let file = world.directory.path().join("body.json");
    std::fs::write(&file, to_ana("Good").to_string()).unwrap();
    let file = file.display().to_string();
    let (_, said, _) = carebell(&world, &["dead-letters", "redrive", "a", "--body", &file], &[]).await;
    assert!(said.contains("1 of them are past their expiry"), "{said}");
    assert_eq!(world.ended_again("a", "expired").await, Some("expired".into()));
    let past = ["dead-letters", "redrive", "b", "--not-after", "2020-01-01T00:00:00Z"];
    let (well, _, error) = carebell(&world, &past, &[]).await;
    assert!(!well && error.contains("has passed"), "{error}");
    let later = ["dead-letters", "redrive", "b", "--body", &file, "--not-after", "2099-01-01T00:00:00Z", "--json"];
    assert_eq!(answer(&world, &later).await["expired"], 0);
    assert_eq!(world.ended_again("b", "done").await, None);
    worker.stop().await;
}

#[tokio::test]
async fn discarding_asks_and_is_on_record() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "poison", &to_ana("bad\u{0}")).await;
    world.dead_letters_once(1).await;
    let (well, _, error) = carebell(&world, &["dead-letters", "discard"], &[]).await;
    assert!(!well && error.contains("select dead letters"), "{error}");
    let (well, _, error) = carebell(&world, &["dead-letters", "discard", "poison"], &[]).await;
    assert!(!well && error.contains("--yes"), "nobody is there to be asked: {error}");
    assert_eq!(listed(&world).await.len(), 1);
    let args = ["dead-letters", "discard", "poison", "--yes", "--why", "a test", "--by", "olga"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well && said.contains("1 dead letters discarded by olga"), "{said}{error}");
    assert!(listed(&world).await.is_empty());
    let (_, way, _) = carebell(&world, &["jobs", "show", "poison"], &[]).await;
    assert!(way.contains("dead_letter.discarded poison by olga") && way.contains("(letter 1): a test"), "{way}");
    assert!(way.contains(": dead (undecodable)"), "the job stays on record: {way}");
    worker.stop().await;
}

#[tokio::test]
async fn a_rate_is_kept() {
    let world = World::new().await;
    bury(&world, 12).await;
    let started = Instant::now();
    let args = ["dead-letters", "redrive", "--kind", "notification", "--limit", "10", "--rate", "10/s", "--json"];
    assert_eq!(answer(&world, &args).await["redriven"], 10);
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    let (_, said, _) = carebell(&world, &["dead-letters", "redrive", "--all", "--dry-run"], &[]).await;
    assert!(said.contains("2 dead letters would be redriven"), "{said}");
    world.sql("INSERT INTO pauses VALUES ('queue', 'notification', 'tried', 'olga', now(), NULL)").await;
    world
        .sql(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
              VALUES ('job-11', 'job-11', 'notification', 'JOBS', 11, 'done', now(), now())",
        )
        .await;
    let dry_run = ["dead-letters", "redrive", "--all", "--dry-run", "--json"];
    let predictions = &answer(&world, &dry_run).await["predictions"];
    let prediction = |index: usize| predictions[index]["prediction"].as_str().unwrap_or_default();
    assert_eq!((prediction(0), prediction(1)), ("already_sent", "paused"));
    let left: Vec<Value> = listed(&world).await;
    assert_eq!((&left[0]["job_id"], &left[1]["job_id"]), (&json!("job-12"), &json!("job-11")), "the oldest go first");
}

async fn bury(world: &World, count: usize) {
    let body = bytes::Bytes::from(to_ana("Hello").to_string());
    let published = stream::iter(1..=count).map(|number| {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("Carebell-Job-Id", format!("job-{number}").as_str()),
            ("Content-Type", "application/json"),
            ("Carebell-Dead-Reason", "exhausted"),
            ("Carebell-Dead-Error", "the database refuses"),
            ("Carebell-Dead-Attempts", "3"),
            ("Carebell-Dead-First", "2026-11-01T08:00:00Z"),
            ("Carebell-Dead-Last", "2026-11-01T09:00:00Z"),
            ("Carebell-Dead-Subject", "jobs.notification.normal"),
        ] {
            headers.insert(name, value);
        }
        let subject = format!("dead.notification.JOBS.{number}");
        let (context, body) = (world.context.clone(), body.clone());
        async move { context.publish_with_headers(subject, headers, body).await.unwrap().await.unwrap() }
    });
    published.buffered(500).for_each(async |_| ()).await;
}

/// It would be refused in JOBS, where a redriven job's headers are not a producer's.
#[tokio::test]
async fn a_delayed_job_is_redriven_as_carebell_s_own() {
    let world = World::new().await;
    let headers = [
        ("Carebell-Job-Id", "later"),
        ("Content-Type", "application/json"),
        ("Carebell-Dead-Reason", "unknown_kind"),
        ("Carebell-Dead-Last", "2026-11-01T09:00:00Z"),
        ("Carebell-Dead-Subject", "jobs.later.notification.normal"),
    ];
    world.publish("dead.notification.JOBS.1", &headers, to_ana("Hello").to_string()).await;
    let worker = Worker::start(&world);
    let (well, said, error) = carebell(&world, &["dead-letters", "redrive", "1"], &[]).await;
    assert!(well, "{said}{error}");
    assert_eq!(world.ended("later").await.0, "done");
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
#[ignore = "soak: 10,000 dead letters"]
async fn ten_thousand_are_redriven_with_an_interruption_and_each_has_one_effect() {
    const COUNT: usize = 10_000;
    let world = World::new().await;
    bury(&world, COUNT).await;
    let args = ["dead-letters", "redrive", "--all", "--by", "olga"];
    let mut first = Process::start(&args, &world.environment(), world.directory.path());
    let tells = async || first.says("of 10000 redriven").then_some(());
    world.eventually("it tells how far it is", tells).await;
    first.kill().await;
    // The server completes requests already made.
    let mut last = None;
    world
        .eventually("no more are taken out", async || {
            let letters = world.context.get_stream("DEAD_LETTERS").await.ok()?;
            let before = last.replace(letters.cached_info().state.messages);
            (before == last).then_some(())
        })
        .await;
    let mut letters = Letters::open(&world.context).await.unwrap();
    let mut left = 0;
    letters.each(&Filter::default(), |_| left += 1).await.unwrap();
    assert!((1..COUNT).contains(&left), "{left} were left when it was killed");

    let started = Instant::now();
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well && said.contains(&format!("{left} of {left} dead letters redriven")), "{said}{error}");
    println!("{COUNT} dead letters, {left} of them redriven after the interruption in {:?}", started.elapsed());
    letters = Letters::open(&world.context).await.unwrap();
    letters.each(&Filter::default(), |letter| panic!("{letter:?} is left")).await.unwrap();
    let worker = Worker::with(&world, &[("QUEUE_OVERRIDES", "notification_normal.concurrency=200")]);
    world
        .eventually_within(3 * LIMIT, "all have run", async || {
            let ran = world.count("SELECT count(*) FROM job_runs WHERE state = 'done'").await;
            (ran == i64::try_from(COUNT).unwrap()).then_some(())
        })
        .await;
    world.queues_are_empty().await;
    worker.stop().await;
    assert_eq!(world.count("SELECT count(DISTINCT job_id) FROM notifications").await, 10_000);
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 10_000);
    let on_record = world.count("SELECT count(DISTINCT job_id) FROM audit_log WHERE actor = 'olga'").await;
    assert_eq!(on_record, 10_000, "each is on record");
}
