//! Commands as a person runs them.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Worker, World, own_postgres, reminder, utc_now};

/// Returns success, stdout and stderr.
pub async fn carebell(world: &World, args: &[&str], more: &[(&str, &str)]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carebell"));
    command.env_clear().envs(world.environment()).envs(more.iter().copied()).args(args);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn publish_at_once_and_later() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let body = reminder("metformin", utc_now()).to_string();
    let (well, said, error) =
        carebell(&world, &["publish", "reminder.medication", "--json", &body, "--job-id", "by-hand"], &[]).await;
    assert!(well, "{error}");
    assert!(said.contains("job by-hand to jobs.reminder.medication"), "{said}");
    world.everyone_has_it_once("by-hand").await;

    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Later" }).to_string();
    let args = ["publish", "notification", "--json", &body, "--job-id", "later", "--delay", "1s", "--lane", "bulk"];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well && said.contains("jobs.later.notification.bulk"), "{said}{error}");
    assert!(!error.contains("note:"), "{error}");
    let args = ["publish", "notification", "--json", &body, "--delay", "1h", "--not-after", "2020-01-01T00:00:00Z"];
    let (well, _, error) = carebell(&world, &args, &[]).await;
    assert!(well && error.contains("it will end as expired"), "{error}");
    world.ledger("later").await;
    let push = world.push.received().pop().unwrap();
    assert_eq!((push.json()["title"].as_str(), push.urgency.as_str()), (Some("Later"), "low"));
    worker.stop().await;
}

#[tokio::test]
async fn publish_refuses_what_no_worker_could_run() {
    let world = World::new().await;
    let huge = json!({ "recipients": [{ "userId": "ana" }], "title": "x", "body": "y".repeat(90_000) }).to_string();
    let dose = reminder("metformin", utc_now()).to_string();
    let cases: [(&[&str], &str); 7] = [
        (&["publish", "reminder.medication", "--json", &dose, "--lane", "bulk"], "has no lanes"),
        (&["publish", "reminder.dinner", "--json", "{}"], "reminder.medication"),
        (&["publish", "deliver.web_push", "--json", "{}"], "there is no kind"),
        (&["publish", "reminder.medication", "--json", "{}"], "medication_id"),
        (&["publish", "reminder.medication", "--json", "{"], "JSON"),
        (&["publish", "notification", "--json", &huge], "`body`"),
        (&["publish", "reminder.medication", "--json", "{}", "--lane", "fast"], "critical, normal or bulk"),
    ];
    for (args, expected) in cases {
        let (well, _, error) = carebell(&world, args, &[]).await;
        assert!(!well && error.contains(expected), "{args:?}: {error}");
    }
    let body = reminder("metformin", utc_now()).to_string();
    for id in ["has spaces", "a~b", "né", ""] {
        let args = ["publish", "reminder.medication", "--json", &body, "--job-id", id];
        let (well, _, error) = carebell(&world, &args, &[]).await;
        assert!(!well && error.contains("job id"), "{id:?}: {error}");
    }
    assert_eq!(crate::support::peek(&world.context, "JOBS", ">").await, 0);
}

#[tokio::test]
async fn publish_many_and_name_the_lines_that_are_refused() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let to_ana = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello", "channels": ["CHANNEL_IN_APP"] });
    let mut lines: Vec<String> =
        (0..2000).map(|number| json!({ "jobId": format!("n-{number}"), "job": to_ana }).to_string()).collect();
    lines.insert(7, "{ not JSON".into());
    lines.insert(500, json!({ "jobId": "x", "job": { "title": "to nobody" } }).to_string());
    lines.insert(600, json!({ "jobId": "has spaces", "job": to_ana }).to_string());
    lines.insert(700, json!({ "kind": "reminder.dinner", "job": {} }).to_string());
    lines.insert(800, String::new());
    lines.push(
        json!({ "kind": "reminder.medication", "jobId": "dose", "job": reminder("metformin", utc_now()) }).to_string(),
    );
    lines.push(json!({ "jobId": "soon", "delay": "1s", "lane": "bulk", "job": to_ana }).to_string());
    let file = world.directory.path().join("jobs.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let args = ["publish", "notification", "--from", &file.display().to_string()];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(!well && error.contains("4 lines were refused"), "{said}{error}");
    assert!(said.contains("2002 published, 0 were there already, 4 refused"), "{said}");
    for line in ["line 8: ", "line 501: `recipients`", "line 601: the job id", "line 701: there is no kind"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    world.everyone_has_it_once("dose").await;
    assert_eq!(world.ended("soon").await.0, "done");
    let all = async || (world.count("SELECT count(*) FROM notifications").await == 2000 + 1 + 4).then_some(());
    world.eventually("all are in the inboxes", all).await;

    let directory = ["publish", "notification", "--from", &world.directory.path().display().to_string()];
    let (well, said, _) = carebell(&world, &directory, &[]).await;
    assert!(!well && said.contains("0 published") && said.contains("line 1: "), "a directory has no lines: {said}");

    let (_, said, _) = carebell(&world, &args, &[]).await;
    assert!(said.contains("2001 were there already"), "all but the delayed one, which is scheduled anew: {said}");
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 2005, "again, with no second effect");
    worker.stop().await;
}

#[tokio::test]
async fn streams_apply_then_check_then_edit() {
    let world = World::new().await;
    for stream in ["JOBS", "WORK", "DELIVERIES", "HOLD", "ADVISORIES", "DEAD_LETTERS"] {
        world.context.delete_stream(stream).await.unwrap();
    }
    let (well, said, _) = carebell(&world, &["streams", "check"], &[]).await;
    assert!(!well && said.contains("JOBS: not on the server"), "{said}");
    let (well, said, error) = carebell(&world, &["streams", "apply"], &[]).await;
    assert!(well && said.contains("JOBS.reminder_medication: applied"), "{said}{error}");
    let (well, said, _) = carebell(&world, &["streams", "check"], &[]).await;
    assert!(well, "{said}");

    let edited = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/streams")).unwrap() {
        let path = entry.unwrap().path();
        let text =
            std::fs::read_to_string(&path).unwrap().replace("\"max_ack_pending\": 20000", "\"max_ack_pending\": 9");
        std::fs::write(edited.path().join(path.file_name().unwrap()), text).unwrap();
    }
    let dir = edited.path().display().to_string();
    let (well, said, _) = carebell(&world, &["streams", "check", "--json", "--dir", &dir], &[]).await;
    let differences: Value = serde_json::from_str(&said).unwrap();
    assert!(!well);
    assert_eq!(differences[0]["field"], "max_ack_pending");
    assert_eq!((&differences[0]["wanted"], &differences[0]["found"]), (&json!("9"), &json!("20000")));
}

#[tokio::test]
async fn migrate_can_be_repeated_and_leaves_views_alone() {
    let (postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), crate::support::QUICK).await;
    let url = postgres.url("template1");
    let database = [("DATABASE_URL", url.as_str())];
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    for statement in [
        "CREATE TABLE accounts (id text, full_name text)",
        "CREATE VIEW users AS SELECT id, full_name AS name, NULL AS email, NULL AS phone FROM accounts",
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    let (well, said, error) = carebell(&world, &["migrate"], &database).await;
    assert!(well && said.contains("up to date"), "{said}{error}");
    let (well, _, error) = carebell(&world, &["migrate"], &database).await;
    assert!(well, "{error}");
    let kind: String = sqlx::query_scalar("SELECT relkind::text FROM pg_class WHERE relname = 'users'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(kind, "v");
}

#[tokio::test]
async fn keys_are_a_pair_that_a_worker_takes() {
    let world = World::new().await;
    let (well, said, _) = carebell(&world, &["keys", "generate"], &[]).await;
    assert!(well);
    let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let (public, private) = (value("VAPID_PUBLIC_KEY="), value("VAPID_PRIVATE_KEY="));
    assert_eq!((public.len(), private.len()), (87, 43), "base64url without padding");
    let worker = Worker::with(&world, &[("VAPID_PUBLIC_KEY", &public), ("VAPID_PRIVATE_KEY", &private)]);
    world.remind("with-new-keys").await;
    world.everyone_has_it_once("with-new-keys").await;
    worker.stop().await;

    let (_, other, _) = carebell(&world, &["keys", "generate", "--json"], &[]).await;
    let other: Value = serde_json::from_str(&other).unwrap();
    let mixed = [("VAPID_PUBLIC_KEY", other["publicKey"].as_str().unwrap()), ("VAPID_PRIVATE_KEY", &private)];
    let (well, _, error) = carebell(&world, &["run"], &mixed).await;
    assert!(!well && error.contains("VAPID_P"), "{error}");
    assert!(!error.contains(&private), "a key is never repeated");
}

#[tokio::test]
async fn configuration_mistakes_name_the_variable() {
    let world = World::new().await;
    let cases = [
        ("DATABASE_URL", "", "DATABASE_URL is not set"),
        ("DATABASE_URL", "mysql://x", "DATABASE_URL"),
        ("NATS_URL", "http://x", "NATS_URL"),
        ("HEALTH_PORT", "many", "HEALTH_PORT"),
        ("VAPID_SUBJECT", "", "VAPID_SUBJECT"),
        ("VAPID_SUBJECT", "somebody", "VAPID_SUBJECT"),
        ("WEB_PUSH_ALLOWED_HOSTS", "*.example.org", "WEB_PUSH_ALLOWED_HOSTS"),
        ("WEB_PUSH_CA_FILE", "/no/such/file", "WEB_PUSH_CA_FILE"),
        ("APP_URL", "app", "APP_URL"),
        ("QUEUE_OVERRIDES", "reminder_medication.attempts=0", "attempts"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT"),
    ];
    for (variable, value, expected) in cases {
        let (well, _, error) = carebell(&world, &["run"], &[(variable, value)]).await;
        assert!(!well && error.contains(expected), "{variable}={value}: {error}");
    }
}

fn own(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carebell")).env_clear().args(args).output().unwrap()
}

#[test]
fn shells_and_man_are_served_without_settings() {
    let script = own(&["completions", "bash"]);
    assert!(script.status.success());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("carebell.bash");
    std::fs::write(&file, &script.stdout).unwrap();
    let ask =
        "COMP_WORDS=(carebell dead-letters re); COMP_CWORD=2; _carebell carebell re dead-letters; echo ${COMPREPLY[@]}";
    let line = format!("source {} && {ask}", file.display());
    let completed = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout), "redrive\n");

    let pages = directory.path().join("man/man1");
    assert!(own(&["manual", pages.to_str().unwrap()]).status.success());
    let page = std::fs::read_to_string(pages.join("carebell-jobs-show.1")).unwrap();
    assert!(page.contains("carebell jobs show dose\\-17"), "{page}");
    let denied = own(&["manual", "/proc/none"]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&denied.stderr).contains("/proc/none"));
    assert_eq!(own(&["jobs", "shwo"]).status.code(), Some(2));
}
