//! Reads of HOLD, message by message.

use async_nats::jetstream::{
    message::StreamMessage,
    stream::{RawMessageErrorKind, Stream},
};
use chrono::{DateTime, Utc};

use super::unreadable::bury_first;
use crate::effects::{Effects, park};

/// The first message of a filter from a sequence on. One that the client cannot parse is buried.
pub(super) async fn first(
    effects: &Effects,
    stream: &Stream,
    filter: &'static str,
    from: u64,
) -> Result<Option<StreamMessage>, String> {
    loop {
        let error = match stream.get_first_raw_message_by_subject(filter, from).await {
            Ok(found) => return Ok(Some(found)),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(None),
            Err(error) => error,
        };
        if !bury_first(effects.context(), park::STREAM, filter, from, effects.now()).await? {
            return Err(show(error));
        }
    }
}

pub(super) fn stored_at(parked: &StreamMessage) -> DateTime<Utc> {
    DateTime::from_timestamp(parked.time.unix_timestamp(), parked.time.nanosecond()).unwrap_or_default()
}

pub(super) fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
