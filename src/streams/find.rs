//! Finds the messages of a job that no worker has recorded.

use async_nats::jetstream::{self, message::StreamMessage, stream::RawMessageErrorKind};
use chrono::{DateTime, Utc};
use futures::StreamExt;

use super::Streams;
use crate::{events, intake};

/// Most messages that are read at each end of a stream: each is a request.
const MOST: u64 = 2000;

/// Requests at a time.
const AT_ONCE: usize = 50;

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
    /// The messages of a job in all streams but the dead letters, among the first and the last 2,000 of each. Also the
    /// streams of which there are more.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn find(
        &self,
        context: &jetstream::Context,
        job_id: &str,
    ) -> Result<(Vec<Waiting>, Vec<String>), String> {
        let (mut found, mut longer) = (Vec::new(), Vec::new());
        for name in self.names().filter(|name| !["DEAD_LETTERS", "ADVISORIES", events::STREAM].contains(name)) {
            let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
            let last = stream.cached_info().state.last_sequence;
            let mut keep = |message: &StreamMessage| {
                let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
                if intake::job_id(Some(&message.headers), name, sequence).is_ok_and(|id| id == job_id) {
                    found.push(Waiting {
                        stream: name.to_owned(),
                        sequence: message.sequence,
                        subject: message.subject.to_string(),
                        published: DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or_default(),
                    });
                }
            };
            // From the front by message, over any gaps.
            let (mut next, mut read) = (1, 0);
            while read < MOST && next <= last {
                match stream.get_first_raw_message_by_subject(">", next).await {
                    Ok(message) => {
                        keep(&message);
                        (next, read) = (message.sequence + 1, read + 1);
                    }
                    Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => next = last + 1,
                    Err(error) => return Err(error.to_string()),
                }
            }
            let rest = next.max(last.saturating_sub(MOST - 1));
            if rest > next {
                longer.push(name.to_owned());
            }
            let sequences = rest..=last;
            let reads = futures::stream::iter(sequences).map(|sequence| stream.get_raw_message(sequence));
            let mut reads = std::pin::pin!(reads.buffer_unordered(AT_ONCE));
            while let Some(read) = reads.next().await {
                let message = match read {
                    Ok(message) => message,
                    Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => continue,
                    Err(error) => return Err(error.to_string()),
                };
                keep(&message);
            }
        }
        Ok((found, longer))
    }
}
