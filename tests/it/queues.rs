//! `carebell queues list`.

use serde_json::{Value, json};

use crate::{cli::carebell, support::World};

#[tokio::test]
async fn each_queue_is_shown_with_its_policy_and_what_waits_in_it() {
    let world = World::with_overrides("notification_bulk.attempts=7").await;
    world.remind("dose").await;
    let (well, said, error) = carebell(&world, &["queues", "list", "--json"], &[]).await;
    assert!(well, "{error}");
    let said: Value = serde_json::from_str(&said).unwrap();
    let queue = |name: &str| {
        let queues = said["queues"].as_array().unwrap();
        queues.iter().find(|queue| queue["queue"] == name).unwrap_or_else(|| panic!("no {name} in {said}")).clone()
    };
    let medication = queue("reminder_medication");
    let expected = [
        ("stream", json!("JOBS")),
        ("streams", json!(["JOBS", "WORK"])),
        ("subject", json!("jobs.reminder.medication")),
        ("waiting", json!(1)),
        ("in_flight", json!(0)),
        ("pulls", json!(0)),
        ("attempts", json!(2)),
        ("backoff", json!("fixed 5m")),
        ("jitter_percent", json!(20.0)),
        ("timeout_s", json!(300.0)),
        ("concurrency", json!(200)),
        ("max_attempts", json!(10)),
        ("ack_wait_s", json!(30.0)),
    ];
    for (key, value) in expected {
        assert_eq!(medication[key], value, "{key}");
    }
    assert!(medication["oldest_waiting_s"].as_u64().unwrap() < 60);
    assert_eq!(queue("notification_bulk")["attempts"], 7, "overrides count");
    assert_eq!(queue("deliver_web_push_critical")["oldest_waiting_s"], Value::Null);
    assert!(!said["queues"].to_string().contains("advisories"), "not a queue of jobs");
    assert_eq!(said["streams"][1], json!({ "stream": "DEAD_LETTERS", "messages": 0 }));

    let (_, table, _) = carebell(&world, &["queues", "list"], &[]).await;
    let line = table.lines().find(|line| line.starts_with("reminder_medication")).unwrap();
    assert!(line.contains(" 1 ") && line.contains("fixed 5m") && line.contains("20%"), "{table}");
    assert!(table.contains("0 parked or delayed, 0 dead letters"), "{table}");

    world.context.get_stream("JOBS").await.unwrap().delete_consumer("alert_refill").await.unwrap();
    let (well, table, _) = carebell(&world, &["queues", "list"], &[]).await;
    assert!(well && table.contains("a queue with ? is not on the server"), "{table}");
}
