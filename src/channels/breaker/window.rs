use chrono::{DateTime, TimeDelta, Utc};

use super::BreakerPolicy;

/// Evidence of one send about its provider. A 429 counts as healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderHealth {
    /// It responded.
    Well,
    /// It failed.
    Failing,
    /// It timed out.
    Silent,
}

/// Sends in this half of the window and the previous one.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    since: DateTime<Utc>,
    sends: [u32; 2],
    failures: [u32; 2],
    failing_in_a_row: u32,
    silent_in_a_row: u32,
}

impl Counts {
    pub fn new(since: DateTime<Utc>) -> Self {
        Self { since, sends: [0; 2], failures: [0; 2], failing_in_a_row: 0, silent_in_a_row: 0 }
    }

    pub fn roll(&mut self, half: TimeDelta, now: DateTime<Utc>) {
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

    pub fn add(&mut self, health: ProviderHealth) {
        self.sends[0] = self.sends[0].saturating_add(1);
        if health == ProviderHealth::Well {
            self.failing_in_a_row = 0;
        } else {
            self.failures[0] = self.failures[0].saturating_add(1);
            self.failing_in_a_row = self.failing_in_a_row.saturating_add(1);
        }
        self.silent_in_a_row =
            if health == ProviderHealth::Silent { self.silent_in_a_row.saturating_add(1) } else { 0 };
    }

    pub fn are_too_bad(&self, policy: &BreakerPolicy) -> bool {
        let (sends, failures) = (self.sends[0] + self.sends[1], self.failures[0] + self.failures[1]);
        let many = sends >= policy.least && f64::from(failures) >= policy.share * f64::from(sends);
        many || self.failing_in_a_row >= policy.failing || self.silent_in_a_row >= policy.silent
    }
}
