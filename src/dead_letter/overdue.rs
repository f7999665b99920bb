//! The net under everything that waits in HOLD: what is past its instant is sent off, and what has none is buried.
//!
//! The server sends jobs off itself. It does not if it ran out of storage or was down when they were due
//! (nats-server 2.15.1), or if a message has no schedule that it can read.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use async_nats::jetstream::{
    ErrorCode,
    context::PublishErrorKind,
    message::StreamMessage,
    stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream},
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::bury_stored;
use crate::{
    clock::Clock,
    effects::{Death, Effects, park, publish},
    header,
    plan::DeadReason,
    schedule::ZoneData,
    telemetry::metrics::{Metrics, OverdueMetrics},
};

/// Between two passes. With [`LATE`], a job is found within 15 s of its instant.
const EVERY: Duration = Duration::from_secs(5);

/// The server sends off up to 250 ms late, and its clock may differ a little.
pub const LATE: TimeDelta = TimeDelta::seconds(10);

/// After a job was sent off, until that is tried again.
const AGAIN: TimeDelta = TimeDelta::seconds(30);

/// Most delayed jobs per pass.
const LIMIT: i64 = 1000;

/// Most messages that are read per pass and sort: some seconds of a server's answers.
const MOST: usize = 10_000;

/// Subjects of parked jobs: after an attempt, in a pause or not yet due, and until their own instant; and what cannot
/// be one. Delayed jobs have a table.
const PARKED: [&str; 3] = ["hold.*.*", "hold.at.*.*", "hold.*"];

/// The progress of the passes. Each parked message is read once, and once more if it is still there when it is overdue.
#[derive(Debug)]
pub struct Overdue {
    seen: [Seen; 3],
    /// Subjects of jobs that were sent off lately, and when.
    sent: HashMap<String, DateTime<Utc>>,
    /// When the stream was created: one that was made anew counts from 1 again.
    created: Option<i128>,
    /// The last message at the first pass. Those up to it may have been parked by older rules of time zones.
    before_start: u64,
    published: OverdueMetrics,
    buried: OverdueMetrics,
}

/// Messages of a filter.
#[derive(Debug)]
struct Seen {
    filter: &'static str,
    /// Sequence of the next message to read.
    next: u64,
    /// Instants and sequences of those that were read.
    waiting: BinaryHeap<Reverse<(DateTime<Utc>, u64)>>,
}

/// Runs passes until `stop`.
pub async fn run(effects: Effects, metrics: Metrics, clock: Clock, stop: CancellationToken) {
    let mut overdue = Overdue::new(&metrics);
    while stop.run_until_cancelled(sleep(clock.paced(EVERY))).await.is_some() {
        if let Some(Err(why)) = stop.run_until_cancelled(overdue.pass(&effects, clock.now() - LATE)).await {
            tracing::warn!("the look for overdue jobs failed, trying again soon: {why}");
        }
    }
}

impl Overdue {
    /// Nothing read yet.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            seen: PARKED.map(|filter| Seen { filter, next: 1, waiting: BinaryHeap::new() }),
            sent: HashMap::new(),
            created: None,
            before_start: 0,
            published: metrics.overdue("published"),
            buried: metrics.overdue("buried"),
        }
    }

    /// Sends off jobs that were due before `before`, and buries messages of that age without an instant.
    ///
    /// # Errors
    /// If a server does not answer. The next pass goes on there.
    pub async fn pass(&mut self, effects: &Effects, before: DateTime<Utc>) -> Result<(), String> {
        let stream = effects.context().get_stream(park::STREAM).await.map_err(show)?;
        let created = stream.cached_info().created.unix_timestamp_nanos();
        let last = stream.cached_info().state.last_sequence;
        if self.created.replace(created) != Some(created) {
            self.before_start = last;
            for seen in &mut self.seen {
                (seen.next, seen.waiting) = (1, BinaryHeap::new());
            }
        }
        let now = effects.now();
        self.sent.retain(|_, at| now - *at < AGAIN);
        self.delayed(effects, &stream, before).await?;
        for sort in 0..self.seen.len() {
            self.read(effects, &stream, sort, last).await?;
            self.send_overdue(effects, &stream, sort, before).await?;
        }
        Ok(())
    }

    async fn delayed(&mut self, effects: &Effects, stream: &Stream, before: DateTime<Utc>) -> Result<(), String> {
        for (position, due) in effects.store().overdue_delayed_jobs(before, LIMIT).await.map_err(show)? {
            let subject = park::delayed_subject(&position);
            if self.sent.contains_key(&subject) {
                continue;
            }
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(parked) => self.send(effects, parked, due).await?,
                // It is about to be parked, has come back and waits in its queue, or is dead.
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {}
                Err(error) => return Err(show(error)),
            }
        }
        Ok(())
    }

    /// Notes the instants of new messages.
    async fn read(&mut self, effects: &Effects, stream: &Stream, sort: usize, last: u64) -> Result<(), String> {
        for _ in 0..MOST {
            let Seen { filter, next, .. } = self.seen[sort];
            if next > last {
                return Ok(());
            }
            let Some(parked) = first(stream, filter, next).await? else {
                self.seen[sort].next = last + 1;
                return Ok(());
            };
            self.seen[sort].next = parked.sequence + 1;
            // Its worker, or the next one, reckons the end of the quiet hours anew.
            if parked.sequence <= self.before_start && has_older_rules(&parked) {
                tracing::info!(subject = %parked.subject, "parked by other rules of time zones: looking at it anew");
                let now = effects.now();
                if let Some(id) = parked.headers.get(header::JOB_ID) {
                    effects.store().doubt_quiet_hours(id.as_str(), now).await.map_err(show)?;
                }
                republish(effects, parked, now).await?;
                continue;
            }
            let at = due(&parked).unwrap_or_else(|| stored_at(&parked));
            self.seen[sort].waiting.push(Reverse((at, parked.sequence)));
        }
        Ok(())
    }

    async fn send_overdue(
        &mut self,
        effects: &Effects,
        stream: &Stream,
        sort: usize,
        before: DateTime<Utc>,
    ) -> Result<(), String> {
        let Seen { filter, waiting, .. } = &mut self.seen[sort];
        let filter = *filter;
        let mut overdue = Vec::new();
        while let Some(Reverse(entry)) = waiting.peek().filter(|Reverse((at, _))| *at < before) {
            overdue.push(*entry);
            waiting.pop();
        }
        overdue.sort_unstable_by_key(|(_, sequence)| *sequence);
        let mut rest = overdue.as_slice();
        // Almost all have gone: the next one that is there passes over those before it.
        while let Some((_, sequence)) = rest.first() {
            let found = match first(stream, filter, *sequence).await {
                Ok(found) => found,
                Err(why) => {
                    self.seen[sort].waiting.extend(rest.iter().copied().map(Reverse));
                    return Err(why);
                }
            };
            let Some(found) = found else { return Ok(()) };
            rest = &rest[rest.partition_point(|(_, sequence)| *sequence < found.sequence)..];
            let Some(((at, sequence), later)) = rest.split_first().filter(|((_, next), _)| *next == found.sequence)
            else {
                continue;
            };
            if let Err(why) = self.end(effects, stream, found, (*at, *sequence), sort).await {
                self.seen[sort].waiting.extend(rest.iter().copied().map(Reverse));
                return Err(why);
            }
            rest = later;
        }
        Ok(())
    }

    async fn end(
        &mut self,
        effects: &Effects,
        stream: &Stream,
        parked: StreamMessage,
        entry: (DateTime<Utc>, u64),
        sort: usize,
    ) -> Result<(), String> {
        if let Some(sent) = self.sent.get(parked.subject.as_str()) {
            // Sent off before: its own schedule is past, so the server is at it, or its clock is behind.
            self.seen[sort].waiting.push(Reverse((*sent + AGAIN, entry.1)));
            return Ok(());
        }
        match due(&parked) {
            Some(due) => self.send(effects, parked, due).await,
            None if is_ours(&parked) => self.send(effects, parked, entry.0).await,
            None => {
                tracing::error!(subject = %parked.subject, "it waits without an instant: dead letter");
                let error = format!(
                    "it waits in {} without a {} header that the server can read, and would never run",
                    park::STREAM,
                    header::SCHEDULE
                );
                let death = Death { reason: DeadReason::Unscheduled, error, attempts: 0, first: entry.0 };
                bury_stored(effects.context(), stream, parked, &death, effects.now()).await;
                self.buried.add();
                Ok(())
            }
        }
    }

    async fn send(&mut self, effects: &Effects, parked: StreamMessage, due: DateTime<Utc>) -> Result<(), String> {
        let subject = parked.subject.to_string();
        tracing::error!(subject, %due, "a job was not sent off by the server when it was due: sending it now");
        if republish(effects, parked, due).await? {
            self.published.add();
        }
        self.sent.insert(subject, effects.now());
        Ok(())
    }
}

/// The first message of a filter from a sequence on.
async fn first(stream: &Stream, filter: &str, from: u64) -> Result<Option<StreamMessage>, String> {
    match stream.get_first_raw_message_by_subject(filter, from).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(show(error)),
    }
}

fn due(parked: &StreamMessage) -> Option<DateTime<Utc>> {
    let at = parked.headers.get(header::SCHEDULE)?.as_str().strip_prefix("@at ")?;
    parked.headers.get(header::SCHEDULE_TARGET)?;
    DateTime::parse_from_rfc3339(at).ok().map(|at| at.with_timezone(&Utc))
}

fn stored_at(parked: &StreamMessage) -> DateTime<Utc> {
    DateTime::from_timestamp(parked.time.unix_timestamp(), parked.time.nanosecond()).unwrap_or_default()
}

/// Whether it is a job of Carebell that says where it comes back.
fn is_ours(parked: &StreamMessage) -> bool {
    let target = parked.headers.get(header::SCHEDULE_TARGET);
    let comes_back = target.is_some_and(|target| target.as_str().starts_with(park::RESUMED));
    comes_back && parked.headers.get(header::JOB_ID).is_some()
}

fn has_older_rules(parked: &StreamMessage) -> bool {
    let rules = parked.headers.get(header::ZONE_DATA);
    rules.is_some_and(|rules| rules.as_str() != ZoneData::in_use().version)
}

/// Publishes a job again with an instant that is past: the server sends it off at once. If the server's clock is behind
/// this one, the instant is still the right one. False if the job has gone meanwhile.
async fn republish(effects: &Effects, mut parked: StreamMessage, due: DateTime<Utc>) -> Result<bool, String> {
    let subject = parked.subject.clone();
    parked.headers.insert(header::SCHEDULE, park::schedule_at(due).as_str());
    let last = parked.sequence.to_string();
    parked.headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.as_str());
    match publish::send(effects.context(), &subject, parked.headers, parked.payload).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
        // One message must not hold up the others.
        Err(error) if publish::error_code(&error) == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) => {
            tracing::error!(%subject, "it cannot be sent: {error}");
            Ok(false)
        }
        Err(error) => Err(show(error)),
    }
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
