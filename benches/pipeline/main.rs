//! Speed of the whole pipeline: `cargo bench --bench pipeline -- [--json] [--only PART,…] [--compare FILE]`.
//!
//! Reminders go through real workers and durable servers to an HTTPS push sink or a mail server, each a process.
//! Compare ratios of one run, not figures of two machines.

// As in the tests, one assertion a line reads better than an error path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod counters;
mod delayed;
mod distant;
#[allow(dead_code, reason = "the tests also cut and silence it")]
#[path = "../../tests/it/support/forwarder.rs"]
mod forwarder;
mod latency;
mod process;
mod report;
mod scene;
mod sink;
mod throughput;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use report::Report;
use scene::{Scene, Way};
use serde_json::Value;
use throughput::{Cost, Load};
use tokio::{runtime, time::sleep};

const MEMBERS: u32 = 4;

/// Measures the pipeline from a published reminder to accepted pushes.
#[derive(Debug, Parser)]
#[command(name = "pipeline")]
struct Arguments {
    /// Number of reminders for throughput; each is four pushes.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=200_000))]
    reminders: u32,
    /// Parts to measure. Defaults to all.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().iter().copied())]
    only: Vec<Part>,
    /// Overrides a variable of the workers, as NAME=VALUE. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    with: Vec<(String, String)>,
    /// Overrides a setting of Postgres, as NAME=VALUE. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    postgres: Vec<(String, String)>,
    /// Round trip from the workers to NATS and to Postgres, for the part `distant`.
    #[arg(long, default_value = "50ms")]
    latency: humantime::Duration,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// JSON of an earlier run, for ratios against it.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Prints the most expensive statements after each throughput.
    #[arg(long)]
    statements: bool,
    /// Runs as the sink, in this directory.
    #[arg(long, hide = true)]
    sink: Option<PathBuf>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Most pushes per second, and the cost of each.
    Throughput,
    /// From publish to accepted push at steady rates below that.
    Latency,
    /// More workers, longer queues, a large family.
    Scale,
    /// Cost of an idle worker.
    Idle,
    /// Recipients with e-mail only.
    Email,
    /// Recipients with an inbox only.
    InApp,
    /// Reminders for later.
    Delayed,
    /// A worker at a distance from its servers.
    Distant,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(directory) = &arguments.sink {
        // A second thread would compete with the worker.
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sink::serve(directory)).unwrap();
        return;
    }
    let earlier: Option<Value> =
        arguments.compare.as_ref().map(|file| serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap());
    let json = arguments.json;
    let report = runtime::Runtime::new().unwrap().block_on(measure(arguments));
    if json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table(earlier.as_ref()));
    }
}

async fn measure(arguments: Arguments) -> Report {
    let mut report = Report::default();
    let wanted = |part| arguments.only.contains(&part);
    let bench =
        Bench { with: arguments.with.clone(), postgres: arguments.postgres.clone(), statements: arguments.statements };
    let usual =
        Load { way: Way::Push, families: arguments.reminders, members: MEMBERS, workers: 1, away: Duration::ZERO };
    report.note("reminders", f64::from(arguments.reminders));
    report.note("cores", std::thread::available_parallelism().map_or(f64::NAN, |cores| cores.get() as f64));
    let mut alone = None;
    if wanted(Part::Throughput) || wanted(Part::Latency) || wanted(Part::Scale) {
        alone = Some(bench.throughput(&mut report, "", usual).await);
    }
    if let Some(cost) = alone.filter(|_| wanted(Part::Latency)) {
        bench.latency(&mut report, "", Way::Push, cost.per_s).await;
    }
    if wanted(Part::Scale) {
        bench.scale(&mut report, usual).await;
    }
    if wanted(Part::Idle) {
        bench.idle(&mut report).await;
    }
    for (part, way, prefix) in [(Part::Email, Way::Email, "email_"), (Part::InApp, Way::InApp, "in_app_")] {
        if wanted(part) {
            let cost = bench.throughput(&mut report, prefix, Load { way, ..usual }).await;
            bench.latency(&mut report, prefix, way, cost.per_s).await;
        }
    }
    if wanted(Part::Delayed) {
        bench.delayed(&mut report).await;
    }
    if wanted(Part::Distant) {
        bench.distant(&mut report, usual, arguments.latency.into()).await;
    }
    report
}

struct Bench {
    with: Vec<(String, String)>,
    postgres: Vec<(String, String)>,
    statements: bool,
}

impl Bench {
    async fn scene(&self, way: Way, families: u32, members: u32) -> Scene {
        self.scene_at(way, families, members, Duration::ZERO).await
    }

    /// With this round trip from the workers to the servers.
    async fn scene_at(&self, way: Way, families: u32, members: u32, away: Duration) -> Scene {
        Scene::new(way, families, members, &pairs(&self.postgres)).await.at(away).await
    }

    async fn worker(&self, scene: &Scene) -> process::Worker {
        scene.worker(&pairs(&self.with)).await
    }

    async fn scale(&self, report: &mut Report, usual: Load) {
        for workers in [2, 4] {
            self.throughput(report, &format!("{workers}_workers_"), Load { workers, ..usual }).await;
        }
        let mut costs: Vec<Cost> = Vec::new();
        for families in [1000, 10_000, 100_000] {
            costs.push(self.throughput(report, &format!("{families}_waiting_"), Load { families, ..usual }).await);
        }
        if let [least, .., most] = &costs[..] {
            report.section("100,000 reminders waiting, as against 1,000");
            report.add("backlog_cpu_ratio", most.cpu_us / least.cpu_us);
            report.add("backlog_worker_cpu_ratio", most.worker_cpu_us / least.worker_cpu_us);
        }
        self.throughput(report, "family_of_10000_", Load { families: 1, members: 10_000, ..usual }).await;
    }

    async fn idle(&self, report: &mut Report) {
        const SECONDS: u64 = 20;
        report.section(&format!("A worker with nothing to do, for {SECONDS} s"));
        let scene = self.scene(Way::Push, 1, MEMBERS).await;
        let worker = self.worker(&scene).await;
        report.add("ready_ms", worker.ready_after.as_secs_f64() * 1000.0);
        report.add("start_cpu_ms", worker.cpu_at_ready * 1000.0);
        sleep(Duration::from_secs(2)).await;
        let (before, woken) = (worker.cpu(), worker.wake_ups());
        sleep(Duration::from_secs(SECONDS)).await;
        report.add("idle_cpu_percent", (worker.cpu() - before) / SECONDS as f64 * 100.0);
        report.add("idle_wake_ups_per_s", (worker.wake_ups() - woken) as f64 / SECONDS as f64);
        report.add("idle_rss_mb", worker.rss_mb());
        worker.stop().await;
    }
}

fn pairs(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
