//! Time and randomness, which tests replace. Other files may not read them from the machine (`clippy.toml`).

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

/// Wall clock in UTC, and the pace of fixed waits.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    pace: u32,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Microseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
    /// The machine's clock, moved forward.
    Movable(Arc<RwLock<Vec<Move>>>),
}

/// The machine's instant of a move, and how far the clock is ahead since.
type Move = (DateTime<Utc>, TimeDelta);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { source: Source::System, pace: 1 }
    }

    /// Divides fixed waits by `pace`, so that tests need not sit them out. Zero counts as 1, the pace of production.
    #[must_use]
    pub fn at_pace(self, pace: u32) -> Self {
        Self { pace: pace.max(1), ..self }
    }

    /// A fixed wait (until the next look, scan or poll) at this clock's pace. Not for timeouts and leases.
    #[must_use]
    pub fn paced(&self, wait: Duration) -> Duration {
        wait / self.pace
    }

    /// A clock that moves only by [`Clock::advance`].
    #[must_use]
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self { source: Source::Manual(Arc::new(AtomicI64::new(start.timestamp_micros()))), pace: 1 }
    }

    /// A clock that goes with the machine's, and moves ahead of it by [`Clock::advance`].
    #[must_use]
    pub fn movable() -> Self {
        Self { source: Source::Movable(Arc::default()), pace: 1 }
    }

    /// Current time, in microseconds like Postgres.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.source {
            Source::System => machine(),
            Source::Manual(micros) => {
                DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst)).unwrap_or(DateTime::UNIX_EPOCH)
            }
            Source::Movable(_) => self.of_machine(machine()),
        }
    }

    /// This clock's time at an instant of the machine's clock, such as a server's.
    #[must_use]
    pub fn of_machine(&self, instant: DateTime<Utc>) -> DateTime<Utc> {
        let Source::Movable(moves) = &self.source else { return instant };
        let moves = moves.read().unwrap_or_else(PoisonError::into_inner);
        let ahead = moves.iter().rev().find(|(since, _)| *since <= instant);
        ahead.and_then(|(_, ahead)| instant.checked_add_signed(*ahead)).unwrap_or(instant)
    }

    /// The machine's instant at which this clock, unless moved again, shows `instant`: by which servers send jobs off.
    #[must_use]
    pub fn to_machine(&self, instant: DateTime<Utc>) -> DateTime<Utc> {
        let Source::Movable(moves) = &self.source else { return instant };
        let moves = moves.read().unwrap_or_else(PoisonError::into_inner);
        moves.last().and_then(|(_, ahead)| instant.checked_sub_signed(*ahead)).unwrap_or(instant)
    }

    /// Whether it is ahead of the machine's clock, by which servers send jobs off.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        let Source::Movable(moves) = &self.source else { return false };
        !moves.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Moves a manual or a movable clock; no effect on others. A movable one goes forward only.
    pub fn advance(&self, by: TimeDelta) {
        match &self.source {
            Source::System => {}
            Source::Manual(micros) => {
                micros.fetch_add(by.num_microseconds().unwrap_or(i64::MAX), Ordering::SeqCst);
            }
            Source::Movable(moves) => {
                let mut moves = moves.write().unwrap_or_else(PoisonError::into_inner);
                let ahead = moves.last().map_or(TimeDelta::zero(), |(_, ahead)| *ahead);
                let ahead = ahead.checked_add(&by.max(TimeDelta::zero())).unwrap_or(ahead);
                moves.push((machine(), ahead));
            }
        }
    }

    /// Sets a movable clock to the machine's again; no effect on others.
    pub fn reset(&self) {
        if let Source::Movable(moves) = &self.source {
            moves.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
fn machine() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(Utc::now().timestamp_micros()).unwrap_or(DateTime::UNIX_EPOCH)
}

/// Random source for jitter and identifiers, not for cryptographic keys.
#[derive(Clone, Debug)]
pub struct Random(Option<Arc<Mutex<StdRng>>>);

impl Random {
    /// The thread's generator, seeded by the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// The same sequence for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Uniform in `0.0..1.0`.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.with(|rng| rng.random())
    }

    /// A `UUIDv7` (RFC 9562), ordered by `now`, which fills index pages from one end.
    #[must_use]
    pub fn uuid(&self, now: DateTime<Utc>) -> uuid::Uuid {
        let mut tail = [0; 10];
        self.with(|rng| rng.fill_bytes(&mut tail));
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's randomness")]
    fn with<T>(&self, draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        match &self.0 {
            None => draw(&mut rand::rng()),
            Some(seeded) => draw(&mut *seeded.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}
