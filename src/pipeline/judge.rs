//! What follows from one run of a job's work: decided here from values alone, performed by `run.rs`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    clock::Random,
    job::{Failure, Outcome},
    plan::{DeadReason, Plan, Reason, Upkeep},
    policy::Policy,
};

/// The shortest wait of a parked job.
const SHORTEST_PARKED: TimeDelta = TimeDelta::seconds(1);

/// The longest wait that the server is asked for by a NAK. Until then the message counts against the consumer's
/// `max_ack_pending`; a longer wait is parked, so that no outage of one push service fills that up and stops the queue.
const LONGEST_NAK: TimeDelta = TimeDelta::seconds(10);

/// What is to be done.
#[derive(Debug)]
pub enum Next {
    /// Commit the plan, and publish what follows from it.
    CarryOut(Plan),
    /// Record that nobody is to be told, with what else there is to record.
    Skip(Reason, Plan),
    /// Carry out upkeep, batch by batch.
    Tend(Upkeep),
    /// Park the job until then; no attempt is burnt.
    Wait(DateTime<Utc>, Reason),
    /// Record a failed attempt; the message itself comes again after this wait.
    RetrySoon(String, Duration),
    /// Record a failed attempt; the job is parked until then.
    RetryLater(String, DateTime<Utc>),
    /// Record that it is dead.
    Die(String, DeadReason),
    /// Nothing can be recorded now: look again soon.
    Hold(String),
}

/// Decides what follows from `result`, of a job with so many failures on record. Each result has one consequence.
pub fn judge(
    result: Result<Outcome, Failure>,
    recorded: u32,
    policy: &Policy,
    random: &Random,
    now: DateTime<Utc>,
    not_after: DateTime<Utc>,
) -> Next {
    match result {
        Ok(Outcome::Done(plan)) => Next::CarryOut(plan),
        Ok(Outcome::Skipped(reason)) => Next::Skip(reason, Plan::default()),
        Ok(Outcome::SkippedWith(reason, plan)) => Next::Skip(reason, plan),
        Ok(Outcome::Upkeep(upkeep)) => Next::Tend(upkeep),
        Ok(Outcome::Wait(until, reason)) => Next::Wait(parked_until(until, now, not_after), reason),
        Err(Failure::Unavailable { why }) => Next::Hold(why),
        Err(Failure::Permanent { why }) => Next::Die(why, DeadReason::Permanent),
        Err(Failure::Retry { why, after }) => {
            let failures = recorded.saturating_add(1);
            if failures >= policy.attempts {
                return Next::Die(why, DeadReason::Exhausted);
            }
            let wait = policy.delay(failures, random).max(after.unwrap_or_default());
            let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX);
            let due = now.checked_add_signed(wait).unwrap_or(DateTime::<Utc>::MAX_UTC).min(latest(not_after));
            if due - now > LONGEST_NAK {
                return Next::RetryLater(why, due);
            }
            Next::RetrySoon(why, (due - now).to_std().unwrap_or_default())
        }
    }
}

/// When a parked job is resumed. One that would expire meanwhile comes back when it expires, and is recorded as such; an
/// instant that has passed would bring it back at once, again and again.
pub fn parked_until(wished: DateTime<Utc>, now: DateTime<Utc>, not_after: DateTime<Utc>) -> DateTime<Utc> {
    wished.min(latest(not_after)).max(now + SHORTEST_PARKED)
}

/// Just after the expiry: later than that, no job is needed again.
fn latest(not_after: DateTime<Utc>) -> DateTime<Utc> {
    not_after.checked_add_signed(SHORTEST_PARKED).unwrap_or(not_after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Backoff;

    fn instant(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn results() -> impl Strategy<Value = (usize, i64, Option<u64>)> {
        (0..7_usize, -100_000..100_000_i64, prop::option::of(0..200_000_u64))
    }

    fn result(which: usize, seconds: i64, after: Option<u64>) -> Result<Outcome, Failure> {
        match which {
            0 => Ok(Outcome::Done(Plan::default())),
            1 => Ok(Outcome::Skipped(Reason::Gone)),
            2 => Ok(Outcome::SkippedWith(Reason::Restocked, Plan::default())),
            3 => Ok(Outcome::Wait(instant(seconds), Reason::RetryLater)),
            4 => Err(Failure::Unavailable { why: "away".into() }),
            5 => Err(Failure::permanent("no way")),
            _ => Err(Failure::Retry { why: "no luck".into(), after: after.map(Duration::from_secs) }),
        }
    }

    proptest! {
        #[test]
        fn each_result_has_its_one_consequence(
            (which, seconds, after) in results(), recorded in 0..12_u32, attempts in 1..10_u32,
            first in 1..100_000_u64, jitter in 0..=100_u8, expires in -1000..200_000_i64, seed: u64,
        ) {
            let backoff = Backoff::Fixed(Duration::from_secs(first));
            let jitter = f64::from(jitter) / 100.0;
            let policy = Policy {
                attempts, backoff, jitter, timeout: Duration::from_secs(1), concurrency: 1, max_attempts: attempts,
                max_backoff: backoff.longest(), pause_above: None, rate: None,
            };
            let (now, not_after) = (instant(0), instant(expires));
            let back = instant(expires + 1);
            let next = judge(result(which, seconds, after), recorded, &policy, &Random::seeded(seed), now, not_after);
            let last = recorded + 1 >= attempts;
            let asked = after.unwrap_or(0);
            match (which, next) {
                (0, Next::CarryOut(_))
                | (1, Next::Skip(Reason::Gone, _))
                | (2, Next::Skip(Reason::Restocked, _))
                | (4, Next::Hold(_))
                | (5, Next::Die(_, DeadReason::Permanent)) => {}
                (3, Next::Wait(until, Reason::RetryLater)) => {
                    prop_assert!(until > now, "one that is over would come back again and again");
                    prop_assert!(until <= back.max(now + SHORTEST_PARKED), "nothing sleeps past its expiry");
                    prop_assert!(until == instant(seconds) || until == back || until == now + SHORTEST_PARKED);
                }
                (6, Next::Die(_, DeadReason::Exhausted)) => prop_assert!(last),
                (6, Next::RetrySoon(_, wait)) => {
                    prop_assert!(!last, "no more attempts than the policy has");
                    let wait = TimeDelta::from_std(wait).unwrap();
                    prop_assert!(wait <= LONGEST_NAK, "a NAK holds a place");
                    let early = TimeDelta::seconds(i64::try_from(asked).unwrap()) > wait;
                    prop_assert!(!early || now + wait >= back, "sooner than asked for only to expire");
                }
                (6, Next::RetryLater(_, due)) => {
                    prop_assert!(!last, "no more attempts than the policy has");
                    prop_assert!(due > now + LONGEST_NAK && due <= back);
                    let early = instant(i64::try_from(asked).unwrap()) > due;
                    prop_assert!(!early || due == back, "sooner than asked for only to expire");
                }
                (which, next) => prop_assert!(false, "{which} is to be {next:?}"),
            }
        }
    }
}
