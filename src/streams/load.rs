//! Current load of queues and streams.

use async_nats::jetstream::{self, context::ConsumerInfoErrorKind};
use chrono::{DateTime, Utc};

use super::{DeclaredConsumer, ServerError, Streams, is_missing, server_error};

/// Load of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Messages not delivered yet.
    pub waiting: u64,
    /// Messages running, or waiting for the next attempt.
    pub in_flight: u64,
    /// Open pulls. With none, nobody works on this queue.
    pub pulls: u64,
    /// Publish time of the oldest waiting message.
    pub oldest: Option<DateTime<Utc>>,
}

impl DeclaredConsumer {
    /// The advisory consumer is not a queue.
    #[must_use]
    pub fn is_queue(&self) -> bool {
        !self.config.filter_subject.starts_with('$')
    }

    /// Its load, or `None` if the server lacks it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn load(&self, context: &jetstream::Context) -> Result<Option<Load>, ServerError> {
        let place = self.place();
        let stream = match context.get_stream(&self.stream).await {
            Ok(stream) => stream,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(server_error("look at", &place, &error)),
        };
        let info = match stream.consumer_info(self.durable()).await {
            Ok(info) => info,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(server_error("look at", &place, &error)),
        };
        let mut load = Load {
            waiting: info.num_pending,
            in_flight: info.num_ack_pending as u64,
            pulls: info.num_waiting as u64,
            oldest: None,
        };
        if load.waiting > 0 {
            let next = info.delivered.stream_sequence + 1;
            // It may be gone, or unreadable by the client: no reason to fail.
            let oldest = stream.get_first_raw_message_by_subject(&self.config.filter_subject, next).await;
            load.oldest = oldest.ok().and_then(|message| DateTime::from_timestamp(message.time.unix_timestamp(), 0));
        }
        Ok(Some(load))
    }
}

impl Load {
    /// The load of a queue that is in two streams.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let oldest = self.oldest.into_iter().chain(other.oldest).min();
        Self {
            waiting: self.waiting + other.waiting,
            in_flight: self.in_flight + other.in_flight,
            pulls: self.pulls + other.pulls,
            oldest,
        }
    }
}

impl Streams {
    /// Number of messages in a stream, or `None` if the server lacks it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn depth(&self, context: &jetstream::Context, stream: &str) -> Result<Option<u64>, ServerError> {
        match context.get_stream(stream).await {
            Ok(found) => Ok(Some(found.cached_info().state.messages)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(server_error("look at", stream, &error)),
        }
    }
}
