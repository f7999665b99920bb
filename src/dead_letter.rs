//! Dead letters: jobs that failed for good, with the reason, on `dead.<kind>.<stream>.<sequence>`.
//!
//! A message has at most one: publishing requires an empty subject.

pub mod advisories;
mod held;
pub mod letters;
pub mod overdue;
mod parked;
pub mod redrive;
pub mod sweep;
pub mod taken_back;
pub mod undrawn;
mod unreadable;
pub mod wake;

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        message::StreamMessage,
        response::Response,
        stream::{DeleteStatus, LastRawMessageErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::{sleep, timeout};

pub use self::{
    letters::{Filter, Letter, Letters},
    redrive::{Change, Redriver},
    unreadable::bury_head,
};
use crate::{
    checkpoint::{self, Step},
    cut,
    effects::{
        Death, Effects,
        events::RootJob,
        publish::{insist_if_empty, rfc3339},
    },
    events::End,
    header,
    intake::{self, default_id, job_id},
    kind::{CANCEL, LATER, Lane, WORK},
    plan::DeadReason,
};

const STREAM: &str = "DEAD_LETTERS";

/// Headers of a dead letter, beside the job's own.
pub mod dead_header {
    /// `permanent`, `exhausted`, `crashed`, `undecodable`, `unknown_kind` or `unscheduled`.
    pub const REASON: &str = "Carebell-Dead-Reason";
    /// The last error.
    pub const ERROR: &str = "Carebell-Dead-Error";
    /// Recorded failures.
    pub const ATTEMPTS: &str = "Carebell-Dead-Attempts";
    /// RFC 3339: when the job was first seen.
    pub const FIRST: &str = "Carebell-Dead-First";
    /// RFC 3339: when the job died.
    pub const LAST: &str = "Carebell-Dead-Last";
    /// The job's stream.
    pub const STREAM: &str = "Carebell-Dead-Stream";
    /// Its sequence there.
    pub const SEQUENCE: &str = "Carebell-Dead-Seq";
    /// Its subject there.
    pub const SUBJECT: &str = "Carebell-Dead-Subject";
    /// Headers that the client cannot parse, in base64.
    pub const RAW_HEADERS: &str = "Carebell-Dead-Raw-Headers";
}

/// Headers of a redriven job, and of its next dead letter.
pub mod lineage_header {
    /// Number of redrives.
    pub const REDRIVES: &str = "Carebell-Redrives";
    /// Subject of the dead letter it was redriven from.
    pub const FROM: &str = "Carebell-Redriven-From";
}

/// Limit for burying a stored message.
const PATIENCE: Duration = Duration::from_secs(30);

/// After a failed look at a subject.
const AGAIN: Duration = Duration::from_secs(1);

/// In bytes.
const LONGEST_ERROR: usize = 1024;

/// The job in a dead letter.
pub struct DeadJob {
    /// The kind's name.
    pub kind: String,
    /// Its stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: i64,
    /// Its subject there.
    pub subject: String,
    /// The job id, if it names one that it may.
    pub job_id: Option<String>,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its headers as bytes in base64, if the client cannot parse them.
    pub raw_headers: Option<String>,
    /// Its body.
    pub payload: Bytes,
    /// Time of death.
    pub last: DateTime<Utc>,
}

/// Waits until the server has the dead letter, however long that takes.
pub async fn bury(context: &jetstream::Context, body: &DeadJob, death: &Death) {
    let mut headers = HeaderMap::new();
    let is_foreign = intake::is_intake(&body.stream);
    for (name, values) in body.headers.iter().flat_map(HeaderMap::iter) {
        // The server would obey `Nats-` headers, and a redrive those that only Carebell sets.
        let text: &str = name.as_ref();
        if !text.starts_with("Nats-") && (!is_foreign || intake::is_kept(text, values)) {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    let job_id = body.job_id.clone().unwrap_or_else(|| default_id(&body.stream, body.sequence));
    headers.insert(header::JOB_ID, job_id.as_str());
    if let Some(raw) = &body.raw_headers {
        headers.insert(dead_header::RAW_HEADERS, raw.as_str());
    }
    headers.insert(dead_header::REASON, death.reason.name());
    headers.insert(dead_header::ERROR, one_line(&death.error).as_str());
    headers.insert(dead_header::ATTEMPTS, death.attempts.to_string().as_str());
    headers.insert(dead_header::FIRST, rfc3339(death.first).as_str());
    headers.insert(dead_header::LAST, rfc3339(body.last).as_str());
    headers.insert(dead_header::STREAM, body.stream.as_str());
    headers.insert(dead_header::SEQUENCE, body.sequence.to_string().as_str());
    headers.insert(dead_header::SUBJECT, body.subject.as_str());
    let subject = format!("dead.{}.{}.{}", body.kind, body.stream, body.sequence);
    while !insist_if_empty(context, &subject, headers.clone(), body.payload.clone()).await {
        match is_buried(context, &subject, body).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(subject, "the letter in a dead letter's place cannot be read, again soon: {why}");
                sleep(AGAIN).await;
            }
        }
    }
    checkpoint::reached(Step::Buried);
    tell(context, body, death).await;
}

/// Tells the application that published the job.
async fn tell(context: &jetstream::Context, body: &DeadJob, death: &Death) {
    // A cancellation names another job.
    if intake::asked(&body.subject) == Some(CANCEL.kind.name) {
        return;
    }
    let (headers, lane) = (body.headers.as_ref(), lane_of(&body.subject));
    let job = RootJob::of_message(headers, &body.stream, body.sequence, &body.kind, lane);
    let Some(mut event) = job.and_then(|job| job.event(End::Dead, body.last)) else { return };
    event.reason = Some(death.reason.name().to_owned());
    event.attempts = Some(death.attempts);
    event.error = Some(one_line(&death.error));
    // A job that is redriven, or published anew, may die again.
    event.occasion = Some(format!("{}.{}", body.stream, body.sequence));
    event.insist(context).await;
}

/// Whether the letter at this subject is that of this job. One that is not is removed: a producer can have the server's
/// acknowledgements sent to any subject (the reply subject of its publish).
async fn is_buried(context: &jetstream::Context, subject: &str, body: &DeadJob) -> Result<bool, String> {
    let stream = context.get_stream_no_info(STREAM).await.map_err(|error| error.to_string())?;
    let found = match stream.get_last_raw_message_by_subject(subject).await {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    let says = |name, value: &str| found.headers.get(name).is_some_and(|found| found.as_str() == value);
    if says(dead_header::STREAM, &body.stream) && says(dead_header::SEQUENCE, &body.sequence.to_string()) {
        return Ok(true);
    }
    tracing::error!(subject, "Carebell did not write the message in a dead letter's place: removing it");
    take_out(context, STREAM, found.sequence).await?;
    Ok(false)
}

/// The kind in a subject, without prefix and lane.
#[must_use]
pub fn kind_of(subject: &str) -> &str {
    let kind = intake::asked(subject).map(|asked| asked.strip_prefix(LATER).unwrap_or(asked));
    let kind = kind.or_else(|| subject.strip_prefix(WORK)).unwrap_or(subject);
    match kind.rsplit_once('.') {
        Some((kind, lane)) if Lane::parse(lane).is_some() => kind,
        _ => kind,
    }
}

/// The lane in a subject.
#[must_use]
pub fn lane_of(subject: &str) -> Option<Lane> {
    subject.rsplit_once('.').and_then(|(_, lane)| Lane::parse(lane))
}

/// Makes a dead letter of a stored message and deletes the message. Idempotent. Whether this call has deleted it.
async fn bury_stored(
    context: &jetstream::Context,
    stream: &Stream,
    message: StreamMessage,
    death: &Death,
    now: DateTime<Utc>,
) -> bool {
    let name = stream.cached_info().config.name.clone();
    let subject = message.subject.to_string();
    let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
    let body = DeadJob {
        kind: kind_of(&subject).to_owned(),
        job_id: job_id(Some(&message.headers), &name, sequence).ok(),
        stream: name,
        sequence,
        headers: Some(message.headers),
        raw_headers: None,
        payload: message.payload,
        last: now,
        subject,
    };
    // It stays, and must not hold up others.
    if timeout(PATIENCE, bury(context, &body, death)).await.is_err() {
        tracing::error!(stream = body.stream, sequence, "a dead letter cannot be published, trying again later");
        return false;
    }
    let taken = take_out(context, &body.stream, message.sequence).await;
    if let Err(error) = &taken {
        // Another worker was faster, or the next pass deletes it.
        tracing::debug!(sequence, "a message was not deleted after its dead letter: {error}");
    }
    taken.is_ok()
}

/// Removes the last message of a subject, if there is one.
pub(crate) async fn remove_last(context: &jetstream::Context, stream: &str, subject: &str) -> Result<(), String> {
    let found = context.get_stream_no_info(stream).await.map_err(|error| error.to_string())?;
    match found.get_last_raw_message_by_subject(subject).await {
        Ok(found) => take_out(context, stream, found.sequence).await,
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Unlike the client, does not overwrite the message's bytes: that syncs a whole block and stalls the stream for some
/// 10 ms. Compaction removes them later.
pub(crate) async fn take_out(context: &jetstream::Context, stream: &str, sequence: u64) -> Result<(), String> {
    let subject = format!("STREAM.MSG.DELETE.{stream}");
    let answer: Result<Response<DeleteStatus>, _> =
        context.request(subject, &json!({ "seq": sequence, "no_erase": true })).await;
    match answer.map_err(|error| error.to_string())? {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => Err(error.to_string()),
    }
}

/// Takes a message out, unless it is gone.
pub(crate) async fn take_out_if_there(context: &jetstream::Context, stream: &str, sequence: u64) -> Result<(), String> {
    let Err(why) = take_out(context, stream, sequence).await else { return Ok(()) };
    let found = context.get_stream_no_info(stream).await.map_err(|error| error.to_string())?;
    match found.get_raw_message(sequence).await {
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(()),
        Ok(_) | Err(_) => Err(why),
    }
}

/// Ends a message that the server no longer delivers. If its job has ended, only deletes it.
async fn exhausted(effects: &Effects, stream: &Stream, message: StreamMessage, delivered: u64) -> Result<(), String> {
    let name = stream.cached_info().config.name.clone();
    let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
    // Under another's id it would end the other's job.
    let job = job_id(Some(&message.headers), &name, sequence).unwrap_or_else(|_| default_id(&name, sequence));
    let error = format!("delivered {delivered} times, the most that its consumer allows");
    // A cancellation names another's id.
    let is_cancellation = intake::asked(&message.subject) == Some(CANCEL.kind.name);
    let given_up = async || effects.store().give_up(&job, DeadReason::Exhausted, &error, effects.now()).await;
    if is_cancellation || given_up().await.map_err(|error| error.to_string())? {
        tracing::error!(job, sequence = message.sequence, "{error}: dead letter");
        let first = DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or_default();
        let death = Death { reason: DeadReason::Exhausted, error, attempts: 0, first };
        bury_stored(effects.context(), stream, message, &death, effects.now()).await;
        return Ok(());
    }
    // Its workers may have ended before they told of it.
    let (kind, lane) = (kind_of(&message.subject), lane_of(&message.subject));
    let ended = RootJob::of_message(Some(&message.headers), &name, sequence, kind, lane);
    if let Some(ended) = ended.filter(|job| !job.notify.is_none()) {
        effects.tell_recorded(ended).await;
    }
    if let Err(error) = take_out(effects.context(), &name, message.sequence).await {
        tracing::debug!(job, "a message whose job has ended was not deleted: {error}");
    }
    Ok(())
}

/// One line of at most a kilobyte, for headers and acknowledgements.
#[must_use]
pub fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut::beginning(&line, LONGEST_ERROR, char::len_utf8).to_owned()
}
