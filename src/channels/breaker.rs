//! Circuit breaker of one provider: stops sends while it is down, and probes until it is back.
//!
//! ```text
//! closed ── too many failures, or silence ──► open ── its time is over ──► half-open ── a probe succeeds ──► closed
//!                                               ▲                             │
//!                                               └── the probe fails: longer ──┘
//! ```
//!
//! Each process has its own breakers, so a send asks nobody first.

mod concurrency;
mod policy;
mod window;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use self::{concurrency::Permits, window::Counts};
pub use self::{
    concurrency::{Concurrency, Permit},
    policy::BreakerPolicy,
    window::ProviderHealth,
};
use crate::clock::Clock;

/// When a parked delivery looks again during a probe, or while all permits are taken. Parking costs more than a look.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// When a stopped queue looks again during a probe.
const PULL_AGAIN: Duration = Duration::from_secs(1);

/// Present capacity of a channel or provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// No limit.
    All,
    /// One delivery, as a probe.
    One,
    /// Nothing before this instant.
    None(DateTime<Utc>),
}

/// State of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Sends pass.
    Closed,
    /// Sends are refused.
    Open,
    /// One probe may pass.
    HalfOpen,
}

impl BreakerState {
    /// Name in `/health`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// Value in `/metrics`; higher is worse.
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
    policy: BreakerPolicy,
    clock: Clock,
    inner: Mutex<Inner>,
    permits: Permits,
}

#[derive(Clone, Copy, Debug)]
enum Inner {
    Closed(Counts),
    Open { until: DateTime<Utc>, wait: Duration },
    Probing { wait: Duration },
}

/// Permission for one send. If dropped without a report, nothing changes.
#[must_use]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    reported: bool,
}

/// Effect of a reported send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// End of the open state.
    pub open_until: Option<DateTime<Utc>>,
    /// New state, if changed.
    pub change: Option<BreakerState>,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: BreakerPolicy, concurrency: Concurrency, clock: Clock) -> Self {
        let inner = Mutex::new(Inner::Closed(Counts::new(clock.now())));
        Self { policy, clock, inner, permits: Permits::new(concurrency) }
    }

    /// Takes a permit, waiting for a quick provider.
    ///
    /// # Errors
    /// When to ask again.
    pub async fn permit(&self) -> Result<Permit<'_>, DateTime<Utc>> {
        self.permits.take().await.ok_or_else(|| self.clock.now() + self.clock.paced(LOOK_AGAIN))
    }

    /// Admits a send.
    ///
    /// # Errors
    /// When to ask again.
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

    /// Current state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        let now = self.clock.now();
        self.with(|inner| match *inner {
            Inner::Closed(_) => BreakerState::Closed,
            Inner::Open { until, .. } if now < until => BreakerState::Open,
            Inner::Open { .. } | Inner::Probing { .. } => BreakerState::HalfOpen,
        })
    }

    /// Present capacity of its provider.
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

    fn report(&self, health: ProviderHealth, probe: bool) -> Transition {
        let now = self.clock.now();
        let policy = &self.policy;
        self.with(|inner| {
            let mut change = None;
            match *inner {
                Inner::Closed(mut counts) => {
                    counts.roll(delta(policy.window / 2), now);
                    counts.add(health);
                    let bad = health != ProviderHealth::Well && counts.are_too_bad(policy);
                    change = bad.then_some(BreakerState::Open);
                    *inner = if bad { open(self.clock.paced(policy.first), now) } else { Inner::Closed(counts) };
                }
                Inner::Probing { .. } if probe && health == ProviderHealth::Well => {
                    change = Some(BreakerState::Closed);
                    *inner = Inner::Closed(Counts::new(now));
                }
                Inner::Probing { wait } if probe => *inner = open((wait * 2).min(policy.longest), now),
                // A send from before the opening adds nothing.
                Inner::Open { .. } | Inner::Probing { .. } => {}
            }
            let open_until = match *inner {
                Inner::Closed(_) => None,
                Inner::Open { until, .. } => Some(until),
                Inner::Probing { .. } => Some(now + self.clock.paced(LOOK_AGAIN)),
            };
            Transition { open_until, change }
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

    /// Records the result of this send.
    pub fn report(mut self, health: ProviderHealth) -> Transition {
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
mod tests;
