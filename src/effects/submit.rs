//! What producers do: publish a job, at once or for later. For `carebell publish`, `carebell dev` and tests; producers in
//! other languages do the same by the headers alone.

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::PublishError},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::publish::{self, header, rfc3339};

/// What publishes jobs.
pub type Producer = jetstream::Context;

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
    fn new(error: &PublishError, subject: &str, job_id: String) -> Self {
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
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_ID, job.job_id.as_str());
    headers.insert(header::CONTENT_TYPE, job.content_type);
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
            headers.insert(header::SCHEDULE, format!("@at {}", rfc3339(at)).as_str());
            headers.insert(header::SCHEDULE_TARGET, due.as_str());
            format!("sched.{}", job.job_id)
        }
    };
    let ack = publish::send(context, &subject, headers, job.body).await;
    let ack = ack.map_err(|error| NotSubmitted::new(&error, &subject, job.job_id))?;
    Ok(Submitted { subject, stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate })
}
