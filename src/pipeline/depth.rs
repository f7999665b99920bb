//! How many deliveries wait, so that notifications that are in no hurry wait in their own lane and not in front of
//! others.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Follows how many messages wait, or are under way, in these consumers (stream, durable). The last number known stays
/// while the server does not answer.
pub fn follow(
    context: jetstream::Context,
    consumers: Vec<(String, String)>,
    stop: CancellationToken,
) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        while stop.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            if let Some(depth) = look(&context, &consumers).await {
                sender.send_if_modified(|known| std::mem::replace(known, depth) != depth);
            }
        }
    });
    receiver
}

async fn look(context: &jetstream::Context, consumers: &[(String, String)]) -> Option<u64> {
    let mut depth = 0;
    for (stream, durable) in consumers {
        let consumer: PullConsumer = context.get_consumer_from_stream(durable, stream).await.ok()?;
        let info = consumer.cached_info();
        depth += info.num_pending + info.num_ack_pending as u64;
    }
    Some(depth)
}
