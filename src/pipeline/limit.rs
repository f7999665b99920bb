//! Holds a queue to its rate, across processes.
//!
//! A time slot is an instant at which one job may start. The database keeps one row per queue: how far its slots are
//! booked. A process books a tenth of a second of slots in one statement ([`Store::book_slots`]) and starts a job at
//! each. All processes together reach exactly the rate, without a statement per message. See `docs/DECISIONS.md`.
//!
//! While slots are free, messages are pulled first, then slots are booked for them and a few that likely follow: an
//! idle queue books nothing. When the queue is behind, slots are booked first, and when the first begins, as many
//! messages are pulled as there are slots: none waits in memory, counted as delivered.

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

use self::slots::{SlotAnswer, Spare, book_ask, is_fresh, share};
use crate::{
    clock::Random,
    group::{Batch, Group},
    health::Health,
    policy::Rate,
    store::{BookAsk, Booked, Store, StoreError},
};

/// The longest wait between two looks at a row: another clock or rate may have written it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The wait after an invalid answer. (The group waits for a database that is away.)
const FAULT_WAIT: Duration = Duration::from_secs(1);

/// The most bookings that share a statement.
const GROUP: usize = 100;

/// Where slots are booked: the database, or memory in tests.
pub trait Row: Send + Sync + 'static {
    /// Books slots.
    fn book(&self, ask: &BookAsk) -> impl Future<Output = Result<Booked, StoreError>> + Send;

    /// Gives back the last slots, which end at `free_at`, unless others were booked after them.
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

/// Bookings made while a statement is running share the next one.
struct Bookings<R> {
    row: Arc<R>,
    rate: Rate,
}

impl<R: Row> Batch for Bookings<R> {
    type Ask = usize;
    type Answer = SlotAnswer;

    const NAME: &'static str = "rate_limits";

    async fn run(&self, asks: &[usize]) -> Result<Vec<SlotAnswer>, StoreError> {
        let (count, ask) = book_ask(&self.rate, asks);
        let booked = self.row.book(&ask).await?;
        // Counted from the answer, not the question: a slow database makes jobs late, never early.
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
    /// Whether slots are booked before pulling. True at first: each pull counts as a delivery, so a worker that keeps
    /// restarting pulls only messages that it can start.
    is_behind: AtomicBool,
    /// Pulled messages without a slot.
    in_hand: watch::Sender<usize>,
    /// Spare slots for them, locked by the message that books for those behind it too.
    spare: Mutex<Spare>,
}

impl<R: Row> Limit<R> {
    /// For the queue of this row.
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

    /// Returns when messages may be pulled: none waits for a slot, and if the queue is behind, the first booked slot
    /// begins. `most` is the number of messages that could run.
    pub async fn ahead(&self, most: usize) -> Ahead<R> {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.0.in_hand.subscribe().wait_for(|count| *count == 0).await;
        let most = slots::per_booking(&self.0.rate).min(most);
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

    /// A slot for a message in hand. One booking serves all of them and those expected soon: messages that come singly
    /// would cost a statement each.
    async fn slot(&self) -> Option<Instant> {
        let mut spare = self.0.spare.lock().await;
        let now = Instant::now();
        if let Some(slot) = spare.take(now) {
            return Some(slot);
        }
        let soon = spare.expected(now) + 1;
        let most = soon.max(*self.0.in_hand.borrow()).min(slots::per_booking(&self.0.rate));
        let (slots, _) = self.book(most).await;
        spare.put(slots);
        spare.take(Instant::now())
    }

    /// Books up to `most` slots, and waits for them.
    async fn book(&self, most: usize) -> (VecDeque<Instant>, Option<DateTime<Utc>>) {
        loop {
            let wait = match self.0.bookings.ask(most).await {
                Ok(SlotAnswer::Slots(slots, end)) => {
                    if slots.front().is_some_and(|first| *first > Instant::now() + slots::BOOKING) {
                        self.0.is_behind.store(true, Ordering::Relaxed);
                    }
                    return (slots, end);
                }
                // Plus a random wait, since all who wait got the same answer.
                Ok(SlotAnswer::Later(wait)) => wait + slots::HORIZON.mul_f64(0.5 * self.0.random.fraction()),
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

/// Permission to pull, with or without booked slots.
pub struct Ahead<R: Row = Saved> {
    limit: Limit<R>,
    most: usize,
    has_booked: bool,
    slots: VecDeque<Instant>,
    end: Option<DateTime<Utc>>,
}

impl<R: Row> Ahead<R> {
    /// The most messages to pull; at least 1.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether slots are booked. They pass, so a pull must not wait.
    #[must_use]
    pub fn has_booked(&self) -> bool {
        self.has_booked
    }

    /// The next booked slot, or one booked for this message.
    pub fn slot(&mut self) -> TimeSlot<R> {
        let now = Instant::now();
        while let Some(slot) = self.slots.pop_front() {
            if is_fresh(slot, now) {
                return TimeSlot { limit: self.limit.clone(), slot: Some(slot), in_hand: None };
            }
        }
        TimeSlot { limit: self.limit.clone(), slot: None, in_hand: Some(InHand::new(&self.limit.0.in_hand)) }
    }

    /// No messages are left: gives the remaining slots back. The queue is no longer behind.
    pub async fn close(self) {
        if !self.has_booked || self.slots.is_empty() {
            return;
        }
        let shared = &self.limit.0;
        shared.is_behind.store(false, Ordering::Relaxed);
        if let Some(end) = self.end {
            // Slots that are not given back pass unused, so this is tried only once.
            if let Err(error) = shared.row.give_back(end, shared.rate.time_for(self.slots.len())).await {
                tracing::debug!("slots are not given back: {error}");
            }
        }
    }
}

/// When one message may start.
pub struct TimeSlot<R: Row = Saved> {
    limit: Limit<R>,
    slot: Option<Instant>,
    in_hand: Option<InHand>,
}

impl<R: Row> TimeSlot<R> {
    /// Returns when the message may start.
    pub async fn comes(mut self) {
        loop {
            let slot = match self.slot.take() {
                Some(slot) => Some(slot),
                None => self.limit.slot().await,
            };
            self.in_hand = None;
            let Some(slot) = slot else { continue };
            sleep_until(slot).await;
            // A process that stood still has missed its slot; later slots are used by others.
            if is_fresh(slot, Instant::now()) {
                return;
            }
        }
    }
}

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
