//! Holds a queue to its rate, across processes.
//!
//! The database keeps one row for the queue: how far its slots are booked, where a slot is an instant at which one job
//! may start. A process books a tenth of a second's slots at a time, in one statement ([`Store::book_slots`]), and
//! starts a job at each. So the slots of all processes together are exactly the rate, and nobody is asked for each
//! message. See `docs/DECISIONS.md`.
//!
//! Where slots are free at once, messages are pulled first, and slots booked for those that came and a few that will
//! likely come: an idle queue books nothing. Where the queue is behind, slots are booked first, and when the first of
//! them begins, so many messages are pulled as there are slots: none is held in memory, and counted as delivered, only
//! to wait.

mod slots;

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, sleep_until},
};

use self::slots::{Answer, Spare, book_ask, is_fresh, share};
use crate::{
    clock::Random,
    group::{Batch, Group},
    health::Health,
    policy::Rate,
    store::{BookAsk, Booked, Store, StoreError},
};

/// The longest wait between two looks at a row, for another clock or another rate may have written it meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The wait after an answer that makes no sense. (A database that is away is waited for by the group.)
const FAULT_WAIT: Duration = Duration::from_secs(1);

/// The most bookings that share a statement.
const GROUP: usize = 100;

/// Where a queue's slots are booked: the database, and a row in memory in tests.
pub trait Row: Send + Sync + 'static {
    /// Books slots.
    fn book(&self, ask: &BookAsk) -> impl Future<Output = Result<Booked, StoreError>> + Send;

    /// Gives back the last of the slots that end at `free_at`, if nobody has booked others after them.
    fn give_back(&self, free_at: DateTime<Utc>, time: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The row of one queue in the database.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Postgres.
    pub store: Store,
    /// The queue's durable.
    pub queue: String,
}

impl Row for Saved {
    async fn book(&self, ask: &BookAsk) -> Result<Booked, StoreError> {
        self.store.book_slots(&self.queue, ask).await
    }

    async fn give_back(&self, free_at: DateTime<Utc>, time: Duration) -> Result<(), StoreError> {
        self.store.give_slots_back(&self.queue, free_at, time).await
    }
}

/// Bookings that are asked for while a statement is under way share the next one.
struct Bookings<R> {
    row: Arc<R>,
    rate: Rate,
}

impl<R: Row> Batch for Bookings<R> {
    type Ask = usize;
    type Answer = Answer;

    const NAME: &'static str = "rate_limits";

    async fn run(&self, asks: &[usize]) -> Result<Vec<Answer>, StoreError> {
        let (count, ask) = book_ask(&self.rate, asks);
        let booked = self.row.book(&ask).await?;
        // Counted from the answer and not from the question: a database that is slow makes jobs late, never early.
        Ok(share(&self.rate, asks, count, &booked, Instant::now()))
    }
}

/// The limit of one queue in one process. Cheap to clone.
pub struct Limit<R: Row = Saved>(Arc<Shared<R>>);

impl<R: Row> Clone for Limit<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<R: Row> {
    rate: Rate,
    row: Arc<R>,
    bookings: Group<Bookings<R>>,
    random: Random,
    /// Whether slots are to be booked before messages are pulled. So it is at first: a worker that is started again and
    /// again pulls, and has counted as delivered, only what it can start.
    is_behind: AtomicBool,
    /// Messages that were pulled and have no slot yet.
    in_hand: watch::Sender<usize>,
    /// What the next of them takes its slot from. Locked by the one that books, for itself and those behind it.
    spare: Mutex<Spare>,
}

impl<R: Row> Limit<R> {
    /// The limit of the queue whose row this is.
    #[must_use]
    pub fn start(rate: Rate, row: R, random: Random, health: Arc<Health>) -> Self {
        let row = Arc::new(row);
        let bookings = Group::start(Bookings { row: Arc::clone(&row), rate }, GROUP, health);
        Self(Arc::new(Shared {
            rate,
            row,
            bookings,
            random,
            is_behind: AtomicBool::new(true),
            in_hand: watch::Sender::new(0),
            spare: Mutex::default(),
        }))
    }

    /// Returns when messages may be pulled: none pulled before still waits for its slot, and where the queue is behind,
    /// the first of the slots that were booked begins. `most` is how many could be run.
    pub async fn ahead(&self, most: usize) -> Ahead<R> {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.0.in_hand.subscribe().wait_for(|count| *count == 0).await;
        let most = slots::at_once(&self.0.rate).min(most);
        let (mut slots, mut end) = (VecDeque::new(), None);
        if self.0.is_behind.load(Ordering::Relaxed) {
            (slots, end) = self.book(most).await;
            if let Some(first) = slots.front() {
                sleep_until(*first).await;
            }
        }
        let most = if slots.is_empty() { most } else { slots.len() };
        Ahead { limit: self.clone(), most, has_booked: !slots.is_empty(), slots, end }
    }

    /// A slot for a message in hand. One booking is for all of them, and for those that will come in a moment as they
    /// did in the last one: else messages that come one by one would be a statement each.
    async fn slot(&self) -> Option<Instant> {
        let mut spare = self.0.spare.lock().await;
        let now = Instant::now();
        if let Some(slot) = spare.take(now) {
            return Some(slot);
        }
        let soon = spare.expected(now) + 1;
        let most = soon.max(*self.0.in_hand.borrow()).min(slots::at_once(&self.0.rate));
        let (slots, _) = self.book(most).await;
        spare.put(slots);
        spare.take(Instant::now())
    }

    /// Books up to so many slots, however long it takes until there are any.
    async fn book(&self, most: usize) -> (VecDeque<Instant>, Option<DateTime<Utc>>) {
        loop {
            let wait = match self.0.bookings.ask(most).await {
                Ok(Answer::Slots(slots, end)) => {
                    if slots.front().is_some_and(|first| *first > Instant::now() + slots::AT_ONCE) {
                        self.0.is_behind.store(true, Ordering::Relaxed);
                    }
                    return (slots, end);
                }
                // A while later than it says, each another one: all others who wait were told the same.
                Ok(Answer::Later(wait)) => wait + slots::HORIZON.mul_f64(0.5 * self.0.random.fraction()),
                Err(refused) => {
                    tracing::error!("slots cannot be booked, again soon: {refused:?}");
                    FAULT_WAIT
                }
            };
            self.0.is_behind.store(true, Ordering::Relaxed);
            sleep(wait.min(LONGEST_WAIT)).await;
        }
    }
}

/// Leave to pull: with slots that are booked, or without.
pub struct Ahead<R: Row = Saved> {
    limit: Limit<R>,
    most: usize,
    has_booked: bool,
    slots: VecDeque<Instant>,
    end: Option<DateTime<Utc>>,
}

impl<R: Row> Ahead<R> {
    /// The most messages to be pulled; at least 1.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether there are slots, which pass: then no message is to be waited for.
    #[must_use]
    pub fn has_booked(&self) -> bool {
        self.has_booked
    }

    /// The turn of a message that came: at the next slot, else at one that is booked for it.
    pub fn turn(&mut self) -> Turn<R> {
        let now = Instant::now();
        while let Some(slot) = self.slots.pop_front() {
            if is_fresh(slot, now) {
                return Turn { limit: self.limit.clone(), slot: Some(slot), in_hand: None };
            }
        }
        Turn { limit: self.limit.clone(), slot: None, in_hand: Some(InHand::new(&self.limit.0.in_hand)) }
    }

    /// The server had no more messages. Slots that are left are given back, and the queue is behind no longer.
    pub async fn close(self) {
        if !self.has_booked || self.slots.is_empty() {
            return;
        }
        let shared = &self.limit.0;
        shared.is_behind.store(false, Ordering::Relaxed);
        if let Some(end) = self.end {
            // Slots that are not given back pass unused, so a failure needs no second try.
            if let Err(error) = shared.row.give_back(end, shared.rate.time_for(self.slots.len())).await {
                tracing::debug!("slots are not given back: {error}");
            }
        }
    }
}

/// When one message may be started.
pub struct Turn<R: Row = Saved> {
    limit: Limit<R>,
    slot: Option<Instant>,
    in_hand: Option<InHand>,
}

impl<R: Row> Turn<R> {
    /// Returns when it may.
    pub async fn comes(mut self) {
        loop {
            let slot = match self.slot.take() {
                Some(slot) => Some(slot),
                None => self.limit.slot().await,
            };
            self.in_hand = None;
            let Some(slot) = slot else { continue };
            sleep_until(slot).await;
            // A process that stood still has missed its slot, and others have had theirs since.
            if is_fresh(slot, Instant::now()) {
                return;
            }
        }
    }
}

/// Counts a message that has no slot yet.
struct InHand(watch::Sender<usize>);

impl InHand {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests;
