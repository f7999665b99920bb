//! Explains pushes that arrived more than once.
//!
//! A push is open from its claim until its outcome is on record. A fault in that time may lose the outcome or the
//! claim, so the push is sent again, which no sender can avoid. Any other second push is a bug.

use std::collections::{BTreeMap, HashMap};

use carebell::channels::web_push::Topic;
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    faults::{Fault, Target},
    history::{Delivery, History, Push},
    judge::{Finding, Sort},
};

/// Longest time from claim to acceptance: the timeout of a delivery.
pub const LONGEST_SEND: TimeDelta = TimeDelta::seconds(5);

/// Number of repeated pushes, by explanation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubles {
    pub all: usize,
    /// The worker was killed before it recorded the earlier push.
    pub by_worker_kill: usize,
    /// NATS was killed while the earlier push was open, and forgot who had the message.
    pub by_nats_outage: usize,
    /// Postgres was down while the earlier push was open.
    pub by_postgres_outage: usize,
}

pub fn judge(history: &History) -> (Doubles, Vec<Finding>) {
    let by_topic: HashMap<String, &Delivery> =
        history.deliveries.iter().map(|delivery| (Topic::of(&delivery.id).to_string(), delivery)).collect();
    let mut findings = Vec::new();
    let mut received: BTreeMap<&str, Vec<&Push>> = BTreeMap::new();
    for push in &history.pushes {
        match by_topic.get(&push.topic) {
            Some(delivery) if delivery.browser == push.browser => {
                received.entry(delivery.id.as_str()).or_default().push(push);
            }
            _ => findings.push(unexplained(format!("{} got a push that is in no ledger", push.browser))),
        }
    }
    let mut doubles = Doubles::default();
    for delivery in &history.deliveries {
        let pushes = received.get(delivery.id.as_str()).map_or(&[][..], Vec::as_slice);
        if pushes.is_empty() && delivery.state == "sent" {
            let text = format!("delivery {} to {} is recorded as sent, and never came", delivery.id, delivery.browser);
            findings.push(Finding { sort: Sort::Lost, text });
        }
        for pair in pushes.windows(2) {
            doubles.all += 1;
            match explanation(history, delivery, pair[0], pair[1]) {
                Some(Target::Worker(_)) => doubles.by_worker_kill += 1,
                Some(Target::Nats) => doubles.by_nats_outage += 1,
                Some(Target::Postgres) => doubles.by_postgres_outage += 1,
                None => findings.push(unexplained(describe(history, delivery, pair[0], pair[1]))),
            }
        }
    }
    (doubles, findings)
}

fn unexplained(text: String) -> Finding {
    Finding { sort: Sort::UnexplainedPush, text }
}

/// The fault that explains why `second` was sent.
fn explanation(history: &History, delivery: &Delivery, first: &Push, second: &Push) -> Option<Target> {
    let open = Open::of(history, delivery, first, second);
    // A cluster that has a majority forgets nothing.
    let is_reason = |fault: &Fault| fault.target != Target::Nats || fault.outage;
    let explains = |target: Target| {
        history.faults.iter().any(|fault| fault.target == target && is_reason(fault) && open.meets(fault))
    };
    [Target::Worker(first.worker), Target::Nats, Target::Postgres].into_iter().find(|target| explains(*target))
}

/// The time in which the outcome of a push was not on record.
struct Open {
    since: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Open {
    fn of(history: &History, delivery: &Delivery, first: &Push, second: &Push) -> Self {
        let words = history.words.get(&(first.worker, delivery.id.clone()));
        // A worker logs after it records: a logged outcome is on record.
        let word = words.into_iter().flatten().find(|word| word.began <= first.at && first.at <= word.at);
        match word {
            Some(word) => Self { since: word.began, until: word.at.min(second.at) },
            None => Self { since: first.at - LONGEST_SEND, until: second.at },
        }
    }

    fn meets(&self, fault: &Fault) -> bool {
        fault.from <= self.until && fault.until >= self.since
    }
}

fn describe(history: &History, delivery: &Delivery, first: &Push, second: &Push) -> String {
    let words: Vec<String> = history
        .words
        .iter()
        .filter(|((_, id), _)| *id == delivery.id)
        .flat_map(|((worker, _), words)| words.iter().map(move |word| (worker, word)))
        .map(|(worker, word)| format!("worker {worker}: {} from {} to {}", word.outcome, word.began, word.at))
        .collect();
    let near = |fault: &&Fault| (fault.from - first.at).abs() < TimeDelta::seconds(15);
    let faults: Vec<String> = history
        .faults
        .iter()
        .filter(near)
        .map(|fault| format!("{:?} from {} to {}", fault.target, fault.from, fault.until))
        .collect();
    format!(
        "delivery {} of {} to {}: sent by worker {} at {} and by worker {} at {}; {}; logs: {words:?}; faults: {faults:?}",
        delivery.id, delivery.root, delivery.browser, first.worker, first.at, second.worker, second.at, delivery.fence
    )
}
