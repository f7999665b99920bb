//! A circuit breaker for one provider: it stops asking a provider that does not answer, and finds out by itself when it
//! is back.
//!
//! ```text
//! closed ── too many failures, or silence ──► open ── its time is over ──► half-open ── a probe succeeds ──► closed
//!                                               ▲                             │
//!                                               └── the probe fails: longer ──┘
//! ```
//!
//! Each process has its own: what it knows it has seen itself, and nobody has to be asked before a send.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::Appetite;
use crate::clock::Clock;

/// While a probe is under way, or a provider has as much as it may have at once, when a parked delivery looks again.
/// Parking costs more than a look, and a probe may take as long as a send.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How much a provider is asked to do at once.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Sends that may be under way.
    pub most: usize,
    /// How long another waits for one of them to end, with a place of its queue in hand. It does not where the last that
    /// waited did so in vain, or the last send took longer than that: else those who wait for one that is slow would hold
    /// all places of the queue.
    pub within: Duration,
}

impl Places {
    /// As many as there are.
    pub const ALL: Self = Self { most: usize::MAX, within: Duration::from_secs(1) };
}

/// While a probe is under way, when a queue that holds its pulls looks again.
const PULL_AGAIN: Duration = Duration::from_secs(1);

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// The time over which sends are counted; between this and half of it, as two halves are kept.
    pub window: Duration,
    /// Fewer sends than this say nothing.
    pub least: u32,
    /// The share of failures among them that opens it, 0 to 1.
    pub share: f64,
    /// So many failures in a row open it too: after a busy minute without any, a share would notice an outage late.
    pub failing: u32,
    /// So many sends in a row without any answer open it too: each of them held a place for as long as it may take.
    pub silent: u32,
    /// How long it stays open the first time.
    pub first: Duration,
    /// Doubled by each probe that fails, up to this.
    pub longest: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            least: 10,
            share: 0.5,
            failing: 10,
            silent: 5,
            first: Duration::from_secs(5),
            longest: Duration::from_mins(1),
        }
    }
}

/// What one send says of its provider. An answer that asks for patience (429) is an answer: the provider is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered.
    Well,
    /// It failed.
    Failing,
    /// It did not answer in time.
    Silent,
}

/// What a breaker does with the next send, for health and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Lets it pass.
    Closed,
    /// Refuses it.
    Open,
    /// Lets one pass, to see.
    HalfOpen,
}

impl State {
    /// As shown by `/health`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// As shown by `/metrics`: the higher, the worse.
    #[must_use]
    pub const fn level(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 0.5,
            Self::Open => 1.0,
        }
    }
}

/// The breaker of one provider.
pub struct Breaker {
    policy: Policy,
    clock: Clock,
    inner: Mutex<Inner>,
    /// What may be under way at once.
    places: Semaphore,
    place_within: Duration,
    /// Whether to wait for a place is of use.
    is_quick: AtomicBool,
}

/// One of the sends that may be under way.
#[derive(Debug)]
#[must_use]
pub struct Place<'a> {
    breaker: &'a Breaker,
    since: Instant,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.breaker.is_quick.store(self.since.elapsed() < self.breaker.place_within, Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Inner {
    Closed(Counts),
    /// `wait` is how long it is open this time.
    Open {
        until: DateTime<Utc>,
        wait: Duration,
    },
    /// A probe is under way.
    Probing {
        wait: Duration,
    },
}

/// Sends in this half of the window and in the one before.
#[derive(Clone, Copy, Debug)]
struct Counts {
    since: DateTime<Utc>,
    sends: [u32; 2],
    failures: [u32; 2],
    failing_in_a_row: u32,
    silent_in_a_row: u32,
}

impl Counts {
    fn new(since: DateTime<Utc>) -> Self {
        Self { since, sends: [0; 2], failures: [0; 2], failing_in_a_row: 0, silent_in_a_row: 0 }
    }

    /// Begins a new half where the present one is over.
    fn turn(&mut self, half: TimeDelta, now: DateTime<Utc>) {
        let age = now - self.since;
        if age >= half * 2 || age < TimeDelta::zero() {
            // A row is a row however slowly it grows: where there is little to send, nothing else tells of an outage.
            let Self { failing_in_a_row, silent_in_a_row, .. } = *self;
            *self = Self { failing_in_a_row, silent_in_a_row, ..Self::new(now) };
        } else if age >= half {
            *self =
                Self { since: self.since + half, sends: [0, self.sends[0]], failures: [0, self.failures[0]], ..*self };
        }
    }

    fn add(&mut self, health: Health) {
        self.sends[0] = self.sends[0].saturating_add(1);
        if health == Health::Well {
            self.failing_in_a_row = 0;
        } else {
            self.failures[0] = self.failures[0].saturating_add(1);
            self.failing_in_a_row = self.failing_in_a_row.saturating_add(1);
        }
        self.silent_in_a_row = if health == Health::Silent { self.silent_in_a_row.saturating_add(1) } else { 0 };
    }

    fn are_too_bad(&self, policy: &Policy) -> bool {
        let (sends, failures) = (self.sends[0] + self.sends[1], self.failures[0] + self.failures[1]);
        let many = sends >= policy.least && f64::from(failures) >= policy.share * f64::from(sends);
        many || self.failing_in_a_row >= policy.failing || self.silent_in_a_row >= policy.silent
    }
}

/// The right to send once. Dropped without a report, it says nothing of the provider.
#[must_use]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    reported: bool,
}

impl Breaker {
    /// A closed one, of a provider that may have so many sends at once.
    #[must_use]
    pub fn new(policy: Policy, Places { most, within: place_within }: Places, clock: Clock) -> Self {
        let counts = Counts::new(clock.now());
        let places = Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        let (inner, is_quick) = (Mutex::new(Inner::Closed(counts)), AtomicBool::new(true));
        Self { policy, clock, inner, places, place_within, is_quick }
    }

    /// A place among the sends that are under way. Waited for a moment where the provider is quick: it frees one by then.
    ///
    /// # Errors
    /// When to ask again, where there is none.
    pub async fn place(&self) -> Result<Place<'_>, DateTime<Utc>> {
        let patience = if self.is_quick.load(Relaxed) { self.place_within } else { Duration::ZERO };
        if let Ok(Ok(permit)) = timeout(patience, self.places.acquire()).await {
            return Ok(Place { breaker: self, since: Instant::now(), _permit: permit });
        }
        self.is_quick.store(false, Relaxed);
        Err(self.clock.now() + self.clock.paced(LOOK_AGAIN))
    }

    /// Lets a send pass.
    ///
    /// # Errors
    /// When to ask again, where it does not.
    pub fn admit(&self) -> Result<Pass<'_>, DateTime<Utc>> {
        let now = self.clock.now();
        self.with(|inner| match *inner {
            Inner::Closed(_) => Ok(Pass { breaker: self, probe: false, reported: false }),
            Inner::Open { until, .. } if now < until => Err(until),
            Inner::Open { wait, .. } => {
                *inner = Inner::Probing { wait };
                Ok(Pass { breaker: self, probe: true, reported: false })
            }
            Inner::Probing { .. } => Err(now + self.clock.paced(LOOK_AGAIN)),
        })
    }

    /// What it does with the next send.
    #[must_use]
    pub fn state(&self) -> State {
        let now = self.clock.now();
        self.with(|inner| match *inner {
            Inner::Closed(_) => State::Closed,
            Inner::Open { until, .. } if now < until => State::Open,
            Inner::Open { .. } | Inner::Probing { .. } => State::HalfOpen,
        })
    }

    /// How much its provider can take now.
    #[must_use]
    pub fn appetite(&self) -> Appetite {
        let now = self.clock.now();
        self.with(|inner| match *inner {
            Inner::Closed(_) => Appetite::All,
            Inner::Open { until, .. } if now < until => Appetite::None(until),
            Inner::Open { .. } => Appetite::One,
            Inner::Probing { .. } => Appetite::None(now + self.clock.paced(PULL_AGAIN)),
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until when it is open, if it is now, and what it has become, if that is another.
    fn report(&self, health: Health, probe: bool) -> (Option<DateTime<Utc>>, Option<State>) {
        let now = self.clock.now();
        let policy = &self.policy;
        self.with(|inner| {
            let mut change = None;
            match *inner {
                Inner::Closed(mut counts) => {
                    counts.turn(delta(policy.window / 2), now);
                    counts.add(health);
                    let bad = health != Health::Well && counts.are_too_bad(policy);
                    change = bad.then_some(State::Open);
                    *inner = if bad { open(self.clock.paced(policy.first), now) } else { Inner::Closed(counts) };
                }
                Inner::Probing { .. } if probe && health == Health::Well => {
                    change = Some(State::Closed);
                    *inner = Inner::Closed(Counts::new(now));
                }
                Inner::Probing { wait } if probe => *inner = open((wait * 2).min(policy.longest), now),
                // It passed before the breaker opened: that is known already.
                Inner::Open { .. } | Inner::Probing { .. } => {}
            }
            let until = match *inner {
                Inner::Closed(_) => None,
                Inner::Open { until, .. } => Some(until),
                Inner::Probing { .. } => Some(now + self.clock.paced(LOOK_AGAIN)),
            };
            (until, change)
        })
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Breaker({})", self.state().name())
    }
}

impl Pass<'_> {
    /// Whether it is to show if a provider that was down is back.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Tells what the send said of the provider. Answers until when the breaker is open, where it is, and whether this
    /// send has opened or closed it.
    pub fn report(mut self, health: Health) -> (Option<DateTime<Utc>>, Option<State>) {
        self.reported = true;
        self.breaker.report(health, self.probe)
    }
}

impl Drop for Pass<'_> {
    /// A probe that was given up leaves its place to another.
    fn drop(&mut self) {
        if self.probe && !self.reported {
            let now = self.breaker.clock.now();
            self.breaker.with(|inner| {
                if let Inner::Probing { wait } = *inner {
                    *inner = Inner::Open { until: now, wait };
                }
            });
        }
    }
}

fn open(wait: Duration, now: DateTime<Utc>) -> Inner {
    Inner::Open { until: now + delta(wait), wait }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn breaker() -> (Breaker, Clock) {
        let clock = Clock::manual("2026-10-25T00:30:00Z".parse().unwrap());
        (Breaker::new(Policy::default(), Places::ALL, clock.clone()), clock)
    }

    fn send(breaker: &Breaker, health: Health) -> Option<DateTime<Utc>> {
        breaker.admit().expect("it lets pass").report(health).0
    }

    fn opened() -> (Breaker, Clock) {
        let (breaker, clock) = breaker();
        while send(&breaker, Health::Failing).is_none() {}
        (breaker, clock)
    }

    #[test]
    fn half_of_ten_failing_open_it() {
        let (breaker, _) = breaker();
        for _ in 0..5 {
            assert_eq!(send(&breaker, Health::Well), None);
        }
        for _ in 0..4 {
            assert_eq!(send(&breaker, Health::Failing), None, "fewer than ten sends say nothing");
        }
        assert!(send(&breaker, Health::Failing).is_some());
        assert_eq!(breaker.state(), State::Open);
        assert!(breaker.admit().is_err());
    }

    #[test]
    fn silence_opens_it_sooner_and_an_answer_in_between_does_not() {
        let (breaker, _) = breaker();
        for _ in 0..4 {
            assert_eq!(send(&breaker, Health::Silent), None);
        }
        assert_eq!(send(&breaker, Health::Well), None);
        for _ in 0..4 {
            assert_eq!(send(&breaker, Health::Silent), None);
        }
        assert!(send(&breaker, Health::Silent).is_some());
    }

    #[test]
    fn ten_failures_in_a_row_open_it_however_busy_it_was_before() {
        let (breaker, _) = breaker();
        for _ in 0..10_000 {
            assert_eq!(send(&breaker, Health::Well), None);
        }
        for _ in 0..9 {
            assert_eq!(send(&breaker, Health::Failing), None);
        }
        assert!(send(&breaker, Health::Failing).is_some());
    }

    #[test]
    fn old_failures_count_only_in_a_row() {
        let (breaker, clock) = breaker();
        for _ in 0..9 {
            send(&breaker, Health::Failing);
        }
        clock.advance(TimeDelta::seconds(31));
        assert_eq!(send(&breaker, Health::Well), None);
        assert_eq!(send(&breaker, Health::Failing), None, "one of two, and one in a row");
        let (breaker, clock) = self::breaker();
        for _ in 0..9 {
            assert_eq!(send(&breaker, Health::Failing), None);
            clock.advance(TimeDelta::minutes(5));
        }
        assert!(send(&breaker, Health::Failing).is_some(), "little is sent, and none of it got through for an hour");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_under_way_than_may_be() {
        let clock = Clock::manual("2026-10-25T00:30:00Z".parse().unwrap());
        let within = Duration::from_secs(8);
        let breaker = Breaker::new(Policy::default(), Places { most: 2, within }, clock.clone());
        let places = [breaker.place().await.unwrap(), breaker.place().await.unwrap()];
        let asked = tokio::time::Instant::now();
        assert_eq!(breaker.place().await.err(), Some(clock.now() + LOOK_AGAIN), "not in time");
        assert_eq!(asked.elapsed(), within);
        assert!(breaker.place().await.is_err());
        assert_eq!(asked.elapsed(), within, "what is slow is not waited for again");
        drop(places);
        let places = [breaker.place().await.unwrap(), breaker.place().await.unwrap()];
        assert!(breaker.place().await.is_err());
        assert_eq!(asked.elapsed(), within, "the last took as long as another would have waited");
        drop(places);
        let places = [breaker.place().await.unwrap(), breaker.place().await.unwrap()];
        assert!(breaker.place().await.is_err());
        assert_eq!(asked.elapsed(), within * 2, "those before were quick");
        drop(places);
        assert!(breaker.place().await.is_ok());
    }

    #[test]
    fn a_probe_closes_it_or_keeps_it_open_for_longer() {
        let (breaker, clock) = opened();
        assert_eq!(breaker.appetite(), Appetite::None(clock.now() + TimeDelta::seconds(5)));
        clock.advance(TimeDelta::seconds(5));
        assert_eq!((breaker.state(), breaker.appetite()), (State::HalfOpen, Appetite::One));
        let probe = breaker.admit().unwrap();
        assert_eq!(breaker.admit().err(), Some(clock.now() + LOOK_AGAIN), "one at a time");
        let longer = clock.now() + TimeDelta::seconds(10);
        assert_eq!(probe.report(Health::Failing), (Some(longer), None));
        for _ in 0..10 {
            clock.advance(TimeDelta::minutes(1));
            send(&breaker, Health::Silent);
        }
        assert_eq!(breaker.admit().err(), Some(clock.now() + TimeDelta::minutes(1)), "no longer than the longest");
        clock.advance(TimeDelta::minutes(1));
        assert_eq!(send(&breaker, Health::Well), None);
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(send(&breaker, Health::Failing), None, "it counts afresh");
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_to_another() {
        let (breaker, clock) = opened();
        clock.advance(TimeDelta::seconds(5));
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_ok());
    }

    proptest! {
        #[test]
        fn it_never_sticks(steps in prop::collection::vec((0..3_usize, 0..40_i64, any::<bool>()), 0..200)) {
            let (breaker, clock) = breaker();
            for (health, seconds, report) in steps {
                clock.advance(TimeDelta::seconds(seconds));
                match breaker.admit() {
                    Ok(pass) if report => {
                        pass.report([Health::Well, Health::Failing, Health::Silent][health]);
                    }
                    Ok(pass) => drop(pass),
                    Err(until) => {
                        prop_assert!(until > clock.now());
                        prop_assert!(until <= clock.now() + TimeDelta::minutes(1));
                    }
                }
            }
            clock.advance(TimeDelta::minutes(1));
            prop_assert!(breaker.admit().is_ok(), "nothing under way, and the longest wait over: somebody may try");
        }
    }
}
