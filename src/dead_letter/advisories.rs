//! Buries messages delivered as often as their consumer allows, which stay in the work queue undelivered.
//!
//! Normally workers end jobs before that; this catches messages whose workers die without recording anything. The
//! stream ADVISORIES keeps advisories while nobody listens.

use std::time::Duration;

use async_nats::jetstream::{self, AckKind, consumer::PullConsumer, stream::RawMessageErrorKind};
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{exhausted, unreadable::bury_unreadable};
use crate::effects::Effects;

pub(super) const STREAM: &str = "ADVISORIES";
const DURABLE: &str = "advisories";

/// Limit of a pull, and of the wait for its end.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const PULL_GRACE: Duration = Duration::from_secs(5);

/// After a failed pull or advisory.
const AGAIN: Duration = Duration::from_secs(5);

/// ADR-2; types `io.nats.jetstream.advisory.v1.max_deliver` and `.terminated`.
#[derive(Debug, Deserialize)]
struct Advisory {
    #[serde(rename = "type")]
    kind: String,
    stream: String,
    stream_seq: u64,
    #[serde(default)]
    deliveries: u64,
}

/// Listens until `stop`.
pub async fn run(effects: Effects, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Some(Err(why)) = stop.run_until_cancelled(Box::pin(listen(&effects))).await {
            tracing::warn!("advisories cannot be received, trying again soon: {why}");
            let _ = stop.run_until_cancelled(sleep(AGAIN)).await;
        }
    }
}

async fn listen(effects: &Effects) -> Result<(), String> {
    let consumer: PullConsumer = effects.context().get_consumer_from_stream(DURABLE, STREAM).await.map_err(show)?;
    loop {
        let batch = consumer.fetch().max_messages(10).expires(PULL_EXPIRES).messages().await.map_err(show)?;
        let mut batch = std::pin::pin!(batch);
        while let Some(message) =
            timeout(PULL_EXPIRES + PULL_GRACE, batch.next()).await.map_err(|_| "the server does not answer")?
        {
            let message = message.map_err(show)?;
            let settled = match handle(effects, &message).await {
                Ok(()) => AckKind::Ack,
                Err(why) => {
                    tracing::warn!("an advisory could not be handled, trying again soon: {why}");
                    AckKind::Nak(Some(AGAIN))
                }
            };
            message.ack_with(settled).await.map_err(show)?;
        }
    }
}

async fn handle(effects: &Effects, message: &jetstream::Message) -> Result<(), String> {
    let Ok(advisory) = serde_json::from_slice::<Advisory>(&message.payload) else {
        tracing::warn!("an advisory of an unknown form is ignored");
        return Ok(());
    };
    // The worker that terminated a message has copied it.
    if !advisory.kind.ends_with(".max_deliver") {
        return Ok(());
    }
    let stream = effects.context().get_stream(&advisory.stream).await.map_err(show)?;
    let left = match stream.get_raw_message(advisory.stream_seq).await {
        Ok(left) => left,
        // Acknowledged late, or handled before.
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(()),
        // A slow server, or a message that the client cannot parse. The API's JSON shows which.
        Err(_) => {
            return bury_unreadable(effects.context(), &advisory.stream, advisory.stream_seq, effects.now()).await;
        }
    };
    exhausted(effects, &stream, left, advisory.deliveries).await
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
