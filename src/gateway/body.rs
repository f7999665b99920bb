//! Bodies of requests, within bounds of size, time and memory.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::problem::Problem;

/// How long a body may take to arrive.
const LONGEST: Duration = Duration::from_secs(30);

const KIB: usize = 1024;

/// A body, which keeps its part of the memory of all bodies until dropped.
pub struct Held<'a> {
    /// The body.
    pub bytes: Bytes,
    _memory: Option<SemaphorePermit<'a>>,
}

/// Reads a body of at most `largest` bytes.
///
/// # Errors
/// 408, 413, or 503 if other bodies take all memory.
pub async fn read(body: Body, largest: usize, memory: &Semaphore) -> Result<Held<'_>, Problem> {
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::new();
    let mut held: Option<SemaphorePermit<'_>> = None;
    let arrived = timeout(LONGEST, async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::field("", "the body ends too soon"))?;
            if bytes.len() + chunk.len() > largest {
                return Err(Problem::too_large(format!("the body is larger than {largest} bytes")));
            }
            bytes.extend_from_slice(&chunk);
            let more = bytes.len().div_ceil(KIB) - held.as_ref().map_or(0, SemaphorePermit::num_permits);
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            // Whoever waited here would keep its part from the others.
            let more = memory.try_acquire_many(more);
            let more = more.map_err(|_| Problem::busy("the bodies of other requests take all memory"))?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
        Ok(())
    });
    arrived.await.map_err(|_| Problem::too_slow(LONGEST.as_secs()))??;
    Ok(Held { bytes: bytes.freeze(), _memory: held })
}
