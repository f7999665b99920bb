//! Redrives and discards dead letters, on record.
//!
//! Each step is safe to repeat: make the delivery's ledger row claimable, publish the job, write the audit entry,
//! delete the letter. After a crash the letter remains; redriving it again publishes the same job id, without a second
//! effect.

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::json;

use super::{Letter, Letters, lineage_header};
use crate::{
    clock::Clock,
    effects::{
        publish::{self, rfc3339},
        submit::NotSubmitted,
    },
    header,
    intake::asked,
    kind::{LATER, WORK},
    plan::DeadReason,
    store::{AuditEntry, Store},
    telemetry::traces,
};

/// Most letters processed at once.
pub const CHUNK: usize = 100;

/// Changes to the redriven job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// A new body, as JSON.
    pub body: Option<Bytes>,
    /// A new `Carebell-Not-After`.
    pub not_after: Option<DateTime<Utc>>,
    /// New headers; an empty value removes one.
    pub headers: Vec<(String, String)>,
    /// The operation that this is a part of, for the audit log.
    pub operation: Option<i64>,
}

/// Redrives and discards letters for an actor.
pub struct Redriver<'a> {
    /// `JetStream`.
    pub context: &'a jetstream::Context,
    /// The dead letters.
    pub letters: &'a Letters,
    /// Holds the audit log.
    pub store: &'a Store,
    /// The time.
    pub clock: &'a Clock,
    /// Named in the audit log.
    pub actor: &'a str,
}

impl Redriver<'_> {
    /// Redrives at most [`CHUNK`] letters. Returns each letter's result, in order.
    ///
    /// # Errors
    /// If the database does not answer. Trying again has no second effect.
    pub async fn redrive(&self, letters: &[Letter], change: &Change) -> Result<Vec<Result<(), String>>, String> {
        let deliveries: Vec<&str> =
            letters.iter().filter(|letter| is_delivery(letter)).map(|letter| letter.job_id.as_str()).collect();
        let now = self.clock.now();
        if !deliveries.is_empty() {
            let revived = self.store.revive_deliveries(&deliveries, change.not_after, now).await;
            revived.map_err(|error| error.to_string())?;
        }
        let ids: Vec<&str> = letters.iter().map(|letter| letter.job_id.as_str()).collect();
        let cancelled = self.store.cancelled_among(&ids).await.map_err(|error| error.to_string())?;
        let publish = async |letter: &Letter| {
            if cancelled.contains(&letter.job_id) {
                return Err("the job is cancelled, and a redrive would have no effect: discard the letter".to_owned());
            }
            self.publish(letter, change).await
        };
        let sent = join_all(letters.iter().map(publish)).await;
        let went: Vec<&Letter> =
            letters.iter().zip(&sent).filter(|(_, sent)| sent.is_ok()).map(|(letter, _)| letter).collect();
        self.write_down("dead_letter.redriven", &went, change, None).await?;
        let removed = join_all(went.iter().map(|letter| self.letters.remove(letter.number))).await;
        let mut removed = removed.into_iter();
        Ok(sent.into_iter().map(|sent| sent.and_then(|()| removed.next().unwrap_or(Ok(())))).collect())
    }

    /// Discards at most [`CHUNK`] letters. Their jobs stay recorded as dead.
    ///
    /// # Errors
    /// If the database or the server does not answer. The rest can be discarded again.
    pub async fn discard(&self, letters: &[Letter], why: Option<&str>) -> Result<(), String> {
        self.discard_for(letters, why, None).await
    }

    /// Discards at most [`CHUNK`] letters as a part of an operation.
    ///
    /// # Errors
    /// As those of [`discard`](Self::discard).
    pub async fn discard_for(
        &self,
        letters: &[Letter],
        why: Option<&str>,
        operation: Option<i64>,
    ) -> Result<(), String> {
        // After an interrupted redrive, the delivery would stay pending for ever.
        for letter in letters.iter().filter(|letter| is_delivery(letter)) {
            let reason = DeadReason::parse(&letter.reason).unwrap_or(DeadReason::Permanent);
            let given_up = self.store.give_up(&letter.job_id, reason, &letter.error, self.clock.now()).await;
            given_up.map_err(|error| error.to_string())?;
        }
        let all: Vec<&Letter> = letters.iter().collect();
        self.write_down("dead_letter.discarded", &all, &Change { operation, ..Change::default() }, why).await?;
        for removed in join_all(letters.iter().map(|letter| self.letters.erase(letter.number))).await {
            removed?;
        }
        Ok(())
    }

    async fn publish(&self, letter: &Letter, change: &Change) -> Result<(), String> {
        let body = change.body.clone().unwrap_or_else(|| letter.body.clone());
        // The letter's headers were checked, so it comes back as Carebell's own.
        let kind = asked(&letter.original_subject).map(|asked| asked.strip_prefix(LATER).unwrap_or(asked));
        let subject = &kind.map_or_else(|| letter.original_subject.clone(), |kind| format!("{WORK}{kind}"));
        let mut headers = headers(letter, change);
        let mut span = traces::send(subject, Some(&letter.job_id), 1, publish::trace(&headers).as_deref());
        publish::set_trace(&mut headers, span.trace());
        let sent = publish::send(self.context, subject, headers, body).await;
        sent.map(|_| ()).map_err(|error| {
            span.failed(&error.to_string());
            NotSubmitted::new(&error, subject, letter.job_id.clone()).to_string()
        })
    }

    async fn write_down(
        &self,
        action: &str,
        letters: &[&Letter],
        change: &Change,
        why: Option<&str>,
    ) -> Result<(), String> {
        if letters.is_empty() {
            return Ok(());
        }
        let at = self.clock.now();
        let entries: Vec<AuditEntry> = letters
            .iter()
            .map(|letter| {
                let mut detail = json!({
                    "letter": letter.number.to_string(),
                    "subject": letter.subject,
                    "kind": letter.kind,
                    "reason": letter.reason,
                    "died_at": letter.last,
                    "redrives": letter.redrives,
                    "edited": change.body.is_some() || !change.headers.is_empty(),
                    "not_after": change.not_after,
                    "why": why,
                });
                if let Some(operation) = change.operation {
                    detail["operation"] = operation.to_string().into();
                }
                AuditEntry {
                    at,
                    actor: self.actor.to_owned(),
                    action: action.to_owned(),
                    job_id: Some(letter.job_id.clone()),
                    root_id: Some(letter.root_id.clone()),
                    detail,
                }
            })
            .collect();
        self.store.record_audit(&entries).await.map_err(|error| error.to_string())
    }
}

/// Whether the job's body is only a ledger id.
#[must_use]
pub fn is_delivery(letter: &Letter) -> bool {
    letter.original_subject.starts_with("deliver.")
}

/// The job's headers with its id, lineage and a new message id, since the old one would count as a duplicate.
fn headers(letter: &Letter, change: &Change) -> HeaderMap {
    let mut set: Vec<(&str, String)> = Vec::new();
    if change.body.is_some() {
        set.push((header::CONTENT_TYPE, "application/json".into()));
    }
    if let Some(not_after) = change.not_after {
        set.push((header::NOT_AFTER, rfc3339(not_after)));
    }
    set.extend(change.headers.iter().map(|(name, value)| (name.as_str(), value.clone())));
    set.extend([
        (header::JOB_ID, letter.job_id.clone()),
        (header::MSG_ID, format!("{}:{}", letter.subject, letter.number)),
        (lineage_header::REDRIVES, (letter.redrives + 1).to_string()),
        (lineage_header::FROM, letter.subject.clone()),
    ]);
    let mut headers = HeaderMap::new();
    for (name, values) in letter.headers.iter() {
        let text: &str = name.as_ref();
        // To people, header names ignore case.
        let is_set = set.iter().any(|(other, _)| other.eq_ignore_ascii_case(text));
        // What replaces the delayed job does not replace one that somebody sends off by hand. Its loss has been counted.
        let is_of_its_wait = [header::DELAYED_BY, header::PARKED_AS, header::DUE, header::WAITS].contains(&text);
        let is_dropped = text.starts_with("Nats-") || text.starts_with("Carebell-Dead-") || is_of_its_wait;
        if !is_set && !is_dropped {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    for (name, value) in set.into_iter().filter(|(_, value)| !value.is_empty()) {
        headers.insert(canonical(name), value.as_str());
    }
    headers
}

/// The pipeline's lookups are case-sensitive.
fn canonical(name: &str) -> &str {
    let known =
        [header::AT, header::NOT_AFTER, header::ATTEMPTS, header::BACKOFF, header::TIMEOUT, header::CONTENT_TYPE];
    known
        .into_iter()
        .chain([header::NOTIFY, header::TRACEPARENT, header::TRACESTATE])
        .find(|known| known.eq_ignore_ascii_case(name))
        .unwrap_or(name)
}
