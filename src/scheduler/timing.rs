//! Decides when a schedule is due, and handles missed instants. Pure: tests run through a month of downtime in
//! microseconds.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    schedule::{Calendar, Expression, Fold, Gap, Rules, zone},
    store::{NextInstant, ScheduleSpec},
};

/// An instant published no later than this is on time.
pub const ON_TIME: TimeDelta = TimeDelta::seconds(60);

/// In seconds: a day.
pub const LONGEST_JITTER: i64 = 86_400;
/// In seconds: a year.
pub const LONGEST_WINDOW: i64 = 366 * 86_400;

/// Missed instants are counted up to this: a month has millions of seconds.
const COUNTED: usize = 1000;

/// Rule for instants missed while no scheduler ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are dropped.
    Skip,
    /// The newest is made up, unless another is on time.
    Latest,
    /// The newest ones, up to this many, are made up.
    All(usize),
}

/// A parsed schedule.
#[derive(Clone, Debug)]
pub struct Timing {
    name: String,
    calendar: Calendar,
    starts_at: DateTime<Utc>,
    ends_at: Option<DateTime<Utc>>,
    missed: Missed,
    window: TimeDelta,
    jitter: TimeDelta,
}

/// The instants of a due schedule that are published, and how it goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Firing {
    /// Instants to publish, oldest first.
    pub publish: Vec<DateTime<Utc>>,
    /// Missed instants not published, at most a thousand.
    pub missed: usize,
    /// How missed ones were handled.
    pub note: Option<String>,
    /// Next instant.
    pub next: NextInstant,
}

impl Timing {
    /// Parses a schedule.
    ///
    /// # Errors
    /// Names the faulty part and the expected values.
    pub fn read(spec: &ScheduleSpec) -> Result<Self, String> {
        let expression = Expression::parse(&spec.expression).map_err(|error| error.to_string())?;
        let zone = zone(&spec.zone).map_err(|error| error.to_string())?;
        let rules = Rules {
            gap: Gap::parse(&spec.gap).ok_or("the rule for skipped times must be shift or skip")?,
            fold: Fold::parse(&spec.fold).ok_or("the rule for repeated times must be first, second or both")?,
        };
        let missed = match spec.missed.as_str() {
            "skip" => Missed::Skip,
            "latest" => Missed::Latest,
            "all" => Missed::All(usize::try_from(spec.missed_limit).unwrap_or(1)),
            _ => return Err("the rule for missed instants must be skip, latest or all".into()),
        };
        // Clamped to avoid overflows.
        let seconds = |seconds: i64, most: i64| TimeDelta::seconds(seconds.clamp(0, most));
        Ok(Self {
            name: spec.name.clone(),
            calendar: Calendar::new(expression, zone, rules, spec.starts_at),
            starts_at: spec.starts_at,
            ends_at: spec.ends_at,
            missed,
            window: seconds(spec.missed_seconds, LONGEST_WINDOW),
            jitter: seconds(spec.jitter_seconds, LONGEST_JITTER),
        })
    }

    /// The instants from the next one on.
    pub fn following(&self, next: NextInstant) -> impl Iterator<Item = DateTime<Utc>> {
        std::iter::successors(next.at, |at| self.next_from(*at + TimeDelta::nanoseconds(1)).at)
    }

    /// The first instant at or after `from`.
    #[must_use]
    pub fn next_from(&self, from: DateTime<Utc>) -> NextInstant {
        let from = from.max(self.starts_at);
        let before = from.checked_sub_signed(TimeDelta::nanoseconds(1)).unwrap_or(from);
        self.next(self.after(before))
    }

    fn next(&self, at: Option<DateTime<Utc>>) -> NextInstant {
        NextInstant { at, due: at.map(|at| self.due(at)) }
    }

    fn after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.calendar.next_after(instant).filter(|at| self.ends_at.is_none_or(|end| *at < end))
    }

    /// The jitter is a hash of schedule and instant, so that all schedulers agree.
    pub(super) fn due(&self, instant: DateTime<Utc>) -> DateTime<Utc> {
        let Ok(range) = u64::try_from(self.jitter.num_milliseconds()) else { return instant };
        if range == 0 {
            return instant;
        }
        let seed = self.name.bytes().chain(instant.timestamp().to_be_bytes());
        let later = i64::try_from(fnv1a(seed) % (range + 1)).unwrap_or(0);
        instant + TimeDelta::milliseconds(later)
    }

    /// Decides about a schedule whose next instant is `next`.
    #[must_use]
    pub fn decide(&self, next: DateTime<Utc>, now: DateTime<Utc>) -> Firing {
        let mut due = Vec::new();
        let mut rest = Some(next);
        // Skip to instants that may be on time.
        let fresh = next.max(now - ON_TIME - self.jitter);
        if fresh > next {
            rest = self.after(fresh - TimeDelta::nanoseconds(1));
        }
        while let Some(at) = rest.filter(|at| self.due(*at) <= now) {
            due.push(at);
            rest = self.after(at);
        }
        // An instant with less jitter than the previous one waits for it, without being late.
        let mut latest_due = DateTime::<Utc>::MIN_UTC;
        let (on_time, mut late): (Vec<_>, Vec<_>) = due.into_iter().partition(|at| {
            latest_due = latest_due.max(self.due(*at));
            now - latest_due <= ON_TIME
        });
        if fresh > next {
            late.extend(self.some_between(next, fresh));
            late.sort_unstable();
        }
        let made_up = self.made_up(next, fresh, now, &late, &on_time);
        let missed = late.len().saturating_sub(made_up.len());
        let note = (!late.is_empty()).then(|| note(late.len(), &made_up, now));
        let publish: Vec<_> = made_up.into_iter().chain(on_time).collect();
        Firing { publish, missed, note, next: self.next(rest) }
    }

    /// Up to a thousand.
    fn some_between(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let following = std::iter::successors(Some(from), |at| self.after(*at));
        following.take_while(|at| *at < until).take(COUNTED).collect()
    }

    /// Missed instants to publish anyway, oldest first.
    fn made_up(
        &self,
        next: DateTime<Utc>,
        fresh: DateTime<Utc>,
        now: DateTime<Utc>,
        late: &[DateTime<Utc>],
        on_time: &[DateTime<Utc>],
    ) -> Vec<DateTime<Utc>> {
        let count = match self.missed {
            Missed::Skip => 0,
            Missed::Latest => usize::from(on_time.is_empty()),
            Missed::All(limit) => limit,
        };
        let oldest = now - self.window;
        let within = |at: &DateTime<Utc>| self.due(*at) >= oldest;
        let mut newest: Vec<_> = late.iter().copied().filter(|at| *at >= fresh).filter(within).collect();
        if newest.len() < count && fresh > next {
            let mut older = self.newest_before(fresh, next.max(oldest - self.jitter), count);
            older.retain(within);
            older.extend(newest);
            newest = older;
        }
        newest.split_off(newest.len().saturating_sub(count))
    }

    /// The newest `count` instants from `from` until before `until`. Looks back in doubling steps to skip most of a
    /// month of seconds.
    fn newest_before(&self, until: DateTime<Utc>, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        let mut back = TimeDelta::minutes(1);
        loop {
            let start = until.checked_sub_signed(back).unwrap_or(from).max(from);
            let first = self.after(start - TimeDelta::nanoseconds(1));
            let found: Vec<_> =
                std::iter::successors(first, |at| self.after(*at)).take_while(|at| *at < until).collect();
            if found.len() >= count || start <= from {
                return found;
            }
            back = back * 2;
        }
    }
}

fn note(late: usize, made_up: &[DateTime<Utc>], now: DateTime<Utc>) -> String {
    let many = if late >= COUNTED { format!("{COUNTED} or more instants were") } else { counted(late) };
    let made_up = match made_up.len() {
        0 => "none of them is made up".to_owned(),
        1 if late == 1 => "it is made up".to_owned(),
        1 => "the latest is made up".to_owned(),
        more => format!("the latest {more} are made up"),
    };
    format!("{}: {many} missed, {made_up}", now.format("%Y-%m-%dT%H:%M:%SZ"))
}

fn counted(count: usize) -> String {
    if count == 1 { "1 instant was".to_owned() } else { format!("{count} instants were") }
}

/// FNV-1a, 64 bit: stable between versions.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn spec(expression: &str, missed: &str) -> ScheduleSpec {
        ScheduleSpec {
            name: "pills".into(),
            kind: "notification".into(),
            lane: None,
            payload: Value::Null,
            expression: expression.into(),
            zone: "Europe/London".into(),
            gap: "shift".into(),
            fold: "first".into(),
            missed: missed.into(),
            missed_limit: 3,
            missed_seconds: 3600,
            jitter_seconds: 0,
            expiry_seconds: None,
            starts_at: at("2026-01-01T00:00:00Z"),
            ends_at: None,
            paused: false,
            owner: None,
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn back_at(spec: &ScheduleSpec, now: &str) -> (Vec<String>, usize, Option<String>, Option<DateTime<Utc>>) {
        let decision = Timing::read(spec).unwrap().decide(at("2026-02-02T09:00:00Z"), at(now));
        let clock = |at: &DateTime<Utc>| at.format("%d %H:%M:%S").to_string();
        (decision.publish.iter().map(clock).collect(), decision.missed, decision.note, decision.next.at)
    }

    #[test]
    fn on_time_is_on_time_whatever_the_rule() {
        for missed in ["skip", "latest", "all"] {
            let (publish, missed, note, next) = back_at(&spec("0 9 * * *", missed), "2026-02-02T09:00:59Z");
            assert_eq!((publish, missed, note), (vec!["02 09:00:00".to_owned()], 0, None));
            assert_eq!(next, Some(at("2026-02-03T09:00:00Z")));
        }
    }

    #[test]
    fn after_an_hour_a_day_and_a_month_the_rule_decides() {
        let each_quarter = |missed| spec("*/15 * * * *", missed);
        // An hour: 09:00 is just within the window, 09:15, 09:30 and 09:45 are missed, 10:00 is on time.
        let (publish, missed, note, next) = back_at(&each_quarter("skip"), "2026-02-02T10:00:00Z");
        assert_eq!((publish, missed), (vec!["02 10:00:00".to_owned()], 4));
        assert_eq!(note.unwrap(), "2026-02-02T10:00:00Z: 4 instants were missed, none of them is made up");
        assert_eq!(next, Some(at("2026-02-02T10:15:00Z")));
        let (publish, missed, ..) = back_at(&each_quarter("latest"), "2026-02-02T10:00:00Z");
        assert_eq!((publish, missed), (vec!["02 10:00:00".to_owned()], 4), "the latest is on time");
        let (publish, missed, note, _) = back_at(&each_quarter("latest"), "2026-02-02T10:05:00Z");
        assert_eq!((publish, missed), (vec!["02 10:00:00".to_owned()], 4));
        assert_eq!(note.unwrap(), "2026-02-02T10:05:00Z: 5 instants were missed, the latest is made up");
        let (publish, missed, ..) = back_at(&each_quarter("all"), "2026-02-02T10:05:00Z");
        assert_eq!((publish, missed), (["02 09:30:00", "02 09:45:00", "02 10:00:00"].map(Into::into).to_vec(), 2));

        // A day: nothing outside the window is made up.
        let daily = |missed| spec("0 9 * * *", missed);
        let (publish, missed, ..) = back_at(&daily("latest"), "2026-02-03T08:59:00Z");
        assert_eq!((publish, missed), (vec![], 1), "23 hours and 59 minutes late");
        let patient = ScheduleSpec { missed_seconds: 2 * 86_400, ..daily("latest") };
        let (publish, missed, note, _) = back_at(&patient, "2026-02-03T08:59:00Z");
        assert_eq!((publish, missed), (vec!["02 09:00:00".to_owned()], 0));
        assert_eq!(note.unwrap(), "2026-02-03T08:59:00Z: 1 instant was missed, it is made up");

        // A month.
        let patient = ScheduleSpec { missed_seconds: 40 * 86_400, ..daily("all") };
        let (publish, missed, ..) = back_at(&patient, "2026-03-02T10:00:00Z");
        assert_eq!((publish, missed), (["28 09:00:00", "01 09:00:00", "02 09:00:00"].map(Into::into).to_vec(), 26));
        let each_second = ScheduleSpec { missed_seconds: 40 * 86_400, ..spec("* * * * * *", "all") };
        let (publish, missed, note, next) = back_at(&each_second, "2026-03-02T10:00:00Z");
        assert_eq!(publish.len(), 3 + 61, "those of the last minute are on time");
        assert_eq!(missed, COUNTED - 3);
        assert!(note.unwrap().contains("1000 or more instants were missed, the latest 3 are made up"));
        assert_eq!(next, Some(at("2026-03-02T10:00:01Z")));
    }

    #[test]
    fn nothing_before_the_start_and_from_the_end_on() {
        let bounded = ScheduleSpec {
            starts_at: at("2026-02-02T09:00:00Z"),
            ends_at: Some(at("2026-02-02T11:00:00Z")),
            ..spec("0 * * * *", "all")
        };
        let timing = Timing::read(&bounded).unwrap();
        assert_eq!(timing.next_from(at("2026-01-01T00:00:00Z")).at, Some(at("2026-02-02T09:00:00Z")));
        assert_eq!(timing.next_from(at("2026-02-02T10:00:01Z")).at, None);
        let decision = timing.decide(at("2026-02-02T10:00:00Z"), at("2026-02-02T10:00:30Z"));
        assert_eq!((decision.publish.len(), decision.next), (1, NextInstant::default()));
    }

    proptest! {
        #[test]
        fn who_is_there_misses_nothing(jitter in 0i64..2_000, minutes in 1u32..10, which in 0..3_usize) {
            let rule = ["skip", "latest", "all"][which];
            let spec = ScheduleSpec { jitter_seconds: jitter, ..spec(&format!("*/{minutes} * * * *"), rule) };
            let timing = Timing::read(&spec).unwrap();
            let start = at("2026-06-01T00:00:00Z");
            let mut next = timing.next_from(start);
            let mut published = Vec::new();
            for _ in 0..100 {
                let decision = timing.decide(next.at.unwrap(), next.due.unwrap());
                prop_assert_eq!((decision.missed, &decision.note), (0, &None));
                published.extend(decision.publish);
                next = decision.next;
            }
            let expected: Vec<_> =
                std::iter::successors(timing.next_from(start).at, |at| timing.after(*at)).take(published.len()).collect();
            prop_assert_eq!(published, expected);
        }

        /// With an unlimited window, each instant is published once, in order, and not before it is due.
        #[test]
        fn each_instant_once(steps in prop::collection::vec(1i64..2_000, 1..40), jitter in 0i64..120) {
            let spec = ScheduleSpec {
                missed_limit: 1000, missed_seconds: 1_000_000, jitter_seconds: jitter, ..spec("*/3 * * * *", "all")
            };
            let timing = Timing::read(&spec).unwrap();
            let start = at("2026-03-28T23:00:00Z");
            let mut next = timing.next_from(start);
            let mut now = start;
            let mut published = Vec::new();
            for step in steps {
                now += TimeDelta::seconds(step);
                while let Some(at) = next.at.filter(|_| next.due.is_some_and(|due| due <= now)) {
                    let decision = timing.decide(at, now);
                    prop_assert_eq!(decision.missed, 0);
                    for at in &decision.publish {
                        prop_assert!(timing.due(*at) <= now);
                    }
                    published.extend(decision.publish);
                    next = decision.next;
                }
            }
            let expected: Vec<_> =
                std::iter::successors(timing.next_from(start).at, |at| timing.after(*at)).take(published.len()).collect();
            prop_assert_eq!(published, expected);
            prop_assert!(next.due.is_some_and(|due| due > now));
        }
    }
}
