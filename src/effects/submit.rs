//! The producer's side: publishes a job, now or for later, for `carebell publish`, `carebell dev` and tests. Producers
//! in other languages only need the headers.

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::PublishError, stream::RawMessageErrorKind},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::publish::{self, rfc3339};
use crate::{header, intake::asked, kind::LATER, telemetry::traces};

/// The connection that publishes jobs.
pub type Producer = jetstream::Context;

/// A job to publish.
#[derive(Clone, Debug)]
pub struct Submission {
    /// `jobs.<kind…>` or `intake.<application>.<kind…>` of a producer, `work.<kind…>` of Carebell.
    pub subject: String,
    /// Job id.
    pub job_id: String,
    /// Body.
    pub body: Bytes,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Expiry. Defaults to the kind's.
    pub not_after: Option<DateTime<Utc>>,
    /// When it is due. Defaults to now. A second submission of the same job id before that replaces the first.
    pub at: Option<DateTime<Utc>>,
    /// When Carebell itself should have published it. A producer may not say so.
    pub due: Option<DateTime<Utc>>,
}

/// Wishes of a producer beside its job.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Further headers that a producer may set.
    pub headers: Vec<(&'static str, String)>,
    /// The trace that the job continues.
    pub trace: Option<String>,
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
    /// Another publish of this job is not replicated yet, because nodes of the cluster are away.
    #[error(
        "another publish of job {job_id} is not replicated yet, since too few nodes of the NATS cluster answer: it may be \
         stored or lost; publish it again later under the same id"
    )]
    InProcess {
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
            _ if publish::is_in_process(error) => Self::InProcess { job_id },
            _ => Self::Other(error.to_string()),
        }
    }

    /// Whether the same publish works once there is room.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        match self {
            Self::QueueFull { .. } | Self::NoStorage { .. } => true,
            Self::InProcess { .. } | Self::Other(_) => false,
        }
    }
}

/// The state of a message that was published earlier.
pub enum Stored {
    /// The message.
    Message {
        /// Its subject.
        subject: String,
        /// Its body.
        body: Bytes,
    },
    /// Nothing: the job has run.
    Gone,
    /// No answer: whoever asks may not, or the server is away.
    Unreadable,
}

/// Reads the message that the stream has instead of a duplicate.
pub async fn stored(context: &Producer, submitted: &Submitted) -> Stored {
    let Ok(stream) = context.get_stream_no_info(&submitted.stream).await else { return Stored::Unreadable };
    match stream.get_raw_message(submitted.sequence).await {
        Ok(message) => Stored::Message { subject: message.subject.to_string(), body: message.payload },
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Stored::Gone,
        Err(_) => Stored::Unreadable,
    }
}

/// Publishes a job and waits for the acknowledgement.
///
/// # Errors
/// The server's refusal, or its silence.
pub async fn submit(context: &Producer, job: Submission) -> Result<Submitted, NotSubmitted> {
    submit_with(context, job, Wishes::default()).await
}

/// As [`submit`], with the wishes of a producer.
///
/// # Errors
/// The server's refusal, or its silence.
pub async fn submit_with(context: &Producer, job: Submission, wishes: Wishes) -> Result<Submitted, NotSubmitted> {
    let subject = match job.at {
        None => job.subject,
        Some(_) => later(&job.subject),
    };
    let mut span = traces::send(&subject, Some(&job.job_id), 1, wishes.trace.as_deref());
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_ID, job.job_id.as_str());
    headers.insert(header::CONTENT_TYPE, job.content_type);
    for (name, value) in wishes.headers {
        headers.insert(name, value);
    }
    publish::set_trace(&mut headers, span.trace().or(wishes.trace.as_deref()));
    if let Some(not_after) = job.not_after {
        headers.insert(header::NOT_AFTER, rfc3339(not_after));
    }
    if let Some(due) = job.due {
        headers.insert(header::DUE, rfc3339(due));
    }
    match job.at {
        None => headers.insert(header::MSG_ID, job.job_id.as_str()),
        Some(at) => {
            // No message id: it would keep a changed job from replacing the first.
            span.due(at);
            headers.insert(header::AT, rfc3339(at).as_str());
        }
    }
    let ack = publish::send(context, &subject, headers, job.body).await;
    let ack = ack.map_err(|error| {
        span.failed(&error.to_string());
        NotSubmitted::new(&error, &subject, job.job_id)
    })?;
    Ok(Submitted { subject, stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate })
}

/// Takes a delayed job back, as its application can. `subject` is `jobs.cancel` or `intake.<application>.cancel`.
///
/// # Errors
/// The server's refusal, or its silence.
pub async fn cancel(context: &Producer, subject: &str, job_id: &str) -> Result<(), NotSubmitted> {
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_ID, job_id);
    let ack = publish::send(context, subject, headers, Bytes::new()).await;
    ack.map(|_| ()).map_err(|error| NotSubmitted::new(&error, subject, job_id.to_owned()))
}

/// The subject of the same job if it is delayed.
fn later(subject: &str) -> String {
    let Some(asked) = asked(subject) else { return subject.to_owned() };
    let prefix = &subject[..subject.len() - asked.len()];
    format!("{prefix}{LATER}{asked}")
}

#[cfg(test)]
mod tests {
    use super::later;

    #[test]
    fn a_delayed_job_has_the_subject_of_its_application() {
        assert_eq!(later("jobs.reminder.shift"), "jobs.later.reminder.shift");
        assert_eq!(later("intake.care.notification.bulk"), "intake.care.later.notification.bulk");
        assert_eq!(later("work.notification.bulk"), "work.notification.bulk");
    }
}
