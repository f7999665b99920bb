//! Sends off jobs that should have come back from HOLD: a server that ran out of storage forgets their schedules until it
//! starts again (nats-server 2.15.1).

use async_nats::jetstream::{
    ErrorCode,
    context::PublishErrorKind,
    message::StreamMessage,
    stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream},
};
use chrono::{DateTime, Utc};

use crate::{
    effects::{Effects, park, publish},
    header,
};

/// Most delayed jobs per pass.
const LIMIT: i64 = 1000;

/// Most parked jobs per pass and sort: some seconds of a server's answers.
const MOST_PARKED: usize = 10_000;

/// Subjects of parked jobs: after an attempt, in a pause or not yet due, and until their own instant. Delayed jobs have a
/// table.
const PARKED: [&str; 2] = ["hold.*.*", "hold.at.*.*"];

/// The progress of the passes.
#[derive(Debug)]
pub struct Overdue {
    /// The sequences at which the next looks at [`PARKED`] begin; `None` if all have been seen.
    next: [Option<u64>; 2],
}

impl Default for Overdue {
    fn default() -> Self {
        Self { next: [Some(1); 2] }
    }
}

impl Overdue {
    /// Has all parked jobs looked at once more.
    pub fn suspect(&mut self) {
        *self = Self::default();
    }

    /// Sends off jobs that were due before `before`. Parked ones are looked at once, and again after [`Self::suspect`]: each
    /// costs a request.
    ///
    /// # Errors
    /// If a server does not answer.
    pub async fn send_off(&mut self, effects: &Effects, before: DateTime<Utc>) -> Result<(), String> {
        let stream = effects.context().get_stream(park::STREAM).await.map_err(show)?;
        delayed(effects, &stream, before).await?;
        for (filter, next) in PARKED.into_iter().zip(&mut self.next) {
            if let Some(from) = *next {
                *next = parked(effects, &stream, filter, from, before).await?;
            }
        }
        Ok(())
    }
}

async fn delayed(effects: &Effects, stream: &Stream, before: DateTime<Utc>) -> Result<(), String> {
    for (position, due) in effects.store().overdue_delayed_jobs(before, LIMIT).await.map_err(show)? {
        match stream.get_last_raw_message_by_subject(&park::delayed_subject(&position)).await {
            Ok(parked) => send(effects, parked, due).await?,
            // It is about to be parked, has come back and waits in its queue, or is dead.
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {}
            Err(error) => return Err(show(error)),
        }
    }
    Ok(())
}

async fn parked(
    effects: &Effects,
    stream: &Stream,
    filter: &str,
    mut next: u64,
    before: DateTime<Utc>,
) -> Result<Option<u64>, String> {
    for _ in 0..MOST_PARKED {
        match stream.get_first_raw_message_by_subject(filter, next).await {
            Ok(parked) => {
                next = parked.sequence + 1;
                if let Some(due) = due(&parked).filter(|due| *due < before) {
                    send(effects, parked, due).await?;
                }
            }
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(None),
            Err(error) => return Err(show(error)),
        }
    }
    Ok(Some(next))
}

fn due(parked: &StreamMessage) -> Option<DateTime<Utc>> {
    let at = parked.headers.get(header::SCHEDULE)?.as_str().strip_prefix("@at ")?;
    DateTime::parse_from_rfc3339(at).ok().map(|at| at.with_timezone(&Utc))
}

/// Publishes a job again with its own instant, which is past: the server sends it off at once. If the server's clock is
/// behind this one, the instant is still the right one. Does nothing if the job has gone meanwhile.
async fn send(effects: &Effects, mut parked: StreamMessage, due: DateTime<Utc>) -> Result<(), String> {
    let subject = parked.subject.clone();
    tracing::error!(%subject, "a job was not sent off by the server when it was due: sending it now");
    parked.headers.insert(header::SCHEDULE, format!("@at {}", publish::rfc3339(due)).as_str());
    let last = parked.sequence.to_string();
    parked.headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.as_str());
    match publish::send(effects.context(), &subject, parked.headers, parked.payload).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
        // One message must not hold up the others.
        Err(error) if publish::error_code(&error) == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => {
            tracing::error!(%subject, "it cannot be sent: {error}");
            Ok(())
        }
        Err(error) => Err(show(error)),
    }
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
