//! Jobs that the server has sent off and that have not arrived.
//!
//! WORK and DELIVERIES draw them from HOLD. Where a leader changes, the server begins anew to draw, after ten seconds, and
//! after up to two minutes where leaders change again and again (nats-server 2.15.1).

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{message::StreamMessage, stream::Stream},
};
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{
    held::{first, show, stored_at},
    take_out,
};
use crate::{
    effects::{Effects, park, publish},
    header,
};

/// All of them.
const RESUMED: &str = "resume.>";

/// The most that a pass may take. The next one goes on with what is left.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes jobs that were sent off before `before` where they belong, and takes them out of HOLD. Returns their number.
///
/// Safe in several workers, and beside a server that draws them meanwhile: a job that arrives twice runs once.
///
/// # Errors
/// If a server does not answer, or refuses a message. The others are published, and the next pass tries it again.
pub(super) async fn deliver(effects: &Effects, stream: &Stream, before: DateTime<Utc>) -> (usize, Result<(), String>) {
    let since = Instant::now();
    let (mut next, mut delivered, mut done) = (1, 0, Ok(()));
    while since.elapsed() < PATIENCE {
        let resumed = match first(effects, stream, RESUMED, next).await {
            Ok(Some(resumed)) => resumed,
            Ok(None) => break,
            Err(why) => return (delivered, done.and(Err(why))),
        };
        // Those behind it were sent off later.
        if stored_at(&resumed) >= before {
            break;
        }
        let sequence = resumed.sequence;
        next = sequence + 1;
        let subject = target(&resumed.subject);
        tracing::warn!(%subject, sequence, "a job was sent off by the server and has not arrived: publishing it");
        match publish_there(effects, &subject, resumed).await {
            Ok(()) => {
                delivered += 1;
                // Somebody may have been faster.
                let _ = take_out(effects.context(), park::STREAM, sequence).await;
            }
            Err(why) => done = done.and(Err(format!("{subject}: {why}"))),
        }
    }
    (delivered, done)
}

async fn publish_there(effects: &Effects, subject: &str, resumed: StreamMessage) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    for (name, values) in resumed.headers.iter() {
        let name: &str = name.as_ref();
        // A stream without schedules refuses what names one.
        if !name.starts_with("Nats-") {
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
    if let Some(parked) = resumed.headers.get(header::SCHEDULER) {
        headers.insert(header::PARKED_AS, parked.as_str());
    }
    // Workers that look at the same time publish one message.
    let id = format!("resumed.{}.{}", resumed.sequence, resumed.time.unix_timestamp_nanos());
    headers.insert(header::MSG_ID, id.as_str());
    publish::send(effects.context(), subject, headers, resumed.payload).await.map(|_| ()).map_err(show)
}

/// As the streams that draw them map it.
pub(super) fn target(resumed: &str) -> String {
    let subject = resumed.strip_prefix(park::RESUMED).unwrap_or(resumed);
    match subject.strip_prefix("jobs.") {
        Some(kind) => format!("work.{kind}"),
        None => subject.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Adjustments, Streams};

    #[test]
    fn targets_are_those_of_the_streams() {
        let streams = Streams::embedded(&Adjustments::default()).unwrap();
        let sourced: Vec<String> = streams.sourced(park::RESUMED).into_values().flatten().collect();
        assert_eq!(sourced.len(), 3, "{sourced:?}");
        for (resumed, expected) in [
            ("resume.deliver.sms.normal", "deliver.sms.normal"),
            ("resume.work.reminder.shift", "work.reminder.shift"),
            ("resume.jobs.reminder.shift", "work.reminder.shift"),
        ] {
            assert_eq!(target(resumed), expected);
        }
    }
}
