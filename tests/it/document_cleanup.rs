//! `document.cleanup`: old objects below a prefix, and nothing else.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{Meddler, Process, S3, Worker, World, decode, not_checked},
};

const CLEANUP: &str = "work.document.cleanup";

async fn result(world: &World, id: &str) -> Value {
    assert_eq!(world.ended(id).await, ("done".into(), None));
    sqlx::query_scalar("SELECT result FROM job_runs WHERE job_id = $1").bind(id).fetch_one(&world.db).await.unwrap()
}

fn hours_ago(hours: u64) -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the age of a file is told by the machine's clock")]
    let now = SystemTime::now();
    now - Duration::from_secs(hours * 3600)
}

#[tokio::test]
async fn only_old_objects_below_the_prefix_are_removed_and_no_more_than_the_limit() {
    let world = World::new().await;
    let root = world.directory.path().join("documents");
    let file = |path: &str, hours: u64| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "12345").unwrap();
        std::fs::File::open(&path).unwrap().set_modified(hours_ago(hours)).unwrap();
    };
    for n in 0..1203 {
        file(&format!("tmp/deep/old-{n}"), 30);
    }
    file("tmp/young", 20);
    file("tmp-kept/old", 300);
    file("kept", 300);
    let stores = format!("archive=file://{}", root.display());
    let variables = [("DOCUMENT_STORES", stores.as_str())];
    let job = |more: &Value| {
        let mut job = json!({ "store": "archive", "prefix": "tmp", "olderThanHours": 24 });
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    };
    let worker = Worker::with(&world, &variables);
    world.publish_json(CLEANUP, "dry", &job(&json!({ "dryRun": true }))).await;
    let counts = json!({ "objects": 1203, "bytes": 6015 });
    let expected = json!({ "store": "archive", "would_remove": counts, "unfinished": false });
    assert_eq!(result(&world, "dry").await, expected);
    world.publish_json(CLEANUP, "some", &job(&json!({ "mostRemoved": 3 }))).await;
    let expected = json!({ "store": "archive", "removed": { "objects": 3, "bytes": 15 }, "unfinished": true });
    assert_eq!(result(&world, "some").await, expected);
    let (_, shown, _) = carebell(&world, &["jobs", "show", "some"], &[]).await;
    assert!(shown.contains("; removed 15 bytes, 3 objects, and left the rest to the next job"), "{shown}");
    let (_, shown, _) = carebell(&world, &["jobs", "show", "dry"], &[]).await;
    assert!(shown.contains("; would remove 6015 bytes, 1203 objects"), "{shown}");
    worker.stop().await;

    // A stop in the middle leaves the rest to the redelivery.
    world.publish_json(CLEANUP, "rest", &job(&json!({}))).await;
    let mut doomed = Process::worker(&world, &[&variables[..], &[("CAREBELL_ABORT_AT", "maintained")]].concat());
    assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
    let worker = Worker::with(&world, &variables);
    assert_eq!(result(&world, "rest").await["removed"]["objects"], 700, "500 went with the first worker");
    for kept in ["tmp/young", "tmp-kept/old", "kept"] {
        assert!(root.join(kept).is_file(), "{kept}");
    }
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn objects_of_s3_are_removed_in_pages() {
    let Some(s3) = S3::start().await else {
        not_checked("there is no Python 3.11 or newer with pip: the cleanup of S3 is not tested");
        return;
    };
    let world = World::new().await;
    let meddler = Meddler::start(&s3).await;
    for n in 0..7 {
        s3.put(&format!("docs/tmp/{n}"), b"123").await;
    }
    s3.put("docs/kept", b"123").await;
    s3.put("tmp/of-others", b"123").await;
    let variables = meddler.variables();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let worker = Worker::with(&world, &variables);
    let job = |hours: i32| json!({ "store": "archive", "prefix": "tmp", "olderThanHours": hours });
    world.publish_json(CLEANUP, "young", &job(1)).await;
    assert_eq!(result(&world, "young").await["removed"]["objects"], 0);
    worker.stop().await;
    let later = carebell::clock::Clock::manual(crate::support::utc_now() + chrono::TimeDelta::hours(3));
    let source = carebell::config::Source::of(meddler.variables());
    let documents = carebell::documents::Documents::new(source.documents().unwrap(), &later).unwrap();
    let cleanup = carebell::documents::Cleanup {
        prefix: carebell::documents::Key::parse("tmp").unwrap(),
        before: later.now() - chrono::TimeDelta::hours(1),
        most: 100,
        dry_run: false,
    };
    let cleaned = documents.store("archive").unwrap().clean(&cleanup).await.unwrap();
    assert_eq!((cleaned.objects, cleaned.bytes, cleaned.unfinished), (7, 21, false));
    assert_eq!(s3.keys().await.0, ["docs/kept", "tmp/of-others"]);
}

#[tokio::test]
async fn a_whole_store_is_never_emptied_and_mistakes_name_their_field() {
    let world = World::new().await;
    for (body, expected) in [
        (json!({ "store": "archive", "olderThanHours": 24 }), "`prefix` is required"),
        (json!({ "store": "archive", "prefix": "/", "olderThanHours": 24 }), "`prefix` must be"),
        (json!({ "store": "archive", "prefix": "..", "olderThanHours": 24 }), "`prefix` must be"),
        (json!({ "store": "archive", "prefix": "tmp" }), "`older_than_hours` must be 1 to 876000"),
        (json!({ "prefix": "tmp", "olderThanHours": 24 }), "`store` must name"),
        (json!({ "store": "a", "prefix": "tmp", "olderThanHours": 24, "mostRemoved": -1 }), "`most_removed` must be"),
    ] {
        let refused = decode("document.cleanup", &body).unwrap_err();
        assert!(refused.contains(expected), "{body}: {refused}");
    }
    // Applications cannot publish it: nothing runs it from there.
    let worker = Worker::start(&world);
    let args = ["publish", "document.cleanup", "--json", r#"{"store":"none","prefix":"tmp","olderThanHours":24}"#];
    let (well, said, error) = carebell(&world, &args, &[]).await;
    assert!(well && said.contains("to work.document.cleanup"), "{said}{error}");
    let letters = world.dead_letters_once(1).await;
    let why = letters[0].1.get("Carebell-Dead-Error").unwrap().as_str().to_owned();
    assert!(why.contains("there is no document store `none`: DOCUMENT_STORES is not set"), "{why}");
    worker.stop().await;
}
