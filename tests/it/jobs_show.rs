//! `carebell jobs show`: a job's history, without personal data.

use std::net::SocketAddr;

use carebell::dev::{phone_service, push_service::Behaviour, trail::Line};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{LIMIT, Phones, Process, Worker, World},
};

#[tokio::test]
async fn the_way_of_a_reminder_by_any_of_its_ids() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("dose-1").await;
    world.everyone_has_it_once("dose-1").await;
    world.queues_are_empty().await;
    worker.stop().await;
    world.sql("UPDATE notifications SET seen_at = now(), read_at = now() WHERE user_id = 'ben'").await;

    let (well, words, error) = carebell(&world, &["jobs", "show", "dose-1"], &[]).await;
    assert!(well, "{error}");
    let lines: Vec<&str> = words.lines().collect();
    assert_eq!(lines[0], "job dose-1");
    assert!(lines[1].starts_with("  reminder.medication dose-1: done at 20"), "{words}");
    assert!(lines[1].ends_with("Z after 0 failures; planned 1 notification"), "{words}");
    assert!(lines[2].starts_with("  notification dose-1~notification: done at 20"), "{words}");
    assert!(lines[2].ends_with("; wrote 4 inbox rows, planned 4 deliveries"), "{words}");
    assert_eq!(lines[3], "inbox");
    assert!(lines[4].starts_with("  ana: unread, written at 20"), "{words}");
    assert!(lines[5].starts_with("  ben: read at 20"), "{words}");
    assert_eq!(lines[8], "deliveries");
    let to_ana = lines.iter().find(|line| line.starts_with("  ana: web_push")).unwrap();
    assert!(
        to_ana.contains("web_push sent by localhost:")
            && to_ana.contains(", answered 201, at 20")
            && to_ana.contains("; 1 claim, 0 failures (")
    );
    assert_eq!(lines.len(), 13);

    let delivery = world.delivery_to("dose-1", "ana").await.id;
    for id in ["dose-1~notification", &delivery] {
        let (well, same, _) = carebell(&world, &["jobs", "show", id], &[]).await;
        assert!(well);
        assert_eq!(same, words, "by {id}");
    }

    let (well, said, _) = carebell(&world, &["jobs", "show", "dose-1", "--json"], &[]).await;
    let way: Value = serde_json::from_str(&said).unwrap();
    assert!(well);
    assert_eq!((&way["root_id"], &way["unpublished"]), (&json!("dose-1"), &json!([])));
    assert_eq!((&way["runs"][0]["kind"], &way["runs"][0]["state"]), (&json!("reminder.medication"), &json!("done")));
    assert_eq!((&way["runs"][0]["stream"], &way["runs"][0]["stream_seq"]), (&json!("JOBS"), &json!(1)));
    assert_eq!(way["inbox"][0]["read_at"], Value::Null);
    assert!(way["inbox"][1]["read_at"].is_string());
    assert_eq!(way["deliveries"].as_array().unwrap().len(), 4);
    assert_eq!((&way["deliveries"][0]["answer"], &way["deliveries"][0]["attempts"]), (&json!("201"), &json!(0)));

    for personal in ["Metformin", "Rose", "500 mg", "https://", "/medications"] {
        assert!(!words.contains(personal) && !said.contains(personal), "{personal} in {words}{said}");
    }
}

#[tokio::test]
async fn what_went_wrong_and_what_is_still_to_come() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.push.behave_always("ana", Some(Behaviour::status(400)));
    let body = json!({ "recipients": [{ "userId": "ana" }, { "email": "ana@example.org" }], "title": "Secret" });
    world.publish_json("jobs.notification.normal", "partly", &body).await;
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken")], "{").await;
    world.dead_letters_once(2).await;
    world.queues_are_empty().await;
    worker.stop().await;

    let (_, words, _) = carebell(&world, &["jobs", "show", "partly"], &[]).await;
    assert!(words.contains("; wrote 1 inbox row, planned 2 deliveries"), "{words}");
    assert!(words.contains("ana: web_push dead (permanent), answered "), "{words}");
    assert!(words.contains("an address: email failed (no_channel), at "), "{words}");
    assert!(!words.contains("ana@example.org") && !words.contains("Secret"), "{words}");
    let (_, said, _) = carebell(&world, &["jobs", "show", "partly", "--json"], &[]).await;
    assert!(!said.contains("ana@example.org") && !said.contains("Secret"), "{said}");

    let (_, words, _) = carebell(&world, &["jobs", "show", "broken"], &[]).await;
    assert!(words.contains("notification broken: dead (undecodable) at "), "{words}");
    assert!(words.contains("; last failure: ") && words.contains("; JOBS #2"), "{words}");

    world
        .sql(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, children_pending, created_at, updated_at) \
             VALUES ('stuck', 'stuck', 'reminder.medication', 'JOBS', 7, 'done', true, now(), now())",
        )
        .await;
    world
        .sql(
            "INSERT INTO job_children VALUES ('stuck', 'stuck~notification', 'stuck', 'jobs.notification.critical', '', now())",
        )
        .await;
    let (well, words, _) = carebell(&world, &["jobs", "show", "stuck~notification"], &[]).await;
    assert!(well && words.contains("stuck~notification: planned, not known to be published"), "{words}");
    assert!(words.contains("planned 1 notification"), "{words}");
    world.sql("DELETE FROM job_children").await;
    let (_, words, _) = carebell(&world, &["jobs", "show", "stuck"], &[]).await;
    assert!(words.contains("; its notification is published, but not started"), "{words}");
}

#[tokio::test]
async fn a_text_that_failed_once_and_was_delivered() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let mut variables = phones.one("SMS");
    variables.extend(
        [("PUBLIC_URL", "https://bell.example.org"), ("PUBLIC_PORT", "0")].map(|(name, to)| (name.into(), to.into())),
    );
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, to)| (name.as_str(), to.as_str())).collect();
    let mut worker = Process::worker(&world, &variables);
    let port = worker.line("callbacks are received", Line::public_port).await;
    let phone = &phones.first;
    phone.callbacks_go_to(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())));
    phone.behave(1, phone_service::Behaviour::status(503));
    world.text("news", 1).await;
    let text = phone.wait_for(1, LIMIT).await.unwrap().remove(0);
    world.ledger("news").await;
    assert_eq!(phone.report(&text, "delivered", None).await.unwrap(), 204);
    world.sql("UPDATE deliveries SET overrode_quiet_hours = true").await;

    let (well, words, error) = carebell(&world, &["jobs", "show", "news"], &[]).await;
    assert!(well, "{error}");
    let (name, its_id) = (phone.name(), &text.sid);
    let lines: Vec<&str> = words.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("  an address: sms ")).unwrap();
    let expected =
        format!("  an address: sms delivered in quiet hours by {name} as {its_id}, answered 201, 1 segment, sent at 2");
    assert!(its_id.starts_with("SM") && lines[at].starts_with(&expected), "{words}");
    assert!(lines[at].contains("Z, delivered at 2") && lines[at].contains("; 2 claims, 1 failure ("), "{words}");
    assert!(lines[at + 1].starts_with("    failed at 2"), "{words}");
    assert!(lines[at + 1].ends_with(&format!("Z: {name}: answered 503")), "{words}");
    let (_, said, _) = carebell(&world, &["jobs", "show", "news", "--json"], &[]).await;
    let way: Value = serde_json::from_str(&said).unwrap();
    let delivery = &way["deliveries"][0];
    assert_eq!((&delivery["provider_id"], &delivery["overrode_quiet_hours"]), (&json!(its_id), &json!(true)));
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn an_id_that_nobody_knows() {
    let world = World::new().await;
    let (well, said, error) = carebell(&world, &["jobs", "show", "no-such-job"], &[]).await;
    assert!(!well && said.is_empty());
    assert!(error.contains("there is no record of a job \"no-such-job\""), "{error}");
}
