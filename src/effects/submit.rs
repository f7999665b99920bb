//! What producers do: publish a job, at once or for later. For `carebell publish`, `carebell dev` and tests; producers in
//! other languages do the same by the headers alone.

use async_nats::{HeaderMap, jetstream};
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

/// Publishes a job and waits for the acknowledgement.
///
/// # Errors
/// What the server says, or that it says nothing.
pub async fn submit(context: &Producer, job: Submission) -> Result<Submitted, String> {
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
    let ack = publish::send(context, &subject, headers, job.body).await.map_err(|error| error.to_string())?;
    Ok(Submitted { subject, stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate })
}
