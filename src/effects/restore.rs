//! Restores from the journal what a failover of Postgres lost.
//!
//! A worker that meets a timeline which is not on record reads the whole journal before anything else is done there.
//! It commits again each run that is missing, and records again each outcome. All of it may be repeated: what is there
//! already is left alone.

use std::{collections::HashSet, time::Duration};

use async_nats::jetstream::{
    self,
    stream::{RawMessageErrorKind, Stream},
};
use futures::{StreamExt, future::join_all, stream};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Effects, Refused,
    journal::{self, Journal, Page, Pages},
};
use crate::{
    clock::Clock,
    group::{Batch, GROUP, Group},
    health::Health,
    kind::Kind,
    retry::Once,
    store::{Commit, LedgerEntry, RunAsk, Store, StoreError, Timeline},
    streams::is_missing,
};

/// Messages of the journal that are worked on together.
const WINDOW: usize = 32;

/// Wait after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// How long work waits for a journal that cannot be read. Without NATS it waits anyway.
const PATIENCE: Duration = Duration::from_secs(30);

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
                timeline,
                "caught up with the timeline of Postgres: nothing of the journal is missing there"
            );
            return;
        }
        tracing::warn!(
            timeline,
            runs,
            failures,
            delayed,
            outcomes,
            "Postgres is on another timeline, and what was missing there is restored from the journal"
        );
    }
}

/// Looks for what is missing in Postgres.
#[derive(Debug)]
pub struct Restoration {
    /// Whose connections wait meanwhile.
    pub store: Store,
    /// Of the journal's server.
    pub context: jetstream::Context,
    /// For when a timeline was caught up with.
    pub clock: Clock,
    /// All kinds: a run is restored under its kind.
    pub kinds: Vec<Kind>,
}

impl Restoration {
    /// Catches up with the server's timeline, and from then on with each that the store's connections wait for, until
    /// `stop`. Work must not begin before the first is reached, which `caught_up` tells.
    pub async fn run(self, caught_up: oneshot::Sender<()>, stop: CancellationToken) {
        self.store.watch_timelines();
        stop.run_until_cancelled(async {
            Box::pin(self.catch_up()).await;
            // Fails if the worker stops.
            let _ = caught_up.send(());
            loop {
                self.store.behind().await;
                Box::pin(self.catch_up()).await;
            }
        })
        .await;
    }

    /// Lets work go on when nothing is missing any more, or the journal stays unreadable.
    async fn catch_up(&self) {
        let mut told = Once::new();
        let since = Instant::now();
        loop {
            let mut met = None;
            let why = match self.restore(&mut met).await {
                Ok(reached) => return self.store.caught_up(reached),
                Err(why) => why,
            };
            if let (Failed::Journal(_), Some(timeline)) = (&why, met)
                && since.elapsed() > PATIENCE
            {
                tracing::error!(timeline, "what a failover of Postgres lost is not restored, and work goes on: {why}");
                return self.store.caught_up(timeline);
            }
            if told.is_first() {
                tracing::warn!(timeline = met, "looking for what a failover of Postgres lost, again soon: {why}");
            }
            sleep(AGAIN).await;
        }
    }

    /// The timeline on which nothing is missing any more. `met`: the server's, even if this fails.
    async fn restore(&self, met: &mut Option<Timeline>) -> Result<Timeline, Failed> {
        let ahead = self.store.ahead();
        let lock = ahead.lock_timeline().await?;
        let timeline = *met.insert(lock.timeline);
        if !ahead.is_on_record(timeline).await? {
            ahead.commit_a_sign_of_life(|why| self.store.catching_up_is_hindered(why)).await?;
            let restored = self.replay(&ahead).await?;
            ahead.record_timeline(timeline, self.clock.now()).await?;
            restored.tell(timeline);
        }
        drop(lock);
        ahead.close().await;
        Ok(timeline)
    }

    async fn replay(&self, ahead: &Store) -> Result<Restored, Failed> {
        let stream = match self.context.get_stream(journal::STREAM).await {
            Ok(stream) => stream,
            Err(error) if is_missing(&error) => {
                tracing::warn!("the stream JOURNAL is missing, so nothing can be restored: `carebell streams apply`");
                return Ok(Restored::default());
            }
            Err(error) => return Err(Failed::Journal(error.to_string())),
        };
        let state = &stream.cached_info().state;
        // An empty stream may begin at 0, which no message has.
        let sequences = stream::iter(state.first_sequence.max(1)..=state.last_sequence);
        let mut messages = sequences.map(|sequence| read(&stream, sequence)).buffered(WINDOW).chunks(WINDOW);
        // What is restored is in the journal already, and its health is not the worker's.
        let health = Health::new();
        let effects = Effects::with(ahead, self.context.clone(), self.clock.clone(), &health, Journal::off());
        let mut pages = Pages::default();
        let mut restored = Restored::default();
        while let Some(window) = messages.next().await {
            for message in window {
                if let Some(message) = message? {
                    pages.add(message.sequence, &message.subject, message.payload);
                }
            }
            self.write_again(&effects, pages.take(), &mut restored).await?;
        }
        ahead.note_children_of_restored().await?;
        Ok(restored)
    }

    /// Runs come before their outcomes, which the journal never has in an earlier message.
    async fn write_again(&self, effects: &Effects, pages: Vec<Page>, restored: &mut Restored) -> Result<(), Failed> {
        let entries = journal::Entries::of(pages, &self.kinds);
        restored.runs += commit_again(effects, entries.commits).await?;
        restored.failures += ask_all(&effects.failures, entries.failures).await?.into_iter().filter(|is| *is).count();
        restored.delayed += ask_all(&effects.delays, entries.delays).await?.len();
        restored.outcomes += record_again(effects, entries.outcomes).await?;
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

/// Commits those that are not on record, and counts them.
async fn commit_again(effects: &Effects, commits: Vec<Commit>) -> Result<usize, Failed> {
    let mut missing = Vec::new();
    for group in commits.chunks(GROUP) {
        let asks: Vec<RunAsk> = group.iter().map(|commit| RunAsk { job_id: commit.meta.job_id.clone() }).collect();
        let records = effects.store.look_up_runs(&asks).await?;
        let is_missing = |state: Option<&str>| matches!(state, None | Some("open" | "dead"));
        let found = group.iter().zip(records);
        missing.extend(
            found
                .filter(|(_, record)| is_missing(record.as_ref().map(|record| record.state.as_str())))
                .map(|(commit, _)| commit.clone()),
        );
    }
    Ok(ask_all(&effects.commits, missing).await?.len())
}

/// Records those that are not on record, and counts them. The outcomes of one delivery in their order.
async fn record_again(effects: &Effects, outcomes: Vec<LedgerEntry>) -> Result<usize, Failed> {
    let mut count = 0;
    let mut left = outcomes;
    while !left.is_empty() {
        let mut seen = HashSet::new();
        let (mut first, later): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|entry: &LedgerEntry| seen.insert(entry.id.clone()));
        left = later;
        while !first.is_empty() {
            let rest = first.split_off(first.len().min(GROUP));
            let lost = effects.store.lost_outcomes(first).await?;
            first = rest;
            if !lost.is_empty() {
                effects.store.restore_claims(&lost).await?;
                count += ask_all(&effects.ledger, lost).await?.len();
            }
        }
    }
    Ok(count)
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
