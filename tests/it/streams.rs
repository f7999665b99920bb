//! `streams/` against a real server.

use async_nats::jetstream::stream;
use carebell::streams::{Adjustments, FileError, Streams};
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{LIMIT, QUICK, Worker, World, adjustments, utc_now},
};

/// The repository's files, as `--dir streams` reads them.
fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/streams")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files.push((name, std::fs::read_to_string(path).unwrap()));
    }
    files
}

fn changed(file: &str, change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
    let mut files = files();
    let (_, text) = files.iter_mut().find(|(name, _)| name == file).unwrap();
    let mut json: Value = serde_json::from_str(text).unwrap();
    change(&mut json);
    *text = json.to_string();
    files
}

fn read(files: Vec<(String, String)>) -> Result<Streams, FileError> {
    Streams::read(files, &adjustments(QUICK))
}

#[tokio::test]
async fn what_was_applied_has_not_drifted_and_what_was_edited_has() {
    let world = World::new().await;
    let streams = read(files()).unwrap();
    assert_eq!(streams.check(&world.context).await.unwrap(), []);
    streams.apply(&world.context).await.unwrap();
    assert_eq!(streams.check(&world.context).await.unwrap(), [], "applying again changes nothing");

    let edits: [(&str, &str, Value); 4] = [
        ("JOBS.json", "max_msg_size", 1_000_000.into()),
        ("DEAD_LETTERS.json", "max_age", 3_600_000_000_000_i64.into()),
        ("JOBS.reminder_medication.json", "max_ack_pending", 7.into()),
        ("DELIVERIES.deliver_web_push_normal.json", "description", "another".into()),
    ];
    for (file, field, value) in edits {
        let edited = read(changed(file, |json| json[field] = value)).unwrap();
        let differences = edited.check(&world.context).await.unwrap();
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!((differences[0].place.as_str(), differences[0].field.as_str()), (&file[..file.len() - 5], field));
        edited.apply(&world.context).await.unwrap();
        assert_eq!(edited.check(&world.context).await.unwrap(), []);
        streams.apply(&world.context).await.unwrap();
    }

    let edited = read(changed("JOBS.reminder_medication.json", |json| {
        json["metadata"]["carebell.max_attempts"] = "12".into();
    }));
    let differences = edited.unwrap().check(&world.context).await.unwrap();
    let fields: Vec<&str> = differences.iter().map(|difference| difference.field.as_str()).collect();
    assert_eq!(fields, ["max_deliver", "metadata.carebell.max_attempts"], "the server's limit follows the attempts");

    world.context.delete_stream("ADVISORIES").await.unwrap();
    let differences = streams.check(&world.context).await.unwrap();
    assert_eq!(
        differences.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["ADVISORIES: not on the server", "ADVISORIES.advisories: not on the server"]
    );
}

/// File, mistake, expected error.
type Mistake = (&'static str, fn(&mut Value), &'static str);

#[test]
fn mistakes_in_files_name_file_and_key() {
    let cases: [Mistake; 6] = [
        ("JOBS.json", |json| json["max_mesage_size"] = 1.into(), "unknown key `max_mesage_size`"),
        ("WORK.json", |json| json["sources"][0]["subject_transform"] = 1.into(), "sources.subject_transform"),
        ("JOBS.json", |json| json["retention"] = "wokqueue".into(), "wokqueue"),
        ("JOBS.reminder_medication.json", |json| json["ack_wiat"] = 1.into(), "unknown key `ack_wiat`"),
        ("JOBS.reminder_medication.json", |json| json["durable_name"] = "x".into(), "durable_name"),
        (
            "JOBS.reminder_medication.json",
            |json| json["metadata"]["carebell.backoff"] = "sometimes".into(),
            "carebell.backoff",
        ),
    ];
    for (file, change, expected) in cases {
        let error = Streams::read(changed(file, change), &Adjustments::default()).expect_err(expected).to_string();
        assert!(error.contains(&format!("streams/{file}")) && error.contains(expected), "{error}");
    }
    let broken = vec![("JOBS.json".to_owned(), "{\"name\": ".to_owned())];
    assert!(read(broken).unwrap_err().to_string().contains("streams/JOBS.json"));
    let unknown_queue = Streams::embedded(&adjustments("no_such_queue.attempts=1")).unwrap_err().to_string();
    assert!(unknown_queue.contains("QUEUE_OVERRIDES") && unknown_queue.contains("reminder_medication"));
    let unknown_key = Streams::embedded(&adjustments("*.colour=red")).unwrap_err().to_string();
    assert!(unknown_key.contains("QUEUE_OVERRIDES") && unknown_key.contains("colour"));
}

/// Version 0.2 published its own jobs to JOBS, and had delayed ones in SCHEDULED.
#[tokio::test]
async fn what_version_0_2_has_waiting_is_moved_once_and_runs_once() {
    let world = World::new().await;
    let scheduled = stream::Config {
        name: "SCHEDULED".into(),
        subjects: vec!["sched.>".into(), "due.>".into()],
        allow_message_schedules: true,
        ..Default::default()
    };
    world.context.create_stream(scheduled).await.unwrap();
    let mut jobs = world.context.get_stream("JOBS").await.unwrap().get_info().await.unwrap().config;
    let transform = |source: &str, destination: &str| stream::SubjectTransform {
        source: source.into(),
        destination: destination.into(),
    };
    jobs.sources = Some(vec![stream::Source {
        name: "SCHEDULED".into(),
        subject_transforms: vec![transform("due.alert.*", "jobs.alert.{{wildcard(1)}}")],
        ..Default::default()
    }]);
    world.context.update_stream(jobs).await.unwrap();

    let news = |title: &str| json!({ "recipients": [{ "userId": "ana" }], "title": title }).to_string();
    let json = ("Content-Type", "application/json");
    let at = |seconds| format!("@at {}", (utc_now() + TimeDelta::seconds(seconds)).to_rfc3339());
    let (hour, soon) = (at(3600), at(3));
    let target = ("Nats-Schedule-Target", "due.notification.normal");
    world.publish("sched.far", &[("Nats-Schedule", &hour), target, json], news("far")).await;
    let named = [("Nats-Schedule", soon.as_str()), target, json, ("Carebell-Job-Id", "soon")];
    world.publish("sched.x", &named, news("soon")).await;
    world.publish("due.notification.normal", &[json, ("Carebell-Job-Id", "due")], news("due")).await;
    let child = [
        json,
        ("Carebell-Job-Id", "dose:notification"),
        ("Carebell-Root-Id", "dose"),
        ("Nats-Msg-Id", "dose:notification"),
    ];
    world.publish("jobs.notification.critical", &child, news("child")).await;
    world.publish("jobs.notification.normal", &[json, ("Carebell-Job-Id", "plain")], news("plain")).await;

    let (well, _, error) = carebell(&world, &["streams", "apply"], &[]).await;
    assert!(well, "{error}");
    let (well, said, error) = carebell(&world, &["streams", "upgrade"], &[]).await;
    assert!(
        well && said.contains("moved 3 delayed jobs, and 1 of Carebell's own\nremoved the stream"),
        "{said}{error}"
    );
    let (well, said, _) = carebell(&world, &["streams", "upgrade"], &[]).await;
    assert!(well && said.contains("nothing to move"), "{said}");

    let worker = Worker::start(&world);
    for (root, job) in [("soon", "soon"), ("due", "due"), ("dose", "dose:notification"), ("plain", "plain")] {
        let ended =
            async || world.runs(root).await.values().find(|run| run.job_id == job && run.state == "done").map(|_| ());
        world.eventually(job, ended).await;
    }
    world.push.wait_for(4, LIMIT).await.unwrap();
    let (_, list, _) = carebell(&world, &["jobs", "delayed"], &[]).await;
    assert!(list.contains("notification far\n1 delayed job in all"), "{list}");
    let (well, ..) = carebell(&world, &["jobs", "cancel", "far"], &[]).await;
    assert!(well);
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().accepted, 4, "each once");
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}
