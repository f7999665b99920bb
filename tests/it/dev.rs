//! `carebell dev` runs the whole product and leaves nothing behind.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::{LIMIT, programs};

fn carebell() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carebell"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn processes(text: &str) -> Vec<String> {
    let list = Command::new("ps").args(["-eo", "pid=,args="]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    list.lines().filter(|line| line.contains(text) && !line.contains("<defunct>")).map(str::to_owned).collect()
}

#[tokio::test]
async fn one_command_shows_a_reminder_arrive_by_every_way_and_an_outage_of_one() {
    programs().await;
    let output =
        tokio::task::spawn_blocking(|| { carebell().args(["dev", "--once", "--json", "--outage"]).output() }.unwrap());
    let output = output.await.unwrap();
    let story = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{story}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = [
        ("reminders", 1),
        ("inbox_rows", 4),
        ("pushes_sent", 4),
        ("pushes_decrypted", 4),
        ("duplicates", 0),
        ("mails", 1),
        ("texts", 1),
        ("webhooks", 1),
    ];
    for (field, value) in expected {
        assert_eq!(summary[field], value, "{field} in {summary}");
    }
    assert!(summary["elapsed_ms"].as_u64().unwrap() >= 2000, "the dose is due after two seconds: {summary}");
    for step in [
        "published",
        "reminder.medication",
        "notification",
        "deliver.web_push",
        "push arrived",
        "Ana reads",
        "mail arrived",
        "text arrived",
        "webhook called",
        "is down, its deliveries wait",
    ] {
        assert!(story.contains(step), "the story lacks {step}:\n{story}");
    }
    assert!(story.contains("20 checks, all ok"), "{story}");
    // In the trace, each span is indented below its parent.
    let tree: Vec<(usize, &str)> = story
        .lines()
        .filter_map(|line| line.trim_start().split_once(" ms  "))
        .map(|(_, span)| (span.len() - span.trim_start().len(), span.trim_start()))
        .collect();
    for (depth, name, least) in [
        (0, "send jobs.later.reminder.medication ", 1),
        (2, "process jobs.reminder.medication ", 1),
        (4, "process work.notification.critical ", 1),
        (6, "process deliver.web_push.critical ", 4),
        (8, "process deliver.email.critical ", 1),
        (8, "POST ", 4),
        (10, "POST ", 2),
        (10, "send mail ", 1),
    ] {
        let found = tree.iter().filter(|(indent, span)| *indent == depth && span.starts_with(name)).count();
        assert!(found >= least, "{found} of {name} at {depth}:\n{story}");
    }
    let outage = &summary["outage"];
    assert_eq!(
        (&outage["texts_arrived"], &outage["breaker_opened"]),
        (&outage["texts"], &Value::Bool(true)),
        "{outage}"
    );
    for way in ["push", "mail", "webhook"] {
        let times = [&outage[format!("{way}_ms_before")], &outage[format!("{way}_ms_during")]];
        assert!(times.iter().all(|ms| ms.as_u64().is_some_and(|ms| ms > 0)), "{way}: {outage}");
    }
}

/// Kills the demo even if the test fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn nothing_is_left_when_it_is_killed() {
    programs().await;
    let mut dev = Ended(carebell().args(["dev"]).spawn().unwrap());
    let mut told = std::io::BufReader::new(dev.0.stdout.take().unwrap());
    // The invitation names the servers' directory.
    let directory = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while std::io::BufRead::read_line(&mut told, &mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once("  . ") {
                return (rest.split("/env").next().unwrap().to_owned(), told);
            }
            line.clear();
        }
        panic!("it ended without an invitation");
    });
    let (directory, _told) = tokio::time::timeout(LIMIT, directory).await.unwrap().unwrap();
    assert!(directory.contains("carebell-"), "{directory}");
    assert!(processes(&directory).len() >= 2, "nats-server and postgres: {:?}", processes(&directory));
    let examine = format!(". {directory}/env && exec \"$0\" doctor --offline");
    let examined = Command::new("sh").args(["-c", &examine, env!("CARGO_BIN_EXE_carebell")]).output().unwrap();
    let lines = String::from_utf8_lossy(&examined.stdout).into_owned();
    assert!(examined.status.success() && lines.lines().filter(|line| line.starts_with("ok ")).count() == 17, "{lines}");
    let publish = format!(
        ". {directory}/env && curl -s -o {directory}/answer -w '%{{http_code}}' -H \"Authorization: Bearer $GATEWAY_TOKEN\" \
         -H 'Content-Type: application/json' \"$GATEWAY_URL/v1/jobs\" \
         -d '{{\"kind\":\"notification\",\"job\":{{\"recipients\":[{{\"userId\":\"ana\"}}],\"title\":\"Hello\"}}}}'"
    );
    let published = Command::new("sh").args(["-c", &publish]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&published.stdout), "202", "the gateway is served");
    drop(dev);
    let since = Instant::now();
    while !processes(&directory).is_empty() || std::path::Path::new(&directory).exists() {
        assert!(since.elapsed() < Duration::from_mins(1), "left behind: {:?}", processes(&directory));
        sleep(Duration::from_millis(20)).await;
    }
}
