//! How late deliveries were accepted after they were due, and what is parked for which reason.

use carebell::{dev::push_service::Behaviour, pipeline::punctuality::OBJECTIVE};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    metrics,
    support::{FAMILY, Process, World, reminder, utc_now},
};

const ACCEPTED: &str = "carebell_due_to_accepted_seconds_count";
const LATE_BY: &str = "carebell_due_to_accepted_seconds_sum";
const NEVER: &str = "carebell_never_accepted_total";
const PARKED: &str = "carebell_parked_deliveries";
const OLDEST: &str = "carebell_oldest_parked_delivery_seconds";

const PUSH: (&str, &str) = ("channel", "web_push");

/// The sum of a metric's samples with these labels.
async fn sum(worker: &mut Process, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let (status, text) = worker.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    metrics::sum(&text, name, labels)
}

async fn becomes(world: &World, worker: &mut Process, name: &str, labels: &[(&str, &str)], wanted: Option<f64>) {
    let what = format!("{name} {labels:?} is {wanted:?}");
    world.eventually(&what, async || (sum(worker, name, labels).await == wanted).then_some(())).await;
}

fn news(user: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": "News", "type": "NEWS" })
}

fn rfc3339(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[tokio::test]
async fn the_time_until_a_delivery_is_accepted_counts_from_the_instant_at_which_it_was_due() {
    let world = World::new().await;
    world.remind("waited").await;
    let due = utc_now();
    world.eventually("a second has passed", async || (utc_now() - due > TimeDelta::seconds(1)).then_some(())).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    becomes(&world, &mut worker, ACCEPTED, &[PUSH], Some(4.0)).await;
    let waited = (utc_now() - due).as_seconds_f64();
    let critical = [PUSH, ("lane", "critical")];
    let late = sum(&mut worker, LATE_BY, &critical).await.unwrap();
    assert!((4.0..4.0 * waited + 1.0).contains(&late), "{late} of {waited}, for four pushes");

    // A delayed job is due at its instant, and not when it was published.
    let at = rfc3339(utc_now() + TimeDelta::seconds(3));
    let delayed = [("Carebell-Job-Id", "delayed"), ("Content-Type", "application/json"), ("Carebell-At", &*at)];
    world.publish("jobs.later.notification.normal", &delayed, news("ana").to_string()).await;
    // Its message says so: the server may send it off late.
    let parked = world.eventually("it is parked", async || {
        let stream = world.context.get_stream("HOLD").await.unwrap();
        stream.get_first_raw_message_by_subject("hold.at.>", 1).await.ok()
    });
    assert_eq!(parked.await.headers.get("Carebell-Due").map(async_nats::HeaderValue::as_str), Some(&*at));
    let normal = [PUSH, ("lane", "normal")];
    becomes(&world, &mut worker, ACCEPTED, &normal, Some(1.0)).await;
    let late = sum(&mut worker, LATE_BY, &normal).await.unwrap();
    assert!(late < 2.0, "{late}");

    // Bulk is waited for by nobody.
    world.publish_json("jobs.notification.bulk", "bulk", &news("ana")).await;
    assert_eq!(world.ledger("bulk").await[0].state, "sent");
    assert_eq!(sum(&mut worker, ACCEPTED, &normal).await, Some(1.0));
    assert_eq!(sum(&mut worker, NEVER, &[]).await, Some(0.0));
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn waits_that_people_asked_for_make_nothing_late() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    // A queue that is paused, and resumed by itself after three seconds.
    let (well, _, error) =
        carebell(&world, &["queues", "pause", "--channel", "web_push", "--reason", "tried", "--until", "3s"], &[])
            .await;
    assert!(well, "{error}");
    world
        .eventually("it is known", async || (sum(&mut worker, "carebell_paused", &[]).await == Some(1.0)).then_some(()))
        .await;
    world.publish_json("jobs.notification.normal", "paused", &news("ana")).await;
    // Quiet hours that end in three seconds.
    world
        .sql(
            "INSERT INTO preferences (user_id, quiet_from, quiet_to, quiet_zone) \
             SELECT 'ben', (now - interval '1 hour')::time, (now + interval '5 seconds')::time, 'Pacific/Auckland' \
             FROM (SELECT now() AT TIME ZONE 'Pacific/Auckland' AS now) AS clock",
        )
        .await;
    world.publish_json("jobs.notification.normal", "quiet", &news("ben")).await;
    becomes(&world, &mut worker, ACCEPTED, &[PUSH], Some(2.0)).await;
    let late = sum(&mut worker, LATE_BY, &[PUSH]).await.unwrap();
    assert!(late < 3.0, "{late}, of more than six seconds of waits");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn deliveries_that_no_provider_accepted_count_at_their_end() {
    let world = World::new().await;
    world.push.behave_always("ana", Some(Behaviour::status(400)));
    world.push.behave_always("ben", Some(Behaviour::status(410)));
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    for (job_id, user) in [("dead", "ana"), ("gone", "ben")] {
        world.publish_json("jobs.notification.normal", job_id, &news(user)).await;
    }
    // Expired when it was published: its producer was late.
    let stale = [
        ("Carebell-Job-Id", "stale"),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", "2026-01-01T00:00:00Z"),
    ];
    world.publish("jobs.reminder.medication", &stale, reminder("metformin", utc_now()).to_string()).await;
    // Unreadable: its producer's fault.
    world.publish("jobs.reminder.medication", &[("Carebell-Job-Id", "broken")], "x").await;
    assert_eq!(world.ended("stale").await.0, "expired");
    assert_eq!(world.ended("broken").await.0, "dead");
    becomes(&world, &mut worker, NEVER, &[PUSH, ("lane", "normal"), ("end", "dead")], Some(1.0)).await;
    assert_eq!(world.ledger("gone").await[0].state, "failed");
    assert_eq!(sum(&mut worker, NEVER, &[]).await, Some(1.0));

    // One that expires while its push service asks to wait has never been accepted.
    world.push.behave_always("chloe", Some(Behaviour::retry_after(429, "60")));
    let until = rfc3339(utc_now() + OBJECTIVE + TimeDelta::seconds(1));
    let brief = [("Carebell-Job-Id", "brief"), ("Content-Type", "application/json"), ("Carebell-Not-After", &*until)];
    world.publish("jobs.notification.critical", &brief, news("chloe").to_string()).await;
    becomes(&world, &mut worker, NEVER, &[PUSH, ("lane", "critical"), ("end", "expired")], Some(1.0)).await;
    assert_eq!(sum(&mut worker, ACCEPTED, &[]).await, Some(0.0));
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_parked_shows_its_channel_its_reason_and_since_when() {
    let world = World::new().await.at_pace(5);
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    assert_eq!(sum(&mut worker, PARKED, &[]).await, None);
    for name in FAMILY {
        world.push.behave_always(name, Some(Behaviour::status(503)));
    }
    let since = utc_now();
    for number in 0..20 {
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &news(FAMILY[number % 4])).await;
    }
    world.publish_json("jobs.notification.critical", "urgent", &news("ana")).await;
    let down = |lane| [PUSH, ("lane", lane), ("reason", "provider_down")];
    becomes(&world, &mut worker, PARKED, &down("critical"), Some(1.0)).await;
    // Parked again and again, it waits for one reason since one instant.
    world
        .eventually("it has waited", async || {
            (sum(&mut worker, OLDEST, &down("critical")).await > Some(3.0)).then_some(())
        })
        .await;
    let oldest = sum(&mut worker, OLDEST, &down("critical")).await.unwrap();
    assert!(oldest <= (utc_now() - since).as_seconds_f64(), "{oldest}");
    assert!(sum(&mut worker, PARKED, &down("normal")).await >= Some(10.0));
    for name in FAMILY {
        world.push.behave_always(name, None);
    }
    becomes(&world, &mut worker, PARKED, &[], None).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}
