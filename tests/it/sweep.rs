//! Messages that nobody will pull: those without a consumer, and those no longer delivered.

use std::time::Duration;

use async_nats::jetstream::{AckKind, consumer::PullConsumer};
use carebell::{
    clock::Clock,
    dead_letter::sweep,
    effects::Effects,
    health::Health,
    streams::{Adjustments, Streams},
};
use chrono::TimeDelta;
use futures::StreamExt;

use crate::support::{Worker, World, peek, reminder, utc_now};

fn effects(world: &World) -> Effects {
    Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new())
}

/// Naks a reminder as often as the server allows.
async fn exhaust(world: &World) {
    let consumer: PullConsumer = world.context.get_consumer_from_stream("reminder_medication", "JOBS").await.unwrap();
    for _ in 0..consumer.cached_info().config.max_deliver {
        let mut batch = consumer.fetch().max_messages(1).expires(Duration::from_secs(10)).messages().await.unwrap();
        batch.next().await.unwrap().unwrap().ack_with(AckKind::Nak(None)).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_server_delivers_no_more_becomes_a_dead_letter_by_its_advisory() {
    let world = World::new().await;
    world.publish_json("jobs.reminder.medication", "spent", &reminder("metformin", utc_now())).await;
    exhaust(&world).await;
    // The server reports it only on a pull.
    let worker = Worker::start(&world);
    let (subject, headers, body) = world.dead_letters_once(1).await.remove(0);
    assert_eq!(subject, "dead.reminder.medication.JOBS.1");
    assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "exhausted");
    assert_eq!(headers.get("Carebell-Job-Id").unwrap().as_str(), "spent");
    assert!(String::from_utf8_lossy(&body).contains("metformin"));
    world.queues_are_empty().await;
    let advisories = async || (peek(&world.context, "ADVISORIES", ">").await == 0).then_some(());
    world.eventually("the advisory is done with", advisories).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_the_server_delivers_no_more_is_found_when_its_advisory_was_lost() {
    let world = World::new().await;
    world.publish_json("jobs.reminder.medication", "spent", &reminder("metformin", utc_now())).await;
    world.context.delete_stream("ADVISORIES").await.unwrap();
    exhaust(&world).await;
    // The advisory reaches nobody, and a later job moves the floor past the first.
    world.publish_json("jobs.reminder.medication", "next", &reminder("metformin", utc_now())).await;
    let consumer: PullConsumer = world.context.get_consumer_from_stream("reminder_medication", "JOBS").await.unwrap();
    let mut batch = consumer.fetch().max_messages(1).expires(Duration::from_secs(10)).messages().await.unwrap();
    batch.next().await.unwrap().unwrap().double_ack().await.unwrap();

    let streams = Streams::embedded(&Adjustments::default()).unwrap();
    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    // Restores the stream ADVISORIES.
    Streams::embedded(&Adjustments::default()).unwrap().apply(&world.context).await.unwrap();
    assert_eq!(sweep::pass(&effects(&world), &streams, &clock, sweep::AGE).await.unwrap(), 1);
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].1.get("Carebell-Job-Id").unwrap().as_str(), "spent");
    world.queues_are_empty().await;
}

#[tokio::test]
async fn an_unknown_kind_becomes_one_dead_letter_and_nothing_else_is_touched() {
    let world = World::new().await;
    let streams = Streams::embedded(&Adjustments::default()).unwrap();
    let headers = [("Carebell-Job-Id", "dinner-1"), ("Content-Type", "application/json")];
    world.publish("jobs.reminder.dinner", &headers, "{\"what\":1}").await;
    world.publish("jobs.reminder.dinner", &[], "two").await;
    world.publish_json("jobs.reminder.medication", "good", &reminder("metformin", utc_now())).await;
    let clock = Clock::system();
    let swept = sweep::pass(&effects(&world), &streams, &clock, sweep::AGE).await.unwrap();
    assert_eq!(swept, 0, "a message that has just come may still get its consumer");

    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    assert_eq!(sweep::pass(&effects(&world), &streams, &clock, sweep::AGE).await.unwrap(), 2);
    assert_eq!(sweep::pass(&effects(&world), &streams, &clock, sweep::AGE).await.unwrap(), 0);
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
async fn what_this_program_pulls_is_covered_though_the_server_lists_no_consumer_for_it() {
    let world = World::new().await;
    let streams = Streams::embedded(&Adjustments::default()).unwrap();
    world.publish("jobs.notification.bulk", &[], "waits").await;
    world.context.delete_consumer_from_stream("notification_bulk", "JOBS").await.unwrap();
    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    assert_eq!(sweep::pass(&effects(&world), &streams, &clock, sweep::AGE).await.unwrap(), 0);
    assert_eq!(peek(&world.context, "JOBS", ">").await, 1, "it waits for its consumer to be there again");
}

/// The client rejects these headers, so no worker may pull here.
#[tokio::test]
async fn a_message_whose_headers_cannot_be_parsed_is_buried_with_them() {
    use base64::Engine;
    let world = World::new().await;
    let headers = b"NATS/1.0\r\nX-Note: caf\xe9\r\n\r\n";
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", world.nats.port())).await.unwrap();
    let (head, all) = (headers.len(), headers.len() + 4);
    let mut publish = b"CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_vec();
    publish.extend(format!("HPUB jobs.notification.bulk {head} {all}\r\n").bytes());
    publish.extend_from_slice(headers);
    publish.extend(b"body\r\nPING\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut connection, &publish).await.unwrap();
    let stored = async || (peek(&world.context, "JOBS", ">").await == 1).then_some(());
    world.eventually("it is in the stream", stored).await;

    let advisory =
        r#"{"type":"io.nats.jetstream.advisory.v1.max_deliver","stream":"JOBS","stream_seq":1,"deliveries":20}"#;
    let subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS.notification_bulk";
    world.publish(subject, &[], advisory).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let listener = tokio::spawn(carebell::dead_letter::advisories::run(effects(&world), stop.clone()));
    let (subject, kept, body) = world.dead_letters_once(1).await.remove(0);
    assert_eq!((subject.as_str(), body.as_ref()), ("dead.notification.JOBS.1", b"body".as_slice()));
    assert_eq!(kept.get("Carebell-Dead-Reason").unwrap().as_str(), "undecodable");
    let raw = kept.get("Carebell-Dead-Raw-Headers").unwrap().as_str();
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(raw).unwrap(), headers);
    world.queues_are_empty().await;
    stop.cancel();
    listener.await.unwrap();
}
