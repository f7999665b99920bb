//! The one place that decides what the server is told of a message.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use chrono::{DateTime, Utc};

use super::message::Pulled;
use crate::{
    dead_letter,
    effects::{self, Death, Effects, park::Parked, publish},
    job::Meta,
};

/// What is to become of a message. Everything that must be on record by then is on record.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It is done with: acknowledge.
    Done,
    /// It failed and is to run again after this short wait.
    Retry(Duration),
    /// It waits until an instant in the stream HOLD.
    Park {
        /// The job.
        meta: Box<Meta>,
        /// Its expiry.
        not_after: DateTime<Utc>,
        /// When it is resumed.
        until: DateTime<Utc>,
    },
    /// It is dead: copy it to the dead letters, then end it.
    Dead(Death),
    /// It is another worker's by now: that one settles it.
    Leave,
    /// This worker stops; another may have it at once.
    Release,
}

/// Settles a message: consumes it, so that none is settled twice, and matches every fate, so that none is forgotten.
pub async fn settle(message: Pulled, fate: Fate, effects: &Effects) {
    match fate {
        Fate::Done => message.acknowledge(AckKind::Ack).await,
        Fate::Retry(wait) => message.acknowledge(AckKind::Nak(Some(wait))).await,
        Fate::Park { meta, not_after, until } => {
            let (subject, headers, body) = (message.subject(), message.headers(), message.body().clone());
            let parking = effects::park::park(effects.context(), &meta, not_after, subject, headers, body, until);
            match Box::pin(parking).await {
                Parked::Yes => message.acknowledge(AckKind::Ack).await,
                Parked::TooLarge => {
                    let wait = (until - effects.now()).to_std().unwrap_or_default();
                    message.acknowledge(AckKind::Nak(Some(wait))).await;
                }
            }
        }
        Fate::Dead(death) => {
            // A terminated message is gone from a work queue at once: the copy must be acknowledged first.
            Box::pin(dead_letter::bury(effects.context(), &body_of(&message, effects.now()), &death)).await;
            message.terminate(&dead_letter::one_line(&format!("{}: {}", death.reason.name(), death.error))).await;
        }
        Fate::Leave => drop(message),
        Fate::Release => message.acknowledge(AckKind::Nak(None)).await,
    }
}

fn body_of(message: &Pulled, now: DateTime<Utc>) -> dead_letter::DeadJob {
    dead_letter::DeadJob {
        kind: message.queue().kind.name.to_owned(),
        stream: message.place.stream.clone(),
        sequence: message.place.sequence,
        subject: message.subject().to_owned(),
        job_id: Some(publish::job_id(message.headers(), &message.place.stream, message.place.sequence)),
        headers: message.headers().cloned(),
        payload: message.body().clone(),
        last: now,
    }
}
