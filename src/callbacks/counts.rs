//! Counts of callback outcomes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::telemetry::metrics::{CallbackMetrics, Metrics};

/// Interval of log lines about forged callbacks, so that a flood can't fill the disk.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Outcome of one callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// It changed the ledger.
    Noted,
    /// Already on record.
    Known,
    /// No such delivery.
    Missing,
    /// Not signed by an account of its channel.
    Forged,
    /// Unreadable.
    Malformed,
    /// The database was down for too long.
    Lost,
}

impl CallbackOutcome {
    /// All outcomes.
    pub const ALL: [Self; 6] = [Self::Noted, Self::Known, Self::Missing, Self::Forged, Self::Malformed, Self::Lost];

    /// Metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noted => "noted",
            Self::Known => "known",
            Self::Missing => "missing",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Lost => "lost",
        }
    }
}

/// Callbacks by outcome, since the start.
#[derive(Debug)]
pub struct Counts {
    of: [CallbackMetrics; CallbackOutcome::ALL.len()],
    told: Mutex<Option<Instant>>,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { of: CallbackOutcome::ALL.map(|outcome| metrics.callbacks(outcome.name())), told: Mutex::default() }
    }

    /// Count of one outcome.
    #[must_use]
    pub fn of(&self, outcome: CallbackOutcome) -> u64 {
        self.of[outcome as usize].count()
    }

    pub(super) fn add(&self, outcome: CallbackOutcome) {
        self.of[outcome as usize].add();
    }

    /// Counts a forgery. Returns the total if it is time to log it.
    pub(super) fn forged(&self) -> Option<u64> {
        self.add(CallbackOutcome::Forged);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.is_some_and(|told| now - told < TELL_EVERY) {
            return None;
        }
        *told = Some(now);
        Some(self.of(CallbackOutcome::Forged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_counted_and_few_are_told_of() {
        let counts = Counts::new(&Metrics::new());
        let told: Vec<Option<u64>> = (0..3).map(|_| counts.forged()).collect();
        assert_eq!(told, [Some(1), None, None]);
        tokio::time::advance(TELL_EVERY).await;
        assert_eq!(counts.forged(), Some(4));
        for outcome in CallbackOutcome::ALL {
            assert_eq!(
                counts.of(outcome),
                if outcome == CallbackOutcome::Forged { 4 } else { 0 },
                "{}",
                outcome.name()
            );
        }
    }
}
