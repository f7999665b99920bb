//! The gateway runs with the permissions of `helm/servers/gateway.sql` and `helm/carebell/nats/gateway.conf`, and no
//! more; and with several applications, each token is one application's.

use carebell::streams::{Adjustments, Application, Streams};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Door, Process, QUICK, World, database, pool},
};

const GATEWAY_CONF: &str = include_str!("../../helm/carebell/nats/gateway.conf");

/// Two applications: `care`, with all kinds, and `board`, with notifications only.
const ACCOUNTS: &str = include_str!("../../helm/carebell/nats/accounts.conf");
const APPLICATIONS: &str = "care=reminder.* alert.* notification,board=notification";

fn job(id: &str) -> Value {
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News", "channels": ["CHANNEL_IN_APP"] });
    json!({ "kind": "notification", "jobId": id, "job": news })
}

/// All that the gateway does, over NATS and in the database.
async fn uses(world: &World, door: &Door) {
    let mut later = job("later");
    later["delay"] = "1h".into();
    for job in [&job("a"), &later, &job("queued")] {
        assert_eq!(door.post(job).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(door.get("/v1/jobs/a?wait=30s").await.body["state"], "done");
    world.sql("UPDATE gateway_tokens SET last_used_at = now() - interval '1 hour'").await;
    assert_eq!(door.delete("later").await.status, StatusCode::OK);
    assert_eq!(door.get("/v1/jobs/later").await.body["state"], "cancelled");
}

#[tokio::test]
async fn the_gateway_needs_no_more_than_its_role_and_its_user() {
    let config = format!(
        "no_auth_user: test\nauthorization {{ users: [\n {{ user: test, password: test }}\n \
         {{ user: gateway, password: x, permissions: {{\n{GATEWAY_CONF}\n}} }}\n] }}\n"
    );
    let world = World::on_both(database().await, &config, QUICK).await;
    let role = world.role_with("gateway").await;
    let nats = format!("nats://gateway:x@127.0.0.1:{}", world.nats.port());
    let rights = [("DATABASE_URL", role.url.as_str()), ("NATS_URL", &nats)];
    let door = Door::with(&world, &rights).await;
    assert_eq!(door.post(&job("taken-back")).await.status, StatusCode::ACCEPTED);
    assert_eq!(door.delete("taken-back").await.status, StatusCode::OK, "cancelled by its row");
    let mut worker = Process::worker(&world, &[]);
    uses(&world, &door).await;

    let prune = "DELETE FROM gateway_jobs WHERE job_id IN (SELECT job_id FROM gateway_jobs WHERE keep_until < now() \
                 ORDER BY keep_until LIMIT 1 FOR UPDATE SKIP LOCKED)";
    let own = pool(&role.url);
    sqlx::query(prune).execute(&own).await.unwrap();
    for beyond in [
        "INSERT INTO gateway_tokens SELECT * FROM gateway_tokens",
        "UPDATE gateway_tokens SET kinds = '{}'",
        "SELECT title FROM notifications",
        "SELECT body FROM contents",
        "SELECT hash FROM admin_tokens",
        "SELECT name FROM users",
        "DELETE FROM job_runs",
    ] {
        let refused = sqlx::query(beyond).execute(&own).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{beyond}: {refused}");
    }
    let (well, _, error) = carebell(&world, &["gateway", "tokens", "revoke", "test"], &rights[..1]).await;
    assert!(!well && error.contains("42501"), "a stolen gateway makes and revokes no tokens: {error}");
    assert!(!door.process.says("iolation"), "{}", door.process.output());
    drop((door, own));
    assert_eq!(worker.terminate().await.code(), Some(0));
    role.drop(&world).await;
}

#[tokio::test]
async fn a_token_is_of_one_application_whatever_a_request_says() {
    let mut config = ACCOUNTS.replacen("users: [", "users: [ { user: test, password: x }", 1);
    for user in ["SETUP", "WORKER", "OPS", "ADMIN", "GATEWAY", "CARE", "BOARD"] {
        config = config.replace(&format!("${user}_PASSWORD"), "x");
    }
    let world = World::on_both(database().await, &format!("no_auth_user: test\n{config}"), QUICK).await;
    let adjustments = Adjustments {
        applications: APPLICATIONS.split(',').map(|text| Application::parse(text).unwrap()).collect(),
        ..crate::support::adjustments(QUICK)
    };
    Streams::embedded(&adjustments).unwrap().apply(&world.context).await.unwrap();
    let user = |user: &str| format!("nats://{user}:x@127.0.0.1:{}", world.nats.port());
    let mut worker = Process::worker(&world, &[("APPLICATIONS", APPLICATIONS), ("NATS_URL", &user("worker"))]);
    let token = async |name: &str, kinds: &str| {
        let args = ["--application", name, "--kinds", kinds];
        Door::token(&world, name, &args, &[("APPLICATIONS", APPLICATIONS)]).await
    };
    let (care, board) = (token("care", "reminder.*,notification").await, token("board", "notification").await);
    let settings = [("APPLICATIONS", APPLICATIONS), ("NATS_URL", &user("gateway"))];
    let mut door = Door::with_token(&world, &settings, care.clone()).await;
    uses(&world, &door).await;
    assert_eq!(world.ended("~care~a").await.0, "done");

    door.token = board;
    for id in ["a", "~care~a", "later", "~care~later"] {
        assert_eq!(door.get(&format!("/v1/jobs/{id}")).await.status, StatusCode::NOT_FOUND, "{id}");
        assert_eq!(door.delete(id).await.status, StatusCode::NOT_FOUND, "{id}");
    }
    let named = door.json(job("a").to_string()).header("Carebell-Application", "care");
    assert_eq!(crate::support::answer(named).await.status, StatusCode::ACCEPTED);
    let mut named = job("b");
    named["application"] = "care".into();
    assert_eq!(door.post(&named).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(world.ended("~board~a").await.0, "done");
    assert_eq!(door.get("/v1/jobs/a").await.body["jobId"], "a");
    let reminder = json!({ "kind": "reminder.medication", "job": {} });
    assert_eq!(door.post(&reminder).await.status, StatusCode::FORBIDDEN);
    for (args, expected) in [
        (&["--kinds", "notification"][..], "--application must be one of care, board"),
        (&["--kinds", "reminder.*", "--application", "board"], "no kind that it may publish"),
    ] {
        let args = [&["gateway", "tokens", "add", "x"], args].concat();
        let (well, _, error) = carebell(&world, &args, &[("APPLICATIONS", APPLICATIONS)]).await;
        assert!(!well && error.contains(expected), "{error}");
    }
    // An application that there is no more.
    let settings = [("APPLICATIONS", "board=notification"), ("NATS_URL", &user("gateway"))];
    let later = Door::with_token(&world, &settings, care).await;
    assert_eq!(later.post(&job("c")).await.status, StatusCode::FORBIDDEN);
    assert!(!door.process.says("iolation"), "{}", door.process.output());
    assert_eq!(worker.terminate().await.code(), Some(0));
}
