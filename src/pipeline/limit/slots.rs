//! The arithmetic of time slots. Callers pass the present.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::{
    policy::Rate,
    store::{BookAsk, Booked},
};

/// The span booked at once, at least one slot. A process that dies loses no more.
pub const BOOKING: Duration = Duration::from_millis(100);

/// How far ahead slots are booked: enough for fifty processes.
pub const HORIZON: Duration = Duration::from_secs(5);

/// How old an unbooked slot may be to be made up.
const SAVED: Duration = Duration::from_millis(100);

/// How long a slot is valid. With [`SAVED`], ten seconds hold the starts of at most 10.5.
const LAPSE: Duration = Duration::from_millis(400);

/// The result of a booking.
#[derive(Debug, PartialEq, Eq)]
pub enum SlotAnswer {
    /// Slots in order, and the booking's end if these are its last.
    Slots(VecDeque<Instant>, Option<DateTime<Utc>>),
    /// No slot; ask again after this.
    Later(Duration),
}

/// The slots that a process books at once.
pub fn per_booking(rate: &Rate) -> usize {
    rate.within(BOOKING).max(1)
}

/// The number of slots for these asks, at least one, and the statement's parameters.
pub fn book_ask(rate: &Rate, asks: &[usize]) -> (usize, BookAsk) {
    let most = rate.within(HORIZON).max(1);
    let count = asks.iter().fold(0_usize, |sum, ask| sum.saturating_add(*ask)).clamp(1, most);
    let furthest = HORIZON + HORIZON.max(rate.time_for(1));
    (count, BookAsk { time: rate.time_for(count), horizon: HORIZON, saved: SAVED, furthest })
}

/// Shares booked slots among the asks, in order.
pub fn share(rate: &Rate, asks: &[usize], count: usize, booked: &Booked, answered: Instant) -> Vec<SlotAnswer> {
    // Past slots begin now.
    let ahead = booked.ahead.to_std().unwrap_or_default();
    let begin = |number| answered + (ahead + rate.time_for(number)).saturating_sub(rate.time_for(count));
    let mut slots: VecDeque<Instant> = (0..count).filter(|_| booked.granted).map(begin).collect();
    let later = ahead.saturating_sub(HORIZON);
    let answer = |ask: &usize| {
        let rest = slots.split_off(slots.len().min(*ask));
        let mine = std::mem::replace(&mut slots, rest);
        if mine.is_empty() {
            return SlotAnswer::Later(later);
        }
        SlotAnswer::Slots(mine, slots.is_empty().then_some(booked.free_at))
    };
    asks.iter().map(answer).collect()
}

/// Slots for expected messages, and when recent ones came.
#[derive(Debug, Default)]
pub struct Spare {
    slots: VecDeque<Instant>,
    taken: VecDeque<Instant>,
}

impl Spare {
    /// The next valid slot.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        while let Some(slot) = self.slots.pop_front() {
            if is_fresh(slot, now) {
                self.taken.push_back(now);
                return Some(slot);
            }
        }
        None
    }

    /// Adds later slots.
    pub fn put(&mut self, slots: VecDeque<Instant>) {
        self.slots.extend(slots);
    }

    /// As many messages as came while a slot was valid.
    pub fn expected(&mut self, now: Instant) -> usize {
        while self.taken.front().is_some_and(|taken| now.saturating_duration_since(*taken) > LAPSE) {
            self.taken.pop_front();
        }
        self.taken.len()
    }
}

/// Whether a job may still start at this slot.
pub fn is_fresh(slot: Instant, now: Instant) -> bool {
    now.saturating_duration_since(slot) <= LAPSE
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn rates() -> impl Strategy<Value = Rate> {
        let unit = prop::sample::select(vec!["s", "min", "h"]);
        (1..20_000_u32, unit).prop_map(|(count, unit)| Rate::parse(&format!("{count}/{unit}")).unwrap())
    }

    #[test]
    fn the_examples_of_the_documentation() {
        let per_booking_of = |text| per_booking(&Rate::parse(text).unwrap());
        assert_eq!((per_booking_of("50/s"), per_booking_of("100/min"), per_booking_of("5/h")), (5, 1, 1));
        let slow = Rate::parse("5/h").unwrap();
        let (count, ask) = book_ask(&slow, &[1, 1, 1]);
        assert_eq!((count, ask.time), (1, Duration::from_mins(12)), "not half an hour in one go");
        assert_eq!(ask.furthest, Duration::from_mins(12) + HORIZON);
    }

    proptest! {
        #[test]
        fn slots_are_as_far_apart_as_the_rate_says_and_end_where_the_booking_does(
            rate in rates(), asks in prop::collection::vec(1..50_usize, 1..20), ahead_ms in -100_i64..15_000,
        ) {
            let now = Instant::now();
            let (count, ask) = book_ask(&rate, &asks);
            prop_assert!(count >= 1 && count <= asks.iter().sum());
            prop_assert!(ask.time <= HORIZON.max(rate.time_for(1)));
            prop_assert!(HORIZON + ask.time <= ask.furthest, "what was granted is never cut back");
            let ahead = TimeDelta::milliseconds(ahead_ms) + TimeDelta::from_std(ask.time).unwrap();
            let booked = Booked { granted: true, free_at: DateTime::UNIX_EPOCH, ahead };
            let answers = share(&rate, &asks, count, &booked, now);
            prop_assert_eq!(answers.len(), asks.len());
            let mut all: Vec<Instant> = Vec::new();
            let mut ends = 0;
            for (ask, answer) in asks.iter().zip(&answers) {
                match answer {
                    SlotAnswer::Slots(slots, end) => {
                        prop_assert!(!slots.is_empty() && slots.len() <= *ask);
                        all.extend(slots);
                        ends += usize::from(end.is_some());
                        prop_assert_eq!(end.is_some(), all.len() == count, "only the last can be given back");
                    }
                    SlotAnswer::Later(_) => prop_assert_eq!(all.len(), count, "nobody waits while there are slots"),
                }
            }
            prop_assert_eq!((all.len(), ends), (count, 1));
            let slack = Duration::from_micros(1);
            for (number, slot) in all.iter().enumerate() {
                let due = ahead_ms + i64::try_from(rate.time_for(number).as_millis()).unwrap();
                let due = Duration::from_millis(u64::try_from(due.max(0)).unwrap());
                prop_assert!(*slot + Duration::from_millis(1) + slack >= now + due, "none is early");
                prop_assert!(*slot <= now + due + Duration::from_millis(1) + slack, "none is late");
            }
        }

        #[test]
        fn who_gets_nothing_asks_when_the_horizon_is_there(
            rate in rates(), asks in prop::collection::vec(1..50_usize, 1..20), over_ms in 0_u64..10_000,
        ) {
            let over = Duration::from_millis(over_ms);
            let ahead = TimeDelta::from_std(HORIZON + over).unwrap();
            let booked = Booked { granted: false, free_at: DateTime::UNIX_EPOCH, ahead };
            for answer in share(&rate, &asks, 1, &booked, Instant::now()) {
                prop_assert_eq!(answer, SlotAnswer::Later(over));
            }
        }
    }
}
