//! `streams/` against a real server.

use carebell::streams::{Adjustments, FileError, Streams};
use serde_json::Value;

use crate::support::{QUICK, World, adjustments};

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
