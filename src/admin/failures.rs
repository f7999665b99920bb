//! Failed sign-ins: whoever guesses is stopped.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::problem::Problem;

/// Failed sign-ins of one address within [`SPAN`] until further ones are refused.
pub const MOST_FAILURES: u32 = 10;

/// Span of failed sign-ins.
pub const SPAN: TimeDelta = TimeDelta::minutes(5);

/// Addresses remembered.
const MOST_ADDRESSES: usize = 10_000;

/// Failed sign-ins, by address.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, (u32, DateTime<Utc>)>>);

impl Failures {
    /// Refuses an address with too many of them.
    ///
    /// # Errors
    /// Until when.
    pub fn check(&self, address: Option<IpAddr>, now: DateTime<Utc>) -> Result<(), Problem> {
        let Some(address) = address else { return Ok(()) };
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, since)) = all.get(&address) else { return Ok(()) };
        let ends = *since + SPAN;
        if *count < MOST_FAILURES || ends <= now {
            return Ok(());
        }
        let seconds = u64::try_from((ends - now).num_seconds()).unwrap_or(0) + 1;
        Err(Problem::too_many(format!("too many failed sign-ins from this address: try again in {seconds} s"), seconds))
    }

    /// Counts one.
    pub fn add(&self, address: Option<IpAddr>, now: DateTime<Utc>) {
        let Some(address) = address else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&address) {
            all.retain(|_, (_, since)| *since + SPAN > now);
            // Whoever has that many addresses would otherwise fill the memory.
            if all.len() >= MOST_ADDRESSES {
                all.clear();
            }
        }
        let (count, since) = all.entry(address).or_insert((0, now));
        if *since + SPAN <= now {
            (*count, *since) = (0, now);
        }
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_failure_closes_the_door_for_a_while() {
        let failures = Failures::default();
        let (one, other) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));
        let now = DateTime::UNIX_EPOCH;
        for _ in 0..MOST_FAILURES {
            failures.check(one, now).unwrap();
            failures.add(one, now);
        }
        assert_eq!(failures.check(one, now + TimeDelta::minutes(4)).unwrap_err().status().as_u16(), 429);
        failures.check(other, now).unwrap();
        failures.check(one, now + SPAN).unwrap();
    }
}
