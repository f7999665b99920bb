//! Parked deliveries by channel, lane and reason, from the headers of the messages that [`super::overdue`] reads.
//!
//! No table has them: a statement that counts what waits would read all of it, and the ledger has no index for it.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use async_nats::jetstream::message::StreamMessage;
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    effects::park,
    header,
    kind::Lane,
    meta::Waiting,
    plan::{Channel, Reason},
};

/// The deliveries that were parked when they were last read.
#[derive(Debug, Default)]
pub struct Parked(HashMap<u64, Delivery>);

#[derive(Clone, Copy, Debug)]
struct Delivery {
    channel: Channel,
    lane: Lane,
    reason: Reason,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Parked {
    /// Takes note of a message that waits until `until`. A job has one entry, however often it is parked.
    pub fn note(&mut self, parked: &StreamMessage, until: DateTime<Utc>) {
        let header = |name| parked.headers.get(name).map(async_nats::HeaderValue::as_str);
        let of = || {
            let job = header(header::JOB_ID)?;
            let Waiting { reason, since } = Waiting::parse(header(header::WAITS)?)?;
            let (channel, lane) = comes_back_as(header(header::SCHEDULE_TARGET)?)?;
            let mut hasher = DefaultHasher::new();
            job.hash(&mut hasher);
            Some((hasher.finish(), Delivery { channel, lane, reason, since, until }))
        };
        self.0.extend(of());
    }

    /// Number and longest wait by channel, lane and reason. One that has come back counts for `a_little` longer: its
    /// provider may still be down, and then it is parked again at once.
    pub fn tally(&mut self, now: DateTime<Utc>, a_little: TimeDelta) -> BTreeMap<[&'static str; 3], (u64, Duration)> {
        self.0.retain(|_, delivery| now < delivery.until + a_little);
        // A night's quiet hours hold many; the next one may be without.
        if self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to_fit();
        }
        let mut tally: BTreeMap<_, (u64, TimeDelta)> = BTreeMap::new();
        for Delivery { channel, lane, reason, since, .. } in self.0.values() {
            let (number, oldest) = tally.entry([channel.name(), lane.name(), reason.name()]).or_default();
            *number += 1;
            *oldest = (*oldest).max(now - *since);
        }
        tally
            .into_iter()
            .map(|(labels, (number, oldest))| (labels, (number, oldest.to_std().unwrap_or_default())))
            .collect()
    }
}

/// Channel and lane of a delivery by the subject on which it comes back.
fn comes_back_as(target: &str) -> Option<(Channel, Lane)> {
    let subject = target.strip_prefix(park::RESUMED)?;
    let of = |channel: Channel| {
        let kind = channel.kind();
        let lane = kind.lanes.iter().copied().find(|lane| kind.subject(*lane) == subject)?;
        Some((channel, lane))
    };
    Channel::ALL.into_iter().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_delivery_names_its_channel_and_lane() {
        for channel in Channel::ALL {
            for lane in [Lane::Critical, Lane::Normal] {
                let target = format!("resume.{}", channel.kind().subject(lane));
                assert_eq!(comes_back_as(&target), Some((channel, lane)));
            }
        }
        for other in ["resume.work.reminder.medication", "resume.deliver.fax.normal", "deliver.email.normal", ""] {
            assert_eq!(comes_back_as(other), None);
        }
    }
}
