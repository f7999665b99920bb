//! The console runs with the permissions of `helm/servers/admin.sql` and `helm/carebell/nats/admin.conf`, and no more.

use std::time::Duration;

use reqwest::{Method, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use crate::{
    cli::carebell,
    support::{ADMIN_TOKEN, Console, QUICK, Worker, World, database},
};

const ADMIN_CONF: &str = include_str!("../../helm/carebell/nats/admin.conf");

#[tokio::test]
async fn the_console_needs_no_more_than_its_role_and_its_user() {
    let config = format!(
        "no_auth_user: test\nauthorization {{ users: [\n {{ user: test, password: test }}\n \
         {{ user: admin, password: x, permissions: {{\n{ADMIN_CONF}\n}} }}\n] }}\n"
    );
    let world = World::on_both(database().await, &config, QUICK).await;
    let worker = Worker::start(&world);
    world.remind("seen").await;
    world.everyone_has_it_once("seen").await;
    let role = world.role_with("admin").await;
    let nats = format!("nats://admin:x@127.0.0.1:{}", world.nats.port());
    let console = Console::with(&world, &[("DATABASE_URL", &role.url), ("NATS_URL", &nats)]).await;
    let token = console.token(&world, "ana", "operator").await;
    for _ in 0..2 {
        assert_eq!(console.api(Method::GET, "/jobs/seen", &token, None).await.status, StatusCode::OK);
        // So that its next use is noted too.
        world.sql("UPDATE admin_tokens SET last_used_at = now() - interval '1 hour'").await;
    }
    let cookie = console.sign_in(&token).await;
    world.sql("UPDATE admin_sessions SET seen_at = now() - interval '30 minutes'").await;
    assert_eq!(console.page("/console", &cookie).await.0, StatusCode::OK);
    let seen = "SELECT count(*) FROM admin_sessions WHERE seen_at > now() - interval '1 minute'";
    assert_eq!(world.count(seen).await, 1, "its use is noted");
    let out = console.submit("/console/sign-out", &cookie, &[]).send().await.unwrap();
    assert_eq!(out.status(), StatusCode::SEE_OTHER);

    for beyond in ["INSERT INTO admin_tokens SELECT * FROM admin_tokens", "SELECT title FROM notifications"] {
        let refused = sqlx::query(beyond).execute(&crate::support::pool(&role.url)).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
    let (well, _, error) = carebell(&world, &["tokens", "revoke", "ana"], &[("DATABASE_URL", &role.url)]).await;
    assert!(!well && error.contains("42501"), "a stolen console makes and revokes no tokens: {error}");
    assert!(!console.process.output().contains("iolation"), "{}", console.process.output());
    drop(console);
    worker.stop().await;
    role.drop(&world).await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cancelled_and_told() {
    let world = World::new().await;
    let console = Console::start(&world).await;
    let mut blocking = world.db.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_runs IN ACCESS EXCLUSIVE MODE").execute(&mut *blocking).await.unwrap();
    let since = tokio::time::Instant::now();
    let slow = console.get("/jobs/any").await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(
        (slow.status, &slow.body["type"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("urn:carebell:problem:unavailable"))
    );
    assert!(slow.body["detail"].as_str().unwrap().contains("took too long"), "{}", slow.body);
    assert!(slow.headers.contains_key(RETRY_AFTER));
    blocking.rollback().await.unwrap();
    assert_eq!(console.api(Method::GET, "/jobs/any", ADMIN_TOKEN, None).await.status, StatusCode::NOT_FOUND);
}
