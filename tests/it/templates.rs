//! Texts from templates: languages, custom templates, rejected input.

use std::{fs, path::PathBuf};

use carebell::{
    clock::Clock,
    config::Source,
    doctor::{self, Egress, Item},
    jobs::alert_refill::RefillAlert,
    pipeline::Registry,
    wire,
};
use serde_json::{Value, json};
use sqlx::Row;

use crate::{
    cli::carebell,
    support::{Custom, Process, QUICK, Worker, World, decode, reminder, utc_now},
};

/// The family reads English, Austrian German, French, and a language without texts.
async fn family_of_four_languages(world: &World) {
    for (user, locale) in [("ana", "en"), ("ben", "de-AT"), ("chloe", "fr"), ("dan", "pt")] {
        world.sql(&format!("UPDATE users SET locale = '{locale}' WHERE id = '{user}'")).await;
    }
}

/// Writes templates and returns their directory.
fn templates(world: &World, files: &[(&str, &str)]) -> PathBuf {
    let directory = world.directory.path().join("templates");
    fs::create_dir_all(&directory).unwrap();
    for (path, text) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn with_templates(world: &World, directory: &std::path::Path) -> Worker {
    Worker::with(world, &[("TEMPLATES_DIR", &directory.display().to_string())])
}

const WELCOME: &[(&str, &str)] = &[
    ("en/welcome.txt", "title: Welcome, {{ name }}\nexample: {\"name\": \"Ana\"}\n\nGood to have you"),
    ("de/welcome.txt", "title: Willkommen, {{ name }}\n\nSchön, dass Sie da sind"),
];

fn welcome(recipients: &Value, variables: &Value) -> Value {
    json!({ "recipients": recipients, "template": "welcome", "variables": variables })
}

#[tokio::test]
async fn each_member_of_a_family_is_told_in_their_language() {
    let world = World::new().await;
    family_of_four_languages(&world).await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    let expected = [
        ("ana", "💊 Medication Reminder", "Time to give Metformin (500 mg) to Rose"),
        ("ben", "💊 Erinnerung: Medikament", "Jetzt Metformin (500 mg) an Rose geben"),
        ("chloe", "💊 Rappel de médicament", "C’est l’heure de donner Metformin (500 mg) à Rose"),
        ("dan", "💊 Medication Reminder", "Time to give Metformin (500 mg) to Rose"),
    ];
    let inbox = world.inbox("dose").await;
    let found: Vec<_> = inbox.iter().map(|row| (row.user_id.as_str(), row.title.as_str(), row.body.as_str())).collect();
    assert_eq!(found, expected);
    assert!(inbox.iter().all(|row| row.data.get("variables").is_none() && row.data["type"] == "MEDICATION_REMINDER"));
    for (user, title, body) in expected {
        let pushes = world.push.received();
        let push = pushes.iter().find(|push| push.name == user).unwrap().json();
        assert_eq!((push["title"].as_str(), push["body"].as_str()), (Some(title), Some(body)), "{user}");
    }
    let rows = sqlx::query(
        "SELECT c.locale, count(d.id) FROM contents c \
         LEFT JOIN deliveries d ON d.job_id = c.job_id AND d.locale = c.locale GROUP BY 1 ORDER BY 1",
    )
    .fetch_all(&world.db)
    .await
    .unwrap();
    let texts: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(texts, [("de".to_owned(), 1), ("en".to_owned(), 2), ("fr".to_owned(), 1)], "one text a language");
    worker.stop().await;
}

#[tokio::test]
async fn a_directory_replaces_texts_and_adds_templates_that_jobs_name() {
    let world = World::new().await;
    family_of_four_languages(&world).await;
    let own = [
        ("pt/reminder.medication.txt", "title: Remédio\n\n{{ medication }} às {{ scheduled_time | time(zone) }}"),
        ("en/reminder.medication.txt", "title: Pill\n\n{{ medication }} for {{ recipient }}"),
    ];
    let worker = with_templates(&world, &templates(&world, &[WELCOME, &own].concat()));
    let due = utc_now();
    world.publish_json("jobs.reminder.medication", "dose", &reminder("metformin", due)).await;
    let bodies: Vec<String> = world.inbox("dose").await.into_iter().map(|row| row.body).collect();
    assert_eq!(bodies[0], "Metformin for Rose");
    assert_eq!(bodies[1], "Jetzt Metformin (500 mg) an Rose geben", "other texts stay");
    assert_eq!(bodies[3], format!("Metformin às {} UTC", due.format("%H:%M")));

    world.sql("UPDATE users SET locale = NULL WHERE id = 'dan'").await;
    let recipients =
        json!([{ "userId": "ana" }, { "userId": "ben" }, { "userId": "dan" }, { "email": "x@example.org" }]);
    let name = "Zoë <b>\"&\" {{ name }}\nthe 2nd";
    let mut body = welcome(&recipients, &json!({ "name": name, "more": { "than": ["needed"] } }));
    body["locale"] = json!("de-CH");
    world.publish_json("jobs.notification.normal", "hello", &body).await;
    assert_eq!(world.ended("hello").await.0, "done");
    let rows = sqlx::query("SELECT user_id, title, body FROM notifications WHERE job_id = 'hello' ORDER BY 1")
        .fetch_all(&world.db)
        .await
        .unwrap();
    let inbox: Vec<(String, String, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let (english, german) = ("Welcome, Zoë <b>\"&\" {{ name }} the 2nd", "Willkommen, Zoë <b>\"&\" {{ name }} the 2nd");
    let expected = [
        ("ana", english, "Good to have you"),
        ("ben", german, "Schön, dass Sie da sind"),
        ("dan", german, "Schön, dass Sie da sind"),
    ];
    assert_eq!(inbox, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    let raw: String =
        sqlx::query_scalar("SELECT locale FROM deliveries WHERE channel = 'email'").fetch_one(&world.db).await.unwrap();
    assert_eq!(raw, "de", "without a language of their own, the job's counts");
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_does_not_fit_its_template_is_dead_until_it_does() {
    let world = World::new().await;
    let broken = [("en/greeting.txt", "title: Hi\nexample: {\"name\": \"Ana\"}\n\n\n{{ name + 1 if name != 'Ana' }}")];
    let ana = json!([{ "userId": "ana" }]);
    let worker = with_templates(&world, &templates(&world, &broken));
    let greeting = json!({ "recipients": ana, "template": "greeting", "variables": { "name": "Secret Rose" } });
    let nameless = json!({ "recipients": ana, "template": "greeting" });
    let cases = [
        ("unknown", welcome(&ana, &json!({ "name": "Rose" })), "there is no template `welcome`"),
        ("nameless", nameless, "the template `greeting` needs the variable `name`"),
        ("broken", greeting, "en/greeting.txt:5: invalid operation"),
    ];
    for (job, body, expected) in &cases {
        world.publish_json("jobs.notification.normal", job, body).await;
        let letter = world.dead_letters_with("Carebell-Job-Id", job).await;
        let error = letter.get("Carebell-Dead-Error").unwrap().as_str();
        assert!(error.contains(expected) && !error.contains("Secret"), "{error}");
        assert_eq!(letter.get("Carebell-Dead-Reason").unwrap().as_str(), "permanent");
    }
    worker.stop().await;

    let worker = with_templates(&world, &templates(&world, WELCOME));
    let (well, said, error) = carebell(&world, &["dead-letters", "redrive", "unknown"], &[]).await;
    assert!(well, "{said}{error}");
    world.ended_again("unknown", "done").await;
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE title = 'Welcome, Rose'").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_reminder_of_another_version_waits_for_a_worker_that_has_its_template() {
    let overrides = format!("{QUICK},notification_normal.attempts=10,notification_normal.backoff=fixed 300ms");
    let world = World::with_overrides(&overrides).await;
    let worker = Worker::start(&world);
    for (job, template) in [("unknown", "reminder.visit"), ("lacking", "alert.refill")] {
        let body = json!({
            "recipients": [{ "userId": "ben" }], "ownTemplate": template, "variables": { "recipient": "Rose" }
        });
        world.publish_json("jobs.notification.normal", job, &body).await;
    }
    let failed = "SELECT count(*) FROM job_runs WHERE attempts > 0 AND state = 'open'";
    world.eventually("both have failed", async || (world.count(failed).await == 2).then_some(())).await;
    worker.stop().await;

    let newer = "title: Visit to {{ recipient }}\nexample: {\"recipient\": \"Rose\"}\n\nSoon";
    let worker = with_templates(&world, &templates(&world, &[("en/reminder.visit.txt", newer)]));
    assert_eq!(world.ended("unknown").await.0, "done");
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE title = 'Visit to Rose'").await, 1);
    let letter = world.dead_letters_with("Carebell-Job-Id", "lacking").await;
    assert_eq!(letter.get("Carebell-Dead-Reason").unwrap().as_str(), "exhausted");
    worker.stop().await;
}

#[tokio::test]
async fn a_reminder_publishes_its_template_and_no_text() {
    let world = World::new().await;
    family_of_four_languages(&world).await;
    world.sql("UPDATE medications SET current_supply = 3").await;
    let first_stage = Custom::start(&world, Registry::default().with::<RefillAlert>());
    world.publish_json("jobs.alert.refill", "refill", &json!({ "medicationId": "metformin", "refillAt": 10 })).await;
    let stream = world.context.get_stream("WORK").await.unwrap();
    let message = world
        .eventually("the notification is published", async || {
            stream.get_last_raw_message_by_subject("work.notification.normal").await.ok()
        })
        .await;
    first_stage.stop().await;
    let body: wire::Notification = wire::from_protobuf(&message.payload).unwrap();
    assert_eq!((body.template.as_str(), body.own_template.as_str()), ("", "alert.refill"));
    assert_eq!((body.title.as_str(), body.body.as_str()), ("", ""));

    let worker = Worker::start(&world);
    assert_eq!(world.inbox("refill").await[1].body, "Metformin (500 mg) für Rose: noch 3 Dosen");
    worker.stop().await;
}

#[tokio::test]
async fn a_broken_template_stops_the_start_with_file_and_line() {
    let world = World::new().await;
    let broken = [("de/reminder.shift.txt", "title: Schicht\n\nBei {{ recipient }}\num {{ begins_at }}")];
    let directory = templates(&world, &broken);
    let more = [("TEMPLATES_DIR", directory.to_str().unwrap())];
    let mut worker = Process::worker(&world, &more);
    assert_eq!(worker.ended().await.code(), Some(1));
    let expected = format!("{}/de/reminder.shift.txt:4: unknown variable `begins_at`", directory.display());
    assert!(worker.says(&expected), "{}", worker.output());
    assert!(!worker.says("health is served"), "{}", worker.output());

    let (well, said, _) = carebell(&world, &["doctor", "--offline"], &more).await;
    assert!(!well && said.contains(&format!("FAIL  templates: {expected}")), "{said}");
    let (well, said, _) = carebell(&world, &["doctor", "--offline"], &[("TEMPLATES_DIR", "/no/such/place")]).await;
    assert!(
        !well && said.contains("FAIL  configuration: TEMPLATES_DIR names a directory that does not exist"),
        "{said}"
    );
    assert!(said.contains("-     templates: not checked: TEMPLATES_DIR is not valid"), "{said}");

    let environment = world.environment().into_iter().chain([("TEMPLATES_DIR".to_owned(), more[0].1.to_owned())]);
    templates(&world, &[("de/reminder.shift.txt", "title: Schicht\n\nBei {{ recipient }}")]);
    let source = Source::of(environment);
    let checks = doctor::examine(&source, &Clock::system(), Egress::Offline).await;
    let check = checks.iter().find(|check| check.item == Item::Templates).unwrap().to_string();
    assert!(
        check.starts_with("ok    templates: ") && check.ends_with("(1 replaced or added to); in de, en, es, fr"),
        "{check}"
    );
}

#[test]
fn each_mistake_names_its_field() {
    let with = |change: Value| {
        let mut body = welcome(&json!([{ "userId": "ana" }]), &json!({ "name": "Rose" }));
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        body
    };
    let cases = [
        (with(json!({ "title": "Hello" })), "title"),
        (with(json!({ "body": "Hello" })), "body"),
        (with(json!({ "template": "Wel come" })), "template"),
        (with(json!({ "template": "x".repeat(65) })), "template"),
        (with(json!({ "template": "" })), "variables"),
        (with(json!({ "ownTemplate": "alert.refill" })), "own_template"),
        (with(json!({ "template": "", "ownTemplate": "alert.refill", "title": "Hello" })), "title"),
        (with(json!({ "variables": { "name": "\u{0}" } })), "variables"),
        (with(json!({ "variables": { "name": "x".repeat(17_000) } })), "variables"),
        (with(json!({ "locale": "x".repeat(36) })), "locale"),
    ];
    for (body, field) in cases {
        let error = decode("notification", &body).expect_err(&body.to_string());
        assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
    }
    assert_eq!(decode("notification", &with(json!({}))), Ok(()));
}
