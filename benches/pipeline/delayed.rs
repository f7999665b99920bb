//! Lateness of delayed reminders: many due at once, and some beside a backlog of bulk notifications.

use std::{ops::Range, time::Duration};

use async_nats::HeaderMap;
use carebell::clock::Clock;
use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    Bench,
    report::{Report, percentile},
    scene::{PIPELINED, Scene, Way},
};

/// Reminders that are due at once.
const AT_ONCE: u32 = 20_000;

/// Bulk notifications, and reminders that are due while these are worked off.
const BULK: u32 = 100_000;
const BESIDE: u32 = 200;

/// Between two of those.
const APART: TimeDelta = TimeDelta::milliseconds(20);

/// From the first publish to the first instant: enough to park all.
const AHEAD: TimeDelta = TimeDelta::seconds(20);

const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Bench {
    pub async fn delayed(&self, report: &mut Report) {
        report.section(&format!("{AT_ONCE} delayed reminders, due at once"));
        let scene = self.scene(Way::Push, AT_ONCE, 1).await;
        let worker = self.worker(&scene).await;
        let due = Clock::system().now() + AHEAD;
        let since = std::time::Instant::now();
        publish(&scene, 1..=AT_ONCE, |_| due).await;
        while scene.messages("JOBS").await > 0 {
            sleep(LOOK_EVERY).await;
        }
        report.add("delayed_parked_per_s", f64::from(AT_ONCE) / since.elapsed().as_secs_f64());
        scene.wait_for(AT_ONCE as usize, LOOK_EVERY).await;
        let late = lateness(&scene, 1..1 + AT_ONCE, |_| due).await;
        report.add("delayed_first_ms", percentile(&late, 0.0));
        report.add("delayed_last_ms", percentile(&late, 1.0));
        report.add("delayed_missing", f64::from(AT_ONCE) - late.len() as f64);
        worker.stop().await;

        report.section(&format!("{BESIDE} delayed reminders beside {BULK} bulk notifications"));
        let scene = self.scene(Way::Push, 1 + 2 * BESIDE, 1).await;
        let body = json!({ "recipients": [{ "userId": "user-1" }], "title": "News" }).to_string();
        let mut acks = Vec::new();
        for number in 0..BULK {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Type", "application/json");
            headers.insert("Carebell-Job-Id", format!("bulk-{number}").as_str());
            let subject = "jobs.notification.bulk";
            acks.push(scene.context.publish_with_headers(subject, headers, body.clone().into()).await.unwrap());
            if acks.len() == 1000 {
                for ack in acks.drain(..) {
                    drop(ack.await.unwrap());
                }
            }
        }
        let worker = self.worker(&scene).await;
        let begin = Clock::system().now() + TimeDelta::seconds(2);
        let due = |family: u32| begin + APART * i32::try_from(family - 2).unwrap();
        publish(&scene, 2..=1 + BESIDE, due).await;
        // Others are published when they are due: what they need is not the delay's.
        let at_once = |family: u32| due(family - BESIDE);
        for family in 2 + BESIDE..=1 + 2 * BESIDE {
            sleep((at_once(family) - Clock::system().now()).to_std().unwrap_or_default()).await;
            scene.send(family, "at-once", at_once(family)).await.await;
        }
        sleep(Duration::from_secs(1)).await;
        let backlog = scene.messages("JOBS").await;
        let late = lateness(&scene, 2 + BESIDE..2 + 2 * BESIDE, at_once).await;
        report.add("beside_bulk_at_once_p50_ms", percentile(&late, 0.5));
        report.add("beside_bulk_at_once_p99_ms", percentile(&late, 0.99));
        let late = lateness(&scene, 2..2 + BESIDE, due).await;
        report.add("beside_bulk_p50_ms", percentile(&late, 0.5));
        report.add("beside_bulk_p99_ms", percentile(&late, 0.99));
        report.add("beside_bulk_max_ms", percentile(&late, 1.0));
        report.add("beside_bulk_missing", f64::from(BESIDE) - late.len() as f64);
        report.add("beside_bulk_still_waiting", backlog as f64);
        worker.stop().await;
    }
}

async fn publish(scene: &Scene, families: impl Iterator<Item = u32>, due: impl Fn(u32) -> DateTime<Utc>) {
    let mut acks = FuturesUnordered::new();
    for family in families {
        if acks.len() >= PIPELINED {
            acks.next().await;
        }
        acks.push(scene.send_later(family, "later", due(family)).await);
    }
    while acks.next().await.is_some() {}
}

/// Milliseconds from the instant to the push of these families, sorted.
async fn lateness(scene: &Scene, families: Range<u32>, due: impl Fn(u32) -> DateTime<Utc>) -> Vec<f64> {
    let arrivals = scene.arrivals().await;
    let mut late: Vec<f64> = arrivals
        .into_iter()
        .filter(|(family, _)| families.contains(family))
        .map(|(family, at)| (at - due(family).timestamp_micros()) as f64 / 1000.0)
        .collect();
    late.sort_by(f64::total_cmp);
    late
}
