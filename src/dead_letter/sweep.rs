//! Finds messages that nobody will ever pull: a subject that no consumer covers, most often an unknown kind. They become
//! dead letters, so that a person sees them.

use std::time::Duration;

use async_nats::jetstream::{self, consumer, stream};
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Body, bury};
use crate::{clock::Clock, effects::Death, plan::DeadReason, streams::Streams};

/// Between two passes.
const EVERY: Duration = Duration::from_secs(30);

/// How old a message must be, so that a consumer that is just being created has its chance.
pub const AGE: TimeDelta = TimeDelta::seconds(60);

/// The most messages that one pass takes from one stream.
const LIMIT: usize = 1000;

/// Runs [`pass`] every half minute until `stop`.
pub async fn run(context: jetstream::Context, streams: Streams, clock: Clock, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        if let Some(Err(why)) = stop.run_until_cancelled(pass(&context, &streams, &clock, AGE)).await {
            tracing::warn!("looking for messages of unknown kinds, again in a while: {why}");
        }
    }
}

/// Makes dead letters of all messages older than `age` that no consumer and no sourcing stream covers. Answers how many.
/// Safe at any number of workers: each message makes one dead letter.
///
/// # Errors
/// If the server does not answer; the next pass goes on.
pub async fn pass(
    context: &jetstream::Context,
    streams: &Streams,
    clock: &Clock,
    age: TimeDelta,
) -> Result<usize, String> {
    let before = clock.now() - age;
    let mut found = 0;
    for name in streams.work_queues() {
        let stream = context.get_stream(&name).await.map_err(show)?;
        // What the server has, not what this program knows: a newer worker may have brought new kinds.
        let consumers: Vec<consumer::Info> = stream.consumers().try_collect().await.map_err(show)?;
        let covered: Vec<String> = consumers.into_iter().flat_map(|info| filters(info.config)).collect();
        found += sweep(context, &stream, ">", &covered, before, clock.now()).await?;
    }
    for (name, covered) in streams.sourced("due.") {
        let stream = context.get_stream(&name).await.map_err(show)?;
        found += sweep(context, &stream, "due.>", &covered, before, clock.now()).await?;
    }
    Ok(found)
}

fn filters(config: consumer::Config) -> Vec<String> {
    let mut filters = config.filter_subjects;
    filters.push(if config.filter_subject.is_empty() && filters.is_empty() {
        ">".into()
    } else {
        config.filter_subject
    });
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
            let Ok(message) = stream.get_first_raw_message_by_subject(subject, sequence).await else { break };
            sequence = message.sequence + 1;
            let published = DateTime::from_timestamp(message.time.unix_timestamp(), 0).unwrap_or(now);
            if published < before {
                tracing::error!(subject, sequence = message.sequence, "no consumer covers this subject: dead letter");
                bury_unknown(context, stream, message, published, now).await;
                found += 1;
            }
        }
    }
    Ok(found)
}

async fn bury_unknown(
    context: &jetstream::Context,
    stream: &stream::Stream,
    message: jetstream::message::StreamMessage,
    published: DateTime<Utc>,
    now: DateTime<Utc>,
) {
    let name = stream.cached_info().config.name.clone();
    let subject = message.subject.to_string();
    let kind = subject.split_once('.').map_or(subject.as_str(), |(_, kind)| kind).to_owned();
    let header = |name| message.headers.get(name).map(|value| value.as_str().to_owned());
    let body = Body {
        kind,
        stream: name,
        sequence: i64::try_from(message.sequence).unwrap_or(i64::MAX),
        job_id: header("Carebell-Job-Id").or_else(|| header("Nats-Msg-Id")),
        headers: Some(message.headers.clone()),
        payload: message.payload.clone(),
        last: now,
        subject,
    };
    let error = "no consumer covers the subject: is the kind misspelt, or `carebell streams apply` still to be run?";
    let death = Death { reason: DeadReason::UnknownKind, error: error.into(), attempts: 0, first: published };
    bury(context, &body, &death).await;
    if let Err(error) = stream.delete_message(message.sequence).await {
        // Another worker was faster, or the next pass finds it again and its dead letter in place.
        tracing::debug!(sequence = message.sequence, "a swept message was not deleted: {error}");
    }
}

/// Whether a subject filter with `*` and `>` matches a subject.
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
