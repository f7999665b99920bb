//! Restores from the journal what a failover of Postgres lost.
//!
//! A worker that meets a timeline which is not on record reads the whole journal before anything else is done there.
//! It commits again each run that is missing, and records again each outcome. All of it may be repeated: what is there
//! already is left alone. A worker that comes from another timeline to one on record reads on from where the first one
//! ended: pages that were under way then tell of commits on the other. So does one that starts soon after a failover.

use std::{collections::HashMap, future::Future, time::Duration};

use async_nats::jetstream::{
    self,
    stream::{RawMessageErrorKind, Stream},
};
use chrono::TimeDelta;
use futures::{StreamExt, future::join_all, stream};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Effects, Refused,
    journal::{self, Journal, Pages},
};
use crate::{
    group::{Batch, Group},
    health::Health,
    kind::Kind,
    retry::Once,
    store::{
        Commit, Committed, FailedRun, LedgerEntry, RunAsk, RunRecord, Store, StoreError, Timeline, TimelineLock,
        TimelineRecord,
    },
    streams::is_missing,
};

/// Messages of the journal that are worked on together.
const WINDOW: usize = 128;

/// Messages that are asked for at once. Far from NATS, the whole journal takes as many round trips as it has these.
const AHEAD: usize = 256;

/// Rows that are looked up at once.
const LOOKED_UP: usize = 2_000;

/// The least time between two looks for what is missing, and the wait after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// How long work waits for a journal that cannot be read. Without NATS it waits anyway.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most that a statement may take, as in groups.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// That of the statement that looks at all runs with children.
const LONG_STATEMENT_TIMEOUT: Duration = Duration::from_mins(1);

/// How long reading waits for this worker's own pages.
const OWN_PAGES: Duration = Duration::from_secs(3);

/// The age of the oldest page (`streams/JOURNAL.json`).
const OLDEST: TimeDelta = TimeDelta::minutes(10);

/// Why a restoration failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Database(#[from] StoreError),
    #[error("the journal cannot be read: {0}")]
    Journal(String),
}

/// What was missing.
#[derive(Debug, Default)]
struct Restored {
    runs: usize,
    failures: usize,
    /// Noted again, whether they were missing or not.
    delayed: usize,
    outcomes: usize,
}

impl Restored {
    fn tell(&self, timeline: Timeline) {
        let Self { runs, failures, delayed, outcomes } = self;
        if runs + failures + outcomes == 0 {
            tracing::info!(
                %timeline,
                "caught up with the timeline of Postgres: nothing of the journal is missing there"
            );
            return;
        }
        tracing::warn!(
            %timeline,
            runs,
            failures,
            delayed,
            outcomes,
            "Postgres is on another timeline, and what was missing there is restored from the journal"
        );
    }
}

/// How far a timeline is caught up with. Kept while NATS does not answer.
#[derive(Debug, Default)]
struct Reading {
    timeline: Option<Timeline>,
    /// The first message that is not worked on yet.
    next: u64,
    pages: Pages,
    /// Outcomes by the id of a delivery that was not there, as its commit was written by another worker, later. They are
    /// few: an outcome soon follows its commit.
    early: HashMap<String, Vec<LedgerEntry>>,
    restored: Restored,
    /// Since when NATS has answered nothing.
    silent: Option<Instant>,
    /// Whether work goes on without it.
    is_given_up: bool,
    told: Once,
}

impl Reading {
    fn of(timeline: Timeline) -> Self {
        Self { timeline: Some(timeline), ..Self::default() }
    }

    /// What was done may be lost with the database's answer.
    fn start_again(&mut self) {
        (self.next, self.pages, self.early) = (0, Pages::default(), HashMap::new());
        self.silent = None;
    }
}

/// Looks for what is missing in Postgres.
pub struct Restoration {
    /// Those of the worker, which wait meanwhile.
    pub effects: Effects,
    /// All kinds: a run is restored under its kind.
    pub kinds: Vec<Kind>,
}

impl Restoration {
    /// Catches up with the server's timeline, and from then on with each that the store's connections wait for, until
    /// `stop`. Work must not begin before the first is reached, which `caught_up` tells.
    pub async fn run(self, caught_up: oneshot::Sender<()>, stop: CancellationToken) {
        self.effects.store.watch_timelines();
        stop.run_until_cancelled(Box::pin(self.keep_up(caught_up))).await;
    }

    async fn keep_up(&self, caught_up: oneshot::Sender<()>) {
        let store = &self.effects.store;
        let mut caught_up = Some(caught_up);
        let mut let_through = |timeline: Option<Timeline>| {
            store.caught_up(timeline);
            // Fails if the worker stops.
            let _ = caught_up.take().map(|caught_up| caught_up.send(()));
        };
        let mut last = None;
        let mut is_hidden = Once::new();
        let mut reading = Reading::default();
        loop {
            match Box::pin(self.restore(&mut reading, last)).await {
                Ok(reached) => {
                    if reached.is_none() && is_hidden.is_first() {
                        tracing::info!(
                            "Postgres does not tell its timeline, so a failover is not noticed and nothing is restored \
                             after it"
                        );
                    }
                    let_through(reached);
                    (last, reading) = (reached, Reading::default());
                    sleep(AGAIN).await;
                    store.behind().await;
                }
                Err(why) => {
                    self.fails(&mut reading, &why, &mut let_through);
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Lets work go on if the journal stays unreadable. Reading is tried again nevertheless.
    fn fails(&self, reading: &mut Reading, why: &Failed, let_through: &mut impl FnMut(Option<Timeline>)) {
        let timeline = reading.timeline.map(tracing::field::display);
        let patience = self.effects.clock.paced(PATIENCE);
        match why {
            Failed::Database(_) => reading.start_again(),
            Failed::Journal(_) if reading.silent.get_or_insert_with(Instant::now).elapsed() < patience => {}
            Failed::Journal(_) if reading.is_given_up => {}
            Failed::Journal(_) => {
                reading.is_given_up = true;
                tracing::error!(
                    timeline,
                    "what a failover of Postgres lost is not restored yet, and work goes on: {why}"
                );
                let_through(reading.timeline);
            }
        }
        if reading.told.is_first() {
            tracing::warn!(timeline, "looking for what a failover of Postgres lost, again soon: {why}");
        }
    }

    /// The timeline on which nothing is missing any more, if the server tells it. `last`: the one before it.
    async fn restore(&self, reading: &mut Reading, last: Option<Timeline>) -> Result<Option<Timeline>, Failed> {
        let ahead = self.effects.store.ahead();
        let Some(mut lock) = ahead.lock_timeline().await? else { return Ok(None) };
        let timeline = lock.timeline;
        if reading.timeline != Some(timeline) {
            *reading = Reading::of(timeline);
        }
        let now = self.effects.clock.now();
        let unread = match ahead.timeline_record(timeline).await? {
            None => {
                ahead.commit_a_sign_of_life(|why| self.effects.store.catching_up_is_hindered(why)).await?;
                Some(1)
            }
            Some(TimelineRecord { at, read }) => {
                let has_moved = last.is_some_and(|last| last != timeline);
                let is_new = timeline.follows_another() && now - at < OLDEST;
                (has_moved || is_new).then_some(read + 1)
            }
        };
        if let Some(unread) = unread {
            reading.next = reading.next.max(unread);
            self.replay(&ahead, &mut lock, reading).await?;
            ahead.record_timeline(timeline, reading.next - 1, now).await?;
            reading.restored.tell(timeline);
        }
        drop(lock);
        // Connections to a server that falls silent are not waited for.
        let _ = timeout(AGAIN, ahead.close()).await;
        Ok(Some(timeline))
    }

    async fn replay(&self, ahead: &Store, lock: &mut TimelineLock, reading: &mut Reading) -> Result<(), Failed> {
        let Effects { context, clock, journal, .. } = &self.effects;
        // A worker that was frozen has pages of the time before.
        let _ = timeout(OWN_PAGES, journal.is_stored()).await;
        let stream = match context.get_stream(journal::STREAM).await {
            Ok(stream) => stream,
            Err(error) if is_missing(&error) => {
                tracing::warn!("the stream JOURNAL is missing, so nothing can be restored: `carebell streams apply`");
                return Ok(());
            }
            Err(error) => return Err(Failed::Journal(error.to_string())),
        };
        let state = &stream.cached_info().state;
        if reading.next > state.last_sequence + 1 {
            // It was made anew, and counts from 1.
            reading.next = 1;
        }
        reading.next = reading.next.max(state.first_sequence);
        let sequences = stream::iter(reading.next..=state.last_sequence);
        let mut messages = sequences.map(|sequence| read(&stream, sequence)).buffered(AHEAD).chunks(WINDOW);
        // What is restored is in the journal already, and its health is not the worker's.
        let health = Health::new();
        let effects = Effects::with(ahead, context.clone(), clock.clone(), &health, Journal::off());
        while let Some(window) = messages.next().await {
            let window: Vec<_> = window.into_iter().collect::<Result<_, _>>()?;
            let count = window.len() as u64;
            for message in window.into_iter().flatten() {
                reading.pages.add(message.sequence, &message.subject, message.payload);
            }
            self.write_again(&effects, reading).await?;
            lock.keep().await?;
            reading.next += count;
            reading.silent = None;
        }
        answered(LONG_STATEMENT_TIMEOUT, ahead.note_children_of_restored()).await
    }

    async fn write_again(&self, effects: &Effects, reading: &mut Reading) -> Result<(), Failed> {
        let entries = journal::Entries::of(reading.pages.take(), &self.kinds);
        let plans = entries.commits.iter().map(|commit| &commit.next.as_deref().unwrap_or(commit).plan);
        let planned = plans.flat_map(|plan| &plan.deliveries);
        let mut outcomes: Vec<LedgerEntry> =
            planned.filter_map(|delivery| reading.early.remove(&delivery.id)).flatten().collect();
        outcomes.extend(entries.outcomes);
        reading.restored.runs += commit_again(effects, entries.commits).await?;
        for round in rounds(entries.failures, |failed| &failed.meta.job_id) {
            reading.restored.failures += fail_again(effects, round).await?;
        }
        reading.restored.delayed += ask_all(&effects.delays, entries.delays).await?.len();
        for round in rounds(outcomes, |outcome| &outcome.id) {
            reading.restored.outcomes += record_again(effects, round, &mut reading.early).await?;
        }
        Ok(())
    }
}

/// `None` if the stream has dropped it meanwhile.
async fn read(stream: &Stream, sequence: u64) -> Result<Option<jetstream::message::StreamMessage>, Failed> {
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(Failed::Journal(error.to_string())),
    }
}

/// Splits entries so that no round has two of one key, and those of a key follow each other.
fn rounds<T>(entries: Vec<T>, key: impl Fn(&T) -> &str) -> Vec<Vec<T>> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut rounds: Vec<Vec<T>> = Vec::new();
    for entry in entries {
        let round = counts.entry(key(&entry).to_owned()).or_default();
        if *round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[*round].push(entry);
        *round += 1;
    }
    rounds
}

/// Commits those that are not on record, and counts them.
async fn commit_again(effects: &Effects, commits: Vec<Commit>) -> Result<usize, Failed> {
    let is_missing =
        |record: Option<&RunRecord>| record.is_none_or(|record| ["open", "dead"].contains(&record.state.as_str()));
    let missing = missing(effects, commits, |commit| &commit.meta.job_id, |_, record| is_missing(record)).await?;
    let outcomes = ask_all(&effects.commits, missing).await?;
    Ok(outcomes.into_iter().filter(|outcome| outcome.committed != Committed::Duplicate).count())
}

/// Records those that are not on record, and counts them. One per run.
async fn fail_again(effects: &Effects, failures: Vec<FailedRun>) -> Result<usize, Failed> {
    let missing = missing(effects, failures, |failed| &failed.meta.job_id, is_missing_failure).await?;
    Ok(ask_all(&effects.failures, missing).await?.into_iter().filter(|is| *is).count())
}

/// Whether a failure came after all that is on record of its run.
fn is_missing_failure(failed: &FailedRun, record: Option<&RunRecord>) -> bool {
    let Some(record) = record else { return true };
    let position = &failed.meta.position;
    let is_same_stream = record.stream == position.stream;
    match record.state.as_str() {
        "open" if is_same_stream && record.sequence == position.sequence => {
            record.recorded_delivery < position.delivered
        }
        "open" | "dead" if is_same_stream => record.sequence < position.sequence,
        // A parked job comes back in another stream. Sequences of two streams have no order.
        "open" | "dead" => record.updated_at < failed.now,
        _ => false,
    }
}

/// Those of these entries that are missing, by what is on record of their run.
async fn missing<T>(
    effects: &Effects,
    entries: Vec<T>,
    job_id: impl Fn(&T) -> &String,
    is_missing: impl Fn(&T, Option<&RunRecord>) -> bool,
) -> Result<Vec<T>, Failed> {
    let asks: Vec<RunAsk> = entries.iter().map(|entry| RunAsk { job_id: job_id(entry).clone() }).collect();
    let mut records = Vec::with_capacity(asks.len());
    for asks in asks.chunks(LOOKED_UP) {
        records.extend(answered(STATEMENT_TIMEOUT, effects.store.look_up_runs(asks)).await?);
    }
    let found = entries.into_iter().zip(records);
    Ok(found.filter(|(entry, record)| is_missing(entry, record.as_ref())).map(|(entry, _)| entry).collect())
}

/// Records those that are not on record, and counts them. One per delivery. Adds those without one to `early`.
async fn record_again(
    effects: &Effects,
    mut outcomes: Vec<LedgerEntry>,
    early: &mut HashMap<String, Vec<LedgerEntry>>,
) -> Result<usize, Failed> {
    let mut count = 0;
    while !outcomes.is_empty() {
        let rest = outcomes.split_off(outcomes.len().min(LOOKED_UP));
        let found = answered(STATEMENT_TIMEOUT, effects.store.lost_outcomes(outcomes)).await?;
        outcomes = rest;
        for entry in found.early {
            early.entry(entry.id.clone()).or_default().push(entry);
        }
        if !found.lost.is_empty() {
            answered(STATEMENT_TIMEOUT, effects.store.restore_claims(&found.lost)).await?;
            let are_written = ask_all(&effects.ledger, found.lost).await?;
            count += are_written.into_iter().filter(|is| *is).count();
        }
    }
    Ok(count)
}

/// The answer, which a silent server never gives.
async fn answered<T>(limit: Duration, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failed> {
    match timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {limit:?}")).into()),
    }
}

/// The answers. What the database refuses for its data is passed over.
async fn ask_all<B: Batch>(group: &Group<B>, asks: Vec<B::Ask>) -> Result<Vec<B::Answer>, Failed> {
    let mut answers = Vec::with_capacity(asks.len());
    for answer in join_all(asks.into_iter().map(|ask| group.ask(ask))).await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(Refused::Data(why)) => tracing::error!("the database refuses what the journal holds: {why}"),
            Err(Refused::Fault(why) | Refused::Unavailable(why)) => {
                return Err(StoreError::Unavailable(why).into());
            }
        }
    }
    Ok(answers)
}
