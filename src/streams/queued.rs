//! The messages of a queue, read one after the other without taking them.

use async_nats::jetstream::{self, stream::RawMessageErrorKind};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use super::{DeclaredConsumer, ServerError, server_error};
use crate::{events::Notify, header, intake, meta::is_of_application};

/// What a queue holds in one of its streams, at one moment: those that wait, and those that run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The stream.
    pub stream: String,
    /// The queue's subject there.
    pub subject: String,
    /// When the stream was created, in microseconds: one made anew counts from 1 again.
    pub created: i64,
    /// The queue's messages.
    pub messages: u64,
    /// The stream's last sequence: later messages came after this.
    pub last: u64,
}

/// A message of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// Its stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// When it was published.
    pub published: DateTime<Utc>,
    /// Its job id.
    pub job_id: String,
    /// The id of its root.
    pub root_id: String,
    /// `Carebell-Not-After`.
    pub not_after: Option<DateTime<Utc>>,
    /// Ends of which its application wants to hear.
    pub notify: Notify,
    /// Whether its body is JSON.
    pub is_json: bool,
    /// Its body.
    pub body: Bytes,
}

impl Queued {
    /// Whether an application published it, and it followed from no other.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.job_id == self.root_id && is_of_application(&self.job_id)
    }
}

/// Some messages of a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Queued>,
    /// Where the next page begins. `None` after the last.
    pub next: Option<u64>,
}

impl DeclaredConsumer {
    /// What the queue holds in this consumer's stream.
    ///
    /// # Errors
    /// If the server does not answer, or lacks the stream.
    pub async fn standing(&self, context: &jetstream::Context) -> Result<Standing, ServerError> {
        let failed = |error: &dyn std::error::Error| server_error("look at", &self.place(), error);
        let stream = context.get_stream(&self.stream).await.map_err(|error| failed(&error))?;
        let subject = self.config.filter_subject.clone();
        let found = stream.info_with_subjects(subject.as_str()).await.map_err(|error| failed(&error))?;
        let (created, last) = (found.info.created.unix_timestamp_nanos(), found.info.state.last_sequence);
        let subjects: Vec<(String, usize)> = found.try_collect().await.map_err(|error| failed(&error))?;
        Ok(Standing {
            stream: self.stream.clone(),
            subject,
            created: i64::try_from(created / 1000).unwrap_or(0),
            messages: subjects.iter().map(|(_, messages)| *messages as u64).sum(),
            last,
        })
    }
}

impl Standing {
    /// Reads at most `most` messages from a sequence on, none that came later than this.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn page(&self, context: &jetstream::Context, from: u64, most: usize) -> Result<Page, String> {
        let stream = context.get_stream_no_info(&self.stream).await.map_err(|error| error.to_string())?;
        let mut page = Page { next: Some(from), ..Page::default() };
        while let Some(from) = page.next.filter(|from| *from <= self.last && page.messages.len() < most) {
            let message = match stream.get_first_raw_message_by_subject(&self.subject, from).await {
                Ok(message) => message,
                Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
                    page.next = None;
                    break;
                }
                Err(error) => return Err(format!("{} from #{from} on: {error}", self.stream)),
            };
            if message.sequence > self.last {
                page.next = None;
                break;
            }
            page.next = Some(message.sequence + 1);
            let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
            let headers = Some(&message.headers);
            let job_id = intake::job_id(headers, &self.stream, sequence)
                .unwrap_or_else(|_| intake::default_id(&self.stream, sequence));
            let header = |name| message.headers.get(name).map(async_nats::HeaderValue::as_str);
            page.messages.push(Queued {
                stream: self.stream.clone(),
                sequence: message.sequence,
                published: DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or_default(),
                root_id: intake::root_id(headers, &self.stream).ok().flatten().unwrap_or_else(|| job_id.clone()),
                job_id,
                not_after: header(header::NOT_AFTER)
                    .and_then(|at| DateTime::parse_from_rfc3339(at).ok())
                    .map(|at| at.to_utc()),
                notify: header(header::NOTIFY).and_then(|text| Notify::parse(text).ok()).unwrap_or_default(),
                is_json: header(header::CONTENT_TYPE).is_some_and(|form| form.contains("json")),
                body: message.payload,
            });
        }
        page.next = page.next.filter(|next| *next <= self.last);
        Ok(page)
    }
}
