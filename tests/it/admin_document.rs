//! The console's `OpenAPI` document, tried against what is served: each operation, with what it allows and what it does not.

use std::path::Path;

use chrono::TimeDelta;
use serde_json::json;
use tokio::process::Command;

use crate::support::{ADMIN_TOKEN, Console, Worker, World, not_checked, python_packages, utc_now};

/// Of what is tried: the same each time.
const SEED: &str = "17";

/// What answers must be: documented in status, type and schema, never an error of the server, and refusals of what is wrong.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,\
                      allow_header_conformance,use_after_free";

#[tokio::test]
async fn each_operation_answers_as_the_document_says() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/schemathesis");
    let Some(packages) = python_packages(&place.join("requirements.txt")) else {
        not_checked("without Python the OpenAPI document is not tried");
        return;
    };
    let world = World::new().await;
    let worker = Worker::start(&world);
    let console = Console::start(&world).await;
    // What the examples of the document name.
    world.remind("dose-17").await;
    world.everyone_has_it_once("dose-17").await;
    world
        .sql(
            "INSERT INTO operations (act, filter, counted, reason, actor, state, ended_at, started_at, updated_at) \
             VALUES ('retry', '{}', 1, 'tried', 'ana', 'done', now(), now(), now())",
        )
        .await;
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken")], "not protobuf").await;
    let later = (utc_now() + TimeDelta::hours(1)).to_rfc3339();
    let delayed = [("Carebell-Job-Id", "later"), ("Carebell-At", &*later), ("Content-Type", "application/json")];
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish("jobs.later.notification.normal", &delayed, news.to_string()).await;
    world.dead_letters_once(1).await;
    let document = format!("{}/admin/api/v1/openapi.json", console.url);
    let ran = Command::new("python3")
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(world.directory.path())
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(place.join("schemathesis.toml"))
        .args(["run", &document, "--seed", SEED, "--checks", CHECKS, "--continue-on-failure", "--warnings", "off"])
        .args(["--header", &format!("Authorization: Bearer {ADMIN_TOKEN}")])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let served = console.get("/openapi.json").await.body;
    let paths = served["paths"].as_object().unwrap().values();
    let all: usize = paths.map(|path| path.as_object().unwrap().len()).sum();
    assert!(said.contains(&format!("Selected: {all}/{all}")) && said.contains(&format!("Tested: {all}")), "{said}");
    for act in ["job.published", "queue.paused", "channel.paused", "schedule.run_now", "dead_letter.redriven"] {
        let acts = format!("SELECT count(*) FROM audit_log WHERE action = '{act}'");
        assert!(world.count(&acts).await > 0, "no example came as far as {act}: {said}");
    }
    assert!(!console.output().contains("unexpected answer"), "{}", console.output());
    worker.stop().await;
}
