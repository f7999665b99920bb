//! `document.upload`: files become objects, once, and only the expected bytes.

use carebell::kind::Kind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{BUCKET, Files, Meddler, Meddling, Process, S3, Worker, World, decode, hex, not_checked},
};

const UPLOAD: &str = "jobs.document.upload";

/// Larger than what is put at once, so that it goes in parts.
const LARGE: usize = 20 * 1024 * 1024 + 7;

/// A world with a store in S3.
struct Place {
    world: World,
    s3: S3,
    meddler: Meddler,
    files: Files,
    variables: Vec<(String, String)>,
}

impl Place {
    async fn new(overrides: &str) -> Option<Self> {
        let Some(s3) = S3::start().await else {
            not_checked("there is no Python 3.11 or newer with pip: uploads to S3 are not tested");
            return None;
        };
        let world = World::with_overrides(overrides).await.at_pace(10);
        let (meddler, files) = (Meddler::start(&s3).await, Files::start().await);
        let mut variables = meddler.variables();
        variables.extend(files.variables(&world));
        Some(Self { world, s3, meddler, files, variables })
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    async fn upload(&self, id: &str, job: &Value) -> (String, Option<String>) {
        self.world.publish_json(UPLOAD, id, job).await;
        self.world.ended(id).await
    }

    /// Of a job that is done.
    async fn result(&self, id: &str) -> Value {
        result(&self.world, id).await
    }

    async fn last_error(&self, id: &str) -> String {
        let query = sqlx::query_scalar("SELECT coalesce(last_error, '') FROM job_runs WHERE job_id = $1");
        query.bind(id).fetch_one(&self.world.db).await.unwrap()
    }
}

async fn result(world: &World, id: &str) -> Value {
    let query = sqlx::query_scalar("SELECT result FROM job_runs WHERE job_id = $1");
    query.bind(id).fetch_one(&world.db).await.unwrap()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

const QUICK: &str = "*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s";

#[tokio::test]
async fn a_file_becomes_an_object_once_and_a_repetition_finds_it() {
    let Some(place) = Place::new(QUICK).await else { return };
    let worker = Worker::with(&place.world, &place.variables());
    let small = place.files.job("small", bytes(1000), "2027/march.pdf");
    assert_eq!(place.upload("first", &small).await, ("done".into(), None));
    let (headers, found) = place.s3.object("docs/2027/march.pdf").await.unwrap();
    assert_eq!(found, bytes(1000));
    assert_eq!(headers["content-type"], "application/pdf");
    assert_eq!(headers["x-amz-meta-sha256"], hex(&bytes(1000)));
    let etag = headers["etag"].to_str().unwrap();
    let expected = |was_there: bool| {
        json!({
            "store": "archive", "key": "2027/march.pdf", "bytes": 1000, "sha256": hex(&bytes(1000)), "etag": etag,
            "was_there": was_there,
        })
    };
    assert_eq!(place.result("first").await, expected(false));
    assert_eq!(place.upload("again", &small).await, ("done".into(), None));
    assert_eq!(place.result("again").await, expected(true));
    assert_eq!(place.files.asked("small"), 1, "the second job read nothing");

    let large = place.files.job("large", bytes(LARGE), "large");
    assert_eq!(place.upload("large", &large).await, ("done".into(), None));
    assert!(place.s3.object("docs/large").await.unwrap().1 == bytes(LARGE));

    // From one place of a store to another.
    let mut copy = large.clone();
    copy.as_object_mut().unwrap().remove("url");
    copy["object"] = json!({ "store": "archive", "key": "large" });
    copy["key"] = json!("copy");
    assert_eq!(place.upload("copy", &copy).await, ("done".into(), None));
    assert!(place.s3.object("docs/copy").await.unwrap().1 == bytes(LARGE));

    // Nothing is overwritten, large or small.
    for (id, key, length) in [("taken", "2027/march.pdf", 1000), ("taken-large", "large", LARGE)] {
        let mut other = bytes(length);
        other[0] ^= 1;
        let job = place.files.job(id, other, key);
        assert_eq!(place.upload(id, &job).await, ("dead".into(), Some("permanent".into())));
        assert!(place.last_error(id).await.starts_with("another object has this key"));
    }
    assert_eq!(
        place.s3.keys().await,
        (["docs/2027/march.pdf", "docs/copy", "docs/large"].map(str::to_owned).into(), 0)
    );
    let (_, shown, _) = carebell(&place.world, &["jobs", "show", "first"], &[]).await;
    assert!(
        shown.contains("document.upload first: done at ") && shown.contains("stored 1000 bytes in archive"),
        "{shown}"
    );
    place.world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_store_that_says_taken_though_it_stored_has_the_job_done() {
    let Some(place) = Place::new(QUICK).await else { return };
    let worker = Worker::with(&place.world, &place.variables());
    place.meddler.now(Meddling::SaysTaken);
    let job = place.files.job("small", bytes(1000), "a");
    assert_eq!(place.upload("small", &job).await, ("done".into(), None));
    assert_eq!(place.result("small").await["was_there"], true);
    assert_eq!(place.meddler.count(&Method::PUT, 412), 1);
    assert_eq!(place.s3.keys().await, (vec!["docs/a".to_owned()], 0));
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_killed_between_upload_and_commit_leaves_one_object_and_one_done_job() {
    for length in [1000, LARGE] {
        let Some(place) = Place::new(QUICK).await else { return };
        let job = place.files.job("file", bytes(length), "a");
        place.world.publish_json(UPLOAD, "killed", &job).await;
        let abort = [("CAREBELL_ABORT_AT", "stored")];
        let mut doomed = Process::worker(&place.world, &[&place.variables()[..], &abort].concat());
        assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
        assert_eq!(place.s3.keys().await, (vec!["docs/a".to_owned()], 0));
        let runs = "SELECT count(*) FROM job_runs WHERE job_id = 'killed' AND state <> 'open'";
        assert_eq!(place.world.count(runs).await, 0);
        let heir = Worker::with(&place.world, &place.variables());
        assert_eq!(place.world.ended("killed").await, ("done".into(), None));
        assert_eq!(place.result("killed").await["was_there"], true);
        assert_eq!(place.files.asked("file"), 1);
        assert_eq!(place.s3.keys().await, (vec!["docs/a".to_owned()], 0));
        place.world.queues_are_empty().await;
        heir.stop().await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_source_is_on_record_and_nothing_is_stored() {
    let Some(place) = Place::new(QUICK).await else { return };
    let mut worker = Process::worker(&place.world, &place.variables());
    let good = place.files.job("good", bytes(1000), "a");
    let large = place.files.job("large", bytes(LARGE), "b");
    let with = |job: &Value, field: &str, value: Value| {
        let mut job = job.clone();
        job[field] = value;
        job
    };
    let at = |path: &str| with(&good, "url", place.files.url(path).into());
    let to = |target: &str| at(&format!("/to/{target}"));
    let private = with(&good, "url", "https://10.0.0.1/x?sig=deepsecret".into());
    let metadata = with(&good, "url", "https://169.254.169.254/latest?sig=deepsecret".into());
    let unresolved = with(&good, "url", "https://localhost/x?sig=deepsecret".into());
    let object = json!({ "store": "archive", "key": "none", "sha256": hex(b""), "size": 9, "object": { "store": "archive", "key": "x" } });
    let cases = [
        ("missing", at("/file/none?sig=deepsecret"), "permanent", "the source answers 404"),
        ("gone", at("/status/410"), "permanent", "the source answers 410"),
        ("forbidden", at("/status/403"), "permanent", "the source answers 403"),
        ("failing", at("/status/500"), "exhausted", "the source answers 500"),
        ("other-bytes", with(&good, "sha256", hex(b"x").into()), "permanent", "another `sha256`"),
        ("other-bytes-large", with(&large, "sha256", hex(b"x").into()), "permanent", "another `sha256`"),
        ("larger", with(&good, "size", 999.into()), "permanent", "has 1000 bytes, and the job says 999"),
        ("smaller", with(&good, "size", 1001.into()), "permanent", "has 1000 bytes, and the job says 1001"),
        ("endless", at("/endless/fast?sig=deepsecret"), "permanent", "more than the 1000 bytes"),
        ("slow", with(&at("/endless/slow"), "size", 900_000.into()), "exhausted", "sends too slowly"),
        ("private", private, "permanent", "the source's address is not public"),
        ("metadata", metadata, "permanent", "the source's address is not public"),
        ("unresolved", unresolved, "exhausted", "no public address"),
        ("redirected", to("https://10.0.0.1/x?sig=deepsecret"), "permanent", "the source's address is not public"),
        ("unsafe", to("http://localhost:80/x"), "permanent", "not https"),
        ("circle", at("/to//to/x"), "permanent", "redirects more than 3 times"),
        ("too-large", with(&good, "size", 300_000_000.into()), "permanent", "DOCUMENT_MAX_MIB allows 268435456"),
        (
            "no-store",
            with(&good, "store", "other".into()),
            "permanent",
            "no document store `other`: DOCUMENT_STORES has archive",
        ),
        ("no-object", object, "permanent", "the source's store has no such object"),
    ];
    for (id, job, ..) in &cases {
        place.world.publish_json(UPLOAD, id, job).await;
    }
    for (id, _, reason, why) in &cases {
        assert_eq!(place.world.ended(id).await, ("dead".into(), Some((*reason).into())), "{id}");
        let said = place.last_error(id).await;
        assert!(said.contains(why), "{id}: {said}");
    }
    assert_eq!(place.s3.keys().await, (vec![], 0));
    // A redirect to a place that is allowed.
    let there = to(&place.files.url("/file/good?sig=deepsecret"));
    assert_eq!(place.upload("moved", &there).await, ("done".into(), None));
    place.world.queues_are_empty().await;
    worker.terminate().await;
    let log = worker.output();
    for hidden in ["deepsecret", "top-secret", "/file/", "10.0.0.1"] {
        assert!(!log.contains(hidden), "{hidden} is in the log:\n{log}");
    }
    let recorded = "SELECT count(*) FROM job_runs WHERE job_runs::text LIKE '%secret%'";
    assert_eq!(place.world.count(recorded).await, 0);
    for (_, headers, _) in place.world.dead_letters().await {
        assert!(!format!("{headers:?}").contains("secret"), "{headers:?}");
    }
}

#[tokio::test]
async fn while_a_store_is_away_its_jobs_wait_and_burn_no_attempt_once_that_is_known() {
    let Some(place) = Place::new("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=10s,*.attempts=5").await else { return };
    let mut worker = Process::worker(&place.world, &place.variables());
    worker.ready().await;
    place.meddler.now(Meddling::Away);
    for n in 0..4 {
        let id = format!("job-{n}");
        let job = place.files.job(&id, bytes(100 + n), &id);
        place.world.publish_json(UPLOAD, &id, &job).await;
    }
    let waiting = "SELECT count(*) FROM job_runs WHERE state = 'open' AND reason = 'provider_down'";
    place.world.eventually("all wait", async || (place.world.count(waiting).await == 4).then_some(())).await;
    assert!(worker.says("document store archive is down, its jobs wait: the store answers 503"), "{}", worker.output());
    let (well, said, _) = carebell(&place.world, &["doctor"], &place.variables()).await;
    assert!(!well && said.contains("FAIL  document stores: archive: the store answers 503"), "{said}");
    place.meddler.now(Meddling::None);
    let (_, said, _) = carebell(&place.world, &["doctor"], &place.variables()).await;
    assert!(said.contains("ok    document stores: archive reachable"), "{said}");
    for n in 0..4 {
        assert_eq!(place.world.ended(&format!("job-{n}")).await, ("done".into(), None));
    }
    let most = place.world.count("SELECT max(attempts)::bigint FROM job_runs").await;
    assert!(most < 5, "{most}");
    place.world.queues_are_empty().await;
    worker.terminate().await;
}

#[tokio::test]
async fn a_directory_is_a_store_too() {
    let world = World::new().await.at_pace(10);
    let files = Files::start().await;
    let root = world.directory.path().join("documents");
    std::fs::create_dir(&root).unwrap();
    let mut variables = files.variables(&world);
    variables.push(("DOCUMENT_STORES".into(), format!("archive=file://{}", root.display())));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    for (id, length) in [("small", 1000), ("large", LARGE)] {
        let job = files.job(id, bytes(length), &format!("deep/{id}.bin"));
        world.publish_json(UPLOAD, id, &job).await;
        let mut doomed = Process::worker(&world, &[&variables[..], &[("CAREBELL_ABORT_AT", "stored")]].concat());
        assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
        let heir = Worker::with(&world, &variables);
        assert_eq!(world.ended(id).await, ("done".into(), None));
        assert_eq!(result(&world, id).await["was_there"], true, "found by its bytes");
        assert!(std::fs::read(root.join(format!("deep/{id}.bin"))).unwrap() == bytes(length));
        assert_eq!(files.asked(id), 1);
        let mut other = bytes(length);
        other[1] ^= 1;
        let taken = files.job(&format!("taken-{id}"), other, &format!("deep/{id}.bin"));
        world.publish_json(UPLOAD, &format!("taken-{id}"), &taken).await;
        assert_eq!(world.ended(&format!("taken-{id}")).await, ("dead".into(), Some("permanent".into())));
        heir.stop().await;
    }
    assert_eq!(std::fs::read_dir(root.join("deep")).unwrap().count(), 2, "no pieces are left");
}

#[tokio::test]
async fn an_application_that_is_kept_apart_uses_only_stores_of_its_name() {
    let world = World::new().await;
    let files = Files::start().await;
    let mut stores = Vec::new();
    for name in ["care", "care-scans", "board"] {
        let root = world.directory.path().join(name);
        std::fs::create_dir(&root).unwrap();
        stores.push(format!("{name}=file://{}", root.display()));
    }
    std::fs::write(world.directory.path().join("board/minutes"), "secret").unwrap();
    let mut variables = files.variables(&world);
    variables.push(("DOCUMENT_STORES".into(), stores.join(",")));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let worker = Worker::with(&world, &variables);
    let object = json!({ "store": "board", "key": "minutes" });
    for (number, (store, from, state)) in
        [("care", None, "done"), ("care-scans", None, "done"), ("board", None, "dead"), ("care", Some(&object), "dead")]
            .into_iter()
            .enumerate()
    {
        let mut job = files.job("file", "secret", &format!("copy-{number}"));
        job["store"] = store.into();
        if let Some(object) = from {
            job.as_object_mut().unwrap().remove("url");
            job["object"] = object.clone();
        }
        let id = format!("~care~{number}");
        let headers = [("Carebell-Job-Id", &*id), ("Carebell-Root-Id", &*id), ("Content-Type", "application/json")];
        world.publish("work.document.upload", &headers, job.to_string()).await;
        assert_eq!(world.ended(&id).await.0, state, "{store} {from:?}");
    }
    assert_eq!(std::fs::read_dir(world.directory.path().join("board")).unwrap().count(), 1);
    assert!(!world.directory.path().join("care/copy-3").exists());
    worker.stop().await;
}

#[tokio::test]
#[ignore = "soak: a document of 200 MiB"]
async fn a_large_document_takes_little_memory() {
    let Some(place) = Place::new("*.ack_wait=30s").await else { return };
    let mut worker = Process::worker(&place.world, &place.variables());
    worker.ready().await;
    let warm = place.files.job("warm", bytes(LARGE), "warm");
    assert_eq!(place.upload("warm", &warm).await, ("done".into(), None));
    let before = worker.peak_memory_kb();
    let job = place.files.job("huge", bytes(200 * 1024 * 1024), "huge");
    assert_eq!(place.upload("huge", &job).await, ("done".into(), None));
    let more = worker.peak_memory_kb() - before;
    println!("200 MiB took {more} KiB more than 20 MiB");
    assert!(more < 32 * 1024, "{more} KiB more");
    worker.terminate().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_an_upload_names_its_field() {
    let good =
        json!({ "store": "archive", "key": "a", "url": "https://app.example.org/x", "sha256": hex(b""), "size": 1 });
    decode("document.upload", &good).unwrap();
    for (field, value, expected) in [
        ("key", json!(""), "`key` must be 1 to 512 bytes"),
        ("key", json!("../a"), "`key` must be 1 to 512 bytes"),
        ("key", json!("a/../../b"), "`key` must be 1 to 512 bytes"),
        ("store", json!(""), "`store` must name a store of DOCUMENT_STORES"),
        ("store", json!("A B"), "`store` must name a store"),
        ("url", json!("http://app.example.org/x"), "`url` must be an https URL"),
        ("url", json!("https://a:b@app.example.org/x"), "`url` must have no user name"),
        ("url", json!("/x"), "`url` must be an https URL"),
        ("url", json!(null), "`url` is required, or `object`"),
        ("sha256", json!("abc"), "`sha256` must be the file's SHA-256 as 64 hexadecimal digits"),
        ("size", json!(0), "`size` is required"),
        ("size", json!(-1), "`size` is required"),
        ("contentType", json!("a\nb/c"), "`content_type` must be a media type"),
        ("bytes", json!("aGVsbG8="), "unrecognized field"),
    ] {
        let mut job = good.clone();
        job[field] = value;
        let refused = decode("document.upload", &job).unwrap_err();
        assert!(refused.contains(expected), "{field}: {refused}");
    }
    assert!(Kind::task("document.upload", &[]).is_published());
    assert!(BUCKET.len() > 2);
}
