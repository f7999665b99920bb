//! Latency from publish to accepted push at steady rates below the maximum.

use std::{
    thread,
    time::{Duration, Instant},
};

use carebell::clock::Clock;
use chrono::TimeDelta;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::{
    Bench, MEMBERS,
    counters::Counters,
    report::{Report, percentile},
    scene::Way,
};

const SECONDS: f64 = 10.0;

impl Bench {
    /// Publishes each reminder at its own instant and measures from that instant. A stall therefore counts for every
    /// reminder due meanwhile (no coordinated omission). Percentiles are of all values.
    pub async fn latency(&self, report: &mut Report, prefix: &str, way: Way, most: f64) {
        for load in [10_u32, 50, 80] {
            let reminders_per_s = most * f64::from(load) / 100.0 / f64::from(MEMBERS);
            let families = (reminders_per_s * SECONDS).ceil().max(20.0) as u32;
            report.section(&format!("{} only at {load} % of the most: {reminders_per_s:.0} reminders/s", way.name()));
            // The first push opens the connection, so one more family goes first, uncounted.
            let scene = self.scene(way, families + 1, MEMBERS).await;
            let worker = self.worker(&scene).await;
            scene.publish([families + 1], "warm").await;
            scene.wait_for(MEMBERS as usize, Duration::from_millis(20)).await;
            let offset = |family: u32| Duration::from_secs_f64(f64::from(family - 1) / reminders_per_s);

            let before = Counters::read(&scene).await;
            let own = worker.cpu();
            let clock = Clock::system();
            let epoch = clock.now() + TimeDelta::milliseconds(100);
            let due = |family: u32| epoch + TimeDelta::from_std(offset(family)).unwrap();
            let mut bell = ring(Instant::now() + Duration::from_millis(100), (1..=families).map(offset).collect());
            let (mut acks, mut late) = (FuturesUnordered::new(), Vec::new());
            let mut family = 0;
            loop {
                tokio::select! {
                    rung = bell.recv() => {
                        if rung.is_none() {
                            break;
                        }
                        family += 1;
                        acks.push(scene.send(family, "steady", due(family)).await);
                        late.push(micros(clock.now() - due(family)) / 1000.0);
                    }
                    Some(()) = acks.next(), if !acks.is_empty() => {}
                }
            }
            while acks.next().await.is_some() {}
            scene.wait_for((families + 1) as usize * MEMBERS as usize, Duration::from_millis(100)).await;
            let after = Counters::read(&scene).await;
            let own = worker.cpu() - own;

            let arrivals = scene.arrivals().await.into_iter().map(|(number, at)| ((number - 1) / MEMBERS + 1, at));
            let counted = arrivals.filter(|(family, _)| *family <= families);
            let mut millis: Vec<f64> =
                counted.map(|(family, at)| (at - due(family).timestamp_micros()) as f64 / 1000.0).collect();
            millis.sort_by(f64::total_cmp);
            late.sort_by(f64::total_cmp);
            let suffix = if load == 50 { String::new() } else { format!("_at_{load}") };
            let mut add = |name: &str, figure: f64| report.add(format!("{prefix}{name}{suffix}"), figure);
            for (name, share) in [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0)] {
                add(name, percentile(&millis, share));
            }
            // Neither publisher nor sink may be the bottleneck.
            add("producer_late_p99_ms", percentile(&late, 0.99));
            if way != Way::InApp {
                add("sink_core_percent", (after.sink_cpu - before.sink_cpu) / after.seconds_since(&before) * 100.0);
            }
            add("worker_core_percent", own / after.seconds_since(&before) * 100.0);
            worker.stop().await;
        }
    }
}

/// Rings from its own thread, since the runtime's timers resolve only milliseconds.
fn ring(begin: Instant, offsets: Vec<Duration>) -> mpsc::UnboundedReceiver<()> {
    let (bell, rung) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for offset in offsets {
            thread::sleep((begin + offset).saturating_duration_since(Instant::now()));
            if bell.send(()).is_err() {
                return;
            }
        }
    });
    rung
}

fn micros(span: TimeDelta) -> f64 {
    span.num_microseconds().map_or(f64::NAN, |micros| micros as f64)
}
