//! Tells the server how each message ends. No other file does.

use async_nats::jetstream::AckKind;

use super::{
    ending::{Disposition, ParkedJob},
    message::Pulled,
};
use crate::{
    dead_letter,
    effects::{
        Effects,
        park::{self, Parking},
    },
    kind::Stage,
};

/// Settles a message. Consumes it, so none is settled twice; matches every disposition, so none is forgotten.
pub async fn settle(message: Pulled, disposition: Disposition, effects: &Effects) {
    if !matches!(disposition, Disposition::Leave | Disposition::Release) {
        effects.is_journaled().await;
    }
    match disposition {
        Disposition::Done => message.acknowledge(AckKind::Ack).await,
        Disposition::Retry(wait) | Disposition::Again(wait) => message.acknowledge(AckKind::Nak(Some(wait))).await,
        Disposition::Park(parked) => {
            let ParkedJob { meta, not_after, until, parked_for } = &*parked;
            // From here on it is Carebell's own, whoever published it.
            let subject = message.queue().subject();
            let (subject, headers, body) = (subject.as_str(), message.headers(), message.body().clone());
            let parking =
                Parking { meta, not_after: *not_after, subject, headers, body, until: *until, parked_for: *parked_for };
            match Box::pin(parking.park(effects.context())).await {
                park::Parked::Yes => message.acknowledge(AckKind::Ack).await,
                park::Parked::TooLarge => {
                    let wait = (*until - effects.now()).to_std().unwrap_or_default();
                    message.acknowledge(AckKind::Nak(Some(wait))).await;
                }
            }
        }
        Disposition::Dead(death) => {
            // A terminated message leaves a work queue at once, so its copy must be acknowledged first.
            Box::pin(dead_letter::bury(effects.context(), &body_of(&message, effects), &death)).await;
            message.terminate(&dead_letter::one_line(&format!("{}: {}", death.reason.name(), death.error))).await;
        }
        Disposition::Leave => drop(message),
        Disposition::Release => message.acknowledge(AckKind::Nak(None)).await,
    }
}

fn body_of(message: &Pulled, effects: &Effects) -> dead_letter::DeadJob {
    dead_letter::DeadJob {
        kind: match message.queue().kind {
            kind if kind.stage == Stage::Delay => dead_letter::kind_of(message.subject()).to_owned(),
            kind => kind.name.to_owned(),
        },
        stream: message.position.stream.clone(),
        sequence: message.position.sequence,
        subject: message.subject().to_owned(),
        job_id: message.identity().ok().map(|meta| meta.job_id),
        headers: message.headers().cloned(),
        raw_headers: None,
        payload: message.body().clone(),
        last: effects.now(),
    }
}
