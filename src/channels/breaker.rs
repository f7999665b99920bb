//! Circuit breaker of one provider: it stops sends to a provider that is down, and probes until it is back.
//!
//! ```text
//! closed ── too many failures, or silence ──► open ── its time is over ──► half-open ── a probe succeeds ──► closed
//!                                               ▲                             │
//!                                               └── the probe fails: longer ──┘
//! ```
//!
//! Each process has breakers of its own, so a send asks nobody first.

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

/// When a parked delivery looks again during a probe, or while all permits are taken. Parking costs more than a look,
/// and a probe may take as long as a send.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// Limit of concurrent sends to one provider.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Sends in flight at once.
    pub most: usize,
    /// How long a further send waits for a permit, holding one of its queue. It doesn't wait if the last waiter gave
    /// up, or if the last send took longer than this, so that a slow provider can't hold up the queue.
    pub within: Duration,
}

impl Places {
    /// No limit.
    pub const ALL: Self = Self { most: usize::MAX, within: Duration::from_secs(1) };
}

/// When a queue that stopped pulling looks again during a probe.
const PULL_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Period over which sends are counted. As two halves are kept, it covers between half and all of it.
    pub window: Duration,
    /// Minimum sends for judging by share.
    pub least: u32,
    /// Share of failures that opens it, from 0 to 1.
    pub share: f64,
    /// Consecutive failures that open it. After a busy minute, the share reacts too late.
    pub failing: u32,
    /// Consecutive timeouts that open it: each holds a permit for long.
    pub silent: u32,
    /// First opening.
    pub first: Duration,
    /// Longest opening; each failed probe doubles it.
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

/// Evidence of one send about its provider. A 429 counts as healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It responded.
    Well,
    /// It failed.
    Failing,
    /// It timed out.
    Silent,
}

/// State of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Sends pass.
    Closed,
    /// Sends are refused.
    Open,
    /// One probe may pass.
    HalfOpen,
}

impl State {
    /// Name in `/health`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// Value in `/metrics`: the higher, the worse.
    #[must_use]
    pub const fn level(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 0.5,
            Self::Open => 1.0,
        }
    }
}

/// Circuit breaker of one provider.
pub struct Breaker {
    policy: Policy,
    clock: Clock,
    inner: Mutex<Inner>,
    places: Semaphore,
    place_within: Duration,
    /// Whether waiting for a permit is worthwhile.
    is_quick: AtomicBool,
}

/// Permission to be in flight.
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
    Open { until: DateTime<Utc>, wait: Duration },
    Probing { wait: Duration },
}

/// Sends in this half of the window and in the previous one.
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

    /// Starts a new half if the current one is over.
    fn turn(&mut self, half: TimeDelta, now: DateTime<Utc>) {
        let age = now - self.since;
        if age >= half * 2 || age < TimeDelta::zero() {
            // Consecutive failures don't age: with little traffic, nothing else reveals an outage.
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

/// Permission for one send. Dropped without a report, it leaves the state unchanged.
#[must_use]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    reported: bool,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: Policy, Places { most, within: place_within }: Places, clock: Clock) -> Self {
        let counts = Counts::new(clock.now());
        let places = Semaphore::new(most.min(Semaphore::MAX_PERMITS));
        let (inner, is_quick) = (Mutex::new(Inner::Closed(counts)), AtomicBool::new(true));
        Self { policy, clock, inner, places, place_within, is_quick }
    }

    /// Takes a permit. Waits for one if the provider is quick.
    ///
    /// # Errors
    /// When to ask again, if there is none.
    pub async fn place(&self) -> Result<Place<'_>, DateTime<Utc>> {
        let patience = if self.is_quick.load(Relaxed) { self.place_within } else { Duration::ZERO };
        if let Ok(Ok(permit)) = timeout(patience, self.places.acquire()).await {
            return Ok(Place { breaker: self, since: Instant::now(), _permit: permit });
        }
        self.is_quick.store(false, Relaxed);
        Err(self.clock.now() + LOOK_AGAIN)
    }

    /// Admits a send.
    ///
    /// # Errors
    /// When to ask again, if it is refused.
    pub fn admit(&self) -> Result<Pass<'_>, DateTime<Utc>> {
        let now = self.clock.now();
        self.with(|inner| match *inner {
            Inner::Closed(_) => Ok(Pass { breaker: self, probe: false, reported: false }),
            Inner::Open { until, .. } if now < until => Err(until),
            Inner::Open { wait, .. } => {
                *inner = Inner::Probing { wait };
                Ok(Pass { breaker: self, probe: true, reported: false })
            }
            Inner::Probing { .. } => Err(now + LOOK_AGAIN),
        })
    }

    /// Current state.
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
            Inner::Probing { .. } => Appetite::None(now + PULL_AGAIN),
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how long it is open, if it is, and its new state, if changed.
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
                    *inner = if bad { open(policy.first, now) } else { Inner::Closed(counts) };
                }
                Inner::Probing { .. } if probe && health == Health::Well => {
                    change = Some(State::Closed);
                    *inner = Inner::Closed(Counts::new(now));
                }
                Inner::Probing { wait } if probe => *inner = open((wait * 2).min(policy.longest), now),
                // A send from before the opening adds nothing.
                Inner::Open { .. } | Inner::Probing { .. } => {}
            }
            let until = match *inner {
                Inner::Closed(_) => None,
                Inner::Open { until, .. } => Some(until),
                Inner::Probing { .. } => Some(now + LOOK_AGAIN),
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
    /// Whether this send is a probe.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Records the result. Returns how long the breaker is open, if it is, and its new state, if this send changed it.
    pub fn report(mut self, health: Health) -> (Option<DateTime<Utc>>, Option<State>) {
        self.reported = true;
        self.breaker.report(health, self.probe)
    }
}

impl Drop for Pass<'_> {
    /// An abandoned probe lets another send try.
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
