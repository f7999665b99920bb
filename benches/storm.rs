//! A storm of any length: `cargo bench --bench storm -- --jobs 20000 --kills 30 --json [--seed S]`, or over a cluster:
//! `cargo bench --bench storm -- --nodes 3 --jobs 20000 --kills 50 --failovers 3 --json`.
//!
//! Exits with 1 after a loss, a doubled inbox row, an unexplained second push, or a job that came too late.

// As in the tests, one assertion a line reads better than an error path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/it/storm/engine/mod.rs"]
mod engine;
#[allow(dead_code, unused_imports, reason = "it is the support of all tests, of which a storm needs a part")]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use engine::{Report, Settings, faults::Victims};
use serde_json::Value;

/// Kills workers and servers while jobs are under way, and reports the outcome.
#[derive(Debug, Parser)]
#[command(name = "storm")]
#[allow(clippy::struct_excessive_bools, reason = "they are switches")]
struct Arguments {
    /// Number of jobs.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    jobs: u32,
    /// Number of kills. Of ten, seven hit a worker, two NATS and one Postgres; with three nodes, six hit nodes and four
    /// a worker.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
    /// Repeats the random choices of another storm.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of workers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    workers: u32,
    /// Jobs published per second. The storm lasts longer if the kills need it.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Longest outage of a killed server in milliseconds. Each outage is random. Defaults to none, and 8000 with three
    /// nodes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    outage: Option<u64>,
    /// Percentage of jobs scheduled for later.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=100))]
    scheduled: u32,
    /// NATS servers: one, or three that are one.
    #[arg(long, default_value_t = 1, value_parser = nodes)]
    nodes: usize,
    /// Number of failovers of Postgres to its standby.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    failovers: u32,
    /// Lets commits not wait for the standby. Then a failover loses some.
    #[arg(long, requires = "failovers")]
    asynchronous: bool,
    /// Uses the console meanwhile: looks at pages, pauses queues and resumes them.
    #[arg(long)]
    clicks: bool,
    /// Processes to kill.
    #[arg(long, value_enum, default_value = "all")]
    victims: Victims,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// On average, servers come back between two kills.
const BETWEEN_KILLS: Duration = Duration::from_secs(2);

/// The same for nodes, whose streams catch up.
const BETWEEN_NODES: Duration = Duration::from_secs(8);

const OUTAGE_OF_NODES: u64 = 8000;

fn nodes(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("must be 1 or 3".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = carebell::clock::Clock::system();
    let (between, outage) = if arguments.nodes > 1 { (BETWEEN_NODES, OUTAGE_OF_NODES) } else { (BETWEEN_KILLS, 0) };
    let faults = arguments.kills + arguments.failovers;
    let report = engine::run(Settings {
        jobs: arguments.jobs as usize,
        kills: arguments.kills as usize,
        seed: arguments.seed.unwrap_or_else(|| clock.now().timestamp_micros().unsigned_abs()),
        workers: arguments.workers as usize,
        span: (Duration::from_secs(1) * arguments.jobs / arguments.rate).max(between * faults),
        outage: Duration::from_millis(arguments.outage.unwrap_or(outage)),
        scheduled: arguments.scheduled,
        victims: arguments.victims,
        nodes: arguments.nodes,
        failovers: arguments.failovers as usize,
        asynchronous: arguments.asynchronous,
        clicks: arguments.clicks,
        // Progress goes to standard error, apart from the result.
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
