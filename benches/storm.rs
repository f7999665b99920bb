//! A storm of any length: `cargo bench --bench storm -- --jobs 20000 --kills 30 --json [--seed S]`.
//!
//! Exits with 1 when anything was lost, doubled in an inbox, or pushed twice without a fault that explains it.

// As in the tests: one assertion a line reads better here than an error path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/it/storm/engine/mod.rs"]
mod engine;
// The tests use more of it than a storm does.
#[allow(dead_code, unused_imports, reason = "it is the support of all tests, of which a storm needs a part")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use engine::{Report, Settings, faults::Victims};
use serde_json::Value;

/// Kills workers and servers while jobs are on their way, and says what became of them.
#[derive(Debug, Parser)]
#[command(name = "storm")]
struct Arguments {
    /// How many jobs are published.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    jobs: u32,
    /// How often something is killed: of ten times, a worker seven, NATS two and Postgres one.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
    /// Repeats what was drawn at random in another storm.
    #[arg(long)]
    seed: Option<u64>,
    /// How many workers run at once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    workers: u32,
    /// Jobs published in a second. The storm lasts longer where the kills need it.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// The longest time in milliseconds that a killed server stays away; it is drawn at random for each kill.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    outage: u64,
    /// How many of a hundred jobs are scheduled for later.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=100))]
    scheduled: u32,
    /// What is killed.
    #[arg(long, value_enum, default_value = "all")]
    victims: Victims,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// So that servers come back between two kills, on the average.
const BETWEEN_KILLS: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = carebell::clock::Clock::system();
    let report = engine::run(Settings {
        jobs: arguments.jobs as usize,
        kills: arguments.kills as usize,
        seed: arguments.seed.unwrap_or_else(|| clock.now().timestamp_micros().unsigned_abs()),
        workers: arguments.workers as usize,
        span: (Duration::from_secs(1) * arguments.jobs / arguments.rate).max(BETWEEN_KILLS * arguments.kills),
        outage: Duration::from_millis(arguments.outage),
        scheduled: arguments.scheduled,
        victims: arguments.victims,
        // Progress goes where it does not mix with the result.
        say: |text| eprintln!("{text}"),
    })
    .await;
    for complaint in report.complaints() {
        eprintln!("{complaint}");
    }
    if arguments.json {
        println!("{}", report.json());
    } else {
        print_table(&report);
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_table(report: &Report) {
    let Value::Object(values) = report.json() else { return };
    for (name, value) in values {
        println!("{:<28} {value:>12}", name.replace('_', " "));
    }
}
