//! Messages of subjects that no consumer covers.

use carebell::{
    clock::Clock,
    dead_letter::sweep,
    streams::{Adjustments, Streams},
};
use chrono::TimeDelta;

use crate::support::{World, peek, reminder, utc_now};

#[tokio::test]
async fn an_unknown_kind_becomes_one_dead_letter_and_nothing_else_is_touched() {
    let world = World::new().await;
    let streams = Streams::embedded(&Adjustments::default()).unwrap();
    let headers = [("Carebell-Job-Id", "dinner-1"), ("Content-Type", "application/json")];
    world.publish("jobs.reminder.dinner", &headers, "{\"what\":1}").await;
    world.publish("jobs.reminder.dinner", &[], "two").await;
    world.publish_json("jobs.reminder.medication", "good", &reminder("metformin", utc_now())).await;
    let clock = Clock::system();
    let swept = sweep::pass(&world.context, &streams, &clock, sweep::AGE).await.unwrap();
    assert_eq!(swept, 0, "a message that has just come may still get its consumer");

    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    assert_eq!(sweep::pass(&world.context, &streams, &clock, sweep::AGE).await.unwrap(), 2);
    assert_eq!(sweep::pass(&world.context, &streams, &clock, sweep::AGE).await.unwrap(), 0);
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 2);
    let (subject, kept, body) = &letters[0];
    assert_eq!(subject, "dead.reminder.dinner.JOBS.1");
    assert_eq!(kept.get("Carebell-Dead-Reason").unwrap().as_str(), "unknown_kind");
    assert_eq!(kept.get("Carebell-Job-Id").unwrap().as_str(), "dinner-1");
    assert_eq!(kept.get("Content-Type").unwrap().as_str(), "application/json");
    assert_eq!(body, "{\"what\":1}");
    assert_eq!(peek(&world.context, "JOBS", ">").await, 1, "the good job waits for its worker");
}

#[tokio::test]
async fn a_scheduled_job_of_an_unknown_kind_is_found_where_it_stays() {
    let world = World::new().await;
    let streams = Streams::embedded(&Adjustments::default()).unwrap();
    let when = format!("@at {}", utc_now().to_rfc3339());
    let headers = [("Nats-Schedule", when.as_str()), ("Nats-Schedule-Target", "due.party.tonight")];
    world.publish("sched.party", &headers, "x").await;
    let fired = async || (peek(&world.context, "SCHEDULED", "due.>").await == 1).then_some(());
    world.eventually("it has fired", fired).await;
    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    assert_eq!(sweep::pass(&world.context, &streams, &clock, sweep::AGE).await.unwrap(), 1);
    assert_eq!(
        world.dead_letters().await[0].0.split('.').take(4).collect::<Vec<_>>(),
        ["dead", "party", "tonight", "SCHEDULED"]
    );
    world.queues_are_empty().await;
}
