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
    stream::{LastRawMessageErrorKind, Stream},
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    bury_stored,
    held::{first, show, stored_at},
    parked::Parked,
    undrawn,
    unreadable::bury_unreadable_of,
};
use crate::{
    clock::Clock,
    effects::{Death, Effects, park, publish},
    header,
    plan::DeadReason,
    schedule::ZoneData,
    store::OverdueJob,
    telemetry::metrics::{Metrics, OverdueMetrics},
};

/// Between two passes. With [`LATE`], a job is found within 15 s of its instant.
const EVERY: Duration = Duration::from_secs(5);

/// The server sends off up to 250 ms late, and its clock may differ a little.
pub const LATE: TimeDelta = TimeDelta::seconds(10);

/// After a job was sent off, until that is tried again.
const AGAIN: TimeDelta = TimeDelta::seconds(30);

/// Most delayed jobs per look: the newest, and as many of the others in turn.
const LIMIT: i64 = 500;

/// How long a delayed job whose message is not there is passed over: it waits in its queue, or is dead.
const ABSENT: TimeDelta = TimeDelta::minutes(2);

/// How long a delivery in quiet hours is left alone whose end was reckoned by other rules of time zones: a worker of
/// another version may have parked it again.
const OTHER_RULES: TimeDelta = TimeDelta::minutes(10);

/// Most messages that are read per pass and sort: some seconds of a server's answers.
const MOST: usize = 10_000;

/// Entries beyond twice the number of messages, from which on all are read anew: a subject that is published again leaves
/// its old entry until that is due.
const SPARE: u64 = 10_000;

/// Subjects of parked jobs: after an attempt, in a pause or not yet due, and until their own instant; and what cannot
/// be one. Delayed jobs have a table.
const PARKED: [&str; 3] = ["hold.*.*", "hold.at.*.*", "hold.*"];

/// The progress of the passes. Each parked message is read once, and once more if it is still there when it is overdue.
#[derive(Debug)]
pub struct Overdue {
    seen: [Seen; 3],
    /// Subjects that wait for what was done with them, and until when.
    resting: HashMap<String, DateTime<Utc>>,
    /// When the stream was created: one that was made anew counts from 1 again.
    created: Option<i128>,
    /// Where the look at the older delayed jobs goes on.
    older_than: Option<OverdueJob>,
    published: OverdueMetrics,
    buried: OverdueMetrics,
    metrics: Metrics,
    parked: Parked,
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

/// A message that has no instant, and is no job of Carebell.
struct WithoutInstant {
    sort: usize,
    entry: (DateTime<Utc>, u64),
    parked: StreamMessage,
}

impl Seen {
    fn new(filter: &'static str) -> Self {
        Self { filter, next: 1, waiting: BinaryHeap::new() }
    }
}

/// Runs passes until `stop`.
pub async fn run(effects: Effects, metrics: Metrics, clock: Clock, stop: CancellationToken) {
    let mut overdue = Overdue::new(&metrics);
    while stop.run_until_cancelled(sleep(clock.paced(EVERY))).await.is_some() {
        // The server does not know that this clock is ahead, and sends nothing off by it.
        let late = if clock.is_ahead() { TimeDelta::zero() } else { LATE };
        if let Some(Err(why)) = stop.run_until_cancelled(overdue.pass(&effects, clock.now() - late)).await {
            tracing::warn!("the look for overdue jobs failed, trying again soon: {why}");
        }
    }
}

impl Overdue {
    /// Nothing read yet.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            seen: PARKED.map(Seen::new),
            resting: HashMap::new(),
            created: None,
            older_than: None,
            published: metrics.overdue("published"),
            buried: metrics.overdue("buried"),
            metrics: metrics.clone(),
            parked: Parked::default(),
        }
    }

    /// Sends off jobs that were due before `before`, and buries messages of that age without an instant.
    ///
    /// # Errors
    /// If a server does not answer. The next pass goes on there.
    pub async fn pass(&mut self, effects: &Effects, before: DateTime<Utc>) -> Result<(), String> {
        let stream = effects.context().get_stream(park::STREAM).await.map_err(show)?;
        let created = stream.cached_info().created.unix_timestamp_nanos();
        let (last, messages) = (stream.cached_info().state.last_sequence, stream.cached_info().state.messages);
        let is_new = self.created.replace(created) != Some(created);
        for seen in &mut self.seen {
            // A server that lost its tail in a crash goes on below what was read.
            if is_new || seen.next > last + 1 || seen.waiting.len() as u64 > 2 * messages + SPARE {
                *seen = Seen::new(seen.filter);
            }
        }
        let now = effects.now();
        self.resting.retain(|_, until| *until > now);
        let mut done = self.delayed(effects, &stream, before).await;
        done = done.and(self.undrawn(effects, &stream, before).await);
        // A sort that fails must not hold up the others.
        let mut without_instant = Vec::new();
        for sort in 0..self.seen.len() {
            done = done.and(self.read(effects, &stream, sort, last).await);
            done = done.and(self.send_overdue(effects, &stream, sort, before, &mut without_instant).await);
        }
        if done.is_ok() {
            self.metrics.set_parked(&self.parked.tally(effects.now(), LATE));
        }
        // Jobs come first: a letter that cannot be published takes half a minute.
        let mut is_buried = true;
        for WithoutInstant { sort, entry, parked } in without_instant {
            is_buried = is_buried && self.bury(effects, &stream, parked, entry.0).await;
            if !is_buried {
                self.seen[sort].waiting.push(Reverse((effects.now() + AGAIN, entry.1)));
            }
        }
        done
    }

    async fn undrawn(&self, effects: &Effects, stream: &Stream, before: DateTime<Utc>) -> Result<(), String> {
        let (delivered, done) = undrawn::deliver(effects, stream, before).await;
        for _ in 0..delivered {
            self.published.add();
        }
        done
    }

    fn rests(&self, subject: &str) -> Option<DateTime<Utc>> {
        self.resting.get(subject).copied()
    }

    async fn delayed(&mut self, effects: &Effects, stream: &Stream, before: DateTime<Utc>) -> Result<(), String> {
        let store = effects.store();
        let newest = store.overdue_delayed_jobs(before, None, LIMIT).await.map_err(show)?;
        let mut older = Vec::new();
        if let Some(last) = newest.last().filter(|_| i64::try_from(newest.len()) == Ok(LIMIT)) {
            let from = self.older_than.take().unwrap_or_else(|| last.clone());
            older = store.overdue_delayed_jobs(before, Some(&from), LIMIT).await.map_err(show)?;
        }
        self.older_than = older.last().cloned();
        for OverdueJob { position, due, .. } in newest.into_iter().chain(older) {
            let subject = park::delayed_subject(&position);
            if self.rests(&subject).is_some() {
                continue;
            }
            match stream.get_last_raw_message_by_subject(&subject).await {
                // The sweep mends the subject.
                Ok(parked) if parked.headers.get(header::SCHEDULE_TARGET).is_none() => {
                    self.resting.insert(subject, effects.now() + AGAIN);
                }
                Ok(parked) => {
                    if !self.send(effects, parked, due).await? {
                        self.resting.insert(subject, effects.now() + AGAIN);
                    }
                }
                // It is about to be parked, has come back and waits in its queue, or is dead.
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                    self.resting.insert(subject, effects.now() + ABSENT);
                }
                Err(error) => match bury_unreadable_of(effects.context(), park::STREAM, &subject, effects.now()).await?
                {
                    0 => return Err(show(error)),
                    // The next pass finds the job.
                    buried => tracing::warn!(subject, buried, "messages that cannot be read hid a job"),
                },
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
            let Some(parked) = first(effects, stream, filter, next).await? else {
                self.seen[sort].next = last + 1;
                return Ok(());
            };
            let mut at = due(&parked).unwrap_or_else(|| stored_at(&parked));
            let sequence = parked.sequence;
            self.parked.note(&parked, at);
            if has_older_rules(&parked) {
                match self.rests(&looked_at(&parked)) {
                    None => self.look_anew(effects, parked).await?,
                    Some(until) => at = at.min(until),
                }
            }
            self.seen[sort].next = sequence + 1;
            self.seen[sort].waiting.push(Reverse((at, sequence)));
        }
        Ok(())
    }

    /// Its worker, or the next one, reckons the end of the quiet hours by its own rules.
    async fn look_anew(&mut self, effects: &Effects, parked: StreamMessage) -> Result<(), String> {
        let (now, looked_at) = (effects.now(), looked_at(&parked));
        tracing::info!(subject = %parked.subject, "parked by other rules of time zones: looking at it anew");
        if let (Some(id), Some(until)) = (parked.headers.get(header::JOB_ID), due(&parked)) {
            effects.store().doubt_quiet_hours(id.as_str(), until, now).await.map_err(show)?;
        }
        republish(effects, parked, now).await?;
        self.resting.insert(looked_at, now + OTHER_RULES);
        Ok(())
    }

    async fn send_overdue(
        &mut self,
        effects: &Effects,
        stream: &Stream,
        sort: usize,
        before: DateTime<Utc>,
        without_instant: &mut Vec<WithoutInstant>,
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
            let found = match first(effects, stream, filter, *sequence).await {
                Ok(found) => found,
                Err(why) => {
                    self.seen[sort].waiting.extend(rest.iter().copied().map(Reverse));
                    return Err(why);
                }
            };
            let Some(found) = found else { return Ok(()) };
            rest = &rest[rest.partition_point(|(_, sequence)| *sequence < found.sequence)..];
            let Some((entry, later)) = rest.split_first().filter(|((_, next), _)| *next == found.sequence) else {
                continue;
            };
            if due(&found).is_none() && !is_ours(&found) {
                without_instant.push(WithoutInstant { sort, entry: *entry, parked: found });
                rest = later;
                continue;
            }
            match self.end(effects, found, *entry, before).await {
                Ok(None) => {}
                Ok(Some(again)) => self.seen[sort].waiting.push(Reverse((again, entry.1))),
                Err(why) => {
                    self.seen[sort].waiting.extend(rest.iter().copied().map(Reverse));
                    return Err(why);
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// Ends an overdue message. The instant is that of another look at it, unless it is gone for sure.
    async fn end(
        &mut self,
        effects: &Effects,
        parked: StreamMessage,
        (noted, _): (DateTime<Utc>, u64),
        before: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, String> {
        // Published anew lately: the server is at it, or its clock is behind.
        if let Some(until) = self.rests(&parked.subject) {
            return Ok(Some(until));
        }
        let again = effects.now() + AGAIN;
        match due(&parked) {
            Some(due) if due >= before => {
                if has_older_rules(&parked) && self.rests(&looked_at(&parked)).is_none() {
                    self.look_anew(effects, parked).await?;
                }
                Ok(Some(due))
            }
            Some(due) => Ok((!self.send(effects, parked, due).await?).then_some(again)),
            None => Ok((!self.send(effects, parked, noted).await?).then_some(again)),
        }
    }

    /// False if it is not gone.
    async fn bury(&self, effects: &Effects, stream: &Stream, parked: StreamMessage, noted: DateTime<Utc>) -> bool {
        tracing::error!(subject = %parked.subject, "it waits without an instant: dead letter");
        let error = format!(
            "it waits in {} without a {} header that the server can read, and would never run",
            park::STREAM,
            header::SCHEDULE
        );
        let death = Death { reason: DeadReason::Unscheduled, error, attempts: 0, first: noted };
        let is_gone = bury_stored(effects.context(), stream, parked, &death, effects.now()).await;
        if is_gone {
            self.buried.add();
        }
        is_gone
    }

    /// False if it could not be published: somebody was faster, or the server refuses it.
    async fn send(&mut self, effects: &Effects, parked: StreamMessage, due: DateTime<Utc>) -> Result<bool, String> {
        let subject = parked.subject.to_string();
        if !effects.clock().is_ahead() {
            tracing::error!(subject, %due, "a job was not sent off by the server when it was due: sending it now");
        }
        let is_sent = republish(effects, parked, due).await?;
        if is_sent {
            self.published.add();
            self.resting.insert(subject, effects.now() + AGAIN);
        }
        Ok(is_sent)
    }
}

fn due(parked: &StreamMessage) -> Option<DateTime<Utc>> {
    let at = parked.headers.get(header::SCHEDULE)?.as_str().strip_prefix("@at ")?;
    parked.headers.get(header::SCHEDULE_TARGET)?;
    DateTime::parse_from_rfc3339(at).ok().map(|at| at.with_timezone(&Utc))
}

/// Whether it is a job of Carebell that says where it comes back.
fn is_ours(parked: &StreamMessage) -> bool {
    let target = parked.headers.get(header::SCHEDULE_TARGET);
    let comes_back = target.is_some_and(|target| target.as_str().starts_with(park::RESUMED));
    comes_back && parked.headers.get(header::JOB_ID).is_some()
}

fn has_older_rules(parked: &StreamMessage) -> bool {
    let rules = parked.headers.get(header::ZONE_DATA);
    rules.is_some_and(|rules| rules.as_str() < ZoneData::in_use().version.as_str())
}

/// A worker with older rules parks the delivery again under another subject.
fn looked_at(parked: &StreamMessage) -> String {
    let job = parked.headers.get(header::JOB_ID).map_or(parked.subject.as_str(), async_nats::HeaderValue::as_str);
    format!("rules of {job}")
}

/// Publishes a job again with an instant that is past: the server sends it off at once. If the server's clock is behind
/// this one, the instant is still the right one. False if the job has gone meanwhile.
async fn republish(effects: &Effects, mut parked: StreamMessage, due: DateTime<Utc>) -> Result<bool, String> {
    let subject = parked.subject.clone();
    parked.headers.insert(header::SCHEDULE, park::schedule_at(effects.clock().to_machine(due)).as_str());
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
        // The server has looked at the message.
        Err(error) if publish::error_code(&error).is_some_and(is_about_the_message) => {
            tracing::error!(%subject, "it cannot be sent: {error}");
            Ok(false)
        }
        Err(error) => Err(show(error)),
    }
}

/// Schedules and targets that the server refuses have codes from 10188 on; storage and leaders have others.
fn is_about_the_message(code: ErrorCode) -> bool {
    (10_188..=10_250).contains(&code.0)
}
