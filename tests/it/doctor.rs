//! Self-tests pass without side effects on a healthy system, and name each fault.

use std::{collections::BTreeMap, time::Duration};

use carebell::{
    clock::Clock,
    config::Source,
    dev::{
        guard,
        nats::NatsServer,
        phone_service::Behaviour,
        smtp_server::{Protection, SmtpServer},
    },
    doctor::{self, AtStart, Check, CheckResult, Egress, Item},
};
use chrono::TimeDelta;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpListener, time::Instant};

use crate::{
    cli::carebell,
    support::{Phones, Process, QUICK, World, database, old_nats_server, own_postgres, programs, utc_now},
};

/// Nothing listens on port 1.
const NOBODY: &str = "nats://worker:s3cret@127.0.0.1:1";

/// Permissions of a worker: the file that users include.
const WORKER_CONF: &str = include_str!("../../helm/carebell/nats/worker.conf");

fn least() -> Vec<&'static str> {
    let lines = WORKER_CONF.lines().filter_map(|line| line.strip_prefix("  \"")?.strip_suffix('"'));
    lines.collect()
}

async fn examine(world: &World, changes: &[(&str, &str)]) -> Vec<Check> {
    examine_at(world, changes, &Clock::system()).await
}

async fn examine_at(world: &World, changes: &[(&str, &str)], clock: &Clock) -> Vec<Check> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut environment = world.environment();
    environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    doctor::examine(&Source::of(environment), clock, Egress::Named).await
}

fn check(checks: &[Check], item: Item) -> &Check {
    checks.iter().find(|check| check.item == item).unwrap()
}

/// Asserts that only this check fails, with these words.
fn only_failure(checks: &[Check], item: Item, words: &[&str]) {
    let all: Vec<String> = checks.iter().map(ToString::to_string).collect();
    let failed: Vec<Item> = checks.iter().filter(|check| check.is_failure()).map(|check| check.item).collect();
    assert_eq!(failed, [item], "{all:#?}");
    let line = check(checks, item).to_string();
    assert!(line.starts_with("FAIL  ") && line.contains(" — "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

fn assert_not_checked(checks: &[Check], items: &[Item], why: &str) {
    for item in items {
        assert_eq!(check(checks, *item).outcome, CheckResult::NotChecked(why.to_owned()), "{item:?}");
    }
}

#[tokio::test]
async fn providers_are_looked_for_and_nothing_is_sent() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let mut variables = phones.both("SMS");
    variables.extend(phones.one("VOICE"));
    let with = |change: &[(&'static str, &'static str)]| {
        let own = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        own.chain(change.iter().copied()).collect::<Vec<_>>()
    };
    let line = |checks: &[Check]| check(checks, Item::ProviderEgress).to_string();
    let checks = examine(&world, &with(&[])).await;
    let (first, second) = (phones.first.name(), phones.second.name());
    let reached = format!("ok    provider egress: sms by {first}, sms by {second}, voice by {first} reachable");
    assert!(line(&checks).starts_with(&reached), "{}", line(&checks));
    assert!(line(&checks).contains("without PUBLIC_URL"), "{}", line(&checks));
    let checks = examine(&world, &with(&[("PUBLIC_URL", "https://bell.example.org")])).await;
    assert_eq!(line(&checks), reached);

    phones.second.behave_always(Some(Behaviour::status(503)));
    only_failure(&examine(&world, &with(&[])).await, Item::ProviderEgress, &[&second, "answers 503"]);
    phones.second.behave_always(Some(Behaviour::error(401, 20_003)));
    let refused = [&second, "refuses the account (401); see SMS_FALLBACK_URL"];
    only_failure(&examine(&world, &with(&[])).await, Item::ProviderEgress, &refused);
    // An API without this resource still counts as reachable.
    phones.second.behave_always(Some(Behaviour::status(501)));
    let checks = examine(&world, &with(&[])).await;
    assert!(line(&checks).starts_with(&reached), "{}", line(&checks));
    phones.second.shut(true);
    only_failure(&examine(&world, &with(&[])).await, Item::ProviderEgress, &[&second, "no connection"]);
    let checks = examine(&world, &with(&[("SMS_FROM", "not a sender at all")])).await;
    only_failure(&checks, Item::Configuration, &["SMS_FROM"]);
    assert_not_checked(&checks, &[Item::ProviderEgress], "SMS_FROM is not valid");
    assert_eq!((phones.first.counts().requests, phones.second.counts().requests), (0, 0));
}

#[tokio::test]
async fn all_is_well_and_nothing_is_touched() {
    let world = World::new().await;
    world.remind("waiting").await;
    world.publish("jobs.notification.bulk", &[("Carebell-Job-Id", "too")], "x").await;
    let state = async || {
        let mut messages = BTreeMap::new();
        for name in ["JOBS", "WORK", "DELIVERIES", "HOLD", "DEAD_LETTERS", "ADVISORIES"] {
            let mut stream = world.context.get_stream(name).await.unwrap();
            messages.insert(name, stream.info().await.unwrap().state.last_sequence);
        }
        for durable in ["reminder_medication", "notification_bulk"] {
            let consumer: async_nats::jetstream::consumer::PullConsumer =
                world.context.get_consumer_from_stream(durable, "JOBS").await.unwrap();
            let info = consumer.cached_info();
            assert_eq!((info.num_pending, info.num_ack_pending, info.delivered.consumer_sequence), (1, 0, 0));
        }
        messages
    };
    let before = state().await;
    let checks = examine(&world, &[]).await;
    let lines: Vec<String> = checks.iter().map(ToString::to_string).collect();
    assert!(lines.len() == 18 && lines.iter().all(|line| line.starts_with("ok    ")), "{lines:#?}");
    assert_eq!(doctor::summary(&checks), "18 checks, all ok");

    let (well, said, error) = carebell(&world, &["doctor", "--offline"], &[]).await;
    assert!(well && error.is_empty(), "{said}{error}");
    assert_eq!(said.lines().filter(|line| line.starts_with("ok    ")).count(), 17, "{said}");
    assert!(said.contains("-     push egress: not checked: --offline"), "{said}");
    let (well, said, _) = carebell(&world, &["doctor", "--offline", "--json"], &[]).await;
    let list: Value = serde_json::from_str(&said).unwrap();
    assert!(well);
    assert_eq!((&list[0]["name"], &list[0]["result"]), (&"configuration".into(), &"ok".into()));
    assert_eq!(list.as_array().unwrap().len(), 18);

    assert_eq!(state().await, before);
    assert_eq!((world.push.counts().requests, world.push.rejected()), (0, vec![]));
}

#[tokio::test]
async fn a_worker_is_ready_soon_where_all_is_well() {
    let world = World::new().await;
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let since = Instant::now();
        let mut worker = Process::worker(&world, &[]);
        worker.ready().await;
        quickest = quickest.min(since.elapsed());
        assert_eq!(worker.terminate().await.code(), Some(0));
    }
    println!("ready after {quickest:?}");
    assert!(quickest < Duration::from_secs(10), "{quickest:?}");
}

#[tokio::test]
async fn nats_is_not_there_and_the_password_stays_secret() {
    let world = World::new().await;
    let checks = examine(&world, &[("NATS_URL", NOBODY)]).await;
    only_failure(&checks, Item::Nats, &["NATS_URL", "refused", "nats-server is up"]);
    let rest = [Item::NatsVersion, Item::JetStream, Item::Streams, Item::NatsPermissions, Item::NatsClock];
    assert_not_checked(&checks, &rest, "NATS is not reachable");
    assert!(matches!(check(&checks, Item::Database).outcome, CheckResult::Ok(_)));

    let more = [("NATS_URL", NOBODY), ("LOG_LEVEL", "trace")];
    let (well, said, error) = carebell(&world, &["doctor", "--offline"], &more).await;
    assert!(!well && error.contains("1 failed, 6 not checked"), "{said}{error}");
    assert!(!(said + &error).contains("s3cret"), "nor in the log of the client: {error}");
}

#[tokio::test]
async fn users_of_nats() {
    let mut users = vec!["{user: test, password: test}".to_owned()];
    let mut user = |name: &str, permissions: &str| {
        users.push(format!("{{user: {name}, password: \"p@ss\", permissions: {{\n{permissions}\n}}}}"));
    };
    user("worker", WORKER_CONF);
    user("deaf", &WORKER_CONF.replace("_INBOX_carebell.>", "_INBOX.>"));
    for (number, subject) in least().iter().enumerate() {
        user(&format!("lacks-{number}"), &WORKER_CONF.replace(&format!("  \"{subject}\"\n"), ""));
    }
    let config = format!(
        "accounts {{\n A {{ jetstream: enabled, users: [ {} ] }}\n \
         B {{ users: [ {{user: without, password: \"p@ss\"}} ] }}\n}}\nno_auth_user: test\n",
        users.join(",\n")
    );
    let world = World::on_both(database().await, &config, QUICK).await;
    let url = |name: &str| format!("nats://{name}:p%40ss@127.0.0.1:{}", world.nats.port());

    // The minimal permissions suffice for a worker and its doctor.
    let checks = examine(&world, &[("NATS_URL", &url("worker"))]).await;
    assert_eq!(doctor::summary(&checks), "18 checks, all ok");
    let streams = check(&checks, Item::Streams).to_string();
    assert!(streams.contains("may not look at"), "{streams}");
    let mut worker = Process::worker(&world, &[("NATS_URL", &url("worker"))]);
    worker.ready().await;
    world.push.behave_times("ana", 1, carebell::dev::push_service::Behaviour::retry_after(429, "1"));
    world.publish("jobs.reminder.medication", &[("Carebell-Job-Id", "broken")], "x").await;
    world.remind("with-least").await;
    world.everyone_has_it_once("with-least").await;
    world.dead_letters_once(1).await;
    world.queues_are_empty().await;
    // They suffice for its metrics too.
    let seen = ["carebell_dead_letters 1", "carebell_parked_jobs 0", "carebell_delayed_jobs 0"];
    let looked_at = async || {
        let text = worker.get("/metrics").await.1;
        seen.iter().all(|line| text.contains(&format!("\n{line}\n"))).then_some(text)
    };
    let metrics = world.eventually("the streams are looked at", looked_at).await;
    assert!(metrics.contains("\ncarebell_queue_waiting_messages{"), "{metrics}");
    assert!(!worker.output().contains("refuses"), "{}", worker.output());
    assert_eq!(worker.terminate().await.code(), Some(0));

    let documented = include_str!("../../docs/ARCHITECTURE.md");
    assert!(least().len() >= 20);
    for (number, lacking) in least().iter().enumerate() {
        assert!(documented.contains(&format!("`{lacking}`")), "{lacking}");
        let checks = examine(&world, &[("NATS_URL", &url(&format!("lacks-{number}")))]).await;
        let subject = lacking.trim_end_matches(['*', '>']);
        only_failure(&checks, Item::NatsPermissions, &["may not publish to", subject, "allow it"]);
        assert!(matches!(doctor::at_start(&checks), Err((AtStart::Exit, _))));
    }
    let checks = examine(&world, &[("NATS_URL", &url("deaf"))]).await;
    only_failure(&checks, Item::NatsPermissions, &["may not subscribe to _INBOX_carebell.", "NATS_INBOX_PREFIX"]);
    let checks = examine(&world, &[("NATS_URL", &url("without"))]).await;
    only_failure(&checks, Item::JetStream, &["not enabled for the account"]);
    assert_not_checked(&checks, &[Item::Streams], "JetStream does not answer");
    let stranger = format!("nats://worker:wr0ng@127.0.0.1:{}", world.nats.port());
    let checks = examine(&world, &[("NATS_URL", &stranger)]).await;
    only_failure(&checks, Item::Nats, &["NATS_URL: the server refuses the user or the password"]);

    // Missing permissions end a worker long before START_TIMEOUT.
    let number = least().iter().position(|subject| *subject == "$JS.ACK.DELIVERIES.>").unwrap();
    let lacking = url(&format!("lacks-{number}"));
    let mut worker = Process::worker(&world, &[("NATS_URL", &lacking), ("START_TIMEOUT", "10m")]);
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.output().contains("may not publish to $JS.ACK.DELIVERIES."), "{}", worker.output());
    assert!(!worker.output().contains("p@ss"), "{}", worker.output());
}

#[tokio::test]
async fn jetstream_is_off() {
    let world = World::new().await;
    let directory = guard::private_dir().unwrap();
    let server = NatsServer::start_without_jetstream(&programs().await.nats_server, directory.path()).await.unwrap();
    let checks = examine(&world, &[("NATS_URL", &server.url())]).await;
    only_failure(&checks, Item::JetStream, &["off on this server", "-js"]);
    assert!(matches!(doctor::at_start(&checks), Err((AtStart::Wait, _))));
}

#[tokio::test]
async fn an_old_server() {
    let world = World::new().await;
    let directory = guard::private_dir().unwrap();
    if let Some(program) = old_nats_server().await {
        let server = NatsServer::start(&program, directory.path()).await.unwrap();
        let checks = examine(&world, &[("NATS_URL", &server.url())]).await;
        let line = check(&checks, Item::NatsVersion).to_string();
        assert!(line.contains("the server is version 2.11.11; Carebell needs 2.12 or later"), "{line}");
        let (well, _, error) = carebell(&world, &["streams", "apply"], &[("NATS_URL", &server.url())]).await;
        assert!(!well && error.contains("2.12 or later"), "{error}");
    }

    // A fake greeting, for machines that cannot download the old server.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let greeting = r#"{"server_id":"x","version":"2.11.0","headers":true,"max_payload":1048576,"proto":1}"#;
            stream.write_all(format!("INFO {greeting}\r\nPONG\r\n").as_bytes()).await.unwrap();
            tokio::spawn(async move {
                // The connection stays open and silent.
                std::future::pending::<()>().await;
                drop(stream);
            });
        }
    });
    let more = [("NATS_URL", url.as_str()), ("START_TIMEOUT", "1s")];
    let mut worker = Process::worker(&world, &more);
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.output().contains("the server is version 2.11.0; Carebell needs 2.12"), "{}", worker.output());
    server.abort();
}

#[tokio::test]
async fn streams_and_consumers_that_are_missing_or_differ() {
    let world = World::new().await;
    let consumer = "notification_bulk";
    world.context.delete_consumer_from_stream(consumer, "JOBS").await.unwrap();
    let checks = examine(&world, &[]).await;
    only_failure(&checks, Item::Streams, &["JOBS.notification_bulk: not on the server", "carebell streams apply"]);

    world.context.delete_stream("DEAD_LETTERS").await.unwrap();
    let checks = examine(&world, &[]).await;
    only_failure(&checks, Item::Streams, &["DEAD_LETTERS: not on the server; JOBS.notification_bulk"]);
    // A worker notices this without looking up the stream.
    let mut worker = Process::worker(&world, &[("START_TIMEOUT", "1s")]);
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.output().contains("DEAD_LETTERS: not on the server"), "{}", worker.output());

    let (well, _, error) = carebell(&world, &["streams", "apply"], &[]).await;
    assert!(well, "{error}");
    let other = format!("{QUICK},{consumer}.ack_wait=7s");
    let checks = examine(&world, &[("QUEUE_OVERRIDES", &other)]).await;
    let line = check(&checks, Item::Streams).to_string();
    assert!(line.starts_with("warn  streams: JOBS.notification_bulk ack_wait: streams/ has 7000000000"), "{line}");
    assert_eq!(doctor::summary(&checks), "18 checks, 1 with warnings");
    let mut worker = Process::worker(&world, &[("QUEUE_OVERRIDES", &other)]);
    worker.ready().await;
    assert!(worker.output().contains("streams/ has 7000000000"), "{}", worker.output());
    worker.terminate().await;
}

#[tokio::test]
async fn the_database_is_away_or_read_only_or_empty() {
    let (mut postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), QUICK).await;
    let checks = examine(&world, &[("DATABASE_URL", &postgres.url("template1"))]).await;
    let lines: Vec<String> = checks.iter().filter(|check| check.is_failure()).map(ToString::to_string).collect();
    assert!(
        lines[0].contains("schema: the schema `carebell` has no tables of Carebell — run `carebell migrate`"),
        "{lines:#?}"
    );
    assert!(lines[1].contains("care tables: there is no table or view users"), "{lines:#?}");
    assert_eq!(lines.len(), 2);

    world.sql("ALTER DATABASE postgres SET default_transaction_read_only = on").await;
    let checks = examine(&world, &[]).await;
    only_failure(&checks, Item::Database, &["read only", "primary"]);
    let checks = examine(&world, &[("DATABASE_URL", &postgres.url("no_such_database"))]).await;
    only_failure(&checks, Item::Database, &["DATABASE_URL: ", "SQLSTATE 3D000"]);

    postgres.stop().await;
    let since = Instant::now();
    let checks = examine(&world, &[]).await;
    only_failure(&checks, Item::Database, &["DATABASE_URL: ", "refused", "Postgres is up"]);
    assert!(since.elapsed() < Duration::from_secs(10), "a refusal is no reason to wait: {:?}", since.elapsed());
    let rest = [Item::Schema, Item::CareTables, Item::DatabasePermissions, Item::DatabaseClock];
    assert_not_checked(&checks, &rest, "the database is not reachable");
}

/// A role without more than its grants sees of standbys only that they are there.
#[tokio::test]
async fn a_server_that_may_lose_commits_is_warned_of() {
    let (postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), QUICK).await;
    let role = world.role_with("worker").await;
    let line = async |url: &str| check(&examine(&world, &[("DATABASE_URL", url)]).await, Item::Database).to_string();
    for url in [&world.database_url, &role.url] {
        assert!(line(url).await.starts_with("ok    "), "without standbys none lags");
    }
    let directory = guard::private_dir().unwrap();
    let standby = postgres.standby(directory.path(), "standby", postgres.port()).await.unwrap();
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    world.eventually("the standby streams", async || (world.count(streams).await == 1).then_some(())).await;
    for url in [&world.database_url, &role.url] {
        let line = line(url).await;
        assert!(line.starts_with("warn  ") && line.contains("its standbys are asynchronous"), "{line}");
        assert!(line.contains("synchronous_standby_names"), "{line}");
    }
    assert!(line(&standby.url("postgres")).await.contains("the server is read only, perhaps a standby"));

    postgres.configure("synchronous_standby_names", "standby").await.unwrap();
    let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    world.eventually("the standby is synchronous", async || (world.count(sync).await == 1).then_some(())).await;
    for url in [&world.database_url, &role.url] {
        let line = line(url).await;
        assert!(line.starts_with("ok    "), "{line}");
    }
    for (value, finding) in [("local", "synchronous_commit is local"), ("off", "synchronous_commit is off")] {
        world.sql(&format!("ALTER ROLE {} SET synchronous_commit = {value}", role.name)).await;
        let line = line(&role.url).await;
        assert!(line.starts_with("warn  ") && line.contains(finding), "{line}");
    }
}

#[tokio::test]
async fn care_tables_that_are_not_as_they_are_read() {
    let world = World::new().await;
    world.sql("ALTER TABLE medications RENAME COLUMN dosage TO dose").await;
    let checks = examine(&world, &[]).await;
    only_failure(&checks, Item::CareTables, &["medications has no column dosage", "migrations/care.sql"]);
    world.sql("ALTER TABLE medication_logs ALTER COLUMN scheduled_time TYPE timestamp").await;
    let checks = examine(&world, &[]).await;
    let words = "medication_logs.scheduled_time is timestamp without time zone, and must be timestamp with time zone";
    only_failure(&checks, Item::CareTables, &[words]);
    let mut worker = Process::worker(&world, &[("START_TIMEOUT", "1s")]);
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.output().contains("medications has no column dosage"), "{}", worker.output());
}

/// The scheduler reads views over the tables in `application`.
async fn a_shortage_is_found(world: &World) {
    world
        .sql(
            "INSERT INTO application.medications (id, care_recipient_id, name, dosage, current_supply, refill_at) \
             VALUES ('short', 'rose', 'X', '1 mg', 1, 2)",
        )
        .await;
    world.sql("NOTIFY carebell_care").await;
    world
        .eventually("the shortage is reported", async || {
            let told = "SELECT count(*) FROM refill_shortages s JOIN care_reminders c ON c.record_id = s.medication_id";
            (world.count(told).await == 1).then_some(())
        })
        .await;
}

/// The doctor asks for exactly the columns and privileges that a worker needs.
#[tokio::test]
async fn views_of_just_the_columns_and_a_role_of_just_the_privileges() {
    let world = World::with_overrides(&format!("{QUICK},notification_critical.rate=1000/s")).await;
    for statement in [
        "CREATE SCHEMA application",
        "ALTER TABLE users SET SCHEMA application",
        "ALTER TABLE family_members SET SCHEMA application",
        "ALTER TABLE care_recipients SET SCHEMA application",
        "ALTER TABLE medications SET SCHEMA application",
        "ALTER TABLE medication_schedules SET SCHEMA application",
        "ALTER TABLE medication_logs SET SCHEMA application",
        "ALTER TABLE appointments SET SCHEMA application",
        "ALTER TABLE caregiver_shifts SET SCHEMA application",
        "CREATE VIEW users AS SELECT id::varchar(40), email, phone, locale, timezone FROM application.users",
        "CREATE VIEW family_members AS SELECT family_id, user_id FROM application.family_members",
        "CREATE VIEW care_recipients AS SELECT id, family_id, name, timezone FROM application.care_recipients",
        "CREATE VIEW medications AS SELECT id, care_recipient_id, name, dosage, is_active, current_supply, refill_at \
         FROM application.medications",
        "CREATE VIEW appointments AS SELECT id, care_recipient_id, title, starts_at, location, status, \
         reminder_minutes FROM application.appointments",
        "CREATE VIEW caregiver_shifts AS SELECT id, care_recipient_id, user_id, starts_at, ends_at, status, \
         reminder_minutes FROM application.caregiver_shifts",
        "CREATE VIEW medication_schedules AS SELECT medication_id, times, weekdays, start_date, end_date, \
         reminder_minutes, status FROM application.medication_schedules",
        "CREATE VIEW medication_logs AS SELECT medication_id, scheduled_time, status FROM application.medication_logs",
    ] {
        world.sql(statement).await;
    }
    let role = world.role_with("worker").await;
    let as_role = [("DATABASE_URL", role.url.as_str())];
    let checks = examine(&world, &as_role).await;
    assert_eq!(doctor::summary(&checks), "18 checks, all ok", "{checks:#?}");

    let mut worker = Process::worker(&world, &as_role);
    worker.ready().await;
    world.remind("as-role").await;
    world.everyone_has_it_once("as-role").await;
    world.push.unsubscribe("dan");
    world.publish_json("jobs.reminder.medication", "again", &crate::support::reminder("metformin", utc_now())).await;
    let ledger = world.ledger("again").await;
    assert!(ledger.iter().any(|line| line.reason.as_deref() == Some("subscription_gone")), "{ledger:?}");
    assert_eq!(world.count("SELECT count(*) FROM push_subscriptions").await, 3);
    a_shortage_is_found(&world).await;
    // Due schedules, and the maintenance they publish.
    world.sql("UPDATE job_runs SET created_at = created_at - interval '100 days', updated_at = updated_at - interval '100 days'").await;
    world.make_due("").await;
    world.sql("NOTIFY carebell_schedules").await;
    let maintained = "SELECT count(*) FROM job_runs WHERE kind LIKE 'maintenance.%' AND state = 'done'";
    world.eventually("both are done", async || (world.count(maintained).await == 2).then_some(())).await;
    world.queues_are_empty().await;
    assert!(world.count("SELECT count(*) FROM rate_limits").await > 0, "a rate was held");
    assert!(!worker.output().contains("SQLSTATE"), "{}", worker.output());
    assert_eq!(worker.get("/health").await.0, 200);
    assert_eq!(worker.terminate().await.code(), Some(0));

    let name = &role.name;
    let own = "SELECT relname::text FROM pg_class WHERE relnamespace = 'carebell'::regnamespace AND relkind = 'r'";
    let own: Vec<String> = sqlx::query_scalar(own).fetch_all(&world.db).await.unwrap();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    for (privilege, tables) in role.grants.iter().filter(|(privilege, _)| privilege != "USAGE") {
        for table in tables.split(", ") {
            world.sql(&format!("REVOKE {privilege} ON {table} FROM {name}")).await;
            let checks = examine(&world, &as_role).await;
            let named = if own.contains(&table) { format!("carebell.{table}") } else { table.to_owned() };
            only_failure(&checks, Item::DatabasePermissions, &[&format!("lacks {privilege} on {named} —"), "GRANT"]);
            world.sql(&format!("GRANT {privilege} ON {table} TO {name}")).await;
        }
    }
    world.sql(&format!("REVOKE UPDATE ON deliveries FROM {name}")).await;
    let mut worker = Process::worker(&world, &as_role);
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.output().contains("lacks UPDATE on carebell.deliveries"), "{}", worker.output());
    world.sql(&format!("REVOKE USAGE ON SCHEMA carebell FROM {name}")).await;
    let checks = examine(&world, &as_role).await;
    let line = check(&checks, Item::DatabasePermissions).to_string();
    assert!(line.contains("lacks USAGE on SCHEMA carebell"), "{line}");
    role.drop(&world).await;
}

#[tokio::test]
async fn keys_and_configuration() {
    let world = World::new().await;
    let other = carebell::channels::web_push::generate_keys().unwrap();
    let checks = examine(&world, &[("VAPID_PUBLIC_KEY", &other.public)]).await;
    only_failure(&checks, Item::VapidKeys, &["VAPID_PUBLIC_KEY", "public half", "carebell keys generate"]);
    let checks = examine(&world, &[("VAPID_SUBJECT", "somebody")]).await;
    only_failure(&checks, Item::VapidKeys, &["VAPID_SUBJECT"]);
    let checks = examine(&world, &[("VAPID_PUBLIC_KEY", ""), ("VAPID_PRIVATE_KEY", "")]).await;
    assert_eq!(doctor::summary(&checks), "18 checks, 1 with warnings, 1 not checked");
    let line = check(&checks, Item::VapidKeys).to_string();
    assert!(line.starts_with("warn  VAPID keys: ") && line.contains("carebell keys generate"), "{line}");

    // All mistakes are reported at once, and the other checks still run.
    let wrong = [("HEALTH_PORT", "many"), ("APP_URL", "s3cret"), ("LOG_FORMAT", "xml"), ("DATABASE_URL", "s3cret")];
    let (well, said, error) = carebell(&world, &["doctor", "--offline"], &wrong).await;
    assert!(!well && !(said.clone() + &error).contains("s3cret"), "{said}{error}");
    for variable in wrong.map(|(variable, _)| variable) {
        assert!(said.lines().next().unwrap().contains(variable), "{said}");
    }
    assert!(said.contains("-     database: not checked: DATABASE_URL is not valid"), "{said}");
    assert!(said.contains("-     VAPID keys: not checked: APP_URL is not valid"), "{said}");
    assert!(said.contains("ok    streams: "), "{said}");
}

#[tokio::test]
async fn push_services_that_cannot_be_reached() {
    let world = World::new().await;
    let hosts = format!("{},localhost:1", world.push.host_port());
    let checks = examine(&world, &[("WEB_PUSH_ALLOWED_HOSTS", &hosts)]).await;
    only_failure(&checks, Item::PushEgress, &["localhost:1: no connection", "WEB_PUSH_ALLOWED_HOSTS"]);
    let checks = examine(&world, &[("WEB_PUSH_CA_FILE", "")]).await;
    only_failure(&checks, Item::PushEgress, &["certificate", "WEB_PUSH_CA_FILE"]);
    assert_eq!(doctor::at_start(&checks), Ok(()), "a worker goes on");
}

#[tokio::test]
async fn mail_servers_are_signed_in_to() {
    let world = World::new().await;
    let mut server = SmtpServer::start(Protection::StartTls, Some(("ops", "s3cret"))).await.unwrap();
    let ca_file = world.directory.path().join("mail-server.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let ca_file = ca_file.display().to_string();
    let variables = |url: String, ca_file: &str| {
        [("SMTP_URL", url), ("SMTP_FROM", "care@example.org".into()), ("SMTP_CA_FILE", ca_file.to_owned())]
    };
    let examine = async |url: String, ca_file: &str| {
        let variables = variables(url, ca_file);
        examine(&world, &variables.each_ref().map(|(name, value)| (*name, value.as_str()))).await
    };
    let checks = examine(server.url(), &ca_file).await;
    assert_eq!(doctor::summary(&checks), "19 checks, all ok");
    assert_eq!(check(&checks, Item::MailServers).to_string(), "ok    mail servers: localhost reachable");
    assert_eq!((server.counts().connections, server.counts().transactions), (1, 0), "no mail is sent");

    let checks = examine(server.url_of(Some(("ops", "wr0ng"))), &ca_file).await;
    only_failure(&checks, Item::MailServers, &["localhost: the server answered 535 5.7.8 to AUTH", "SMTP_URL"]);
    assert!(!format!("{checks:?}").contains("wr0ng"));
    assert_eq!(doctor::at_start(&checks), Ok(()), "a worker goes on");
    let checks = examine(server.url(), "").await;
    only_failure(&checks, Item::MailServers, &["localhost: no connection: invalid peer certificate", "SMTP_CA_FILE"]);
    server.stop().await;
    let checks = examine(server.url(), &ca_file).await;
    only_failure(&checks, Item::MailServers, &["localhost: no connection: Connection refused", "allow the connection"]);

    // One of two servers suffices.
    server.start_again().await.unwrap();
    let checks = examine(format!("{},smtp://localhost:1", server.url()), &ca_file).await;
    let line = check(&checks, Item::MailServers).to_string();
    assert!(line.starts_with("warn  mail servers: localhost:1: no connection") && line.contains("the other"), "{line}");
    let checks = examine("smtps://mail.example.org/s3cret".into(), &ca_file).await;
    only_failure(&checks, Item::Configuration, &["SMTP_URL has more than a port after the host"]);
    assert_not_checked(&checks, &[Item::MailServers], "SMTP_URL is not valid");
    assert_eq!(server.violations(), [""; 0]);
}

#[tokio::test]
async fn clocks_that_are_apart() {
    let world = World::new().await;
    // The clock stands still, so the examination adds to the skew.
    for (skew, side) in [(60, "behind"), (-60, "ahead of")] {
        let clock = Clock::manual(utc_now() + TimeDelta::seconds(skew));
        let checks = examine_at(&world, &[], &clock).await;
        let failed: Vec<Item> = checks.iter().filter(|check| check.is_failure()).map(|check| check.item).collect();
        assert_eq!(failed, [Item::NatsClock, Item::DatabaseClock]);
        for item in failed {
            let line = check(&checks, item).to_string();
            assert!(line.contains(side) && line.contains("synchronise"), "{line}");
        }
        assert_eq!(doctor::at_start(&checks), Ok(()), "a worker says so and goes on");
    }
}
