//! Whether NATS stores what is published. A server whose disk was full refuses to write to its streams until it is
//! started again, while it answers everything else (nats-server 2.15.1).

use std::{sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::PublishErrorKind},
};
use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    park::STREAM,
    publish::{error_code, send},
};
use crate::{
    clock::Clock,
    dead_letter::take_out,
    header,
    health::{Health, NATS, NATS_STORAGE, Part},
};

const EVERY: Duration = Duration::from_secs(10);

/// Below `hold.`, so that a worker may publish there. Nothing else uses it.
const SUBJECT: &str = "hold.check";

/// Writes a message and removes it, every ten seconds until `stop`, and tells [`Health`] of the outcome.
pub async fn run(context: jetstream::Context, health: Arc<Health>, clock: Clock, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(clock.paced(EVERY))).await.is_some() {
        match stop.run_until_cancelled(check(&context)).await {
            Some(Ok(())) => health.set(NATS_STORAGE, Part::Up),
            // A lost server has its own part.
            Some(Err(why)) if health.parts().get(NATS) == Some(&Part::Up) => {
                health.set(NATS_STORAGE, Part::Down(why.into()));
            }
            _ => {}
        }
    }
}

async fn check(context: &jetstream::Context) -> Result<(), &'static str> {
    let mut headers = HeaderMap::new();
    // Leaves one message, should the removal fail.
    headers.insert(header::ROLLUP, "sub");
    let written = send(context, SUBJECT, headers, Bytes::new()).await.map_err(|error| match error_code(&error) {
        Some(ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STORAGE_RESOURCES_EXCEEDED) => {
            "JetStream has used up its storage: free some, or raise max_file_store of the server or the account"
        }
        None if error.kind() == PublishErrorKind::TimedOut => {
            "the stream HOLD takes no message: if the server's log tells of a full disk, free space and restart it"
        }
        _ => "the stream HOLD refuses a message: see the server's log",
    })?;
    // It stays until the next time.
    let _ = take_out(context, STREAM, written.sequence).await;
    Ok(())
}
