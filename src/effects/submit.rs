//! What producers do: publish a job, at once or for later. For `carebell publish`, `carebell dev` and tests; producers in
//! other languages do the same by the headers alone.

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::PublishError, stream::LastRawMessageErrorKind},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::publish::{self, header, rfc3339};
use crate::telemetry::traces;

/// What publishes jobs.
pub type Producer = jetstream::Context;

/// The longest id that a producer may choose for a job.
pub const LONGEST_JOB_ID: usize = 128;

/// Whether a text can be the id of a job: 1 to `longest` of the characters `A-Z a-z 0-9 _ : . -`.
#[must_use]
pub fn is_job_id(text: &str, longest: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_:.-".contains(c);
    (1..=longest).contains(&text.len()) && text.chars().all(allowed)
}

/// A job to be published.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Where it goes: `jobs.<kind…>`.
    pub subject: String,
    /// Its id.
    pub job_id: String,
    /// Its body.
    pub body: Bytes,
    /// The body's form, for `Content-Type`.
    pub content_type: &'static str,
    /// When it stops being of use, where that is not the kind's default.
    pub not_after: Option<DateTime<Utc>>,
    /// When it is due, where that is later. A second submission of the same job id replaces the first.
    pub at: Option<DateTime<Utc>>,
}

/// Where a job went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The subject it was published to.
    pub subject: String,
    /// The stream that has it.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Whether the stream had this message already.
    pub duplicate: bool,
}

/// A job that is to be published by the server, later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// When, as its producer wrote it: `@at <RFC 3339>`.
    pub schedule: String,
    /// Where it then goes: `due.<kind…>`.
    pub target: String,
}

/// The stream of delayed jobs.
const SCHEDULED: &str = "SCHEDULED";

/// The delayed job of this id. None where there is none: it is due already, or was never delayed.
///
/// # Errors
/// If the server does not answer.
pub async fn delayed(context: &Producer, job_id: &str) -> Result<Option<Delayed>, String> {
    let stream = context.get_stream(SCHEDULED).await.map_err(|error| format!("stream {SCHEDULED}: {error}"))?;
    match stream.get_last_raw_message_by_subject(&format!("sched.{job_id}")).await {
        Ok(message) => {
            let header = |name| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
            Ok(Some(Delayed { schedule: header(header::SCHEDULE), target: header(header::SCHEDULE_TARGET) }))
        }
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes a delayed job back. Answers whether there was one.
///
/// # Errors
/// If the server does not answer.
pub async fn cancel(context: &Producer, job_id: &str) -> Result<bool, String> {
    let stream = context.get_stream(SCHEDULED).await.map_err(|error| format!("stream {SCHEDULED}: {error}"))?;
    let purged = stream.purge().filter(format!("sched.{job_id}")).await.map_err(|error| error.to_string())?;
    Ok(purged.purged > 0)
}

/// Why a job is not known to be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSubmitted {
    /// As many jobs wait in its queue as the stream allows. Nothing was published.
    #[error(
        "the queue {subject} is full, because workers are behind or stopped: nothing was published; publish it again \
         later under the same job id, {job_id}"
    )]
    QueueFull {
        /// The queue's subject.
        subject: String,
        /// The job's id.
        job_id: String,
    },
    /// The server has no storage left for any stream. Nothing was published.
    #[error(
        "the NATS server has no storage left for JetStream: nothing was published; publish it again later under the \
         same job id, {job_id}"
    )]
    NoStorage {
        /// The job's id.
        job_id: String,
    },
    /// Another refusal; or no answer, and then nobody knows whether it was published.
    #[error("{0}")]
    Other(String),
}

impl NotSubmitted {
    /// What a refusal of a publish means.
    #[must_use]
    pub fn new(error: &PublishError, subject: &str, job_id: String) -> Self {
        match publish::error_code(error) {
            Some(ErrorCode::STREAM_STORE_FAILED) => Self::QueueFull { subject: subject.to_owned(), job_id },
            Some(ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STORAGE_RESOURCES_EXCEEDED) => {
                Self::NoStorage { job_id }
            }
            _ => Self::Other(error.to_string()),
        }
    }

    /// Whether the same publish is taken once there is room again.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        match self {
            Self::QueueFull { .. } | Self::NoStorage { .. } => true,
            Self::Other(_) => false,
        }
    }
}

/// Publishes a job and waits for the acknowledgement.
///
/// # Errors
/// What the server says, or that it says nothing.
pub async fn submit(context: &Producer, job: Submission) -> Result<Submitted, NotSubmitted> {
    let mut span = traces::send(&job.subject, Some(&job.job_id), 1, None);
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_ID, job.job_id.as_str());
    headers.insert(header::CONTENT_TYPE, job.content_type);
    publish::set_trace(&mut headers, span.trace());
    if let Some(not_after) = job.not_after {
        headers.insert(header::NOT_AFTER, rfc3339(not_after));
    }
    let subject = match job.at {
        None => {
            headers.insert(header::MSG_ID, job.job_id.as_str());
            job.subject
        }
        Some(at) => {
            // No message id: it would keep a changed schedule of the same job from replacing the first.
            let due = job.subject.replacen("jobs.", "due.", 1);
            span.due(at);
            headers.insert(header::SCHEDULE, format!("@at {}", rfc3339(at)).as_str());
            headers.insert(header::SCHEDULE_TARGET, due.as_str());
            format!("sched.{}", job.job_id)
        }
    };
    let ack = publish::send(context, &subject, headers, job.body).await;
    let ack = ack.map_err(|error| {
        span.failed(&error.to_string());
        NotSubmitted::new(&error, &subject, job.job_id)
    })?;
    Ok(Submitted { subject, stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate })
}
