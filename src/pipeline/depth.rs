//! The backlog of deliveries. While it is long, notifications in no hurry stay in their own lane, where they hold up
//! nobody.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    channels::{Appetite, Channels},
    kind::Queue,
    pauses::Pauses,
    plan::Channel,
};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The failed looks in a row after which nobody pauses.
const PATIENCE: u32 = 10;

/// A queue of deliveries.
pub struct DeliveryQueue {
    /// The queue.
    pub queue: Queue,
    /// Its channel.
    pub channel: Channel,
    /// Its stream.
    pub stream: String,
}

/// Pauses a queue while more of something than a bound is waiting.
pub struct Pause {
    /// The bound.
    pub bound: u64,
    /// How many are waiting.
    pub depth: watch::Receiver<u64>,
    /// For the log.
    pub why: &'static str,
}

impl Pause {
    /// Whether more than the bound are waiting.
    pub fn holds(&self) -> bool {
        *self.depth.borrow() > self.bound
    }

    /// Returns when no more than the bound are waiting.
    pub async fn over(&self, queue: Queue) {
        let mut depth = self.depth.clone();
        let waiting = *depth.borrow_and_update();
        if waiting > self.bound {
            let why = self.why;
            tracing::info!(queue = queue.durable(), waiting, bound = self.bound, "pausing: {why}");
            // The sender ends with the worker, and then nobody waits here.
            let _ = depth.wait_for(|waiting| *waiting <= self.bound).await;
        }
    }
}

/// Follows the number of messages waiting in these queues, without retries that wait for their time. Nobody pauses on
/// an unknown number. The backlog of a provider that is down, or of a paused queue, does not count: it holds up no other
/// channel.
pub fn follow(
    context: jetstream::Context,
    channels: Channels,
    pauses: Pauses,
    queues: Vec<DeliveryQueue>,
    stop: CancellationToken,
) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        let mut in_vain = 0;
        while stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            let depth = match look(&context, &channels, &pauses, &queues).await {
                Some(depth) => depth,
                // One lost answer does not end a pause.
                None if in_vain < PATIENCE => {
                    in_vain += 1;
                    continue;
                }
                None => 0,
            };
            in_vain = 0;
            sender.send_if_modified(|known| std::mem::replace(known, depth) != depth);
        }
    });
    receiver
}

async fn look(
    context: &jetstream::Context,
    channels: &Channels,
    pauses: &Pauses,
    queues: &[DeliveryQueue],
) -> Option<u64> {
    let mut depth = 0;
    for DeliveryQueue { queue, stream, .. } in
        queues.iter().filter(|queue| channels.appetite(queue.channel) == Appetite::All && !pauses.hold(queue.queue))
    {
        let consumer: PullConsumer = context.get_consumer_from_stream(queue.durable(), stream).await.ok()?;
        depth += consumer.cached_info().num_pending;
    }
    Some(depth)
}
