//! Maximum throughput: everything is published before a worker starts.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use tokio::time::sleep;

use crate::{Bench, counters::Counters, process::Worker, report::Report, scene::Way};

/// Interval of checks. Arrival times are exact to the microsecond.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy)]
pub struct Load {
    pub way: Way,
    pub families: u32,
    pub members: u32,
    pub workers: usize,
    /// The round trip to the servers.
    pub away: Duration,
}

pub struct Cost {
    pub per_s: f64,
    /// CPU of the workers per push, in microseconds.
    pub worker_cpu_us: f64,
    /// The same including both servers.
    pub cpu_us: f64,
}

impl Bench {
    /// Measures from the first ready worker to the last push.
    pub async fn throughput(&self, report: &mut Report, prefix: &str, load: Load) -> Cost {
        let Load { way, families, members, workers, away } = load;
        let unit = way.unit();
        report.section(&format!(
            "{families} reminders to families of {members}, {} only, {workers} worker(s), round trip {away:?}",
            way.name()
        ));
        let scene = self.scene_at(way, families, members, away).await;
        scene.publish(1..=families, "round").await;
        let before = Counters::read(&scene).await;
        let running = join_all((0..workers).map(|_| self.worker(&scene))).await;
        let expected = families as usize * members as usize;
        scene.wait_for(expected, LOOK_EVERY).await;
        let after = Counters::read(&scene).await;
        let own: f64 = running.iter().map(Worker::cpu).sum();
        let worker_cpu = own - running.iter().map(|worker| worker.cpu_at_ready).sum::<f64>();

        let arrivals = scene.arrivals().await;
        let begin = running.iter().map(|worker| worker.ready_at).min().unwrap();
        let end = arrivals.iter().map(|(_, at)| *at).max().unwrap();
        let seconds = (end - begin) as f64 / 1e6;
        let pushes = expected as f64;
        let mut add = |name: String, figure: f64| report.add(format!("{prefix}{name}"), figure);
        let different: HashSet<u32> = arrivals.iter().map(|(number, _)| *number).collect();
        let per_s = pushes / seconds;
        add(format!("{}_per_s", way.plural()), per_s);
        add("seconds".into(), seconds);
        add("missing".into(), (expected - different.len()) as f64);
        add("doubled".into(), (arrivals.len() - different.len()) as f64);
        let us = |seconds: f64| seconds / pushes * 1e6;
        add(format!("worker_cpu_us_per_{unit}"), us(worker_cpu));
        add(format!("nats_cpu_us_per_{unit}"), us(after.nats_cpu - before.nats_cpu));
        add(format!("postgres_cpu_us_per_{unit}"), us(after.postgres_cpu - before.postgres_cpu));
        if way != Way::InApp {
            add(format!("sink_cpu_us_per_{unit}"), us(after.sink_cpu - before.sink_cpu));
        }
        // CPU of other processes, in percent of all cores. It should be small.
        add("elsewhere_percent".into(), after.elsewhere_percent(&before, own));
        add("peak_rss_mb".into(), running.iter().map(Worker::peak_rss_mb).fold(0.0, f64::max));
        let each = |after: f64, before: f64| (after - before) / pushes;
        if let (Some(after), Some(before)) = (after.statements, before.statements) {
            add(format!("statements_per_{unit}"), each(after, before));
        }
        add(format!("wal_bytes_per_{unit}"), each(after.wal_bytes, before.wal_bytes));
        add(format!("messages_in_per_{unit}"), each(after.messages_in, before.messages_in));
        add(format!("messages_out_per_{unit}"), each(after.messages_out, before.messages_out));
        add(format!("messages_stored_per_{unit}"), each(after.messages_stored, before.messages_stored));
        for worker in running {
            worker.stop().await;
        }
        // Commits are counted with a delay, or at a connection's end.
        sleep(Duration::from_millis(100)).await;
        add(format!("commits_per_{unit}"), each(scene.commits().await, before.commits));
        if self.statements {
            scene.say_statements().await;
        }
        let servers = after.nats_cpu - before.nats_cpu + after.postgres_cpu - before.postgres_cpu;
        Cost { per_s, worker_cpu_us: us(worker_cpu), cpu_us: us(worker_cpu + servers) }
    }
}
