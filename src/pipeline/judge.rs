//! Decides what follows from one attempt, from values alone. `perform.rs` performs the decision.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    clock::Random,
    job::{Failure, Outcome},
    plan::{DeadReason, Maintenance, NextJob, Plan, Reason},
    policy::Policy,
};

/// The shortest wait of a parked job.
const SHORTEST_PARKED: TimeDelta = TimeDelta::seconds(1);

/// The longest wait left to a NAK. Such a message counts against `max_ack_pending`; longer waits are parked, so that
/// the outage of one push service does not stop the queue.
const LONGEST_NAK: TimeDelta = TimeDelta::seconds(10);

/// The decision about one attempt.
#[derive(Debug)]
pub enum Decision {
    /// Commit the plan, and publish its children.
    CarryOut(Plan),
    /// Record that nobody is told, and carry out the plan.
    Skip(Reason, Plan),
    /// Carry out maintenance, batch by batch.
    Maintain(Maintenance),
    /// Park the job until this instant; no attempt is burnt.
    Wait(DateTime<Utc>, Reason),
    /// Record a failed attempt; the message comes again after this wait.
    RetrySoon(String, Duration),
    /// Record a failed attempt; the job is parked until this instant.
    RetryLater(String, DateTime<Utc>),
    /// Record that the job is dead.
    Die(String, DeadReason),
    /// Nothing can be recorded now: look again soon.
    Hold(String),
}

/// Decides the one consequence of `result`. `recorded` is the number of failures on record.
pub fn judge(
    result: Result<Outcome, Failure>,
    recorded: u32,
    policy: &Policy,
    random: &Random,
    now: DateTime<Utc>,
    not_after: DateTime<Utc>,
) -> Decision {
    match result {
        Ok(Outcome::Done(plan)) => match plan.next.as_ref().and_then(NextJob::too_large) {
            None => Decision::CarryOut(plan),
            Some(why) => Decision::Die(why, DeadReason::Permanent),
        },
        Ok(Outcome::Skipped(reason)) => Decision::Skip(reason, Plan::default()),
        Ok(Outcome::SkippedWith(reason, plan)) => Decision::Skip(reason, plan),
        Ok(Outcome::Maintenance(task)) => Decision::Maintain(task),
        // Its deadline ends it, whenever it expires.
        Ok(Outcome::Wait(until, Reason::Accepted)) => {
            Decision::Wait(until.max(now + SHORTEST_PARKED), Reason::Accepted)
        }
        Ok(Outcome::Wait(until, reason)) => Decision::Wait(parked_until(until, now, not_after), reason),
        Err(Failure::Unavailable { why }) => Decision::Hold(why),
        Err(Failure::Permanent { why }) => Decision::Die(why, DeadReason::Permanent),
        Err(Failure::Retry { why, after }) => {
            let failures = recorded.saturating_add(1);
            if failures >= policy.attempts {
                return Decision::Die(why, DeadReason::Exhausted);
            }
            let wait = policy.delay(failures, random).max(after.unwrap_or_default());
            let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX);
            let due = now.checked_add_signed(wait).unwrap_or(DateTime::<Utc>::MAX_UTC).min(latest(not_after));
            if due - now > LONGEST_NAK {
                return Decision::RetryLater(why, due);
            }
            Decision::RetrySoon(why, (due - now).to_std().unwrap_or_default())
        }
    }
}

/// When a parked job comes back: at its expiry at the latest, to be recorded as expired. A past instant would bring it
/// back over and over, so there is a shortest wait.
pub fn parked_until(wished: DateTime<Utc>, now: DateTime<Utc>, not_after: DateTime<Utc>) -> DateTime<Utc> {
    wished.min(latest(not_after)).max(now + SHORTEST_PARKED)
}

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
                (0, Decision::CarryOut(_))
                | (1, Decision::Skip(Reason::Gone, _))
                | (2, Decision::Skip(Reason::Restocked, _))
                | (4, Decision::Hold(_))
                | (5, Decision::Die(_, DeadReason::Permanent)) => {}
                (3, Decision::Wait(until, Reason::RetryLater)) => {
                    prop_assert!(until > now, "one that is over would come back again and again");
                    prop_assert!(until <= back.max(now + SHORTEST_PARKED), "nothing sleeps past its expiry");
                    prop_assert!(until == instant(seconds) || until == back || until == now + SHORTEST_PARKED);
                }
                (6, Decision::Die(_, DeadReason::Exhausted)) => prop_assert!(last),
                (6, Decision::RetrySoon(_, wait)) => {
                    prop_assert!(!last, "no more attempts than the policy has");
                    let wait = TimeDelta::from_std(wait).unwrap();
                    prop_assert!(wait <= LONGEST_NAK, "a NAK counts in max_ack_pending");
                    let early = TimeDelta::seconds(i64::try_from(asked).unwrap()) > wait;
                    prop_assert!(!early || now + wait >= back, "sooner than asked for only to expire");
                }
                (6, Decision::RetryLater(_, due)) => {
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
