//! Long retries leave their queue and keep their record.

use async_nats::jetstream::consumer::{FromConsumer, PullConsumer, pull};
use carebell::{
    dev::push_service::Behaviour,
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    pipeline::Registry,
    plan::Reason,
    wire,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{Custom, LIMIT, Process, Worker, World, peek, reminder, utc_now};

/// Waits outlast every test, and slow workers cause no redelivery.
pub const LONG: &str = "*.backoff=fixed 1h,*.jitter=0%,*.ack_wait=5s";

/// Replaces `reminder.medication`.
struct Failing {
    id: String,
}

impl Job for Failing {
    const KIND: Kind = Kind::reminder("reminder.medication");

    type Wire = wire::MedicationReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        Ok(Self { id: wire.medication_id })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + TimeDelta::hours(12)
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        match self.id.as_str() {
            "fine" => Ok(Outcome::Skipped(Reason::Gone)),
            _ => Err(Failure::retry(format!("no luck as {}", cx.meta.job_id))),
        }
    }
}

pub fn pipeline(world: &World) -> Custom {
    Custom::start(world, Registry::default().with::<Failing>())
}

pub fn news(user: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": "News" })
}

/// Resumes parked jobs, as after their hour.
async fn the_wait_is_over(world: &World) {
    let mut stream = world.context.get_stream("HOLD").await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    let now = format!("@at {}", utc_now().to_rfc3339());
    for sequence in 1..=last {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        if !message.subject.starts_with("hold.") {
            continue;
        }
        world.sql("UPDATE deliveries SET held_until = now() - interval '1 second' WHERE state = 'held'").await;
        let mut headers = message.headers;
        headers.insert("Nats-Schedule", now.as_str());
        world
            .context
            .publish_with_headers(message.subject.to_string(), headers, message.payload)
            .await
            .unwrap()
            .await
            .unwrap();
    }
}

pub async fn parked(world: &World, count: usize) {
    let there = async || {
        let queues = peek(&world.context, "JOBS", ">").await + peek(&world.context, "DELIVERIES", ">").await;
        (peek(&world.context, "HOLD", "hold.>").await == count && queues == 0).then_some(())
    };
    world.eventually(&format!("{count} jobs are parked, and in no queue"), there).await;
}

#[tokio::test]
async fn deliveries_that_fail_for_long_do_not_fill_the_queue() {
    const FAILING: usize = 300;
    let world = World::with_overrides(LONG).await;
    let consumer: PullConsumer =
        world.context.get_consumer_from_stream("deliver_web_push_normal", "DELIVERIES").await.unwrap();
    let mut config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone()).unwrap();
    config.max_ack_pending = 70;
    world.context.create_consumer_on_stream(config, "DELIVERIES").await.unwrap();

    // 425 comes from a healthy service, so no breaker opens.
    world.push.behave_always("ana", Some(Behaviour::status(425)));
    let worker = Worker::start(&world);
    for number in 0..FAILING {
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &news("ana")).await;
    }
    world.push.wait_until(LIMIT, |counts| counts.requests >= FAILING).await.unwrap();
    world.publish_json("jobs.notification.normal", "healthy", &news("ben")).await;
    let sent = world.ledger("healthy").await.remove(0);
    assert_eq!((sent.state.as_str(), sent.attempts), ("sent", 0));
    parked(&world, FAILING).await;
    let waiting = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'retry' AND attempts = 1 \
                   AND held_until > now() + interval '50 minutes'";
    assert_eq!(world.count(waiting).await, i64::try_from(FAILING).unwrap());
    assert_eq!(world.push.counts().requests, FAILING + 1, "none is retried early");
    worker.stop().await;
}

#[tokio::test]
async fn attempts_and_errors_survive_parking_and_the_last_makes_one_dead_letter() {
    let world = World::with_overrides(LONG).await;
    for status in [503, 502, 500] {
        world.push.behave("ana", Behaviour::status(status));
    }
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "news", &news("ana")).await;
    for attempts in 1..3 {
        let failed = format!(
            "SELECT count(*) FROM deliveries WHERE state = 'held' AND (attempts, claims) = ({attempts}, {attempts})"
        );
        let failed = async || (world.count(&failed).await == 1).then_some(());
        world.eventually(&format!("{attempts} attempts are on record"), failed).await;
        parked(&world, 1).await;
        the_wait_is_over(&world).await;
    }
    let line = world.ledger("news").await.remove(0);
    assert_eq!((line.state.as_str(), line.reason.as_deref(), line.attempts), ("dead", Some("exhausted"), 3));
    assert!(line.answer.as_deref().is_some_and(|answer| answer.contains("500")), "the last word: {line:?}");
    world.queues_are_empty().await;
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].1.get("Carebell-Dead-Attempts").unwrap().as_str(), "3");
    assert_eq!(world.push.counts().requests, 3);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_failed_runs_again_after_its_wait_and_a_second_copy_of_it_runs_no_more() {
    let world = World::with_overrides(LONG).await;
    let pipeline = pipeline(&world);
    world.publish_json("jobs.reminder.medication", "job", &reminder("fails", utc_now())).await;
    parked(&world, 1).await;
    let run = world.runs("job").await.remove("reminder.medication").unwrap();
    assert_eq!((run.state.as_str(), run.attempts), ("open", 1));
    assert_eq!(run.last_error.as_deref(), Some("no luck as job"));

    // A worker lost before its ack leaves a second copy.
    let hold = world.context.get_stream("HOLD").await.unwrap();
    let copy = hold.get_last_raw_message_by_subject("hold.JOBS.1").await.unwrap();
    the_wait_is_over(&world).await;
    assert_eq!(world.ended("job").await, ("dead".into(), Some("exhausted".into())));
    world.queues_are_empty().await;
    let ack = world.context.publish_with_headers("hold.JOBS.1000", copy.headers, copy.payload).await.unwrap();
    ack.await.unwrap();
    the_wait_is_over(&world).await;
    world.queues_are_empty().await;
    let run = world.runs("job").await.remove("reminder.medication").unwrap();
    assert_eq!((run.state.as_str(), run.attempts), ("dead", 2));
    assert_eq!(world.dead_letters().await.len(), 1);

    // Republished jobs run again.
    world.publish_json("jobs.reminder.medication", "job", &reminder("fine", utc_now())).await;
    world.queues_are_empty().await;
    assert_eq!(world.ended("job").await.0, "skipped");
    pipeline.stop().await;
}

#[tokio::test]
async fn a_worker_lost_between_record_and_parking_leaves_a_delivery_that_waits_for_its_time() {
    let world = World::with_overrides(LONG).await;
    world.push.behave_always("ana", Some(Behaviour::status(503)));
    world.publish_json("jobs.notification.normal", "news", &news("ana")).await;
    let mut doomed = Process::worker(&world, &[("CAREBELL_ABORT_AT", "recorded")]);
    assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
    assert_eq!(peek(&world.context, "HOLD", ">").await, 0);
    let heir = Worker::start(&world);
    parked(&world, 1).await;
    let line = world.delivery_to("news", "ana").await;
    assert_eq!((line.state.as_str(), line.attempts, line.claims), ("held", 1, 1), "{line:?}");
    assert_eq!(world.push.counts().requests, 1, "it was not retried early");
    world.push.behave_always("ana", None);
    the_wait_is_over(&world).await;
    let line = world.ledger("news").await.remove(0);
    assert_eq!((line.state.as_str(), line.attempts, line.claims), ("sent", 1, 2), "{line:?}");
    world.queues_are_empty().await;
    heir.stop().await;
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_ends_as_expired() {
    let world = World::with_overrides(LONG).await;
    world.push.behave_always("ana", Some(Behaviour::status(503)));
    let worker = Worker::start(&world);
    let soon = (utc_now() + TimeDelta::seconds(8)).to_rfc3339();
    let headers =
        [("Carebell-Job-Id", "news"), ("Carebell-Not-After", soon.as_str()), ("Content-Type", "application/json")];
    world.publish("jobs.notification.normal", &headers, news("ana").to_string()).await;
    let line = world.ledger("news").await.remove(0);
    assert_eq!((line.state.as_str(), line.attempts), ("expired", 1), "{line:?}");
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().requests, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_is_too_large_to_be_parked_waits_in_its_queue_and_holds_up_nobody() {
    // The largest job that the stream takes. Parking adds headers, for which HOLD has room, unless somebody changed it.
    const LARGEST: usize = 512 * 1024;
    let world = World::with_overrides(LONG).await;
    let hold = world.context.get_stream("HOLD").await.unwrap();
    let mut config = hold.get_info().await.unwrap().config;
    config.max_message_size = i32::try_from(LARGEST).unwrap();
    world.context.update_stream(config).await.unwrap();
    let mut body = reminder("fails", utc_now()).to_string();
    body.push_str(&" ".repeat(LARGEST - 100 - body.len()));
    // One of an application would be refused for its size.
    let headers = [("Carebell-Job-Id", "large"), ("Carebell-Root-Id", "large"), ("Content-Type", "application/json")];
    world.publish("work.reminder.medication", &headers, body).await;
    let pipeline = pipeline(&world);
    let waits = async || {
        let consumer: PullConsumer =
            world.context.get_consumer_from_stream("reminder_medication", "WORK").await.unwrap();
        let failed = world.count("SELECT count(*) FROM job_runs WHERE attempts = 1 AND state = 'open'").await == 1;
        (failed && consumer.cached_info().num_ack_pending == 1).then_some(())
    };
    world.eventually("it has failed, and waits", waits).await;
    for number in 0..20 {
        let id = format!("fine-{number}");
        world.publish_json("jobs.reminder.medication", &id, &reminder("fine", utc_now())).await;
        assert_eq!(world.ended(&id).await.0, "skipped");
    }
    assert_eq!(peek(&world.context, "HOLD", ">").await, 0);
    // The job's permit is free, so stopping waits for nothing.
    pipeline.stop().await;
    assert_eq!(world.runs("large").await["reminder.medication"].attempts, 1);
}

/// Versions before the stream WORK parked jobs for JOBS.
#[tokio::test]
async fn a_job_that_the_version_before_parked_comes_back() {
    let world = World::new().await;
    let headers = [("Carebell-Job-Id", "old"), ("Carebell-Root-Id", "old"), ("Content-Type", "application/json")];
    world.publish("resume.jobs.notification.normal", &headers, news("ana").to_string()).await;
    let worker = Worker::start(&world);
    assert_eq!(world.ended("old").await.0, "done");
    world.queues_are_empty().await;
    worker.stop().await;
}
