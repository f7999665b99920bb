//! The Helm chart: its values match the variables, and its permissions suffice. `helm/check` tests the rest.

use std::{collections::BTreeSet, fs, path::Path};

use carebell::{
    clock::Clock,
    config,
    dead_letter::sweep,
    dev::{guard, nats::NatsServer, push_service::Behaviour},
    effects::Effects,
    health::Health,
    streams::{Adjustments, Streams},
};
use chrono::TimeDelta;
use serde_json::Value;

use crate::{
    cli::carebell,
    support::{QUICK, World, database, peek, programs, utc_now},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Set in pods of a service account that has a role of the cloud.
const FROM_THE_CLUSTER: [&str; 4] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
];

/// Variables set from values of other names.
const FROM_OTHER_VALUES: [&str; 4] = ["GATEWAY_PORT", "PUBLIC_URL", "PUBLIC_PORT", "TEMPLATES_DIR"];

fn keys(schema: &Value, path: &str) -> BTreeSet<String> {
    let group = schema.pointer(path).and_then(Value::as_object).unwrap_or_else(|| panic!("{path}"));
    group.keys().cloned().collect()
}

/// Add a new variable to `helm/carebell/values.schema.json`: secrets to `secret.values`, names of files to `files`,
/// others to `config`; the console's own to `admin.secret`, `admin.files` and `admin.config`. `helm/docs` does the rest.
#[test]
fn every_variable_can_be_set() {
    let text = fs::read_to_string(Path::new(ROOT).join("helm/carebell/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let config = keys(&schema, "/properties/config/properties");
    let secret = keys(&schema, "/properties/secret/properties/values/properties");
    let files = keys(&schema, "/properties/files/properties");
    let console = |group: &str| keys(&schema, &format!("/properties/admin/properties/{group}/properties"));
    let config = &config | &console("config");
    let secret = &secret | &console("secret");
    let files = &files | &console("files");
    let mut known: BTreeSet<String> = [&config, &secret, &files].into_iter().flatten().cloned().collect();
    known.extend(FROM_OTHER_VALUES.into_iter().chain(FROM_THE_CLUSTER).map(str::to_owned));

    let variables = config::VARIABLES.iter().map(|(variable, _)| (*variable).to_owned());
    let wanted: BTreeSet<String> = variables.filter(|variable| !variable.starts_with("CAREBELL_")).collect();
    assert_eq!(known, wanted);

    for (variable, form) in config::VARIABLES.iter().filter(|(variable, _)| !FROM_THE_CLUSTER.contains(variable)) {
        let is_path = form.starts_with("the path of ") && !form.contains("directory");
        assert_eq!(files.contains(*variable), is_path, "{variable} belongs in `files` exactly if it names a file");
        let is_a_password = ["PRIVATE", "_TOKEN", "_SECRET", "_ACCESS_KEY"].iter().any(|word| variable.contains(word));
        let holds_a_password = form.contains("password@") || form.contains("AuthToken@") || is_a_password;
        assert_eq!(secret.contains(*variable), holds_a_password, "{variable} is secret exactly if it holds a password");
        let in_the_open = config.contains(*variable) && *variable != "NATS_URL";
        assert!(!(in_the_open && holds_a_password), "{variable}");
    }
}

/// KEDA's triggers and NACK's resources are made from these files.
#[test]
fn the_chart_has_the_files_of_streams() {
    let link = Path::new(ROOT).join("helm/carebell/streams");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("../../streams"));
}

fn permissions(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join("helm/carebell/nats").join(name)).unwrap()
}

/// For worker and producer see `doctor.rs` and `producers.rs`.
#[tokio::test]
async fn the_users_of_setup_and_of_operators_have_enough() {
    let users: String = ["setup", "operator"]
        .map(|name| {
            let permissions = permissions(&format!("{name}.conf"));
            format!("{{ user: {name}, password: x, permissions: {{\n{permissions}\n}} }}\n")
        })
        .concat();
    let directory = guard::private_dir().unwrap();
    let config = format!("authorization {{ users: [\n{users}] }}\n");
    let empty = NatsServer::start_with(&programs().await.nats_server, directory.path(), &config).await.unwrap();

    // A server without streams, and one with all.
    let config = format!("no_auth_user: test\nauthorization {{ users: [ {{user: test, password: test}}\n{users}] }}\n");
    let world = World::on_both(database().await, &config, QUICK).await;
    let as_user = |name: &str, port: u16| format!("nats://{name}:x@127.0.0.1:{port}");
    for port in [empty.port(), world.nats.port()] {
        for args in [["streams", "apply"], ["streams", "check"]] {
            let (well, said, error) = carebell(&world, &args, &[("NATS_URL", &as_user("setup", port))]).await;
            assert!(well && !error.contains("iolation"), "{args:?}: {said}{error}");
        }
    }

    for number in 1..=3 {
        world.publish("jobs.notification.normal", &[("Carebell-Job-Id", &format!("broken-{number}"))], "x").await;
    }
    // No consumer covers this unknown kind, so the sweep takes it.
    world.publish("jobs.unheard.of", &[("Carebell-Job-Id", "unheard")], "x").await;
    let effects = Effects::start(&world.store, world.context.clone(), Clock::system(), &Health::new());
    let streams = Streams::embedded(&Adjustments::default()).unwrap();
    let clock = Clock::manual(utc_now() + TimeDelta::minutes(2));
    assert_eq!(sweep::pass(&effects, &streams, &clock, sweep::AGE).await.unwrap(), 1);
    world.push.behave_always("dan", Some(Behaviour::status(400)));
    world.remind("done").await;
    let worker = crate::support::Worker::start(&world);
    world.dead_letters_once(5).await;
    world.queues_are_empty().await;
    let role = world.role_with("operator").await;
    let (url, database) = (as_user("operator", world.nats.port()), role.url.as_str());
    let body = r#"{"recipients":[{"userId":"ana"}],"title":"Tea"}"#;
    let commands: [&[&str]; 35] = [
        &["queues", "list"],
        &["streams", "check"],
        &["dead-letters", "list"],
        &["dead-letters", "show", "1"],
        &["publish", "notification", "--job-id", "tea", "--delay", "1h", "--json", body],
        &["jobs", "delayed"],
        &["jobs", "list", "--user", "ana"],
        &["queues", "show", "notification_normal"],
        &["workers", "list"],
        &["jobs", "show", "tea"],
        &["jobs", "show", "done"],
        &["jobs", "cancel", "tea"],
        &["queues", "pause", "notification", "--reason", "tried", "--until", "1h"],
        &["queues", "pause", "--channel", "sms", "--reason", "tried"],
        &["publish", "notification", "--job-id", "waits", "--json", body],
        &["jobs", "cancel", "waits"],
        &["publish", "notification", "--job-id", "emptied", "--json", body],
        &["queues", "empty", "notification_normal", "--count", "5", "--reason", "tried"],
        &["operations", "list"],
        &["operations", "show", "1"],
        &["queues", "resume", "notification"],
        &["queues", "resume", "--channel", "sms"],
        &["jobs", "retry", "done", "--dry-run"],
        &["operations", "preview", "retry"],
        &["dead-letters", "redrive", "1"],
        &["dead-letters", "discard", "broken-3", "--yes"],
        &["operations", "start", "retry", "--died-of", "undecodable", "--count", "5", "--reason", "tried"],
        &["dead-letters", "redrive", "--all", "--rate", "50/s"],
        &["publish", "notification", "--job-id", "now", "--json", body],
        &["schedules", "list"],
        &["schedules", "run-now", "carebell.prune"],
        &["schedules", "add", "tea", "--cron", "@every 1h", "--tz", "UTC", "--kind", "notification", "--json", body],
        &["schedules", "pause", "tea"],
        &["schedules", "resume", "tea"],
        &["schedules", "delete", "tea"],
    ];
    for args in commands {
        let (well, said, error) = carebell(&world, args, &[("NATS_URL", &url), ("DATABASE_URL", database)]).await;
        assert!(well && !error.contains("iolation") && !error.contains("note:"), "{args:?}: {said}{error}");
        if args[0] == "publish" && args[3] == "tea" {
            let parked = async || (peek(&world.context, "HOLD", "hold.at.JOBS.>").await == 1).then_some(());
            world.eventually("it is parked", parked).await;
        }
    }
    worker.stop().await;
    let (well, _, error) = carebell(&world, &["streams", "apply"], &[("NATS_URL", &url)]).await;
    assert!(!well, "an operator does not change streams: {error}");
    role.drop(&world).await;
}
