//! Delayed jobs: on time, replaced, taken back, whatever crashes and in whatever order their messages are read.

use std::collections::BTreeMap;

use carebell::{
    clock::Clock,
    dead_letter::overdue::{LATE, Overdue},
    effects::Effects,
    health::Health,
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    meta::IntakePosition,
    pipeline::Registry,
    plan::Reason,
    store::{DelayAnswer, DelayAsk, DelayStep},
    telemetry::metrics::Metrics,
    wire,
};
use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Custom, LIMIT, Process, QUICK, Worker, World, peek, reminder, utc_now},
};

const NORMAL: &str = "jobs.later.notification.normal";

fn text(title: &str) -> Value {
    json!({ "recipients": [{ "userId": "ana" }], "title": title })
}

fn written(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

async fn later(world: &World, id: &str, at: DateTime<Utc>, body: &Value) -> u64 {
    publish(world, NORMAL, id, Some(&written(at)), &body.to_string()).await
}

async fn publish(world: &World, subject: &str, id: &str, at: Option<&str>, body: &str) -> u64 {
    let mut headers = vec![("Carebell-Job-Id", id), ("Content-Type", "application/json")];
    headers.extend(at.map(|at| ("Carebell-At", at)));
    world.publish(subject, &headers, body.to_owned()).await
}

async fn cancel(world: &World, id: &str) {
    world.publish("jobs.cancel", &[("Carebell-Job-Id", id)], "").await;
}

/// Until nothing is left to read and this many jobs are parked.
async fn parked(world: &World, count: usize) {
    let read = async || {
        let rest = peek(&world.context, "JOBS", ">").await;
        (rest == 0 && peek(&world.context, "HOLD", "hold.>").await == count).then_some(())
    };
    world.eventually(&format!("{count} are parked"), read).await;
}

async fn state(world: &World, id: &str) -> Option<String> {
    let query = sqlx::query_scalar("SELECT state FROM delayed_jobs WHERE job_id = $1");
    query.bind(id).fetch_optional(&world.db).await.unwrap()
}

fn titles(world: &World) -> Vec<String> {
    let mut titles: Vec<String> =
        world.push.received().iter().map(|push| push.json()["title"].as_str().unwrap().to_owned()).collect();
    titles.sort();
    titles
}

#[tokio::test]
async fn each_runs_at_its_instant_unless_it_is_replaced_or_taken_back() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let hour = utc_now() + TimeDelta::hours(1);
    for id in ["kept", "moved", "off"] {
        later(&world, id, hour, &text("old")).await;
    }
    parked(&world, 3).await;
    let due = utc_now() + TimeDelta::seconds(2);
    later(&world, "moved", due, &text("moved")).await;
    later(&world, "over", due - TimeDelta::days(1), &text("over")).await;
    cancel(&world, "off").await;
    cancel(&world, "unknown").await;
    assert_eq!(world.ended("over").await.0, "done", "a past instant is now");
    assert_eq!(world.ended("moved").await.0, "done");
    parked(&world, 1).await;
    world.push.wait_for(2, LIMIT).await.unwrap();
    assert_eq!(titles(&world), ["moved", "over"]);
    let moved = world.push.received().into_iter().find(|push| push.json()["title"] == "moved").unwrap();
    assert!(moved.received >= due, "{} is before {due}", moved.received);
    let states = ["kept", "moved", "off", "over"].map(|id| state(&world, id));
    let states: Vec<Option<String>> = futures::future::join_all(states).await;
    assert_eq!(states.map_each(), ["waiting", "fired", "cancelled", "fired"]);

    // Ids stay used up, and a job that was taken back may come again.
    later(&world, "moved", utc_now(), &text("once more")).await;
    later(&world, "off", utc_now(), &text("after all")).await;
    assert_eq!(world.ended("off").await.0, "done");
    parked(&world, 1).await;
    world.push.wait_for(3, LIMIT).await.unwrap();
    assert_eq!(titles(&world), ["after all", "moved", "over"]);
    cancel(&world, "kept").await;
    parked(&world, 0).await;
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

trait Each {
    fn map_each(self) -> Vec<String>;
}

impl Each for Vec<Option<String>> {
    fn map_each(self) -> Vec<String> {
        self.into_iter().map(|state| state.unwrap_or_else(|| "none".into())).collect()
    }
}

#[tokio::test]
async fn the_header_counts_on_the_usual_subjects_too() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let due = utc_now() + TimeDelta::seconds(1);
    let dose = reminder("metformin", due).to_string();
    publish(&world, "jobs.reminder.medication", "dose", Some(&written(due)), &dose).await;
    world.everyone_has_it_once("dose").await;
    assert!(world.push.received().iter().all(|push| push.received >= due));
    publish(&world, "jobs.notification.bulk", "past", Some("2020-01-01T00:00:00Z"), &text("past").to_string()).await;
    assert_eq!(world.ended("past").await.0, "done");

    // Read late, after its cancellation.
    worker.stop().await;
    let (now, body) = (written(utc_now()), text("x").to_string());
    let sequence = publish(&world, "jobs.notification.normal", "late", Some(&now), &body).await;
    cancel(&world, "late").await;
    let position = position(&world, sequence + 1).await;
    world.store.delay(&[ask("late", DelayStep::Cancel, position)]).await.unwrap();
    let worker = Worker::start(&world);
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE job_id = 'late'").await, 0);
    worker.stop().await;
}

async fn position(world: &World, sequence: u64) -> IntakePosition {
    let jobs = world.context.get_stream("JOBS").await.unwrap();
    let created = jobs.cached_info().created.unix_timestamp_nanos();
    let created = DateTime::from_timestamp_nanos(i64::try_from(created).unwrap()).trunc_subsecs(6);
    IntakePosition { created, sequence: i64::try_from(sequence).unwrap(), stream: "JOBS".into() }
}

fn ask(id: &str, step: DelayStep, position: IntakePosition) -> DelayAsk {
    DelayAsk {
        step,
        job_id: id.into(),
        application: String::new(),
        kind: "notification",
        lane: Some("normal"),
        due: Some(utc_now()),
        size: 100,
        position,
        now: utc_now(),
    }
}

#[tokio::test]
async fn what_can_never_run_is_dead_at_once_and_says_why() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let hour = written(utc_now() + TimeDelta::hours(1));
    let body = text("x").to_string();
    let cases = [
        (NORMAL, Some("tomorrow"), body.as_str(), "undecodable", "`Carebell-At` must be an RFC 3339 instant"),
        (NORMAL, Some(""), &body, "undecodable", "`Carebell-At` must be an RFC 3339 instant"),
        (NORMAL, Some("2199-01-01T00:00:00Z"), &body, "undecodable", "`Carebell-At` must be within ten years"),
        (NORMAL, None, &body, "undecodable", "`Carebell-At` must say when the job is due"),
        (NORMAL, Some(&hour), "{}", "undecodable", "`title` is required"),
        ("jobs.later.reminder.dinner", Some(&hour), "{}", "unknown_kind", "there is no kind reminder.dinner"),
        ("jobs.later.maintenance.prune", Some(&hour), "{}", "unknown_kind", "there is no kind maintenance.prune"),
        ("jobs.notification.normal", Some("at 9"), &body, "undecodable", "`Carebell-At` must be an RFC 3339 instant"),
    ];
    for (number, (subject, at, body, _, _)) in cases.iter().enumerate() {
        publish(&world, subject, &format!("bad-{number}"), *at, body).await;
    }
    world.publish("jobs.cancel", &[], "").await;
    world.publish("jobs.cancel", &[("Carebell-Job-Id", "dose~notification")], "").await;
    world.publish("jobs.cancel", &[("Carebell-Job-Id", "x"), ("Carebell-Why", "no")], "").await;
    let letters = world.dead_letters_once(cases.len() + 3).await;
    let found: BTreeMap<String, (String, String)> = letters
        .iter()
        .map(|(_, headers, _)| {
            let header = |name: &str| headers.get(name).unwrap().as_str().to_owned();
            (header("Carebell-Dead-Seq"), (header("Carebell-Dead-Reason"), header("Carebell-Dead-Error")))
        })
        .collect();
    for (number, (.., reason, error)) in cases.iter().enumerate() {
        let (said, why) = &found[&(number + 1).to_string()];
        assert!(said == reason && why.contains(error), "{number}: {said} {why}");
    }
    for (sequence, reason, error) in [
        (9, "undecodable", "names no job: set the header Carebell-Job-Id"),
        (10, "undecodable", "`Carebell-Job-Id` must be 1 to 128"),
        (11, "permanent", "a producer may not set the header Carebell-Why"),
    ] {
        let (said, why) = &found[&sequence.to_string()];
        assert!(said == reason && why.contains(error), "{sequence}: {said} {why}");
    }
    let kinds: Vec<&str> = letters.iter().map(|(subject, ..)| subject.rsplit_once(".JOBS.").unwrap().0).collect();
    assert!(kinds.contains(&"dead.reminder.dinner") && kinds.contains(&"dead.cancel"), "{kinds:?}");
    assert_eq!(world.count("SELECT count(*) FROM delayed_jobs").await, 0);
    assert_eq!(peek(&world.context, "HOLD", ">").await, 0);

    // Mended, a delayed job still waits for its instant.
    let number = 1 + letters
        .iter()
        .position(|(_, headers, _)| headers.get("Carebell-Job-Id").unwrap().as_str() == "bad-4")
        .unwrap();
    let file = world.directory.path().join("body.json");
    std::fs::write(&file, &body).unwrap();
    let args = ["dead-letters", "redrive", &number.to_string(), "--body", &file.display().to_string()];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well, "{said}{error}");
    let waits = async || (peek(&world.context, "HOLD", "hold.at.WORK.>").await == 1).then_some(());
    world.eventually("it is parked", waits).await;
    worker.stop().await;
}

/// What died before runs again under its id: redriven before its instant, or published anew, even past a crash.
#[tokio::test]
async fn a_job_that_was_dead_runs_after_all() {
    let world = crash_world().await;
    let worker = Worker::start(&world);
    let soon = written(utc_now() + TimeDelta::seconds(4));
    for id in ["redriven", "anew"] {
        publish(&world, NORMAL, id, Some(&soon), "{}").await;
    }
    world.dead_letters_once(2).await;
    let file = world.directory.path().join("body.json");
    std::fs::write(&file, text("redriven").to_string()).unwrap();
    let args = ["dead-letters", "redrive", "redriven", "--body", &file.display().to_string()];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well, "{said}{error}");
    parked(&world, 1).await;
    worker.stop().await;
    later(&world, "anew", utc_now(), &text("anew")).await;
    crash(&world, "begun").await;
    let heir = Worker::start(&world);
    for id in ["redriven", "anew"] {
        assert!(world.ledger(id).await.iter().all(|line| line.state == "sent"), "{id}");
    }
    world.queues_are_empty().await;
    assert_eq!(titles(&world), ["anew", "redriven"]);
    heir.stop().await;
}

/// The server would send it off at once, over and over.
#[tokio::test]
async fn a_reminder_of_another_age_is_dead() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let body = json!({ "medicationId": "metformin", "scheduledTime": "2300-01-01T00:00:00Z" });
    world.publish_json("jobs.reminder.medication", "far", &body).await;
    let (_, letter, _) = world.dead_letters_once(1).await.remove(0);
    let error = letter.get("Carebell-Dead-Error").unwrap().as_str();
    assert_eq!(error, "the reminder is for an instant more than ten years ahead");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn operators_see_and_take_back_what_waits() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let body = reminder("metformin", utc_now()).to_string();
    let later = async |id: &str, at: &str| {
        let args = ["publish", "reminder.medication", "--json", &body, "--job-id", id, "--at", at];
        let (well, _, error) = carebell(&world, &args, &[]).await;
        assert!(well, "{error}");
        let noted = async || (peek(&world.context, "JOBS", ">").await == 0).then_some(());
        world.eventually("it is read", noted).await;
    };
    let shown = async || {
        let (_, said, error) = carebell(&world, &["jobs", "show", "later"], &[]).await;
        said + &error
    };
    later("later", "2035-01-01T09:00:00Z").await;
    later("first", "2030-01-01T09:00:00Z").await;
    assert!(shown().await.contains("job later\n  delayed until 2035-01-01T09:00:00"), "{}", shown().await);
    later("later", "2034-01-01T09:00:00Z").await;
    assert!(shown().await.contains("delayed until 2034-01-01T09:00:00"), "replaced: {}", shown().await);
    parked(&world, 2).await;
    let (_, list, _) = carebell(&world, &["jobs", "delayed", "--limit", "1"], &[]).await;
    let expected = "2030-01-01T09:00:00.000Z  reminder.medication first\n2 delayed jobs in all, the first 1 are listed";
    assert!(list.starts_with(expected), "{list}");
    let (_, list, _) = carebell(&world, &["jobs", "delayed", "--json"], &[]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&list["delayed"][1]["job_id"], &list["waiting"][""]), (&json!("later"), &json!(2)));

    let (well, said, error) = carebell(&world, &["jobs", "cancel", "later", "--by", "olga"], &[]).await;
    assert!(well && said.contains("job later is cancelled") && error.is_empty(), "{said}{error}");
    parked(&world, 1).await;
    let way = shown().await;
    assert!(way.contains("job.cancelled later by olga") && way.contains("cancelled at"), "{way}");
    later("later", "2033-01-01T09:00:00Z").await;
    let way = shown().await;
    assert!(way.contains("job.cancelled") && way.contains("delayed until 2033"), "both are told: {way}");
    let (_, said, _) = carebell(&world, &["jobs", "show", "later", "--json"], &[]).await;
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&json["delayed"]["kind"], &json["delayed"]["state"]),
        (&json!("reminder.medication"), &json!("waiting"))
    );
    carebell(&world, &["jobs", "cancel", "later"], &[]).await;
    for (id, expected) in [("later", "job later has nothing left to cancel"), ("hold.*", "is not a job id")] {
        let (well, _, error) = carebell(&world, &["jobs", "cancel", id], &[]).await;
        assert!(!well && error.contains(expected), "{error}");
    }
    worker.stop().await;
}

/// Beyond the bound, jobs stay in the stream; cancellations have a queue of their own.
#[tokio::test]
async fn at_most_so_many_wait_and_the_others_stay_in_the_stream() {
    let world = World::with_overrides(&format!("{QUICK},later.pause_above=2")).await.at_pace(50);
    let worker = Process::worker(&world, &[]);
    let hour = utc_now() + TimeDelta::hours(1);
    for id in ["a", "b", "c"] {
        later(&world, id, hour, &text(id)).await;
    }
    parked(&world, 3).await;
    worker.says("too many delayed jobs are waiting");
    let paused = async || worker.output().contains("too many delayed jobs").then_some(());
    world.eventually("it pauses", paused).await;
    later(&world, "soon", utc_now(), &text("soon")).await;
    // On a usual subject it would hold up others.
    publish(&world, "jobs.notification.normal", "past-it", Some(&written(hour)), &text("x").to_string()).await;
    let (_, letter, _) = world.dead_letters_once(1).await.remove(0);
    let error = letter.get("Carebell-Dead-Error").unwrap().as_str();
    assert!(error.starts_with("delayed jobs of more than 2 KiB wait: publish delayed jobs to jobs.later."), "{error}");
    cancel(&world, "a").await;
    assert_eq!(world.ended("soon").await.0, "done", "there is room again");
    parked(&world, 2).await;
}

#[tokio::test]
async fn large_ones_take_the_room_of_many() {
    let world = World::with_overrides(&format!("{QUICK},later.pause_above=9")).await.at_pace(50);
    let worker = Process::worker(&world, &[]);
    let hour = utc_now() + TimeDelta::hours(1);
    let large = json!({ "recipients": [{ "userId": "ana" }], "title": "x", "data": { "x": "y".repeat(10 * 1024) } });
    later(&world, "large", hour, &large).await;
    let paused = async || worker.output().contains("too many delayed jobs").then_some(());
    world.eventually("it pauses", paused).await;
    cancel(&world, "large").await;
    later(&world, "small", utc_now(), &text("small")).await;
    assert_eq!(world.ended("small").await.0, "done", "there is room again");
}

/// Kills a worker at `step`, then lets another one finish.
async fn crash(world: &World, step: &str) {
    let mut doomed = Process::worker(world, &[("CAREBELL_ABORT_AT", step)]);
    let status = doomed.ended().await;
    assert_eq!(status.code(), Some(134), "it aborts at {step}:\n{}", doomed.output());
}

async fn crash_world() -> World {
    World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s").await
}

#[tokio::test]
async fn a_worker_that_dies_with_a_delayed_job_loses_and_doubles_nothing() {
    for step in ["noted", "parked", "begun", "committed", "settled"] {
        let world = crash_world().await;
        later(&world, "job", utc_now() + TimeDelta::seconds(1), &text("job")).await;
        crash(&world, step).await;
        let heir = Worker::start(&world);
        world.ledger("job").await;
        world.queues_are_empty().await;
        heir.stop().await;
        assert_eq!(titles(&world), ["job"], "{step}");
        assert!(world.dead_letters().await.is_empty(), "{step}");
        assert_eq!(state(&world, "job").await.unwrap(), "fired", "{step}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_with_a_replacement_does_not_bring_the_old_text_back() {
    for (step, old_first) in [("noted", true), ("noted", false), ("parked", true), ("parked", false)] {
        let world = crash_world().await;
        let (soon, sooner) = (utc_now() + TimeDelta::seconds(3), utc_now() + TimeDelta::seconds(2));
        let [old, new] = if old_first { [soon, sooner] } else { [sooner, soon] };
        later(&world, "job", old, &text("old")).await;
        if step == "parked" {
            let worker = Worker::start(&world);
            parked(&world, 1).await;
            worker.stop().await;
        }
        later(&world, "job", new, &text("new")).await;
        crash(&world, step).await;
        let heir = Worker::start(&world);
        world.ledger("job").await;
        world.queues_are_empty().await;
        heir.stop().await;
        assert_eq!(titles(&world), ["new"], "{step} {old_first}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_with_a_cancellation_takes_the_job_back_all_the_same() {
    let world = crash_world().await;
    later(&world, "job", utc_now() + TimeDelta::seconds(3), &text("job")).await;
    let worker = Worker::start(&world);
    parked(&world, 1).await;
    worker.stop().await;
    cancel(&world, "job").await;
    crash(&world, "noted").await;
    assert_eq!(state(&world, "job").await.unwrap(), "cancelled");
    assert_eq!(peek(&world.context, "HOLD", "hold.>").await, 1, "its message was not removed, and comes");
    let heir = Worker::start(&world);
    world.queues_are_empty().await;
    heir.stop().await;
    assert_eq!(world.push.counts().requests, 0);
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 0);
}

/// Replaces `reminder.shift`: fails, until its record's id says otherwise.
struct Failing(String);

impl Job for Failing {
    const KIND: Kind = Kind::reminder("reminder.shift");

    type Wire = wire::ShiftReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        Ok(Self(wire.shift_id))
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + TimeDelta::hours(12)
    }

    async fn work(self, _: &Context) -> Result<Outcome, Failure> {
        if self.0 == "fine" { Ok(Outcome::Skipped(Reason::Gone)) } else { Err(Failure::retry("no luck")) }
    }
}

#[tokio::test]
async fn retries_of_what_was_delayed_go_on_until_it_is_replaced() {
    let world = World::with_overrides("*.backoff=fixed 11s,*.jitter=0%,reminder_shift.attempts=2").await;
    let pipeline = Custom::start(&world, Registry::default().with::<Failing>());
    let publish = async |id: &str, shift: &str| {
        let body = json!({ "shiftId": shift }).to_string();
        publish(&world, "jobs.later.reminder.shift", id, Some(&written(utc_now())), &body).await
    };
    publish("again", "x").await;
    publish("replaced", "x").await;
    let failed = async || (world.count("SELECT count(*) FROM job_runs WHERE attempts = 1").await == 2).then_some(());
    world.eventually("both failed", failed).await;
    parked(&world, 2).await;
    publish("replaced", "fine").await;
    assert_eq!(world.ended("replaced").await.0, "skipped");
    assert_eq!(world.ended("again").await.0, "dead", "its last attempt failed");
    world.queues_are_empty().await;
    assert_eq!(world.dead_letters().await.len(), 1);
    pipeline.stop().await;
}

/// A stream that is lost and made anew counts from 1 again.
#[tokio::test]
async fn a_replacement_counts_although_the_stream_was_made_anew() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    for _ in 0..3 {
        later(&world, "job", utc_now() + TimeDelta::hours(1), &text("old")).await;
    }
    later(&world, "kept", utc_now() + TimeDelta::seconds(4), &text("kept")).await;
    parked(&world, 2).await;
    worker.stop().await;
    world.context.delete_stream("JOBS").await.unwrap();
    let streams = carebell::streams::Streams::embedded(&crate::support::adjustments(QUICK)).unwrap();
    streams.apply(&world.context).await.unwrap();
    let worker = Worker::start(&world);
    later(&world, "other", utc_now() + TimeDelta::hours(1), &text("other")).await;
    later(&world, "job", utc_now(), &text("new")).await;
    world.ledger("job").await;
    world.ledger("kept").await;
    assert_eq!(titles(&world), ["kept", "new"], "what was parked before is still there");
    cancel(&world, "other").await;
    world.queues_are_empty().await;
    worker.stop().await;
}

/// A server that ran out of storage forgets its schedules.
#[tokio::test]
async fn what_the_server_does_not_send_off_is_sent_off_by_the_sweep() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    later(&world, "forgotten", utc_now() + TimeDelta::hours(1), &text("forgotten")).await;
    later(&world, "ahead", utc_now() + TimeDelta::hours(1), &text("ahead")).await;
    parked(&world, 2).await;
    world.sql("UPDATE delayed_jobs SET due_at = now() - interval '2 minutes' WHERE job_id = 'forgotten'").await;
    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    Overdue::new(&Metrics::new()).pass(&effects, utc_now() - LATE).await.unwrap();
    assert_eq!(world.ended("forgotten").await.0, "done");
    parked(&world, 1).await;
    cancel(&world, "ahead").await;
    world.queues_are_empty().await;
    assert_eq!(titles(&world), ["forgotten"]);
    worker.stop().await;
}

/// A message: the job, its position and step, and whether it comes twice.
type Step = (u8, i64, DelayStep);

fn messages() -> impl Strategy<Value = (Vec<Step>, Vec<usize>)> {
    let step = prop_oneof![3 => Just(DelayStep::Wait), 1 => Just(DelayStep::Cancel)];
    prop::collection::vec((0..3_u8, step), 1..12).prop_flat_map(|steps| {
        let messages: Vec<Step> = (1..).zip(steps).map(|(position, (job, step))| (job, position, step)).collect();
        let twice: Vec<Step> = messages.iter().chain(&messages).copied().collect();
        (Just(twice).prop_shuffle(), prop::collection::vec(1..5_usize, 24))
    })
}

/// Whatever the order, repetition and grouping, the last message of a job decides; only its own run is let through.
#[tokio::test]
async fn the_last_message_decides_whatever_the_order() {
    let world = World::new().await;
    let created = utc_now().trunc_subsecs(6);
    let place = |sequence| IntakePosition { created, sequence, stream: "JOBS".into() };
    let mut runner = TestRunner::new(Config::default());
    for case in 0..150 {
        let (steps, sizes) = messages().new_tree(&mut runner).unwrap().current();
        let id = |job: u8| format!("{case}-{job}");
        let mut rest = steps.as_slice();
        for size in sizes {
            let (group, more) = rest.split_at(size.min(rest.len()));
            let asks: Vec<DelayAsk> =
                group.iter().map(|(job, position, step)| ask(&id(*job), *step, place(*position))).collect();
            world.store.delay(&asks).await.unwrap();
            rest = more;
        }
        let last = |job: u8| steps.iter().filter(|step| step.0 == job).max_by_key(|step| step.1);
        for (job, position, step) in &steps {
            let is_last = last(*job).unwrap().1 == *position;
            if *step != DelayStep::Wait {
                continue;
            }
            let asks = [ask(&id(*job), DelayStep::Run, place(*position))];
            let answer = world.store.delay(&asks).await.unwrap().remove(0);
            let is_let_through = !matches!(answer, DelayAnswer::Replaced | DelayAnswer::Cancelled);
            assert_eq!(is_let_through, is_last, "{steps:?}: {job} at {position}: {answer:?}");
        }
        for job in 0..3 {
            let expected = last(job).map(|(.., step)| if *step == DelayStep::Cancel { "cancelled" } else { "fired" });
            assert_eq!(state(&world, &id(job)).await.as_deref(), expected, "{steps:?}: {job}");
        }
    }
}

#[tokio::test]
async fn what_is_over_is_pruned_and_what_waits_is_not() {
    let world = World::new().await;
    let place = |sequence| IntakePosition { created: utc_now(), sequence, stream: "JOBS".into() };
    let steps = [("waits", DelayStep::Wait), ("ran", DelayStep::Run), ("off", DelayStep::Cancel)];
    let mut asks: Vec<DelayAsk> =
        (1..).zip(steps).map(|(sequence, (id, step))| ask(id, step, place(sequence))).collect();
    // Replaced by an earlier instant: its first message may come back from HOLD until then.
    asks[0].due = Some(utc_now() + TimeDelta::days(30));
    world.store.delay(&asks).await.unwrap();
    let sooner = ask("waits", DelayStep::Run, place(9));
    world.store.delay(&[sooner]).await.unwrap();
    assert_eq!(world.store.remove_delayed_jobs(utc_now() - TimeDelta::days(1)).await.unwrap(), (0, false));
    assert_eq!(world.store.remove_delayed_jobs(utc_now() + TimeDelta::days(1)).await.unwrap(), (2, false));
    assert_eq!(state(&world, "waits").await.unwrap(), "fired");
}

async fn on_time_behind(world: &World, bulk: usize) -> TimeDelta {
    for number in 0..bulk {
        let subject = "jobs.notification.bulk";
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Content-Type", "application/json");
        let message = async_nats::jetstream::message::PublishMessage::build()
            .headers(headers)
            .payload(text(&format!("bulk {number}")).to_string().into());
        drop(world.context.send_publish(subject, message).await.unwrap());
    }
    let behind = async || (peek(&world.context, "JOBS", "jobs.notification.bulk").await == bulk).then_some(());
    world.eventually("the backlog is there", behind).await;
    let worker = Worker::start(world);
    let due = utc_now() + TimeDelta::seconds(2);
    publish(world, "jobs.later.notification.critical", "on-time", Some(&written(due)), &text("now").to_string()).await;
    world.ledger("on-time").await;
    let push = world.push.received().into_iter().find(|push| push.json()["title"] == "now").unwrap();
    worker.stop().await;
    push.received - due
}

#[tokio::test]
async fn a_backlog_delays_no_delayed_job() {
    let world = World::new().await;
    let late = on_time_behind(&world, 2000).await;
    assert!(late > TimeDelta::milliseconds(-1) && late < TimeDelta::seconds(5), "{late}");
}
