//! The limit in many workers, with a row in memory and paused time.

use std::sync::Mutex;

use chrono::TimeDelta;
use proptest::prelude::*;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use super::*;

/// `store/rate_limits.rs`, in memory.
struct Memory {
    epoch: Instant,
    free_at: Mutex<Option<Instant>>,
    statements: Mutex<usize>,
    latency: Duration,
}

impl Memory {
    fn new(latency: Duration) -> Arc<Self> {
        let epoch = Instant::now();
        Arc::new(Self { epoch, free_at: Mutex::default(), statements: Mutex::default(), latency })
    }

    fn stamp(&self, instant: Instant) -> DateTime<Utc> {
        let after = instant.saturating_duration_since(self.epoch);
        DateTime::UNIX_EPOCH + TimeDelta::from_std(after).unwrap()
    }
}

impl Row for Arc<Memory> {
    async fn book(&self, ask: &BookAsk) -> Result<Booked, StoreError> {
        sleep(self.latency).await;
        let now = Instant::now();
        let booked = {
            *self.statements.lock().unwrap() += 1;
            let mut free_at = self.free_at.lock().unwrap();
            let start = free_at.unwrap_or(now).max(now - ask.saved).min(now + ask.furthest);
            let granted = start <= now + ask.horizon;
            let end = if granted { start + ask.time } else { start };
            *free_at = Some(end);
            let ahead = TimeDelta::from_std(end.saturating_duration_since(now)).unwrap();
            Booked { granted, free_at: self.stamp(end), ahead }
        };
        sleep(self.latency).await;
        Ok(booked)
    }

    async fn give_back(&self, end: DateTime<Utc>, time: Duration) -> Result<(), StoreError> {
        sleep(self.latency).await;
        *self.statements.lock().unwrap() += 1;
        let mut free_at = self.free_at.lock().unwrap();
        if let Some(at) = *free_at
            && self.stamp(at) == end
        {
            *free_at = Some(at - time);
        }
        Ok(())
    }
}

/// How long an empty pull is held open.
const PULL: Duration = Duration::from_secs(30);

/// A queue, and its starts.
#[derive(Default)]
struct Town {
    waiting: Mutex<usize>,
    /// As from the server, a message wakes one waiting pull.
    arrived: Notify,
    started: Mutex<Vec<Instant>>,
}

impl Town {
    fn publish(&self, more: usize) {
        *self.waiting.lock().unwrap() += more;
        (0..more.min(10)).for_each(|_| self.arrived.notify_one());
    }

    fn take(&self, most: usize) -> usize {
        let mut waiting = self.waiting.lock().unwrap();
        let taken = most.min(*waiting);
        *waiting -= taken;
        taken
    }

    /// The most and fewest starts of any ten seconds; the fewest of whole windows only.
    fn windows(&self) -> (usize, usize) {
        let started = self.started.lock().unwrap();
        let until = |from: Instant| started.partition_point(|at| *at < from + Duration::from_secs(10));
        let counts: Vec<usize> = (0..).zip(started.iter()).map(|(first, at)| until(*at) - first).collect();
        let whole = (0..).zip(&counts).filter(|(first, count)| first + **count < started.len());
        (counts.iter().copied().max().unwrap(), whole.map(|(_, count)| *count).min().unwrap_or(usize::MAX))
    }
}

/// A consumer with ten permits and instant jobs.
fn worker(rate: &str, row: &Arc<Memory>, town: &Arc<Town>, seed: u64) -> JoinHandle<()> {
    let limit = Limit::start(Rate::parse(rate).unwrap(), Arc::clone(row), Random::seeded(seed), Health::new());
    let town = Arc::clone(town);
    tokio::spawn(async move {
        let mut jobs = tokio::task::JoinSet::new();
        loop {
            let mut ahead = limit.ahead(10).await;
            sleep(Duration::from_millis(2)).await;
            let taken = town.take(ahead.most());
            for _ in 0..taken {
                let (turn, town) = (ahead.slot(), Arc::clone(&town));
                jobs.spawn(async move {
                    turn.comes().await;
                    town.started.lock().unwrap().push(Instant::now());
                });
            }
            if taken < ahead.most() {
                // The next message wakes a waiting pull.
                let has_booked = ahead.has_booked();
                ahead.close().await;
                if !has_booked {
                    let _ = timeout(PULL, town.arrived.notified()).await;
                }
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_worked_off_at_the_rate_and_asks_once_for_five() {
    for (rate, workers, fewest, most) in [
        ("50/s", 1, 495, 510),
        ("50/s", 5, 495, 510),
        ("100/min", 5, 16, 17),
        ("7/s", 3, 69, 72),
        ("500/s", 2, 4950, 5100),
    ] {
        let (row, town) = (Memory::new(Duration::from_millis(2)), Arc::<Town>::default());
        town.publish(100_000);
        let workers: Vec<_> = (0..workers).map(|seed| worker(rate, &row, &town, seed)).collect();
        sleep(Duration::from_secs(31)).await;
        workers.iter().for_each(JoinHandle::abort);
        let (found_most, found_fewest) = town.windows();
        assert!(found_most <= most && found_fewest >= fewest, "{rate}: {found_fewest} to {found_most}");
        let (statements, started) = (*row.statements.lock().unwrap(), town.started.lock().unwrap().len());
        if rate == "50/s" {
            assert!(statements * 9 < started * 2, "{statements} statements for {started} messages");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_workers_than_the_horizon_has_room_for_share_it() {
    let (row, town) = (Memory::new(Duration::from_millis(1)), Arc::<Town>::default());
    town.publish(100_000);
    let workers: Vec<_> = (0..120).map(|seed| worker("50/s", &row, &town, seed)).collect();
    sleep(Duration::from_secs(31)).await;
    workers.iter().for_each(JoinHandle::abort);
    let (most, fewest) = town.windows();
    assert!(most <= 526 && fewest >= 495, "{fewest} to {most}");
    let (statements, started) = (*row.statements.lock().unwrap(), town.started.lock().unwrap().len());
    assert!(statements < 2 * started, "{statements} statements for {started} messages by 120 workers");
}

#[tokio::test(start_paused = true)]
async fn an_idle_queue_asks_for_nothing_and_its_slots_do_not_add_up() {
    let (row, town) = (Memory::new(Duration::from_millis(1)), Arc::<Town>::default());
    let workers: Vec<_> = (0..5).map(|seed| worker("50/s", &row, &town, seed)).collect();
    sleep(Duration::from_mins(10)).await;
    assert_eq!(*row.statements.lock().unwrap(), 10, "each worker has asked once, and given back");
    town.publish(2000);
    sleep(Duration::from_secs(21)).await;
    workers.iter().for_each(JoinHandle::abort);
    let (most, fewest) = town.windows();
    assert!(most <= 526 && fewest >= 495, "{fewest} to {most}");
}

/// Ten at a time, 24 or 44 a second: now idle, now behind.
#[tokio::test(start_paused = true)]
async fn what_comes_below_the_rate_is_not_held_up_and_asks_less_often_than_it_comes() {
    for (pause_ms, workers) in [340, 160].into_iter().flat_map(|pause| [1, 2, 5].map(|workers| (pause, workers))) {
        let (row, town) = (Memory::new(Duration::from_millis(2)), Arc::<Town>::default());
        let tasks: Vec<_> = (0..workers).map(|seed| worker("50/s", &row, &town, seed)).collect();
        sleep(Duration::from_secs(1)).await;
        let mut most_behind = 0;
        for published in 1..=900 {
            town.publish(1);
            sleep(Duration::from_millis(if published % 10 == 0 { pause_ms } else { 7 })).await;
            most_behind = most_behind.max(published - town.started.lock().unwrap().len());
        }
        let statements = *row.statements.lock().unwrap();
        tasks.iter().for_each(JoinHandle::abort);
        assert!(most_behind <= 25, "{most_behind} behind, which is half a second, with {workers} workers");
        assert!(statements < 450, "{statements} statements for 900 messages with {workers} workers");
    }
}

/// None waits longer than necessary.
#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_needed_is_the_next_message_s() {
    let (row, town) = (Memory::new(Duration::from_millis(1)), Arc::<Town>::default());
    let worker = worker("5/h", &row, &town, 1);
    for _ in 0..4 {
        sleep(Duration::from_mins(14)).await;
        town.publish(1);
        let before = town.started.lock().unwrap().len();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(town.started.lock().unwrap().len(), before + 1, "there was a slot");
    }
    // Two at once: the second waits for its slot. A later third has its own.
    sleep(Duration::from_mins(14)).await;
    town.publish(2);
    sleep(Duration::from_mins(11)).await;
    assert_eq!(town.started.lock().unwrap().len(), 5);
    sleep(Duration::from_secs(70)).await;
    assert_eq!(town.started.lock().unwrap().len(), 6);
    sleep(Duration::from_mins(13)).await;
    town.publish(1);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(town.started.lock().unwrap().len(), 7);
    worker.abort();
}

/// After a slow pull, or in a process that stood still.
#[tokio::test(start_paused = true)]
async fn slots_that_have_passed_are_not_made_up_for() {
    let row = Memory::new(Duration::from_millis(1));
    let limit = Limit::start(Rate::parse("50/s").unwrap(), Arc::clone(&row), Random::seeded(1), Health::new());
    let mut ahead = limit.ahead(10).await;
    assert!(ahead.has_booked() && ahead.most() == 5);
    sleep(Duration::from_secs(30)).await;
    let since = Instant::now();
    futures::future::join_all((0..20).map(|_| ahead.slot().comes())).await;
    assert!(since.elapsed() >= Duration::from_millis(280), "{:?}: twenty, of which five are saved", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_another_clock_or_rate_wrote_holds_nobody_up_for_long() {
    let (row, town) = (Memory::new(Duration::from_millis(1)), Arc::<Town>::default());
    *row.free_at.lock().unwrap() = Some(Instant::now() + Duration::from_hours(5));
    town.publish(10);
    let worker = worker("50/s", &row, &town, 1);
    sleep(Duration::from_secs(12)).await;
    assert_eq!(town.started.lock().unwrap().len(), 10);
    worker.abort();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Workers come and go; the queue is empty and full by turns.
    #[test]
    fn no_ten_seconds_have_more_than_the_rate_and_a_tenth(
        rate in prop::sample::select(vec!["50/s", "100/min", "20/s", "333/s", "60/min"]),
        changes in prop::collection::vec((0..4_000_u64, 0..5_usize, 0..400_usize), 5..40),
        latency_ms in 0..30_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (most, backlog) = runtime.block_on(async {
            let (row, town) = (Memory::new(Duration::from_millis(latency_ms)), Arc::<Town>::default());
            let mut workers: Vec<Option<JoinHandle<()>>> = (0..5).map(|_| None).collect();
            for (seed, (wait_ms, which, more)) in (0..).zip(changes) {
                // A running worker ends, or a missing one starts.
                workers[which] = match workers[which].take() {
                    Some(gone) => { gone.abort(); None }
                    None => Some(worker(rate, &row, &town, seed)),
                };
                town.publish(more);
                sleep(Duration::from_millis(wait_ms)).await;
            }
            workers.iter().flatten().for_each(JoinHandle::abort);
            let started = town.started.lock().unwrap().len();
            (if started > 0 { town.windows().0 } else { 0 }, *town.waiting.lock().unwrap())
        });
        let allowed = Rate::parse(rate).unwrap().within(Duration::from_secs(11));
        prop_assert!(most <= allowed, "{most} of {rate}, {backlog} left");
    }
}
