//! Reads the stream of dead letters: what a person browses, and chooses from.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull},
        stream::{RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use tokio::time::timeout;

use super::{dead_header, lineage_header, take_out};
use crate::{
    effects::publish::{header, job_id},
    plan::DeadReason,
};

/// The stream.
const STREAM: &str = "DEAD_LETTERS";

/// How long the server may take for the next letter, and after how long it is asked whether there is one.
const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(1);

/// One dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Its sequence in the stream, by which commands name it.
    pub number: u64,
    /// Where it lies: `dead.<kind>.<stream>.<sequence>`.
    pub subject: String,
    /// The kind of the job; of an unknown kind, what its subject says.
    pub kind: String,
    /// The job's id.
    pub job_id: String,
    /// The id of the job that an application published, from which this one followed.
    pub root_id: String,
    /// Why it is dead, as [`DeadReason::name`] says it.
    pub reason: String,
    /// What the last failure said.
    pub error: String,
    /// Recorded failures.
    pub attempts: u32,
    /// When the job was first seen.
    pub first: Option<DateTime<Utc>>,
    /// When it was given up.
    pub last: DateTime<Utc>,
    /// The stream that it was in.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject there, to which a redrive publishes it again.
    pub original_subject: String,
    /// How often it had been redriven before it died this time.
    pub redrives: u32,
    /// The size of its body in bytes.
    pub bytes: usize,
    /// All its headers.
    pub headers: HeaderMap,
    /// Its body, as it was published; empty in a list.
    pub body: Bytes,
}

/// Which dead letters are meant. What is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<String>,
    /// For this reason.
    pub reason: Option<DeadReason>,
    /// Of one of these jobs, or of one that followed from it; empty for all.
    pub job_ids: Vec<String>,
    /// Given up at this instant or later.
    pub since: Option<DateTime<Utc>>,
    /// Given up before this instant.
    pub before: Option<DateTime<Utc>>,
}

impl Filter {
    /// Whether a letter is meant.
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
    /// If it is not there, or the server does not answer.
    pub async fn open(context: &jetstream::Context) -> Result<Self, String> {
        let stream = context.get_stream(STREAM).await;
        let stream = stream.map_err(|error| format!("stream {STREAM}: {error} (`carebell streams apply` makes it)"))?;
        Ok(Self { context: context.clone(), stream })
    }

    /// Shows every letter that the filter takes, the oldest first, without its body. Those that come in meanwhile are
    /// left out.
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
                // Those that were left may have been taken out meanwhile, and then none comes any more.
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

    /// Whether no letter of this subject lies behind `seen`, up to `last`.
    async fn is_the_end(&self, subject: &str, seen: u64, last: u64) -> Result<bool, String> {
        match self.stream.get_first_raw_message_by_subject(subject, seen + 1).await {
            Ok(next) => Ok(next.sequence > last),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One letter, whole. None where there is none of this number (any more).
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn get(&self, number: u64) -> Result<Option<Letter>, String> {
        match self.stream.get_raw_message(number).await {
            Ok(message) => Ok(read(number, &message.subject, message.headers, message.payload)),
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes a letter out. One that is gone already counts as taken out.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn remove(&self, number: u64) -> Result<(), String> {
        let removed = take_out(&self.context, &self.stream, number).await;
        self.is_out(number, removed).await
    }

    /// The same, and its bytes are overwritten. Slow: the server writes and syncs the whole block that they are in.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn erase(&self, number: u64) -> Result<(), String> {
        let removed = self.stream.delete_message(number).await;
        self.is_out(number, removed.map(|_| ()).map_err(|error| error.to_string())).await
    }

    /// Another may have been faster: what is not there cannot be read either.
    async fn is_out(&self, number: u64, removed: Result<(), String>) -> Result<(), String> {
        match removed {
            Err(why) if self.get(number).await?.is_some() => Err(why),
            _ => Ok(()),
        }
    }
}

/// None for what lies in the stream and is no dead letter: nothing of ours puts it there.
fn read(number: u64, subject: &str, headers: HeaderMap, body: Bytes) -> Option<Letter> {
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let instant = |name: &str| {
        let parsed = text(name).and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
        parsed.map(|instant| instant.with_timezone(&Utc))
    };
    let mut tokens = subject.strip_prefix("dead.")?.rsplitn(3, '.');
    let (sequence, stream, kind) = (tokens.next()?.parse().ok()?, tokens.next()?, tokens.next()?);
    let job_id = job_id(Some(&headers), stream, i64::try_from(sequence).unwrap_or(i64::MAX));
    // A list has no bodies; the server says how long they are.
    let listed = text("Nats-Msg-Size").and_then(|size| size.parse().ok());
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
