//! `/metrics`: counts, bounded labels, nothing personal.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
};

use carebell::{
    callbacks::CallbackOutcome,
    dev::push_service::Behaviour,
    jobs,
    kind::{CANCEL, DELAYED, Lane},
    plan::{Channel, JobOutcome},
    schedule::ZoneData,
    store::OddRows,
    telemetry::{
        metrics::{ANSWERS, NEVER_ACCEPTED, NO_CHANNEL, NO_LANE},
        names::{Metric, Type, Unit},
    },
};
use serde_json::json;

use crate::support::{FAMILY, Phones, Process, World, not_checked, reminder, utc_now};

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn samples(text: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (name, value) = label.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        });
        Sample { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap() }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// The sum is None if there are no samples.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let found = samples(text).into_iter().filter(|sample| {
        sample.name == name && labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|v| v == value))
    });
    found.map(|sample| sample.value).reduce(|sum, value| sum + value)
}

async fn metrics(worker: &mut Process) -> String {
    let (status, text) = worker.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    text
}

fn check_with_promtool(text: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        return not_checked("promtool is not at hand (Debian: package prometheus): metrics are not checked");
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

fn allowed(label: &str, world: &World, phone: &str) -> BTreeSet<String> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match label {
        "kind" => {
            let kinds = jobs::registry();
            let kinds = kinds.kinds().iter().chain([&DELAYED.kind, &CANCEL.kind]);
            kinds.map(|kind| kind.name.to_owned()).collect()
        }
        "lane" => names(&[NO_LANE, Lane::Critical.name(), Lane::Normal.name(), Lane::Bulk.name()]),
        "outcome" => JobOutcome::ALL.map(|outcome| outcome.name().to_owned()).into(),
        "reason" => names(&[
            "gone",
            "expired",
            "undecodable",
            "exhausted",
            "retry",
            "retry_later",
            "permanent",
            "quiet_hours",
            "queue_full",
            "not_exported",
        ]),
        "channel" => Channel::ALL.map(Channel::name).into_iter().chain([NO_CHANNEL]).map(str::to_owned).collect(),
        "provider" => names(&[&world.push.host_port(), phone, "webhook"]),
        "answer" => names(&ANSWERS),
        "fate" => CallbackOutcome::ALL.map(|fate| fate.name().to_owned()).into(),
        "group" => names(&[
            "look_ups",
            "commits",
            "published",
            "failures",
            "claims",
            "ledger",
            "delays",
            "due",
            "rate_limits",
            "doses",
            "medications",
            "people",
        ]),
        "end" => {
            let ends = ["published", "buried"].into_iter().chain(NEVER_ACCEPTED);
            ends.map(str::to_owned).collect()
        }
        "scope" => names(&["queue"]),
        "name" => names(&["alert_refill"]),
        "what" => names(&OddRows::WHAT),
        "state" => names(&["used", "idle"]),
        "part" => {
            names(&["nats", "jetstream", "nats_storage", "postgres", "scheduler", "care_reminders", "care_tables"])
        }
        "version" => names(&[env!("CARGO_PKG_VERSION"), &ZoneData::in_use().version]),
        other => panic!("a label that is not known: {other}"),
    }
}

async fn one_waits_for_the_whole_test(world: &World) {
    world
        .sql(
            "INSERT INTO preferences (user_id, type, quiet_from, quiet_to, quiet_zone) \
             SELECT 'ben', 'NEWS', (now() AT TIME ZONE 'UTC' - interval '1 hour')::time, \
                    (now() AT TIME ZONE 'UTC' + interval '1 hour')::time, 'UTC'",
        )
        .await;
    let quiet = json!({ "recipients": [{ "userId": "ben" }], "title": "News", "type": "NEWS" });
    world.publish_json("jobs.notification.normal", "job-quiet", &quiet).await;
}

#[tokio::test]
async fn every_outcome_is_counted_and_nothing_personal_is_said() {
    let world = World::new().await.at_pace(5);
    // A due schedule makes the scheduler report its lag.
    world.make_due("").await;
    world.push.behave_times("ana", 1, Behaviour::status(408));
    world.push.behave_times("ben", 1, Behaviour::retry_after(429, "1"));
    world.push.behave_always("chloe", Some(Behaviour::status(410)));
    world.push.behave_always("dan", Some(Behaviour::status(400)));
    // Phones and callbacks give every metric a sample.
    let phones = Phones::start(&world).await;
    let mut variables = phones.one("SMS");
    variables.extend([("PUBLIC_URL", "https://bell.test"), ("PUBLIC_PORT", "0")].map(|(a, b)| (a.into(), b.into())));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    world.sql("INSERT INTO pauses VALUES ('queue', 'alert_refill', 'tried', 'olga', now(), NULL)").await;
    let mut worker = Process::worker(&world, &variables);
    worker.ready().await;
    let before = metrics(&mut worker).await;
    let jobs = "carebell_jobs_total";
    assert_eq!(sum(&before, jobs, &[("kind", "reminder.medication")]), Some(0.0), "there from the start, at zero");

    world.remind("job-well").await;
    world.publish_json("jobs.reminder.medication", "job-gone", &reminder("nothing", utc_now())).await;
    let late = [
        ("Carebell-Job-Id", "job-late"),
        ("Content-Type", "application/json"),
        ("Carebell-Not-After", "2026-01-01T00:00:00Z"),
    ];
    world.publish("jobs.reminder.medication", &late, reminder("metformin", utc_now()).to_string()).await;
    world.publish("jobs.reminder.medication", &[("Carebell-Job-Id", "job-broken")], "x").await;
    let duplicate = reminder("nothing", utc_now()).to_string();
    assert_eq!(world.ended("job-gone").await.0, "skipped");
    one_waits_for_the_whole_test(&world).await;
    let again = [("Carebell-Job-Id", "job-gone"), ("Nats-Msg-Id", "again"), ("Content-Type", "application/json")];
    world.publish("jobs.reminder.medication", &again, duplicate).await;

    let wanted: &[(&str, &str, f64)] = &[
        ("reminder.medication", "done", 1.0),
        ("reminder.medication", "skipped", 1.0),
        ("reminder.medication", "expired", 1.0),
        ("reminder.medication", "dead", 1.0),
        ("reminder.medication", "duplicate", 1.0),
        ("notification", "done", 2.0),
        ("deliver.web_push", "done", 2.0),
        ("deliver.web_push", "retry", 1.0),
        ("deliver.web_push", "waits", 2.0),
        ("deliver.web_push", "failed", 1.0),
        ("deliver.web_push", "dead", 1.0),
    ];
    let (host, medication) = (world.push.host_port(), ("kind", "reminder.medication"));
    let deliveries = [("accepted", 2.0), ("retry", 1.0), ("later", 1.0), ("gone", 1.0), ("permanent", 1.0)];
    let mut values = vec![
        ("messaging_client_consumed_messages_total", vec![medication], 5.0),
        ("messaging_process_duration_seconds_count", vec![medication], 5.0),
        ("carebell_queue_time_seconds_count", vec![medication], 5.0),
        ("carebell_job_reasons_total", vec![medication, ("reason", "gone")], 1.0),
        ("carebell_job_reasons_total", vec![medication, ("reason", "undecodable")], 1.0),
        ("carebell_job_attempts_count", vec![("kind", "deliver.web_push")], 4.0),
        ("carebell_job_attempts_sum", vec![("kind", "deliver.web_push")], 5.0),
        ("carebell_send_duration_seconds_count", vec![("provider", host.as_str())], 6.0),
        ("carebell_queue_waiting_messages", vec![medication], 0.0),
        ("carebell_queue_oldest_waiting_seconds", vec![medication], 0.0),
        ("carebell_due_to_accepted_seconds_count", vec![], 2.0),
        ("carebell_never_accepted_total", vec![("channel", "web_push"), ("end", "dead")], 1.0),
        ("carebell_parked_deliveries", vec![("channel", "web_push"), ("reason", "quiet_hours")], 1.0),
        ("carebell_part_up", vec![("part", "nats")], 1.0),
        ("carebell_part_up", vec![("part", "scheduler")], 1.0),
        ("carebell_part_up", vec![("part", "care_tables")], 1.0),
        ("carebell_database_connections_max", vec![], 10.0),
        ("carebell_build_info", vec![("version", env!("CARGO_PKG_VERSION"))], 1.0),
        ("carebell_zone_data_info", vec![("version", &ZoneData::in_use().version)], 1.0),
    ];
    values.extend(deliveries.map(|(answer, count)| {
        ("carebell_deliveries_total", vec![("channel", "web_push"), ("answer", answer)], count)
    }));
    // Some gauges are updated only now and then.
    let mut wrong = None;
    let text = world
        .eventually("all have ended and been seen", async || {
            let text = metrics(&mut worker).await;
            let all = wanted.iter().all(|(kind, outcome, count)| {
                sum(&text, jobs, &[("kind", kind), ("outcome", outcome)]) == Some(*count)
            });
            let seen = sum(&text, "carebell_dead_letters", &[]) == Some(2.0);
            let scheduled = sum(&text, "carebell_schedule_lag_seconds", &[]).is_some();
            let pulls = sum(&text, "carebell_queue_waiting_pulls", &[medication]) > Some(0.0);
            let found = values.iter().find(|(name, labels, wanted)| sum(&text, name, labels) != Some(*wanted));
            if wrong != Some(found) {
                println!("all: {all}, dead letters: {seen}, lag: {scheduled}, pulls: {pulls}; not yet: {found:?}");
                wrong = Some(found);
            }
            (all && seen && scheduled && pulls && found.is_none()).then_some(text)
        })
        .await;

    assert!(sum(&text, "carebell_group_size_count", &[("group", "commits")]) > Some(0.0));
    assert!(sum(&text, "process_resident_memory_bytes", &[]) > Some(1e6));
    assert!(sum(&text, "process_cpu_seconds_total", &[]) > Some(0.0));

    all_are_as_their_names_say(&text, &world, &phones.first.name());
    for personal in FAMILY.into_iter().chain(["rose", "Rose", "etformin", "job-", "browns", "@", "example.org"]) {
        assert!(!text.contains(personal), "{personal} is in {text}");
    }
    check_with_promtool(&text);
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Checks types, labels, and that label values are bounded.
fn all_are_as_their_names_say(text: &str, world: &World, phone: &str) {
    let found = samples(text);
    let mut known = 0;
    // The gateway's are in no worker, nor are the console's. This one has no declared kinds.
    let elsewhere = ["carebell_gateway_", "carebell_task_", "carebell_open_tasks"];
    let is_elsewhere = |metric: &Metric| {
        metric.is_of_console() || elsewhere.iter().any(|prefix| metric.spec().name.starts_with(prefix))
    };
    for metric in Metric::ALL.into_iter().filter(|metric| !is_elsewhere(metric)) {
        let spec = metric.spec();
        assert!(text.contains(&format!("# HELP {} {}\n", spec.name, spec.help)), "{}", spec.name);
        assert!(text.contains(&format!("# TYPE {} {}\n", spec.name, spec.r#type.name())), "{}", spec.name);
        let endings: &[&str] = if spec.r#type == Type::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        let names: Vec<String> = endings.iter().map(|ending| format!("{}{ending}", spec.name)).collect();
        let own: Vec<&Sample> = found.iter().filter(|sample| names.contains(&sample.name)).collect();
        assert!(!own.is_empty(), "{} has no sample", spec.name);
        known += own.len();
        for sample in own {
            let labels: BTreeSet<&str> =
                sample.labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
            assert_eq!(labels, spec.labels.iter().copied().collect(), "{}", sample.name);
            for (label, value) in sample.labels.iter().filter(|(name, _)| *name != "le") {
                assert!(allowed(label, world, phone).contains(value), "{} has {label}={value}", sample.name);
            }
        }
    }
    assert_eq!(known, found.len(), "nothing else is there");
}

#[tokio::test]
async fn the_state_of_a_breaker_goes_up_and_down() {
    let world = World::new().await.at_pace(5);
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let host = world.push.host_port();
    let state = async |worker: &mut Process| {
        sum(&metrics(worker).await, "carebell_breaker_state", &[("channel", "web_push"), ("provider", &host)])
    };
    assert_eq!(state(&mut worker).await, None, "no provider was asked yet");
    world.remind("first").await;
    world.everyone_has_it_once("first").await;
    assert_eq!(state(&mut worker).await, Some(0.0));

    for name in FAMILY {
        world.push.behave_always(name, Some(Behaviour::status(503)));
    }
    for number in 0..20 {
        let body = json!({ "recipients": [{ "userId": FAMILY[number % 4] }], "title": "News" });
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &body).await;
    }
    world.eventually("it is open", async || (state(&mut worker).await == Some(1.0)).then_some(())).await;
    for name in FAMILY {
        world.push.behave_always(name, None);
    }
    world.eventually("it is closed", async || (state(&mut worker).await == Some(0.0)).then_some(())).await;
    let text = metrics(&mut worker).await;
    let down = sum(&text, "carebell_deliveries_total", &[("provider", &host), ("answer", "down")]);
    // Six of ten sends open it. The first job's four are among the ten.
    assert!(down >= Some(6.0), "{down:?}");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn what_waits_and_for_how_long_is_shown() {
    let world = World::new().await.at_pace(5);
    let since = utc_now();
    for number in 0..3 {
        world.remind(&format!("waits-{number}")).await;
    }
    // Only the scheduler runs, so nobody pulls.
    let mut environment = world.environment();
    environment.insert("LOG_FORMAT".into(), "json".into());
    let mut worker = Process::start(&["run", "--only", "scheduler"], &environment, world.directory.path());
    worker.ready().await;
    let medication = [("kind", "reminder.medication"), ("lane", NO_LANE)];
    let text = world
        .eventually("it is seen", async || {
            let text = metrics(&mut worker).await;
            (sum(&text, "carebell_queue_waiting_messages", &medication) == Some(3.0)).then_some(text)
        })
        .await;
    let oldest = sum(&text, "carebell_queue_oldest_waiting_seconds", &medication).unwrap();
    let most = (utc_now() - since).as_seconds_f64();
    assert!(oldest > 0.0 && oldest < most, "{oldest} of {most}");
    assert_eq!(sum(&text, "carebell_queue_waiting_pulls", &medication), Some(0.0), "nobody works on it");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[test]
fn names_follow_the_conventions() {
    let names: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.spec().name).collect();
    assert_eq!(names.len(), Metric::ALL.len());
    for (number, metric) in Metric::ALL.into_iter().enumerate() {
        assert_eq!(metric as usize, number, "{metric:?} is in its place");
        let spec = metric.spec();
        let known = ["carebell_", "messaging_", "process_"].iter().any(|start| spec.name.starts_with(start));
        assert!(known && spec.help.ends_with('.'), "{}", spec.name);
        assert_eq!(spec.name.ends_with("_total"), spec.r#type == Type::Counter, "{}", spec.name);
        let bare = spec.name.trim_end_matches("_total");
        assert_eq!(bare.ends_with("_seconds"), spec.unit == Unit::Seconds, "{}", spec.name);
        assert_eq!(bare.ends_with("_bytes"), spec.unit == Unit::Bytes, "{}", spec.name);
        assert_eq!(spec.buckets.is_empty(), spec.r#type != Type::Histogram, "{}", spec.name);
        assert!(spec.buckets.is_sorted());
    }
}
