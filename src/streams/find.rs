//! Finds the messages of a job that no worker has recorded.

use async_nats::jetstream::{self, stream::RawMessageErrorKind};
use chrono::{DateTime, Utc};

use super::Streams;
use crate::intake;

/// Most messages of a stream that are read: each is a request.
const MOST: usize = 2000;

/// A message in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// When it was published.
    pub published: DateTime<Utc>,
}

impl Streams {
    /// The messages of a job in all streams but the dead letters, among the first 2,000 of each.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn find(&self, context: &jetstream::Context, job_id: &str) -> Result<Vec<Waiting>, String> {
        let mut found = Vec::new();
        for name in self.names().filter(|name| !["DEAD_LETTERS", "ADVISORIES"].contains(name)) {
            let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
            let mut next = 1;
            for _ in 0..MOST {
                let message = match stream.get_first_raw_message_by_subject(">", next).await {
                    Ok(message) => message,
                    Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => break,
                    Err(error) => return Err(error.to_string()),
                };
                next = message.sequence + 1;
                let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
                if intake::job_id(Some(&message.headers), name, sequence).is_ok_and(|id| id == job_id) {
                    found.push(Waiting {
                        stream: name.to_owned(),
                        sequence: message.sequence,
                        subject: message.subject.to_string(),
                        published: DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or_default(),
                    });
                }
            }
        }
        Ok(found)
    }
}
