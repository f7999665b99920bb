//! Buries messages that nobody pulls: those without a consumer, mostly of an unknown kind, and exhausted ones whose
//! advisory was lost.

use std::time::Duration;

use async_nats::jetstream::{self, consumer, message::StreamMessage, stream};
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{bury_stored, exhausted};
use crate::{
    clock::Clock,
    effects::{Death, Effects, park, publish},
    header,
    plan::DeadReason,
    streams::Streams,
};

const EVERY: Duration = Duration::from_secs(30);

/// Minimum age of a message, so that a consumer being created can take it.
pub const AGE: TimeDelta = TimeDelta::seconds(60);

/// Most messages per pass and stream or consumer.
const LIMIT: usize = 1000;

/// Runs [`pass`] every half minute until `stop`.
pub async fn run(effects: Effects, streams: Streams, clock: Clock, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        if let Some(Err(why)) = stop.run_until_cancelled(pass(&effects, &streams, &clock, AGE)).await {
            tracing::warn!("the sweep for messages that nobody pulls failed, trying again later: {why}");
        }
    }
}

/// Buries all messages older than `age` that nobody pulls. Returns their number. Any number of workers may run it: each
/// message makes one dead letter.
///
/// # Errors
/// If the server does not answer.
pub async fn pass(effects: &Effects, streams: &Streams, clock: &Clock, age: TimeDelta) -> Result<usize, String> {
    let context = effects.context();
    let before = clock.now() - age;
    let mut found = 0;
    // Advisories are retried for ever.
    for name in streams.work_queues().into_iter().filter(|name| name != super::advisories::STREAM) {
        let stream = context.get_stream(&name).await.map_err(show)?;
        // Asks the server, since a newer worker may have added kinds.
        let consumers = consumers(&stream, &name).await?;
        for consumer in &consumers {
            found += sweep_exhausted(effects, &stream, consumer, before).await;
        }
        let mut covered: Vec<String> = consumers.into_iter().flat_map(|info| filters(&info.config)).collect();
        // This program's own consumers count in any case.
        let declared = streams.consumers().iter().filter(|consumer| consumer.stream == name);
        covered.extend(declared.map(|consumer| consumer.config.filter_subject.clone()));
        found += sweep(context, &stream, ">", &covered, before, clock.now()).await?;
    }
    found += mend_parked(context, clock.now()).await?;
    for (name, covered) in streams.sourced(park::RESUMED) {
        let stream = context.get_stream(&name).await.map_err(show)?;
        found += sweep(context, &stream, &format!("{}>", park::RESUMED), &covered, before, clock.now()).await?;
    }
    Ok(found)
}

/// Whether some consumer of a stream takes a subject, perhaps one of a newer worker.
///
/// # Errors
/// If the server does not answer, or not for all consumers.
pub async fn is_taken(context: &jetstream::Context, name: &str, subject: &str) -> Result<bool, String> {
    let stream = context.get_stream(name).await.map_err(show)?;
    let consumers = consumers(&stream, name).await?;
    Ok(consumers.iter().flat_map(|info| filters(&info.config)).any(|filter| covers(&filter, subject)))
}

async fn consumers(stream: &stream::Stream, name: &str) -> Result<Vec<consumer::Info>, String> {
    let consumers: Vec<consumer::Info> = stream.consumers().try_collect().await.map_err(show)?;
    // While a cluster node is away, the list silently omits the consumers it leads.
    if consumers.len() != stream.cached_info().state.consumer_count {
        return Err(format!("the server's list of {name}'s consumers is incomplete"));
    }
    Ok(consumers)
}

/// Parks jobs again that something else has replaced: a schedule fires only if it is the last message of its subject,
/// and a producer can have the server's acknowledgements sent to any subject (the reply subject of its publish).
/// Returns the number of such subjects.
async fn mend_parked(context: &jetstream::Context, now: DateTime<Utc>) -> Result<usize, String> {
    let stream = context.get_stream(park::STREAM).await.map_err(show)?;
    let state = &stream.cached_info().state;
    // Listing a million subjects holds up the server.
    if state.messages <= state.subjects_count {
        return Ok(0);
    }
    let subjects = stream.info_with_subjects(park::SUBJECTS).await.map_err(show)?;
    let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(show)?;
    let mut found = 0;
    // The server keeps one message of a subject with a schedule.
    for (subject, _) in subjects.iter().filter(|(_, messages)| *messages > 1).take(LIMIT) {
        match mend(context, &stream, subject, now).await {
            Ok(mended) => found += usize::from(mended),
            // It must not hold up others.
            Err(why) => tracing::error!(subject, "a parked job cannot be parked again, trying again later: {why}"),
        }
    }
    Ok(found)
}

/// False if another worker was faster.
async fn mend(
    context: &jetstream::Context,
    stream: &stream::Stream,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<bool, String> {
    let last = stream.get_last_raw_message_by_subject(subject).await.map_err(show)?;
    let Some(mut parked) = old_message(stream, subject, 1, now).await else { return Ok(false) };
    if last.headers.get(header::SCHEDULE).is_some() {
        return Ok(false);
    }
    tracing::error!(subject, "Carebell did not write the last message of a parked job's subject: parking it again");
    if parked.headers.get(header::SCHEDULE).is_none() {
        super::take_out(context, park::STREAM, parked.sequence).await?;
        return Ok(true);
    }
    parked.headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.sequence.to_string().as_str());
    publish::send(context, subject, parked.headers, parked.payload).await.map_err(show)?;
    Ok(true)
}

/// Subjects that a consumer covers.
fn filters(config: &consumer::Config) -> Vec<String> {
    let mut filters = config.filter_subjects.clone();
    filters.extend(Some(config.filter_subject.clone()).filter(|filter| !filter.is_empty()));
    if filters.is_empty() {
        filters.push(">".into());
    }
    filters
}

async fn sweep(
    context: &jetstream::Context,
    stream: &stream::Stream,
    filter: &str,
    covered: &[String],
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<usize, String> {
    let subjects = stream.info_with_subjects(filter).await.map_err(show)?;
    let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(show)?;
    let mut found = 0;
    for (subject, _) in subjects.iter().filter(|(subject, _)| !covered.iter().any(|filter| covers(filter, subject))) {
        let mut sequence = 1;
        while found < LIMIT {
            let Some(message) = old_message(stream, subject, sequence, before).await else { break };
            sequence = message.sequence + 1;
            tracing::error!(subject, sequence = message.sequence, "no consumer covers this subject: dead letter");
            let error = "no consumer covers the subject: check the kind's spelling, or run `carebell streams apply`";
            let first = DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or(now);
            let death = Death { reason: DeadReason::UnknownKind, error: error.into(), attempts: 0, first };
            bury_stored(context, stream, message, &death, now).await;
            found += 1;
        }
    }
    Ok(found)
}

/// A subject's first message at or after `sequence`, if it is old enough. Later ones are younger.
async fn old_message(
    stream: &stream::Stream,
    subject: &str,
    sequence: u64,
    before: DateTime<Utc>,
) -> Option<StreamMessage> {
    match stream.get_first_raw_message_by_subject(subject, sequence).await {
        Ok(message) => {
            let published = DateTime::from_timestamp(message.time.unix_timestamp(), 0)?;
            Some(message).filter(|_| published < before)
        }
        Err(error) if matches!(error.kind(), stream::RawMessageErrorKind::NoMessageFound) => None,
        Err(error) => {
            // An unreadable message must not block other subjects.
            tracing::error!(subject, sequence, "a message cannot be read: {error}");
            None
        }
    }
}

/// Messages at or below a consumer's acknowledgement floor. A work queue drops acknowledged ones, so these were
/// delivered as often as the consumer allows.
async fn sweep_exhausted(
    effects: &Effects,
    stream: &stream::Stream,
    consumer: &consumer::Info,
    before: DateTime<Utc>,
) -> usize {
    let floor = consumer.ack_floor.stream_sequence;
    let delivered = u64::try_from(consumer.config.max_deliver).unwrap_or(0);
    let mut found = 0;
    for filter in filters(&consumer.config) {
        let mut sequence = 1;
        while found < LIMIT && sequence <= floor {
            let Some(message) = old_message(stream, &filter, sequence, before).await else { break };
            sequence = message.sequence + 1;
            if message.sequence > floor {
                break;
            }
            if let Err(why) = exhausted(effects, stream, message, delivered).await {
                tracing::warn!("an exhausted message cannot be buried, trying again later: {why}");
            }
            found += 1;
        }
    }
    found
}

/// Whether a filter with `*` and `>` matches.
fn covers(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in filter.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn filters_match_as_on_the_server() {
        for (filter, subject) in [
            (">", "a"),
            ("jobs.>", "jobs.a.b"),
            ("jobs.*", "jobs.a"),
            ("jobs.*.b", "jobs.a.b"),
            ("jobs.a.b", "jobs.a.b"),
        ] {
            assert!(covers(filter, subject), "{filter} {subject}");
        }
        for (filter, subject) in [
            ("jobs.>", "jobs"),
            ("jobs.*", "jobs.a.b"),
            ("jobs.a", "jobs.a.b"),
            ("jobs.a.b", "jobs.a"),
            ("due.>", "x.a"),
        ] {
            assert!(!covers(filter, subject), "{filter} {subject}");
        }
    }
}
