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
    storm(Settings { jobs: 400, kills: 6, span: Duration::from_secs(6), clicks: true, ..calm() }).await;
}

/// Workers have the shipped `ack_wait`, so a killed one's jobs come after half a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: a storm of 300 jobs over three nodes and a standby, 6 kills and a failover"]
async fn a_cluster_and_a_standby_lose_nothing_and_recover_in_time() {
    let outage = Duration::from_secs(3);
    storm(Settings { jobs: 300, kills: 6, span: Duration::from_secs(30), outage, nodes: 3, failovers: 1, ..calm() })
        .await;
}

fn calm() -> Settings {
    let clock = carebell::clock::Clock::system();
    let seed = std::env::var_os(SEED).map_or(clock.now().timestamp_micros().unsigned_abs(), |seed| {
        seed.to_str().and_then(|seed| seed.parse().ok()).expect("STORM_SEED is a number")
    });
    Settings {
        jobs: 0,
        kills: 0,
        seed,
        workers: 3,
        span: Duration::ZERO,
        outage: Duration::ZERO,
        scheduled: 15,
        victims: Victims::All,
        nodes: 1,
        failovers: 0,
        asynchronous: false,
        clicks: false,
        say: |text| println!("{text}"),
    }
}

async fn storm(settings: Settings) {
    let report = engine::run(settings).await;
    println!("{:#}", report.json());
    for complaint in report.complaints() {
        println!("{complaint}");
    }
    assert!(report.is_clean(), "repeat it with {SEED}={}", settings.seed);
}
