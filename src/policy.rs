//! A queue's policy, declared as consumer `metadata` in `streams/`.

mod rate;

use std::{collections::HashMap, fmt, time::Duration};

pub use self::rate::Rate;
use crate::{clock::Random, events::Notify, header};

/// The policy of one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Recorded failures that end a job; at least 1.
    pub attempts: u32,
    /// Wait between attempts.
    pub backoff: Backoff,
    /// Random part of the wait (0.2 = ±20 %): jobs that fail together come back apart.
    pub jitter: f64,
    /// Limit of one run.
    pub timeout: Duration,
    /// Jobs that a process runs at once; at least 1.
    pub concurrency: usize,
    /// Most attempts that a job may ask for; at least `attempts`.
    pub max_attempts: u32,
    /// Longest wait that a job may ask for; at least that of `backoff`.
    pub max_backoff: Duration,
    /// Pull nothing while more non-critical deliveries than this wait.
    pub pause_above: Option<u64>,
    /// Limit for starting jobs, over all processes.
    pub rate: Option<Rate>,
}

/// One job's own settings: `Carebell-Attempts`, `-Backoff`, `-Timeout` and `-Notify`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Attempts.
    pub attempts: Option<u32>,
    /// Wait between attempts.
    pub backoff: Option<Backoff>,
    /// Limit of one run.
    pub timeout: Option<Duration>,
    /// Ends of which its application wants to hear.
    pub notify: Notify,
}

impl Wishes {
    /// Parses `Carebell-Attempts`.
    ///
    /// # Errors
    /// If it is not a whole number of at least 1.
    pub fn attempts(text: &str) -> Result<u32, PolicyError> {
        number(header::ATTEMPTS, text)
    }

    /// Parses `Carebell-Backoff`: `fixed 5m` or `exponential 1m to 1h`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn backoff(text: &str) -> Result<Backoff, PolicyError> {
        Backoff::parse(header::BACKOFF, text)
    }

    /// Parses `Carebell-Timeout`, for example `30s`.
    ///
    /// # Errors
    /// If it is not a duration.
    pub fn timeout(text: &str) -> Result<Duration, PolicyError> {
        duration(header::TIMEOUT, text)
    }
}

/// Wait before the next attempt, without jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Backoff {
    /// Always the same.
    Fixed(Duration),
    /// Doubled each time, up to a ceiling.
    Exponential {
        /// After the first failure.
        first: Duration,
        /// The longest wait.
        ceiling: Duration,
    },
}

impl fmt::Display for Backoff {
    /// As declared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = humantime::format_duration;
        match *self {
            Self::Fixed(wait) => write!(f, "fixed {}", words(wait)),
            Self::Exponential { first, ceiling } => write!(f, "exponential {} to {}", words(first), words(ceiling)),
        }
    }
}

/// An invalid key or value.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("`{key}` is {found:?}; expected {expected}")]
pub struct PolicyError {
    key: String,
    found: String,
    expected: &'static str,
}

impl PolicyError {
    /// The expected value.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        self.expected
    }
}

/// Metadata keys in reading order. The last four are optional.
pub const KEYS: [&str; 9] = [
    "carebell.attempts",
    "carebell.backoff",
    "carebell.jitter",
    "carebell.timeout",
    "carebell.concurrency",
    "carebell.max_attempts",
    "carebell.max_backoff",
    "carebell.pause_above",
    "carebell.rate",
];

impl Policy {
    /// Parses a consumer's `metadata`.
    ///
    /// # Errors
    /// Names the faulty key.
    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, PolicyError> {
        let unknown = metadata.keys().find(|key| key.starts_with("carebell.") && !KEYS.contains(&key.as_str()));
        if let Some(key) = unknown {
            return Err(wrong(key, "(a key)", "one of the keys listed in docs/ARCHITECTURE.md"));
        }
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        let optional = |key: &str| metadata.get(key).map(String::as_str);
        let attempts = number(KEYS[0], text(KEYS[0]))?;
        let backoff = Backoff::parse(KEYS[1], text(KEYS[1]))?;
        let max_attempts = optional(KEYS[5]).map(|text| number(KEYS[5], text)).transpose()?;
        let max_backoff = optional(KEYS[6]).map(|text| duration(KEYS[6], text)).transpose()?;
        Ok(Self {
            attempts,
            backoff,
            jitter: percent(KEYS[2], text(KEYS[2]))?,
            timeout: duration(KEYS[3], text(KEYS[3]))?,
            concurrency: number::<u32>(KEYS[4], text(KEYS[4]))? as usize,
            max_attempts: max_attempts.unwrap_or(attempts).max(attempts),
            max_backoff: max_backoff.unwrap_or(backoff.longest()).max(backoff.longest()),
            pause_above: optional(KEYS[7]).map(|text| number(KEYS[7], text)).transpose()?,
            rate: optional(KEYS[8]).map(|text| rate(KEYS[8], text)).transpose()?,
        })
    }

    /// The policy with a job's wishes, up to the queue's ceilings.
    #[must_use]
    pub fn for_job(&self, wishes: &Wishes) -> Self {
        let backoff = wishes.backoff.map_or(self.backoff, |backoff| backoff.at_most(self.max_backoff));
        Self {
            attempts: wishes.attempts.map_or(self.attempts, |attempts| attempts.min(self.max_attempts)),
            backoff,
            timeout: wishes.timeout.map_or(self.timeout, |timeout| timeout.min(self.timeout)),
            ..self.clone()
        }
    }

    /// Wait after the `failures`-th failure (from 1), with jitter.
    #[must_use]
    pub fn delay(&self, failures: u32, random: &Random) -> Duration {
        let swing = 1.0 + self.jitter * (2.0 * random.fraction() - 1.0);
        self.backoff.wait(failures).mul_f64(swing)
    }
}

impl Backoff {
    /// Wait after the `failures`-th failure (from 1), without jitter.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        match *self {
            Self::Fixed(wait) => wait,
            Self::Exponential { first, ceiling } => {
                let doublings = failures.saturating_sub(1).min(31);
                first.saturating_mul(1 << doublings).min(ceiling)
            }
        }
    }

    /// The longest wait.
    #[must_use]
    pub fn longest(&self) -> Duration {
        match *self {
            Self::Fixed(wait) => wait,
            Self::Exponential { ceiling, .. } => ceiling,
        }
    }

    /// Limits each wait to `most`.
    #[must_use]
    pub fn at_most(self, most: Duration) -> Self {
        match self {
            Self::Fixed(wait) => Self::Fixed(wait.min(most)),
            Self::Exponential { first, ceiling } => {
                Self::Exponential { first: first.min(most), ceiling: ceiling.min(most) }
            }
        }
    }

    /// `fixed 5m` or `exponential 1m to 1h`.
    fn parse(key: &str, text: &str) -> Result<Self, PolicyError> {
        let error = || wrong(key, text, "`fixed 5m` or `exponential 1m to 1h`");
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["fixed", wait] => Ok(Self::Fixed(duration(key, wait).map_err(|_| error())?)),
            ["exponential", first, "to", ceiling] => {
                let first = duration(key, first).map_err(|_| error())?;
                let ceiling = duration(key, ceiling).map_err(|_| error())?;
                if ceiling < first { Err(error()) } else { Ok(Self::Exponential { first, ceiling }) }
            }
            _ => Err(error()),
        }
    }
}

fn number<T: std::str::FromStr + PartialOrd + From<u8>>(key: &str, text: &str) -> Result<T, PolicyError> {
    let error = || wrong(key, text, "a whole number of at least 1");
    let number: T = text.parse().map_err(|_| error())?;
    if number < T::from(1) { Err(error()) } else { Ok(number) }
}

fn percent(key: &str, text: &str) -> Result<f64, PolicyError> {
    let error = || wrong(key, text, "a percentage from 0% to 100%");
    let percent: u8 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).ok_or_else(error)?;
    if percent > 100 { Err(error()) } else { Ok(f64::from(percent) / 100.0) }
}

fn duration(key: &str, text: &str) -> Result<Duration, PolicyError> {
    let error = || wrong(key, text, "a duration such as 500ms, 30s, 5m or 1h 30m");
    let duration = humantime::parse_duration(text).map_err(|_| error())?;
    if duration.is_zero() { Err(error()) } else { Ok(duration) }
}

fn rate(key: &str, text: &str) -> Result<Rate, PolicyError> {
    Rate::parse(text).map_err(|_| wrong(key, text, Rate::EXAMPLES))
}

fn wrong(key: &str, found: &str, expected: &'static str) -> PolicyError {
    PolicyError { key: key.into(), found: found.into(), expected }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metadata(change: &[(&str, &str)]) -> HashMap<String, String> {
        let base = [
            ("carebell.attempts", "3"),
            ("carebell.backoff", "exponential 1m to 10m"),
            ("carebell.jitter", "20%"),
            ("carebell.timeout", "5m"),
            ("carebell.concurrency", "10"),
            ("_nats.ver", "2.15.1"),
        ];
        base.iter().chain(change).map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn metadata_is_read_whole() {
        let policy = Policy::from_metadata(&metadata(&[])).unwrap();
        assert_eq!(policy.attempts, 3);
        assert_eq!(policy.concurrency, 10);
        assert_eq!(policy.timeout, Duration::from_mins(5));
        let waits: Vec<_> = (1..=6).map(|failures| policy.backoff.wait(failures).as_secs() / 60).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(policy.rate, None, "a queue has no limit unless it says so");
        let limited = Policy::from_metadata(&metadata(&[("carebell.rate", "100/min")])).unwrap();
        assert_eq!(limited.rate, Some(Rate::parse("100/min").unwrap()));
    }

    #[test]
    fn each_mistake_names_its_key() {
        let mistakes = [
            ("carebell.attempts", "0"),
            ("carebell.attempts", "many"),
            ("carebell.backoff", "5m"),
            ("carebell.backoff", "exponential 1h to 1m"),
            ("carebell.backoff", "fixed 0s"),
            ("carebell.jitter", "0.2"),
            ("carebell.jitter", "101%"),
            ("carebell.timeout", "5"),
            ("carebell.concurrency", "-1"),
            ("carebell.rate", "50"),
            ("carebell.rate", "0/s"),
            ("carebell.attemps", "3"),
        ];
        for (key, value) in mistakes {
            let error = Policy::from_metadata(&metadata(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_job_has_its_wishes_up_to_the_ceilings() {
        let queue = metadata(&[("carebell.max_attempts", "5"), ("carebell.max_backoff", "30m")]);
        let queue = Policy::from_metadata(&queue).unwrap();
        assert_eq!(queue.for_job(&Wishes::default()), queue);
        let modest = Wishes {
            attempts: Some(1),
            backoff: Some(Wishes::backoff("fixed 10s").unwrap()),
            timeout: Some(Wishes::timeout("20s").unwrap()),
            ..Wishes::default()
        };
        let policy = queue.for_job(&modest);
        assert_eq!((policy.attempts, policy.timeout), (1, Duration::from_secs(20)));
        assert_eq!(policy.backoff, Backoff::Fixed(Duration::from_secs(10)));
        let greedy = Wishes {
            attempts: Some(99),
            backoff: Some(Wishes::backoff("exponential 1h to 10h").unwrap()),
            timeout: Some(Wishes::timeout("3h").unwrap()),
            ..Wishes::default()
        };
        let policy = queue.for_job(&greedy);
        assert_eq!((policy.attempts, policy.timeout), (5, Duration::from_mins(5)));
        assert_eq!(policy.backoff.longest(), Duration::from_mins(30));
        let silent = Policy::from_metadata(&metadata(&[])).unwrap();
        assert_eq!(
            silent.for_job(&greedy).attempts,
            3,
            "a queue without ceilings of its own gives no more than it has"
        );
    }

    #[test]
    fn a_backoff_is_shown_as_it_is_declared() {
        for text in ["fixed 5m", "exponential 1m to 1h", "fixed 500ms"] {
            assert_eq!(Wishes::backoff(text).unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn delays_stay_in_their_bounds(failures in 1u32..200, first_ms in 1u64..100_000, times in 1u32..1000,
                                       jitter in 0u8..=100, seed: u64) {
            let first = Duration::from_millis(first_ms);
            let backoff = Backoff::Exponential { first, ceiling: first * times };
            let jitter = f64::from(jitter) / 100.0;
            let policy = Policy {
                attempts: 3,
                backoff,
                jitter,
                timeout: first,
                concurrency: 1,
                max_attempts: 3,
                max_backoff: first,
                pause_above: None,
                rate: None,
            };
            let delay = policy.delay(failures, &Random::seeded(seed)).as_secs_f64();
            let plain = backoff.wait(failures).as_secs_f64();
            prop_assert!(backoff.wait(failures) >= first && backoff.wait(failures) <= first * times);
            prop_assert!(delay >= plain * (1.0 - jitter) - 1e-6 && delay <= plain * (1.0 + jitter) + 1e-6);
        }
    }
}
