//! How many deliveries could be sent now and wait, so that notifications that are in no hurry wait in their own lane and not in front of
//! others.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    channels::{Appetite, Channels},
    plan::Channel,
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks in vain, in a row, after which nobody pauses any more.
const PATIENCE: u32 = 10;

/// A queue of deliveries.
pub struct Waiting {
    /// What it sends by.
    pub channel: Channel,
    /// Its stream.
    pub stream: String,
    /// Its durable.
    pub durable: String,
}

/// Follows how many messages wait in these queues; retries that wait for their time are not among them. Nobody pauses on
/// a number that cannot be had, and what waits for a provider that is down holds up no other channel.
pub fn follow(
    context: jetstream::Context,
    channels: Channels,
    queues: Vec<Waiting>,
    stop: CancellationToken,
) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        let mut in_vain = 0;
        while stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            let depth = match look(&context, &channels, &queues).await {
                Some(depth) => depth,
                // One answer that is lost ends no pause.
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

async fn look(context: &jetstream::Context, channels: &Channels, queues: &[Waiting]) -> Option<u64> {
    let mut depth = 0;
    for Waiting { stream, durable, .. } in
        queues.iter().filter(|queue| channels.appetite(queue.channel) == Appetite::All)
    {
        let consumer: PullConsumer = context.get_consumer_from_stream(durable, stream).await.ok()?;
        depth += consumer.cached_info().num_pending;
    }
    Some(depth)
}
