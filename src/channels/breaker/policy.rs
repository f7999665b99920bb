use std::time::Duration;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Period over which sends are counted. Two halves are kept, so it covers between half and all of it.
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

impl Default for BreakerPolicy {
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
