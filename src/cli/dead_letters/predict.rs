//! What a redrive would do, before it is done.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{super::failed::Failed, edit};
use crate::{
    dead_letter::Letter,
    intake::asked,
    jobs,
    kind::{Kind, LATER, Queue},
    pauses::Pause,
    store::Store,
};

/// What would become of a letter's job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prediction {
    /// It would run.
    WouldRun,
    /// It would wait for the end of a pause.
    Paused,
    /// It would end as expired.
    WouldExpire,
    /// It was done, or sent: nothing would follow.
    AlreadySent,
    /// It has ended otherwise: nothing would follow.
    AlreadyEnded,
    /// It is cancelled, and would not be redriven.
    Cancelled,
}

impl Prediction {
    const ALL: [Self; 6] =
        [Self::WouldRun, Self::Paused, Self::WouldExpire, Self::AlreadySent, Self::AlreadyEnded, Self::Cancelled];

    const fn name(self) -> &'static str {
        match self {
            Self::WouldRun => "would_run",
            Self::Paused => "paused",
            Self::WouldExpire => "would_expire",
            Self::AlreadySent => "already_sent",
            Self::AlreadyEnded => "already_ended",
            Self::Cancelled => "cancelled",
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Self::WouldRun => "would run",
            Self::Paused => "would wait: their queue is paused (`carebell queues list`)",
            Self::WouldExpire => "would expire; --not-after extends it",
            Self::AlreadySent => "were done or sent before: nothing would follow",
            Self::AlreadyEnded => "have ended before: nothing would follow",
            Self::Cancelled => "are cancelled, and would be refused",
        }
    }
}

/// The predictions for letters, in their order. `not_after` replaces their expiries.
pub(super) async fn predict(
    store: &Store,
    letters: &[Letter],
    not_after: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Vec<Prediction>, Failed> {
    let ids: Vec<&str> = letters.iter().map(|letter| letter.job_id.as_str()).collect();
    let (states, pauses) = (store.states_of(&ids).await?, store.pauses(now).await?);
    let one = |letter: &Letter| {
        match states.get(&letter.job_id).map(|(state, reason)| (state.as_str(), reason.as_deref())) {
            Some(("skipped", Some("cancelled"))) => return Prediction::Cancelled,
            Some(("done" | "sent" | "delivered", _)) => return Prediction::AlreadySent,
            Some(("skipped" | "expired" | "failed" | "unknown", _)) => return Prediction::AlreadyEnded,
            _ => {}
        }
        match not_after.or_else(|| edit::not_after(letter, now)) {
            Some(end) if end <= now => Prediction::WouldExpire,
            _ if is_paused(letter, &pauses) => Prediction::Paused,
            _ => Prediction::WouldRun,
        }
    };
    Ok(letters.iter().map(one).collect())
}

fn is_paused(letter: &Letter, pauses: &[Pause]) -> bool {
    let subject = letter.original_subject.as_str();
    let end = asked(subject).map(|asked| asked.strip_prefix(LATER).unwrap_or(asked));
    let is_its = |queue: &Queue| queue.subject() == subject || (end.is_some() && end == asked(&queue.intake_subject()));
    let kinds = jobs::registry();
    let queue = kinds.kinds().iter().flat_map(Kind::queues).find(is_its);
    queue.is_some_and(|queue| pauses.iter().any(|pause| pause.holds(queue)))
}

pub(super) fn in_words(predictions: &[Prediction]) -> String {
    let mut text = String::new();
    for prediction in Prediction::ALL {
        let count = predictions.iter().filter(|other| **other == prediction).count();
        if count > 0 && (predictions.len() > count || prediction != Prediction::WouldRun) {
            let _ = write!(text, "\n  {count} of them {}", prediction.in_words());
        }
    }
    text
}

pub(super) fn to_json(letters: &[Letter], predictions: &[Prediction]) -> Value {
    letters
        .iter()
        .zip(predictions)
        .map(|(letter, prediction)| json!({ "letter": letter.number, "prediction": prediction.name() }))
        .collect()
}
