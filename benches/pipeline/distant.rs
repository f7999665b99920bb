//! A worker far from its servers, as against one beside them.

use std::time::Duration;

use carebell::clock::Clock;
use tokio::time::sleep;

use crate::{
    Bench, MEMBERS,
    report::{Report, percentile},
    scene::Way,
    throughput::Load,
};

/// Reminders that are sent one after the other.
const ALONE: u32 = 40;

impl Bench {
    /// Measures one reminder at a time, and the most pushes and inbox rows per second, here and at this distance.
    pub async fn distant(&self, report: &mut Report, usual: Load, away: Duration) {
        report.note("round_trip_ms", away.as_secs_f64() * 1000.0);
        for (away, prefix) in [(Duration::ZERO, "near_"), (away, "distant_")] {
            self.one(report, prefix, away).await;
        }
        for (way, prefix) in [(Way::Push, ""), (Way::InApp, "in_app_")] {
            let near = self.throughput(report, &format!("near_{prefix}"), Load { way, ..usual }).await;
            let distant = self.throughput(report, &format!("distant_{prefix}"), Load { way, away, ..usual }).await;
            report.add(format!("distant_{prefix}ratio"), distant.per_s / near.per_s);
        }
    }

    /// From publish to the first push of each reminder, with nothing else to do.
    async fn one(&self, report: &mut Report, prefix: &str, away: Duration) {
        report.section(&format!("{ALONE} reminders, one after the other, at a round trip of {away:?}"));
        let scene = self.scene_at(Way::Push, ALONE + 1, MEMBERS, away).await;
        let worker = self.worker(&scene).await;
        let mut due = vec![Clock::system().now()];
        // The first opens the connections, and is not counted.
        for family in 1..=ALONE + 1 {
            let now = Clock::system().now();
            due.push(now);
            scene.send(family, "one", now).await.await;
            scene.wait_for((family * MEMBERS) as usize, Duration::from_millis(5)).await;
            // Its acknowledgement is over before the next begins.
            sleep(Duration::from_millis(100) + 2 * away).await;
        }
        let mut millis = Vec::new();
        for (number, at) in scene.arrivals().await {
            let family = (number - 1) / MEMBERS + 1;
            if family > 1 {
                millis.push((at - due[family as usize].timestamp_micros()) as f64 / 1000.0);
            }
        }
        millis.sort_by(f64::total_cmp);
        for (name, share) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
            report.add(format!("{prefix}one_{name}"), percentile(&millis, share));
        }
        worker.stop().await;
    }
}
