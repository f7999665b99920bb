//! The most common mistakes of producers, and what each client says of them.

use std::{fs, path::Path, process::Stdio};

use serde_json::json;
use tokio::process::Command;

use crate::support::{Node, Python, Worker, World, reminder, utc_now};

type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], String, &'a str);

#[tokio::test]
async fn the_most_common_mistakes_are_named_with_path_and_expectation() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    let notification = |field: &str, value: serde_json::Value| {
        let mut job = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" });
        job[field] = value;
        job.to_string()
    };
    let mut without_offset = reminder("metformin", utc_now());
    without_offset["scheduledTime"] = json!("2027-03-01T09:00:00");
    let json = [("Content-Type", "application/json")];
    let misspelt = [json[0], ("Carebell-Job-ID", "x")];
    let spelt = [("Content-Type", "Application/JSON; Charset=\"utf-8\"; profile=x")];
    let notify = [json[0], ("Carebell-Notify", "don")];
    let normal = "jobs.notification.normal";
    // Subject, headers, body and the error.
    let cases: [Case; 10] = [
        (normal, &json, notification("channels", json!(["text"])), "`channels[0]` must be one of in_app, web_push"),
        (normal, &json, notification("channels", json!(["SMS"])), "did you mean sms?"),
        (normal, &json, notification("title", json!(7)), "`title` must be a string"),
        (
            normal,
            &json,
            notification("recipients", json!([{ "userId": 7 }])),
            "`recipients[0].userId` must be a string",
        ),
        (normal, &json, notification("titel", json!("x")), "did you mean `title`?"),
        (
            "jobs.reminder.medication",
            &json,
            without_offset.to_string(),
            "`scheduledTime` lacks an offset: it must be an instant in RFC 3339",
        ),
        (normal, &[], notification("title", json!("x")), "set the header Content-Type: application/json"),
        // A media type has parameters, in any case.
        (normal, &spelt, notification("title", json!(7)), "`title` must be a string"),
        (normal, &notify, notification("title", json!("x")), "there is no don; did you mean done?"),
        (normal, &misspelt, notification("title", json!("x")), "Carebell-Job-ID; did you mean Carebell-Job-Id?"),
    ];
    for (number, (subject, headers, body, expected)) in cases.into_iter().enumerate() {
        let id = format!("case-{number}");
        let own = [("Nats-Msg-Id", id.as_str())];
        world.publish(subject, &[headers, &own].concat(), body).await;
        let letters = world.dead_letters_once(number + 1).await;
        let (_, headers, _) = letters.last().unwrap();
        let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    worker.stop().await;
}

async fn said(url: &str, mut client: Command) -> String {
    let output = client.env("NATS_URL", url).stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const NODE: &str = r#"
import { connect } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
const nc = await connect({ servers: process.env.NATS_URL });
try { await jetstream(nc).publish("job.reminder.medication", "x", { timeout: 1000 }); }
catch (error) { console.log(`${error.name}: ${error.message}`); }
await nc.close();
"#;

const PYTHON: &str = r#"
import asyncio, os, nats
async def main():
    nc = await nats.connect(os.environ["NATS_URL"])
    try:
        await nc.jetstream().publish("job.reminder.medication", b"x", timeout=1)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    await nc.close()
asyncio.run(main())
"#;

#[tokio::test]
async fn the_words_of_each_client_for_a_wrong_subject_are_documented() {
    let world = World::new().await;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PRODUCERS.md")).unwrap();
    let url = world.nats.url();
    let mut words = Vec::new();
    if let Some(node) = Node::find() {
        words.push(said(&url, node.evaluate(NODE, &[])).await);
    }
    if let Some(python) = Python::find() {
        let file = world.directory.path().join("wrong.py");
        fs::write(&file, PYTHON).unwrap();
        words.push(said(&url, python.run(&file)).await);
    }
    let missing: Vec<_> = words.iter().filter(|words| !page.contains(&format!("`{words}`"))).collect();
    assert!(missing.is_empty(), "docs/PRODUCERS.md lacks {missing:?}");
}
