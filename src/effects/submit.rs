//! The producer's side: publishes a job, now or for later, for `carebell publish`, `carebell dev` and tests. Producers
//! in other languages only need the headers.

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::PublishError, stream::LastRawMessageErrorKind},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::publish::{self, rfc3339};
use crate::{header, kind::JOBS, telemetry::traces};

/// The connection that publishes jobs.
pub type Producer = jetstream::Context;

/// A job to publish.
#[derive(Clone, Debug)]
pub struct Submission {
    /// `jobs.<kind…>` of a producer, `work.<kind…>` of Carebell.
    pub subject: String,
    /// Job id.
    pub job_id: String,
    /// Body.
    pub body: Bytes,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Expiry. Defaults to the kind's.
    pub not_after: Option<DateTime<Utc>>,
    /// When it is due. Defaults to now. A second submission of the same job id replaces the first.
    pub at: Option<DateTime<Utc>>,
}

/// A published job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Subject.
    pub subject: String,
    /// Stream.
    pub stream: String,
    /// Sequence in the stream.
    pub sequence: u64,
    /// Whether the stream had it already.
    pub duplicate: bool,
}

/// A job that the server publishes later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// `@at <RFC 3339>`, as its producer wrote it.
    pub schedule: String,
    /// `due.<kind…>`.
    pub target: String,
}

const SCHEDULED: &str = "SCHEDULED";

/// The delayed job of this id. None if it is due already or was never delayed.
///
/// # Errors
/// The server does not answer.
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

/// Takes a delayed job back. False if there was none.
///
/// # Errors
/// The server does not answer.
pub async fn cancel(context: &Producer, job_id: &str) -> Result<bool, String> {
    let stream = context.get_stream(SCHEDULED).await.map_err(|error| format!("stream {SCHEDULED}: {error}"))?;
    let purged = stream.purge().filter(format!("sched.{job_id}")).await.map_err(|error| error.to_string())?;
    Ok(purged.purged > 0)
}

/// Why a job may not be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSubmitted {
    /// Its queue is full. Nothing was published.
    #[error(
        "the queue {subject} is full, because workers are behind or stopped: nothing was published; publish it again \
         later under the same job id, {job_id}"
    )]
    QueueFull {
        /// Subject of the queue.
        subject: String,
        /// Job id.
        job_id: String,
    },
    /// The server has no storage left. Nothing was published.
    #[error(
        "the NATS server has no storage left for JetStream: nothing was published; publish it again later under the \
         same job id, {job_id}"
    )]
    NoStorage {
        /// Job id.
        job_id: String,
    },
    /// Another refusal, or no answer: it may have been published.
    #[error("{0}")]
    Other(String),
}

impl NotSubmitted {
    /// The meaning of a refused publish.
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

    /// Whether the same publish works once there is room.
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
/// The server's refusal, or its silence.
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
            let due = job.subject.replacen(JOBS, "due.", 1);
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
