//! Moves what version 0.2 has waiting, which published its own jobs to JOBS and had delayed ones in SCHEDULED.
//!
//! Each message is published anew before it is removed. After a stop in between it is there twice under one job id, which
//! has one effect.

use async_nats::{
    HeaderMap,
    jetstream::{self, message::StreamMessage, stream::RawMessageErrorKind},
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{ServerError, is_missing};
use crate::{
    header, intake,
    kind::{JOBS, LATER, WORK},
};

/// The stream of delayed jobs of version 0.2.
const SCHEDULED: &str = "SCHEDULED";

/// Messages moved at a time.
const AT_ONCE: usize = 100;

/// The numbers of messages that were moved, or stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Delayed jobs.
    pub delayed: usize,
    /// Jobs that Carebell had published to JOBS.
    pub own: usize,
    /// Messages that are no jobs of version 0.2, and stay.
    pub left: usize,
}

/// Moves everything, if the stream SCHEDULED is there, and then removes that. Old workers must be stopped.
///
/// # Errors
/// The first message that cannot be moved. Everything else can be moved again.
pub async fn upgrade(context: &jetstream::Context) -> Result<Option<Moved>, ServerError> {
    match context.get_stream(SCHEDULED).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(refused(SCHEDULED, &error)),
    }
    let mut moved = Moved::default();
    for (stream, destination) in [(intake::STREAM, own as Destination), (SCHEDULED, delayed)] {
        let (went, left) = move_all(context, stream, destination).await?;
        match stream {
            SCHEDULED => (moved.delayed, moved.left) = (went, left),
            // Others are applications'.
            _ => moved.own = went,
        }
    }
    if moved.left == 0 {
        context.delete_stream(SCHEDULED).await.map_err(|error| refused(SCHEDULED, &error))?;
    }
    Ok(Some(moved))
}

/// Where a message goes, with which headers; `None` if it stays.
type Destination = fn(&StreamMessage) -> Option<(String, HeaderMap)>;

/// What followed from a job.
fn own(message: &StreamMessage) -> Option<(String, HeaderMap)> {
    message.headers.get(header::ROOT_ID)?;
    let kind = message.subject.strip_prefix(JOBS)?;
    Some((format!("{WORK}{kind}"), kept(message)))
}

/// A delayed job, due or not.
fn delayed(message: &StreamMessage) -> Option<(String, HeaderMap)> {
    let mut headers = kept(message);
    if let Some(kind) = message.subject.strip_prefix("due.") {
        return Some((format!("{JOBS}{kind}"), headers));
    }
    let id = message.subject.strip_prefix("sched.")?;
    let at = message.headers.get(header::SCHEDULE)?.as_str().strip_prefix("@at ")?;
    let kind = message.headers.get(header::SCHEDULE_TARGET)?.as_str().strip_prefix("due.")?;
    headers.insert(header::AT, at);
    if headers.get(header::JOB_ID).is_none() {
        headers.insert(header::JOB_ID, id);
    }
    Some((format!("{JOBS}{LATER}{kind}"), headers))
}

fn kept(message: &StreamMessage) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let text: &str = name.as_ref();
        if !text.starts_with("Nats-") {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    // As before: the id where no other is given.
    let fired = message.headers.get(header::SCHEDULER).and_then(|subject| subject.as_str().strip_prefix("sched."));
    let id = message.headers.get(header::MSG_ID).map(async_nats::HeaderValue::as_str).or(fired);
    if let Some(id) = id.filter(|_| headers.get(header::JOB_ID).is_none()) {
        headers.insert(header::JOB_ID, id);
    }
    headers
}

/// How many messages went, and how many stay.
async fn move_all(
    context: &jetstream::Context,
    name: &str,
    destination: Destination,
) -> Result<(usize, usize), ServerError> {
    let stream = context.get_stream(name).await.map_err(|error| refused(name, &error))?;
    let state = &stream.cached_info().state;
    let moves = futures::stream::iter(state.first_sequence..=state.last_sequence).map(|sequence| {
        let stream = &stream;
        async move {
            let message = match stream.get_raw_message(sequence).await {
                Ok(message) => message,
                Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(None),
                // Unparsable headers: it stays.
                Err(_) => return Ok(Some(false)),
            };
            let Some((subject, headers)) = destination(&message) else { return Ok(Some(false)) };
            publish(context, &subject, headers, message.payload)
                .await
                .map_err(|why| ServerError { what: format!("move message {sequence} of {name} to {subject}"), why })?;
            let request = json!({ "seq": sequence, "no_erase": true });
            let removed: Result<Value, _> = context.request(format!("STREAM.MSG.DELETE.{name}"), &request).await;
            removed.map(|_| Some(true)).map_err(|error| refused(name, &error))
        }
    });
    let mut moves = std::pin::pin!(moves.buffer_unordered(AT_ONCE));
    let (mut went, mut left) = (0, 0);
    while let Some(moved) = moves.next().await {
        match moved? {
            Some(true) => went += 1,
            Some(false) => left += 1,
            None => {}
        }
    }
    Ok((went, left))
}

async fn publish(context: &jetstream::Context, subject: &str, headers: HeaderMap, body: Bytes) -> Result<(), String> {
    let published = context.publish_with_headers(subject.to_owned(), headers, body).await;
    published.map_err(|error| error.to_string())?.await.map(|_| ()).map_err(|error| error.to_string())
}

fn refused(name: &str, error: &dyn std::error::Error) -> ServerError {
    ServerError { what: format!("move the messages of {name}"), why: error.to_string() }
}
