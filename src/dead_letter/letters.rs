//! Reads the stream of dead letters.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull},
        stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use tokio::time::timeout;

use super::{STREAM, dead_header, lineage_header, take_out};
use crate::{header, intake::default_id, plan::DeadReason, streams::is_missing};

/// Limit for the next letter, and the silence after which the server is asked whether there is one.
const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(1);

/// One dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Its sequence in the stream, used in commands.
    pub number: u64,
    /// Its subject: `dead.<kind>.<stream>.<sequence>`.
    pub subject: String,
    /// The job's kind, or that in its subject if unknown.
    pub kind: String,
    /// The job id.
    pub job_id: String,
    /// Id of the original job published by an application.
    pub root_id: String,
    /// A [`DeadReason::name`].
    pub reason: String,
    /// The last error.
    pub error: String,
    /// Recorded failures.
    pub attempts: u32,
    /// When the job was first seen.
    pub first: Option<DateTime<Utc>>,
    /// When it died.
    pub last: DateTime<Utc>,
    /// The job's stream.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject there, used by a redrive.
    pub original_subject: String,
    /// Redrives before this death.
    pub redrives: u32,
    /// Size of its body in bytes.
    pub bytes: usize,
    /// All its headers.
    pub headers: HeaderMap,
    /// Its body as published; empty in a list.
    pub body: Bytes,
}

/// Selects dead letters. Unset fields match all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The kind.
    pub kind: Option<String>,
    /// The reason.
    pub reason: Option<DeadReason>,
    /// Ids of these jobs or their roots; empty for all.
    pub job_ids: Vec<String>,
    /// Died at or after this instant.
    pub since: Option<DateTime<Utc>>,
    /// Died before this instant.
    pub before: Option<DateTime<Utc>>,
}

impl Filter {
    /// Whether a letter matches.
    #[must_use]
    pub fn takes(&self, letter: &Letter) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == letter.kind)
            && self.reason.is_none_or(|reason| reason.name() == letter.reason)
            && (self.job_ids.is_empty() || self.job_ids.iter().any(|id| *id == letter.job_id || *id == letter.root_id))
            && self.since.is_none_or(|since| letter.last >= since)
            && self.before.is_none_or(|before| letter.last < before)
    }
}

/// The stream of dead letters.
pub struct Letters {
    context: jetstream::Context,
    stream: Stream,
}

impl Letters {
    /// Looks the stream up.
    ///
    /// # Errors
    /// If it is missing, or the server does not answer.
    pub async fn open(context: &jetstream::Context) -> Result<Self, String> {
        let stream = context.get_stream(STREAM).await.map_err(|error| {
            let advice = if is_missing(&error) { " (`carebell streams apply` creates it)" } else { "" };
            format!("stream {STREAM}: {error}{advice}")
        })?;
        Ok(Self { context: context.clone(), stream })
    }

    /// The numbers of the oldest and the newest letter; some between them may be gone.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn bounds(&self) -> Result<(u64, u64), String> {
        let state = self.stream.get_info().await.map_err(|error| error.to_string())?.state;
        Ok((state.first_sequence.max(1), state.last_sequence))
    }

    /// Shows every matching letter without its body, oldest first, up to the last one at the start.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn each(&self, filter: &Filter, mut show: impl FnMut(Letter)) -> Result<(), String> {
        let last = self.stream.get_info().await.map_err(|error| error.to_string())?.state.last_sequence;
        let subject = filter.kind.as_ref().map_or_else(|| "dead.>".to_owned(), |kind| format!("dead.{kind}.>"));
        let config = pull::OrderedConfig {
            filter_subject: subject.clone(),
            headers_only: true,
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        let mut consumer = self.stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        if consumer.info().await.map_err(|error| error.to_string())?.num_pending == 0 {
            return Ok(());
        }
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        let (mut seen, mut silent) = (0, Duration::ZERO);
        loop {
            let Ok(next) = timeout(SILENCE, messages.next()).await else {
                // The remaining ones may have been deleted.
                if self.is_the_end(&subject, seen, last).await? {
                    return Ok(());
                }
                silent += SILENCE;
                if silent >= PATIENCE {
                    return Err("the server does not answer".into());
                }
                continue;
            };
            let Some(message) = next else { return Ok(()) };
            let message = message.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            let (number, pending) = (info.stream_sequence, info.pending);
            let headers = message.headers.clone().unwrap_or_default();
            if number <= last
                && let Some(letter) = read(number, &message.subject, headers, Bytes::new())
                && filter.takes(&letter)
            {
                show(letter);
            }
            if pending == 0 || number >= last {
                return Ok(());
            }
            seen = number;
        }
    }

    /// Whether no letter of this subject lies between `seen` and `last`.
    async fn is_the_end(&self, subject: &str, seen: u64, last: u64) -> Result<bool, String> {
        match self.stream.get_first_raw_message_by_subject(subject, seen + 1).await {
            Ok(next) => Ok(next.sequence > last),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One whole letter, if it exists.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn get(&self, number: u64) -> Result<Option<Letter>, String> {
        // The server takes 0 for a malformed request: sequences begin at 1.
        if number == 0 {
            return Ok(None);
        }
        match self.stream.get_raw_message(number).await {
            Ok(message) => Ok(read(number, &message.subject, message.headers, message.payload)),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The next message from a number on, of a kind or of all: its number, and its letter, if it is one.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn next(&self, kind: Option<&str>, from: u64) -> Result<Option<(u64, Option<Letter>)>, String> {
        let subject = kind.map_or_else(|| "dead.>".to_owned(), |kind| format!("dead.{kind}.>"));
        match self.stream.get_first_raw_message_by_subject(&subject, from).await {
            Ok(message) => {
                let number = message.sequence;
                Ok(Some((number, read(number, &message.subject, message.headers, message.payload))))
            }
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The letter of a message, if it is one. Its body too.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn of_message(&self, kind: &str, stream: &str, sequence: i64) -> Result<Option<Letter>, String> {
        let subject = format!("dead.{kind}.{stream}.{sequence}");
        match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => Ok(read(message.sequence, &message.subject, message.headers, message.payload)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Deletes a letter. Idempotent.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn remove(&self, number: u64) -> Result<(), String> {
        let removed = take_out(&self.context, STREAM, number).await;
        self.is_out(number, removed).await
    }

    /// Deletes a letter and overwrites its bytes. Slow: the server writes and syncs their whole block.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn erase(&self, number: u64) -> Result<(), String> {
        let removed = self.stream.delete_message(number).await;
        self.is_out(number, removed.map(|_| ()).map_err(|error| error.to_string())).await
    }

    /// Another caller may have been faster.
    async fn is_out(&self, number: u64, removed: Result<(), String>) -> Result<(), String> {
        match removed {
            Err(why) if self.get(number).await?.is_some() => Err(why),
            _ => Ok(()),
        }
    }
}

/// `None` for a foreign message.
fn read(number: u64, subject: &str, headers: HeaderMap, body: Bytes) -> Option<Letter> {
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let instant = |name: &str| {
        let parsed = text(name).and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
        parsed.map(|instant| instant.with_timezone(&Utc))
    };
    let mut tokens = subject.strip_prefix("dead.")?.rsplitn(3, '.');
    let (sequence, stream, kind) = (tokens.next()?.parse().ok()?, tokens.next()?, tokens.next()?);
    let unnamed = || default_id(stream, i64::try_from(sequence).unwrap_or(i64::MAX));
    let job_id = text(header::JOB_ID).unwrap_or_else(unnamed);
    // A list has no bodies; the server reports their size.
    let listed = text(header::MSG_SIZE).and_then(|size| size.parse().ok());
    Some(Letter {
        number,
        subject: subject.to_owned(),
        kind: kind.to_owned(),
        root_id: text(header::ROOT_ID).unwrap_or_else(|| job_id.clone()),
        job_id,
        reason: text(dead_header::REASON)?,
        error: text(dead_header::ERROR).unwrap_or_default(),
        attempts: text(dead_header::ATTEMPTS).and_then(|count| count.parse().ok()).unwrap_or(0),
        first: instant(dead_header::FIRST),
        last: instant(dead_header::LAST)?,
        stream: stream.to_owned(),
        sequence,
        original_subject: text(dead_header::SUBJECT)?,
        redrives: text(lineage_header::REDRIVES).and_then(|count| count.parse().ok()).unwrap_or(0),
        bytes: listed.unwrap_or(body.len()),
        headers,
        body,
    })
}
