use chrono::{DateTime, TimeDelta, Utc};

use super::check::{Check, Item};

/// Tolerated difference between clocks.
const MOST_SKEW: TimeDelta = TimeDelta::seconds(1);

/// Time of a question, and duration until its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) at: DateTime<Utc>,
    pub(super) took: TimeDelta,
}

/// Compares clocks. The server may have read its own at any moment in between.
pub(super) fn compare_clocks(item: Item, asked: Asked, theirs: DateTime<Utc>) -> Check {
    let (early, late) = (theirs - asked.at, theirs - (asked.at + asked.took));
    // The smallest possible difference.
    let skew = if late > TimeDelta::zero() { late } else { early.min(TimeDelta::zero()) };
    if skew.abs() <= MOST_SKEW {
        return Check::ok(
            item,
            format!("within a second of this machine's (answered in {} ms)", asked.took.num_milliseconds()),
        );
    }
    let side = if skew > TimeDelta::zero() { "ahead of" } else { "behind" };
    let seconds = skew.abs().as_seconds_f64();
    let what = format!("the server's clock is {seconds:.1} s {side} this machine's");
    Check::fail(
        item,
        what,
        "synchronise both (chrony, systemd-timesyncd), or reminders are early or late by that \
         much",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_a_second_apart_and_the_way_does_not_count() {
        let at: DateTime<Utc> = "2026-10-25T00:30:00Z".parse().unwrap();
        let took = TimeDelta::milliseconds(400);
        let compare = |ms| compare_clocks(Item::NatsClock, Asked { at, took }, at + TimeDelta::milliseconds(ms));
        for (ms, fails) in [(0, false), (400, false), (1400, false), (1401, true), (-1000, false), (-1001, true)] {
            assert_eq!(compare(ms).is_failure(), fails, "{ms}: {}", compare(ms));
        }
        assert!(compare(5400).to_string().contains("5.0 s ahead of this machine's"), "{}", compare(5400));
        assert!(compare(-5000).to_string().contains("5.0 s behind this machine's"), "{}", compare(-5000));
    }
}
