//! Dead letters: what failed for good, kept whole with why, on `dead.<kind>.<stream>.<sequence>`.
//!
//! One message makes one dead letter, whichever way and however often it comes here: the copy is published under the
//! condition that its own subject is still empty.

pub mod advisories;
pub mod letters;
pub mod redrive;
pub mod sweep;
pub mod unreadable;

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        message::StreamMessage,
        response::Response,
        stream::{DeleteStatus, Stream},
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::timeout;

pub use self::{
    letters::{Filter, Letter, Letters},
    redrive::{Change, Redrive},
};
use crate::{
    checkpoint::{self, Step},
    effects::{
        Death, Effects,
        publish::{header, insist, job_id, rfc3339},
    },
    kind::Lane,
    plan::DeadReason,
};

/// Headers of a dead letter, beside those that the job had.
pub mod dead_header {
    /// `permanent`, `exhausted`, `crashed`, `undecodable` or `unknown_kind`.
    pub const REASON: &str = "Carebell-Dead-Reason";
    /// What the last failure said.
    pub const ERROR: &str = "Carebell-Dead-Error";
    /// Recorded failures.
    pub const ATTEMPTS: &str = "Carebell-Dead-Attempts";
    /// RFC 3339: when the job was first seen.
    pub const FIRST: &str = "Carebell-Dead-First";
    /// RFC 3339: when it was given up.
    pub const LAST: &str = "Carebell-Dead-Last";
    /// The stream that it was in.
    pub const STREAM: &str = "Carebell-Dead-Stream";
    /// Its sequence there.
    pub const SEQUENCE: &str = "Carebell-Dead-Seq";
    /// Its subject there.
    pub const SUBJECT: &str = "Carebell-Dead-Subject";
}

/// Headers of a job that was redriven, and of its dead letter if it dies again.
pub mod lineage_header {
    /// How often it has been redriven.
    pub const REDRIVES: &str = "Carebell-Redrives";
    /// The subject of the dead letter that it was redriven from.
    pub const FROM: &str = "Carebell-Redriven-From";
}

/// How long the dead letter of a message that lies in a stream may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest error text in a header, in bytes.
const LONGEST_ERROR: usize = 1024;

/// What is kept of a message.
pub struct Body {
    /// The kind's name.
    pub kind: String,
    /// The stream it was in.
    pub stream: String,
    /// Its sequence there.
    pub sequence: i64,
    /// Its subject there.
    pub subject: String,
    /// The job's id, where it can be read.
    pub job_id: Option<String>,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
    /// When it is given up.
    pub last: DateTime<Utc>,
}

/// Publishes the dead letter and waits until the server has it, however long that takes.
pub async fn bury(context: &jetstream::Context, body: &Body, death: &Death) {
    let mut headers = HeaderMap::new();
    for (name, values) in body.headers.iter().flat_map(HeaderMap::iter) {
        // The server reads `Nats-` headers as instructions for this publish; the job id is kept under its own name.
        let text: &str = name.as_ref();
        if !text.starts_with("Nats-") {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    if let Some(job_id) = &body.job_id {
        headers.insert(header::JOB_ID, job_id.as_str());
    }
    headers.insert(dead_header::REASON, death.reason.name());
    headers.insert(dead_header::ERROR, one_line(&death.error).as_str());
    headers.insert(dead_header::ATTEMPTS, death.attempts.to_string().as_str());
    headers.insert(dead_header::FIRST, rfc3339(death.first).as_str());
    headers.insert(dead_header::LAST, rfc3339(body.last).as_str());
    headers.insert(dead_header::STREAM, body.stream.as_str());
    headers.insert(dead_header::SEQUENCE, body.sequence.to_string().as_str());
    headers.insert(dead_header::SUBJECT, body.subject.as_str());
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    let subject = format!("dead.{}.{}.{}", body.kind, body.stream, body.sequence);
    insist(context, &subject, headers, body.payload.clone()).await;
    checkpoint::reached(Step::Buried);
}

/// The kind in a subject, without prefix and lane: what a worker would have called it.
fn kind_of(subject: &str) -> &str {
    let kind = subject.strip_prefix("jobs.").or(subject.strip_prefix("due.")).unwrap_or(subject);
    match kind.rsplit_once('.') {
        Some((kind, lane)) if Lane::parse(lane).is_some() => kind,
        _ => kind,
    }
}

/// Makes a dead letter of a message that lies in a stream, and takes it out of there. Safe to repeat.
async fn bury_stored(
    context: &jetstream::Context,
    stream: &Stream,
    message: StreamMessage,
    death: &Death,
    now: DateTime<Utc>,
) {
    let name = stream.cached_info().config.name.clone();
    let subject = message.subject.to_string();
    let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
    let body = Body {
        kind: kind_of(&subject).to_owned(),
        job_id: Some(job_id(Some(&message.headers), &name, sequence)),
        stream: name,
        sequence,
        headers: Some(message.headers),
        payload: message.payload,
        last: now,
        subject,
    };
    // One that cannot be buried stays where it is, and must not keep the others waiting.
    if timeout(PATIENCE, bury(context, &body, death)).await.is_err() {
        tracing::error!(stream = body.stream, sequence, "a dead letter cannot be published, again in a while");
        return;
    }
    if let Err(error) = take_out(context, stream, message.sequence).await {
        // Another worker was faster, or the next pass finds it again and its dead letter in place.
        tracing::debug!(sequence, "a message was not deleted after its dead letter: {error}");
    }
}

/// Deletes a message of a stream.
///
/// Without overwriting its bytes, which is the client's way: then the server writes and syncs the whole block that the
/// message is in, about 10 ms each, and the stream stands still for so long. The bytes go when the block is compacted.
async fn take_out(context: &jetstream::Context, stream: &Stream, sequence: u64) -> Result<(), String> {
    let subject = format!("STREAM.MSG.DELETE.{}", stream.cached_info().config.name);
    let answer: Result<Response<DeleteStatus>, _> =
        context.request(subject, &json!({ "seq": sequence, "no_erase": true })).await;
    match answer.map_err(|error| error.to_string())? {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => Err(error.to_string()),
    }
}

/// Gives up a message that the server delivers no more. One whose job has ended is only taken out of the stream.
async fn exhausted(effects: &Effects, stream: &Stream, message: StreamMessage, delivered: u64) -> Result<(), String> {
    let name = stream.cached_info().config.name.clone();
    let job = job_id(Some(&message.headers), &name, i64::try_from(message.sequence).unwrap_or(i64::MAX));
    let error = format!("delivered {delivered} times, which is all that its consumer allows");
    let given_up = effects.store().give_up(&job, DeadReason::Exhausted, &error, effects.now()).await;
    if given_up.map_err(|error| error.to_string())? {
        tracing::error!(job, sequence = message.sequence, "{error}: dead letter");
        let first = DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or_default();
        let death = Death { reason: DeadReason::Exhausted, error, attempts: 0, first };
        bury_stored(effects.context(), stream, message, &death, effects.now()).await;
    } else if let Err(error) = take_out(effects.context(), stream, message.sequence).await {
        tracing::debug!(job, "a message whose job has ended was not deleted: {error}");
    }
    Ok(())
}

/// A text as one line of at most a kilobyte, as headers and acknowledgements need it.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > LONGEST_ERROR {
        line.truncate(line.floor_char_boundary(LONGEST_ERROR));
    }
    line
}
