//! Sends off jobs that should have come back from HOLD: a server that ran out of storage forgets their schedules until it
//! starts again (nats-server 2.15.1).

use async_nats::jetstream::{
    message::StreamMessage,
    stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream},
};
use chrono::{DateTime, Utc};

use crate::{
    effects::{Effects, park, publish},
    header,
};

/// Most jobs per pass and sort.
const LIMIT: usize = 1000;

/// Jobs that were parked: by an attempt or a pause, and until their own instant. Delayed jobs have a table.
const PARKED: [&str; 2] = ["hold.*.*", "hold.at.*.*"];

/// What earlier passes have seen.
#[derive(Debug)]
pub struct Overdue {
    /// The sequences at which the next looks at [`PARKED`] begin.
    next: [u64; 2],
}

impl Default for Overdue {
    fn default() -> Self {
        Self { next: [1; 2] }
    }
}

impl Overdue {
    /// Sends off jobs that were due before `before`, as many as one pass sees.
    ///
    /// # Errors
    /// If a server does not answer.
    pub async fn send_off(&mut self, effects: &Effects, before: DateTime<Utc>) -> Result<(), String> {
        let stream = effects.context().get_stream(park::STREAM).await.map_err(show)?;
        delayed(effects, &stream, before).await?;
        for (filter, next) in PARKED.into_iter().zip(&mut self.next) {
            parked(effects, &stream, filter, next, before).await?;
        }
        Ok(())
    }
}

async fn delayed(effects: &Effects, stream: &Stream, before: DateTime<Utc>) -> Result<(), String> {
    let limit = i64::try_from(LIMIT).unwrap_or(i64::MAX);
    for position in effects.store().overdue_delayed_jobs(before, limit).await.map_err(show)? {
        match stream.get_last_raw_message_by_subject(&park::delayed_subject(&position)).await {
            Ok(parked) => send(effects, parked).await,
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
    next: &mut u64,
    before: DateTime<Utc>,
) -> Result<(), String> {
    for _ in 0..LIMIT {
        match stream.get_first_raw_message_by_subject(filter, *next).await {
            Ok(parked) => {
                *next = parked.sequence + 1;
                if due(&parked).is_some_and(|due| due < before) {
                    send(effects, parked).await;
                }
            }
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
                *next = 1;
                break;
            }
            Err(error) => return Err(show(error)),
        }
    }
    Ok(())
}

fn due(parked: &StreamMessage) -> Option<DateTime<Utc>> {
    let at = parked.headers.get(header::SCHEDULE)?.as_str().strip_prefix("@at ")?;
    DateTime::parse_from_rfc3339(at).ok().map(|at| at.with_timezone(&Utc))
}

/// Replaces a job's schedule by one that is due. Does nothing if the job has gone meanwhile.
async fn send(effects: &Effects, mut parked: StreamMessage) {
    let subject = parked.subject.clone();
    tracing::error!(%subject, "a job was not sent off by the server when it was due: sending it now");
    parked.headers.insert(header::SCHEDULE, format!("@at {}", publish::rfc3339(effects.now())).as_str());
    let last = parked.sequence.to_string();
    parked.headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.as_str());
    if let Err(why) = publish::send(effects.context(), &subject, parked.headers, parked.payload).await {
        tracing::warn!(%subject, "it cannot be sent now, trying again later: {why}");
    }
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
