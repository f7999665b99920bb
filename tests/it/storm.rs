//! A short storm, and tests of its judge. For a long storm run `cargo bench --bench storm -- --jobs 20000 --kills 30`.

mod engine;
mod verdicts;

use std::time::Duration;

use self::engine::{Settings, faults::Victims};

/// Variable with the seed of a storm to repeat.
const SEED: &str = "STORM_SEED";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: a storm of 400 jobs and 6 kills"]
async fn nothing_is_lost_and_nothing_doubled_without_a_reason() {
    let clock = carebell::clock::Clock::system();
    let seed = std::env::var_os(SEED).map_or(clock.now().timestamp_micros().unsigned_abs(), |seed| {
        seed.to_str().and_then(|seed| seed.parse().ok()).expect("STORM_SEED is a number")
    });
    let span = Duration::from_secs(6);
    let say = |text: &str| println!("{text}");
    let report = engine::run(Settings {
        jobs: 400,
        kills: 6,
        seed,
        workers: 3,
        span,
        outage: Duration::ZERO,
        scheduled: 15,
        victims: Victims::All,
        nodes: 1,
        failovers: 0,
        asynchronous: false,
        say,
    })
    .await;
    println!("{:#}", report.json());
    for complaint in report.complaints() {
        println!("{complaint}");
    }
    assert!(report.is_clean(), "repeat it with {SEED}={seed}");
}
