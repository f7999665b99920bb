//! A worker dies between a send and its record. Each channel treats that in its own way.

use std::net::SocketAddr;

use carebell::dev::trail::Line;
use chrono::TimeDelta;
use mail_parser::MessageParser;
use serde_json::{Value, json};

use crate::support::{Process, Receivers, World, utc_now};

const PUBLIC: [(&str, &str); 2] = [("PUBLIC_URL", "https://bell.example.org"), ("PUBLIC_PORT", "0")];

/// A worker dies after the send, and another takes over.
async fn sent_and_lost(recipient: Value, more: &[(&str, &str)]) -> (World, Receivers, Process) {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s").await;
    let receivers = Receivers::start(&world).await;
    receivers.hook(&world, "dan").await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('dan', '{webhook}')").await;
    let body = json!({ "recipients": [recipient], "title": "Visit moved", "body": "To Friday" });
    world.publish_json("jobs.notification.normal", "news", &body).await;
    let variables = receivers.with(more);
    let mut doomed = Process::worker(&world, &[&variables[..], &[("CAREBELL_ABORT_AT", "sent")]].concat());
    let status = doomed.ended().await;
    assert_eq!(status.code(), Some(134), "it aborts (128 + SIGABRT):\n{}", doomed.output());
    assert_eq!(world.rows_now("news").await.remove(0).state, "sending", "nothing is on record");
    let heir = Process::worker(&world, &variables);
    (world, receivers, heir)
}

async fn ends_well(world: &World, receivers: &Receivers, mut heir: Process) {
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty(), "a crash burns no attempt");
    receivers.are_content(world);
    assert_eq!(heir.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_text_message_is_not_sent_again_and_its_report_settles_it() {
    let (world, receivers, mut heir) = sent_and_lost(json!({ "phone": "+4366012345678" }), &PUBLIC).await;
    let phone = &receivers.phones.first;
    let row = world.rows("news").await.remove(0);
    assert_eq!(row.ended(), ("unknown", Some("no_answer"), 0), "{row:?}");
    assert_eq!(row.answer.as_deref(), Some("its worker was lost while sending"));
    let told = |line: &Line| line.step().filter(|(kind, text)| kind == "deliver.sms" && text.starts_with("unknown"));
    heir.line("somebody has to look", told).await;
    let output = heir.output();
    let line = output.lines().find(|line| line.contains("somebody has to look")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["job"]), (&json!("ERROR"), &json!(row.id)), "{line}");
    assert!(!output.contains("66012345678"), "{output}");

    let port = heir.line("callbacks are received", Line::public_port).await;
    phone.callbacks_go_to(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())));
    let text = phone.received().remove(0);
    assert_eq!(phone.report_signed_by("another", &text, "delivered", None).await.unwrap(), 403);
    assert_eq!(world.rows_now("news").await[0].state, "unknown", "a forgery settles nothing");
    assert_eq!(phone.report(&text, "delivered", None).await.unwrap(), 204);
    let settled = world.rows_now("news").await.remove(0);
    assert_eq!(settled.ended(), ("delivered", None, 0), "{settled:?}");
    assert_eq!(settled.provider_id.as_deref(), Some(text.sid.as_str()), "the report supplies the id");
    ends_well(&world, &receivers, heir).await;
    assert_eq!((receivers.phones.first.counts().requests, receivers.phones.first.counts().accepted), (1, 1));
}

/// An expired text may have been sent in time.
#[tokio::test]
async fn a_text_message_that_was_perhaps_sent_is_not_said_to_have_expired() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=1s").await;
    let receivers = Receivers::start(&world).await;
    // Enough for a worker to start and send.
    let not_after = utc_now() + TimeDelta::seconds(12);
    let headers = [
        ("Carebell-Job-Id", "news"),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", &not_after.to_rfc3339()),
    ];
    let body = json!({ "recipients": [{ "phone": "+4366012345678" }], "title": "Visit moved" });
    world.publish("jobs.notification.normal", &headers, body.to_string()).await;
    let variables = receivers.with(&[]);
    let mut doomed = Process::worker(&world, &[&variables[..], &[("CAREBELL_ABORT_AT", "sent")]].concat());
    assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
    world.eventually("it is too late", async || (utc_now() > not_after).then_some(())).await;
    let heir = Process::worker(&world, &variables);
    assert_eq!(world.rows("news").await.remove(0).ended(), ("unknown", Some("no_answer"), 0));
    ends_well(&world, &receivers, heir).await;
    assert_eq!(receivers.phones.first.counts().requests, 1);
}

#[tokio::test]
async fn a_text_message_is_sent_again_where_that_is_wished() {
    let again = [("SMS_AFTER_UNKNOWN", "send_again")];
    let (world, receivers, heir) = sent_and_lost(json!({ "phone": "+4366012345678" }), &again).await;
    assert_eq!(world.rows("news").await.remove(0).ended(), ("sent", None, 0));
    ends_well(&world, &receivers, heir).await;
    let texts = receivers.phones.first.received();
    assert_eq!(texts.len(), 2, "the person may have it twice");
    assert_eq!((&texts[0].to, &texts[0].body), (&texts[1].to, &texts[1].body));
}

#[tokio::test]
async fn a_mail_is_sent_again_with_the_same_message_id() {
    let (world, receivers, heir) = sent_and_lost(json!({ "email": "ana@example.org" }), &[]).await;
    let row = world.rows("news").await.remove(0);
    assert_eq!(row.ended(), ("sent", None, 0));
    ends_well(&world, &receivers, heir).await;
    let mails = receivers.mail.received();
    assert_eq!(mails.len(), 2);
    for mail in &mails {
        let parsed = MessageParser::new().parse(&mail.message).unwrap();
        assert_eq!(parsed.message_id(), Some(format!("{}@example.org", row.id).as_str()));
    }
}

#[tokio::test]
async fn a_webhook_is_asked_again_with_the_same_id_and_body() {
    let (world, receivers, heir) = sent_and_lost(json!({ "userId": "dan" }), &[]).await;
    let row = world.rows("news").await.remove(0);
    assert_eq!(row.ended(), ("sent", None, 0));
    ends_well(&world, &receivers, heir).await;
    let requests = receivers.hooks.received();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.id == row.id));
    assert_eq!(requests[0].body, requests[1].body);
}
