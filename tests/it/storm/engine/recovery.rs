//! Recovery: the time without arrivals after a fault, while there was work, and how late jobs came.

use std::collections::{HashMap, HashSet};

use carebell::channels::web_push::Topic;
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    faults::{Fault, Target},
    history::{Asked, Delivery, History, Push},
};

/// Jobs count as late from here on. Without a fault, a busy machine or a push service that hangs makes some so.
const LATE: i64 = 1000;

/// No late job may take longer. A lost worker is noticed after `ack_wait`, 30 s.
pub const LONGEST: i64 = 60_000;

/// Nor more than one in a hundred of them, where there are so many.
pub const P99: i64 = 35_000;

/// Longest times in milliseconds, by victim.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    pub worker: i64,
    pub nats: i64,
    pub postgres: i64,
    /// From when a job could run to its first push.
    pub slowest: i64,
    /// For scheduled jobs: a restarted server resumes sourcing at its next check, every ten seconds.
    pub slowest_scheduled: i64,
    /// Of late jobs, to their last push, without outages and failed attempts. Sorted.
    late: Vec<i64>,
}

impl Recovery {
    pub fn longest(&self) -> i64 {
        self.worker.max(self.nats).max(self.postgres)
    }

    /// How late 99 of 100 late jobs came at most.
    pub fn p99(&self) -> i64 {
        let later = self.late.len() / 100;
        self.late.iter().rev().nth(later).copied().unwrap_or(0)
    }

    pub fn max(&self) -> i64 {
        self.late.last().copied().unwrap_or(0)
    }

    pub fn late(&self) -> usize {
        self.late.len()
    }

    pub fn of(history: &History) -> Self {
        let roots: HashMap<String, &str> = history
            .deliveries
            .iter()
            .map(|delivery| (Topic::of(&delivery.id).to_string(), delivery.root.as_str()))
            .collect();
        let known: HashMap<&str, DateTime<Utc>> =
            history.jobs.iter().map(|asked| (asked.id.as_str(), asked.ready)).collect();
        let ready = |push: &Push| roots.get(&push.topic).and_then(|root| known.get(root)).copied().unwrap_or(push.at);
        let mut longest = Self::default();
        for fault in &history.faults {
            let Some(took) = after(history, fault, ready) else { continue };
            let place = match fault.target {
                Target::Worker(_) => &mut longest.worker,
                Target::Nats => &mut longest.nats,
                Target::Postgres => &mut longest.postgres,
            };
            *place = took.max(*place);
        }
        let mut first: HashMap<&str, DateTime<Utc>> = HashMap::new();
        for push in &history.pushes {
            if let Some(root) = roots.get(&push.topic) {
                first.entry(root).or_insert(push.at);
            }
        }
        for asked in &history.jobs {
            let Some(at) = first.get(asked.id.as_str()) else { continue };
            let place = if asked.scheduled { &mut longest.slowest_scheduled } else { &mut longest.slowest };
            *place = (*place).max((*at - asked.ready).num_milliseconds());
        }
        longest.late = late_jobs(history).into_iter().map(|(_, late)| late).collect();
        longest.late.sort_unstable();
        longest
    }
}

/// From the kill, or from when the job could run if none waited, to the next push. Pushes in flight still arrive after
/// a server is killed, so there the first push after its return counts.
fn after(history: &History, fault: &Fault, ready: impl Fn(&Push) -> DateTime<Utc>) -> Option<i64> {
    let counts = match fault.target {
        Target::Worker(_) => fault.from,
        Target::Nats | Target::Postgres => fault.until,
    };
    let next = history.pushes.iter().find(|push| push.at > counts)?;
    let waited = history.pushes.iter().any(|push| push.at > counts && ready(push) <= fault.from);
    let since = if waited { fault.from } else { fault.from.max(ready(next)) };
    Some((next.at - since).num_milliseconds().max(0))
}

/// Jobs and how late their last push came for the first time, in milliseconds, without the outages and the attempts that
/// failed meanwhile: a push service that hangs makes a job late too.
pub fn late_jobs(history: &History) -> Vec<(&Asked, i64)> {
    let deliveries: HashMap<String, &Delivery> =
        history.deliveries.iter().map(|delivery| (Topic::of(&delivery.id).to_string(), delivery)).collect();
    let mut failed: HashMap<&str, Vec<Span>> = HashMap::new();
    for ((_, delivery), words) in &history.words {
        let tried = words.iter().filter(|word| word.outcome == "retry").map(|word| (word.began, word.at));
        failed.entry(delivery).or_default().extend(tried);
    }
    let outages: Vec<Span> =
        history.faults.iter().filter(|fault| fault.outage).map(|fault| (fault.from, fault.until)).collect();
    let mut seen = HashSet::new();
    let mut last: HashMap<&str, (&Delivery, DateTime<Utc>)> = HashMap::new();
    for push in &history.pushes {
        if let Some(delivery) = deliveries.get(&push.topic).filter(|_| seen.insert(push.topic.as_str())) {
            last.insert(&delivery.root, (delivery, push.at));
        }
    }
    let late = history.jobs.iter().filter_map(|asked| {
        let (delivery, at) = *last.get(asked.id.as_str())?;
        let tried = failed.get(delivery.id.as_str()).into_iter().flatten();
        let away = covered(outages.iter().chain(tried), (asked.ready, at));
        Some((asked, (at - asked.ready - away).num_milliseconds()))
    });
    late.filter(|(_, late)| *late > LATE).collect()
}

type Span = (DateTime<Utc>, DateTime<Utc>);

/// How much of a span others cover, which may overlap.
fn covered<'a>(others: impl Iterator<Item = &'a Span>, (from, until): Span) -> TimeDelta {
    let mut others: Vec<&Span> = others.collect();
    others.sort();
    let (mut covered, mut free) = (TimeDelta::zero(), from);
    for (begin, end) in others {
        let (begin, end) = ((*begin).max(free), (*end).min(until));
        if begin < end {
            covered += end - begin;
            free = end;
        }
    }
    covered
}
