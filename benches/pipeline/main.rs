//! How fast the whole way is: `cargo bench --bench pipeline -- [--json] [--only PART,…] [--compare FILE]`.
//!
//! Medication reminders to families of four go through the real worker, with real servers whose acknowledgements are on
//! disk, to an HTTPS push sink; each a process of its own. Compare ratios of one run, not figures of two machines.
//! `docs/PERFORMANCE.md` has the figures and what they mean.

// As in the tests: one assertion a line reads better here than an error path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod report;
mod scene;
mod sink;

use std::{path::PathBuf, time::Duration};

use carebell::clock::Clock;
use chrono::TimeDelta;
use clap::{Parser, ValueEnum};
use futures::stream::{FuturesUnordered, StreamExt};
use report::{Report, percentile};
use scene::{Scene, cpu};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

/// Members of a family.
const MEMBERS: u32 = 4;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(5);

/// Measures the whole way from a published reminder to accepted pushes.
#[derive(Debug, Parser)]
#[command(name = "pipeline")]
struct Arguments {
    /// How many reminders are published for throughput; each is four pushes.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=200_000))]
    reminders: u32,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Throughput, Part::Latency, Part::Scale, Part::Idle])]
    only: Vec<Part>,
    /// Variables of the workers that differ from what is shipped, as NAME=VALUE; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    with: Vec<(String, String)>,
    /// Prints one JSON object in place of a table.
    #[arg(long)]
    json: bool,
    /// The JSON of an earlier run: ratios against it are shown.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Runs as the sink, in this directory.
    #[arg(long, hide = true)]
    sink: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// As many pushes a second as it can, and what each costs.
    Throughput,
    /// From publish to accepted push at steady rates below that.
    Latency,
    /// More workers, longer queues, a large family.
    Scale,
    /// What a worker costs that has nothing to do.
    Idle,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(directory) = &arguments.sink {
        sink::serve(directory).await.unwrap();
        return;
    }
    let mut report = Report::default();
    let bench = Bench { more: arguments.with.clone() };
    let mut pushes_per_s = None;
    let wanted = |part| arguments.only.contains(&part);
    if wanted(Part::Throughput) {
        pushes_per_s = Some(bench.throughput(&mut report, "", arguments.reminders, MEMBERS, 1).await);
    }
    if wanted(Part::Latency) {
        let most = match pushes_per_s {
            Some(most) => most,
            None => bench.throughput(&mut report, "", arguments.reminders, MEMBERS, 1).await,
        };
        bench.latency(&mut report, most).await;
    }
    if wanted(Part::Scale) {
        for workers in [2, 4] {
            bench.throughput(&mut report, &format!("{workers}_workers_"), arguments.reminders, MEMBERS, workers).await;
        }
        for waiting in [1000, 10_000, 100_000] {
            bench.throughput(&mut report, &format!("{waiting}_waiting_"), waiting, MEMBERS, 1).await;
        }
        bench.throughput(&mut report, "family_of_10000_", 1, 10_000, 1).await;
    }
    if wanted(Part::Idle) {
        bench.idle(&mut report).await;
    }
    let earlier =
        arguments.compare.map(|file| serde_json::from_str::<Value>(&std::fs::read_to_string(&file).unwrap()).unwrap());
    if arguments.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table(earlier.as_ref()));
    }
}

/// How the workers are set.
struct Bench {
    more: Vec<(String, String)>,
}

impl Bench {
    async fn worker(&self, scene: &Scene) -> scene::Worker {
        let more: Vec<(&str, &str)> = self.more.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        scene.worker(&more).await
    }

    /// Publishes all, then starts the workers, and takes the time until the last push has come.
    async fn throughput(&self, report: &mut Report, prefix: &str, families: u32, members: u32, workers: usize) -> f64 {
        eprintln!("{families} reminders to families of {members}, {workers} worker(s)");
        let scene = Scene::new(families, members).await;
        scene.publish(1..=families, "round").await;
        let pushes = families as usize * members as usize;
        let (commits, stored) = (scene.commits().await, scene.stored().await);
        let (nats, postgres, sink) = (cpu(scene.nats.pid()), scene.postgres_cpu(), cpu(scene.sink.pid()));
        let started = Instant::now();
        let mut running = Vec::new();
        for _ in 0..workers {
            running.push(self.worker(&scene).await);
        }
        scene.sink.wait_for(pushes, LIMIT).await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let pushes = pushes as f64;
        let mut add = |name: &str, figure: f64| report.add(format!("{prefix}{name}"), figure);
        add("pushes_per_s", pushes / seconds);
        let worker_cpu: f64 = running.iter().map(scene::Worker::cpu).sum();
        add("worker_cpu_us_per_push", worker_cpu / pushes * 1e6);
        add("peak_rss_mb", running.iter().map(scene::Worker::peak_rss_mb).fold(0.0, f64::max));
        add("nats_cpu_us_per_push", (cpu(scene.nats.pid()) - nats) / pushes * 1e6);
        add("postgres_cpu_us_per_push", (scene.postgres_cpu() - postgres) / pushes * 1e6);
        add("sink_cpu_us_per_push", (cpu(scene.sink.pid()) - sink) / pushes * 1e6);
        // The database counts with a delay.
        sleep(Duration::from_millis(1500)).await;
        add("commits_per_push", (scene.commits().await - commits) as f64 / pushes);
        add("messages_stored_per_push", (scene.stored().await - stored) as f64 / pushes);
        for worker in running {
            worker.stop().await;
        }
        pushes / seconds
    }

    /// Publishes at steady rates, each reminder at its own instant whatever became of those before, and measures from that
    /// instant: a worker that stands still makes all wait that were due meanwhile, and all of them count.
    async fn latency(&self, report: &mut Report, most: f64) {
        for load in [10_u32, 50, 80] {
            let reminders_per_s = most * f64::from(load) / 100.0 / f64::from(MEMBERS);
            let families = (reminders_per_s * 10.0).ceil().max(20.0) as u32;
            eprintln!("{reminders_per_s:.0} reminders a second for {} s", f64::from(families) / reminders_per_s);
            let scene = Scene::new(families, MEMBERS).await;
            let worker = self.worker(&scene).await;
            // The first push of a worker makes its connection.
            scene.publish(1..=1, "warm").await;
            scene.sink.wait_for(MEMBERS as usize, LIMIT).await.unwrap();
            scene.sink.arrivals().await;
            let begin = Instant::now() + Duration::from_millis(100);
            let epoch = Clock::system().now() + TimeDelta::milliseconds(100);
            let mut acks = FuturesUnordered::new();
            for family in 1..=families {
                let offset = Duration::from_secs_f64(f64::from(family - 1) / reminders_per_s);
                // What is acknowledged meanwhile is taken note of while waiting.
                let due = sleep_until(begin + offset);
                tokio::pin!(due);
                loop {
                    tokio::select! {
                        () = &mut due => break,
                        Some(()) = acks.next(), if !acks.is_empty() => {}
                    }
                }
                acks.push(scene.publish_one(family, "steady", epoch + TimeDelta::from_std(offset).unwrap()));
            }
            while acks.next().await.is_some() {}
            scene.sink.wait_for(families as usize * MEMBERS as usize, LIMIT).await.unwrap();
            let mut millis: Vec<f64> = Vec::new();
            for (number, at) in scene.sink.arrivals().await {
                let family = (number - 1) / MEMBERS;
                let offset = f64::from(family) / reminders_per_s * 1e6;
                millis.push((at as f64 - epoch.timestamp_micros() as f64 - offset) / 1000.0);
            }
            millis.sort_by(f64::total_cmp);
            let suffix = if load == 50 { String::new() } else { format!("_at_{load}") };
            for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
                report.add(format!("{name}_ms{suffix}"), percentile(&millis, share));
            }
            worker.stop().await;
        }
    }

    /// What a worker costs that has nothing to do.
    async fn idle(&self, report: &mut Report) {
        const SECONDS: u64 = 20;
        eprintln!("a worker with nothing to do, for {SECONDS} s");
        let scene = Scene::new(1, MEMBERS).await;
        let worker = self.worker(&scene).await;
        report.add("ready_ms", worker.ready_after.as_secs_f64() * 1000.0);
        sleep(Duration::from_secs(2)).await;
        let (before, woken) = (worker.cpu(), worker.wake_ups());
        sleep(Duration::from_secs(SECONDS)).await;
        report.add("idle_cpu_percent", (worker.cpu() - before) / SECONDS as f64 * 100.0);
        report.add("idle_wake_ups_per_s", (worker.wake_ups() - woken) as f64 / SECONDS as f64);
        worker.stop().await;
    }
}
