//! The tests' own waits: a hopeless one fails at once and names the reason.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::FutureExt;
use tokio::time::Instant;

use crate::support::{Process, Worker, World};

/// Far below `LIMIT`, which a wait takes that does not notice.
const SOON: Duration = Duration::from_secs(20);

/// Templates, one of which names an unknown variable.
fn misspelt(world: &World) -> PathBuf {
    let directory = world.directory.path().join("templates");
    std::fs::create_dir_all(directory.join("de")).unwrap();
    let text = "title: Schicht\n\nAb {{ begins_at }} bei {{ recipient }}";
    std::fs::write(directory.join("de/reminder.shift.txt"), text).unwrap();
    directory
}

async fn failure<T>(wait: impl Future<Output = T>) -> String {
    let since = Instant::now();
    let panic: Box<dyn Any + Send> = AssertUnwindSafe(wait).catch_unwind().await.err().expect("the wait fails");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    panic.downcast_ref::<String>().unwrap().clone()
}

#[tokio::test]
async fn a_wait_for_a_worker_that_cannot_start_fails_at_once_and_says_why() {
    for in_process in [true, false] {
        let world = World::new().await;
        let directory = misspelt(&world);
        let more = [("TEMPLATES_DIR", directory.to_str().unwrap())];
        let _workers = if in_process {
            (Some(Worker::with(&world, &more)), None)
        } else {
            (None, Some(Process::worker(&world, &more)))
        };
        world.remind("never").await;
        let text = failure(world.ended("never")).await;
        for part in ["never has ended", "de/reminder.shift.txt", "unknown variable `begins_at`"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
}

#[tokio::test]
async fn a_wait_for_a_line_of_a_process_that_has_ended_fails_at_once() {
    let world = World::new().await;
    let directory = misspelt(&world);
    let mut worker = Process::worker(&world, &[("TEMPLATES_DIR", directory.to_str().unwrap())]);
    let text = failure(worker.ready()).await;
    assert!(text.contains("unknown variable `begins_at`"), "{text}");
}

/// Another worker may do the work.
#[tokio::test]
async fn a_worker_that_the_test_ends_is_no_failure() {
    let world = World::new().await;
    let mut killed = Process::worker(&world, &[]);
    killed.ready().await;
    killed.kill().await;
    Worker::start(&world).stop().await;
    let heir = Worker::start(&world);
    world.remind("job").await;
    assert_eq!(world.ended("job").await.0, "done");
    heir.stop().await;
}

#[test]
fn nothing_is_ignored_but_soak_tests_which_ci_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ci = std::fs::read_to_string(root.join(".ci/run")).unwrap();
    assert!(ci.contains("cargo test --locked -- --include-ignored"), "{ci}");
    let mut directories = vec![root.join("src"), root.join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let ignored = text.lines().filter(|line| line.trim_start().starts_with("#[ignore"));
                assert!(
                    ignored.clone().all(|line| line.trim_start().starts_with("#[ignore = \"soak: ")),
                    "{}",
                    path.display()
                );
            }
        }
    }
}
