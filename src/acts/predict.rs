//! What would become of a job that is tried again, before it is.

use std::{fmt::Write as _, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    dead_letter::Letter,
    header,
    intake::asked,
    jobs,
    kind::{Kind, LATER, Queue},
    pauses::Pause,
    pipeline::{Decoder, Form},
    store::{Store, StoreError},
};

/// What would become of a job that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// It would run.
    WouldRun,
    /// It would wait for the end of a pause.
    Paused,
    /// It would wait again for the end of its recipient's quiet hours.
    QuietHours,
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
    const ALL: [Self; 7] = [
        Self::WouldRun,
        Self::Paused,
        Self::QuietHours,
        Self::WouldExpire,
        Self::AlreadySent,
        Self::AlreadyEnded,
        Self::Cancelled,
    ];

    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WouldRun => "would_run",
            Self::Paused => "paused",
            Self::QuietHours => "quiet_hours",
            Self::WouldExpire => "would_expire",
            Self::AlreadySent => "already_sent",
            Self::AlreadyEnded => "already_ended",
            Self::Cancelled => "cancelled",
        }
    }

    /// Of one job, as a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::WouldRun => "it would run now",
            Self::Paused => "it would wait: its queue is paused",
            Self::QuietHours => "it would wait again: its recipient's quiet hours last",
            Self::WouldExpire => "it would expire, and tell nobody",
            Self::AlreadySent => "it was done or sent before: nothing would follow",
            Self::AlreadyEnded => "it has ended before: nothing would follow",
            Self::Cancelled => "it is cancelled, and would be refused",
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Self::WouldRun => "would run",
            Self::Paused => "would wait: their queue is paused (`carebell queues list`)",
            Self::QuietHours => "would wait again: quiet hours last",
            Self::WouldExpire => "would expire; --not-after extends it",
            Self::AlreadySent => "were done or sent before: nothing would follow",
            Self::AlreadyEnded => "have ended before: nothing would follow",
            Self::Cancelled => "are cancelled, and would be refused",
        }
    }
}

/// The predictions for letters, in their order. `not_after` replaces their expiries.
///
/// # Errors
/// If the database does not answer.
pub async fn of_letters(
    store: &Store,
    letters: &[Letter],
    not_after: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Vec<Prediction>, StoreError> {
    let ids: Vec<&str> = letters.iter().map(|letter| letter.job_id.as_str()).collect();
    let (states, pauses) = (store.states_of(&ids).await?, store.pauses(now).await?);
    let one = |letter: &Letter| {
        match states.get(&letter.job_id).map(|(state, reason)| (state.as_str(), reason.as_deref())) {
            Some(("skipped", Some("cancelled"))) => return Prediction::Cancelled,
            Some(("done" | "sent" | "delivered", _)) => return Prediction::AlreadySent,
            Some(("skipped" | "expired" | "failed" | "unknown", _)) => return Prediction::AlreadyEnded,
            _ => {}
        }
        match not_after.or_else(|| expiry(letter, now)) {
            Some(end) if end <= now => Prediction::WouldExpire,
            _ if is_paused(&letter.original_subject, &pauses) => Prediction::Paused,
            _ => Prediction::WouldRun,
        }
    };
    Ok(letters.iter().map(one).collect())
}

/// The prediction for a parked job that would be woken. `subject` is the one that it comes back on.
#[must_use]
pub fn of_parked(
    subject: &str,
    reason: Option<&str>,
    not_after: Option<DateTime<Utc>>,
    pauses: &[Pause],
    now: DateTime<Utc>,
) -> Prediction {
    match (not_after, reason) {
        (Some(end), _) if end <= now => Prediction::WouldExpire,
        (_, Some("quiet_hours")) => Prediction::QuietHours,
        // By a pause of its provider, which other deliveries of its queue need not have.
        (_, Some("paused")) => Prediction::Paused,
        _ if is_paused(subject, pauses) => Prediction::Paused,
        _ => Prediction::WouldRun,
    }
}

/// The job's expiry if published now: its header's, else its kind's.
#[must_use]
pub fn expiry(letter: &Letter, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Some(said) = letter.headers.get(header::NOT_AFTER) {
        let said = DateTime::parse_from_rfc3339(said.as_str()).ok()?;
        return Some(said.with_timezone(&Utc));
    }
    let job = decoder(letter).ok()?.decode(&letter.body, form(letter)).ok()?;
    Some(job.default_expiry(now))
}

/// What reads a letter's body.
///
/// # Errors
/// If this version does not know its kind.
pub fn decoder(letter: &Letter) -> Result<Arc<dyn Decoder>, String> {
    let registry = jobs::registry();
    let kind = registry.kinds().iter().find(|kind| kind.name == letter.kind).copied();
    kind.and_then(|kind| registry.decoder(kind))
        .ok_or_else(|| format!("this version does not know the kind {:?}", letter.kind))
}

/// The form of a letter's body.
#[must_use]
pub fn form(letter: &Letter) -> Form {
    let json = letter.headers.get(header::CONTENT_TYPE).is_some_and(|form| form.as_str().contains("json"));
    if json { Form::Json } else { Form::Protobuf }
}

fn is_paused(subject: &str, pauses: &[Pause]) -> bool {
    let kinds = jobs::registry();
    let queue = kinds.kinds().iter().flat_map(Kind::queues).find(|queue| is_of_queue(queue, subject));
    queue.is_some_and(|queue| pauses.iter().any(|pause| pause.holds(queue)))
}

/// Whether a message with this subject is of a queue.
pub(super) fn is_of_queue(queue: &Queue, subject: &str) -> bool {
    let end = asked(subject).map(|asked| asked.strip_prefix(LATER).unwrap_or(asked));
    queue.subject() == subject || (end.is_some() && end == asked(&queue.intake_subject()))
}

/// How many of them meet each fate, one a line.
#[must_use]
pub fn in_words(predictions: &[Prediction]) -> String {
    let mut text = String::new();
    for prediction in Prediction::ALL {
        let count = predictions.iter().filter(|other| **other == prediction).count();
        if count > 0 && (predictions.len() > count || prediction != Prediction::WouldRun) {
            let _ = write!(text, "\n  {count} of them {}", prediction.in_words());
        }
    }
    text
}

/// As JSON, by letter.
#[must_use]
pub fn to_json(letters: &[Letter], predictions: &[Prediction]) -> Value {
    letters
        .iter()
        .zip(predictions)
        .map(|(letter, prediction)| json!({ "letter": letter.number, "prediction": prediction.name() }))
        .collect()
}
