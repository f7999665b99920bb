//! `deliveries`, the ledger: outcomes of claimed deliveries.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;

use super::{
    asks::first_of_each,
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
    verdict::Verdict,
};
use crate::{
    meta::NO_MESSAGE,
    plan::{Delivered, Reason, Receipt},
};

static RECORD_DELIVERIES: NamedSql = NamedSql::new(include_str!("sql/record_deliveries.sql"));
static RECORD_DIRECT_SENDS: NamedSql = NamedSql::new(include_str!("sql/record_direct_sends.sql"));

/// From this number on, equal direct sends are recorded together.
const LEAST_ALIKE: usize = 3;

/// Direct sends within this time get one `sent_at`. Groups may have waited longer for the database.
const SAME_TIME: TimeDelta = TimeDelta::milliseconds(250);

/// The outcome of a delivery.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// `deliveries.id`.
    pub id: String,
    /// Stream sequence of its message.
    pub sequence: i64,
    /// Delivery count.
    pub delivered: i64,
    /// Worker.
    pub worker: Arc<str>,
    /// Outcome.
    pub record: LedgerRecord,
    /// Time.
    pub now: DateTime<Utc>,
}

/// Outcome of a claimed delivery.
#[derive(Clone, Debug)]
pub enum LedgerRecord {
    /// The provider answered.
    Receipt(Receipt),
    /// Too late now, or by the end of its hold.
    Expired(&'static str),
    /// Nothing to send.
    Skipped(&'static str),
    /// Waits until an instant. No attempt is burnt.
    Held(DateTime<Utc>, &'static str),
    /// Failed or released.
    Verdict(Verdict),
}

rows! {
    struct OutcomeRow<'q> {
        id: &'q str,
        sequence: i64,
        delivered: i64,
        worker: &'q str,
        state: &'static str,
        reason: Option<&'static str>,
        burnt: i32,
        held_until: Option<DateTime<Utc>>,
        provider: Option<&'q str>,
        provider_id: Option<&'q str>,
        answer: Option<&'q str>,
        gone: bool,
        tried: Option<&'q str>,
        now: DateTime<Utc>,
    }
}

impl<'q> OutcomeRow<'q> {
    fn of(entry: &'q LedgerEntry) -> Self {
        let plain = |state| Self {
            id: &entry.id,
            sequence: entry.sequence,
            delivered: entry.delivered,
            worker: &entry.worker,
            state,
            reason: None,
            burnt: 0,
            held_until: None,
            provider: None,
            provider_id: None,
            answer: None,
            gone: false,
            tried: None,
            now: entry.now,
        };
        match &entry.record {
            LedgerRecord::Receipt(receipt) => Self {
                reason: receipt.reason,
                provider: Some(&receipt.provider),
                provider_id: receipt.provider_id.as_deref(),
                answer: Some(&receipt.answer),
                gone: receipt.address_gone,
                tried: receipt.tried.as_deref(),
                ..plain(match receipt.state {
                    Delivered::Sent => "sent",
                    Delivered::Failed => "failed",
                    Delivered::Unknown => "unknown",
                })
            },
            LedgerRecord::Expired(reason) => Self { reason: Some(reason), ..plain("expired") },
            LedgerRecord::Skipped(reason) => Self { reason: Some(reason), ..plain("skipped") },
            LedgerRecord::Held(until, reason) => {
                Self { reason: Some(reason), held_until: Some(*until), ..plain("held") }
            }
            LedgerRecord::Verdict(Verdict::Attempt { error, until: None }) => {
                Self { burnt: 1, answer: Some(error), ..plain("pending") }
            }
            LedgerRecord::Verdict(Verdict::Attempt { error, until: Some(until) }) => Self {
                burnt: 1,
                answer: Some(error),
                reason: Some(Reason::Retry.name()),
                held_until: Some(*until),
                ..plain("held")
            },
            LedgerRecord::Verdict(Verdict::Dead { error, reason }) => {
                Self { burnt: 1, reason: Some(reason.name()), answer: Some(error), ..plain("dead") }
            }
            // It may have been sent, as after a crash. The channel's rule for the next claim decides.
            LedgerRecord::Verdict(Verdict::Released(_)) => plain("sending"),
        }
    }
}

impl Store {
    /// Records outcomes. Answers whether each is on record: false if another worker has claimed the delivery since,
    /// unless the send succeeded. The same record twice counts once.
    ///
    /// # Errors
    /// After any error, the same group may be recorded again.
    pub async fn record_deliveries(&self, entries: &[LedgerEntry]) -> Result<Vec<bool>, StoreError> {
        self.record_overrides(entries).await?;
        let mut order = first_of_each(entries, |entry| &entry.id);
        order.sort_by(|a, b| entries[*a].id.cmp(&entries[*b].id));
        let in_order: Vec<&LedgerEntry> = order.iter().map(|index| &entries[*index]).collect();
        let mut written: HashSet<String> = HashSet::new();
        for group in alike(&in_order) {
            written.extend(self.ids_of(direct_sends(&group)?).await?);
        }
        let rest: Vec<&LedgerEntry> = in_order.into_iter().filter(|entry| !written.contains(&entry.id)).collect();
        if !rest.is_empty() {
            written.extend(self.ids_of(outcomes(&rest)?).await?);
        }
        Ok(entries.iter().map(|entry| written.contains(&entry.id)).collect())
    }

    async fn ids_of(&self, statement: Statement<'_>) -> Result<Vec<String>, StoreError> {
        let rows = self.keyed.fetch_all(statement).await?;
        Ok(rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?)
    }

    /// Records which deliveries were sent in quiet hours, in any state and under any claim. Comes before the outcomes,
    /// so that none lacks it.
    async fn record_overrides(&self, entries: &[LedgerEntry]) -> Result<(), StoreError> {
        let overrode =
            |entry: &&LedgerEntry| matches!(&entry.record, LedgerRecord::Receipt(of) if of.overrode_quiet_hours);
        let ids: Vec<&str> = entries.iter().filter(overrode).map(|entry| entry.id.as_str()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let statement = sqlx::query(
            "WITH locked AS (SELECT id FROM deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE) \
             UPDATE deliveries d SET overrode_quiet_hours = true, \
                    reason = CASE WHEN d.state IN ('sent', 'delivered') THEN COALESCE(d.reason, 'quiet_hours_overridden') \
                                  ELSE d.reason END \
             FROM locked WHERE d.id = locked.id",
        )
        .bind(ids);
        self.keyed.execute(statement).await
    }
}

/// Successful direct sends by outcome. Omits small groups.
fn alike<'e>(entries: &[&'e LedgerEntry]) -> Vec<Vec<&'e LedgerEntry>> {
    let mut groups: Vec<(&Receipt, DateTime<Utc>, Vec<&LedgerEntry>)> = Vec::new();
    for entry in entries.iter().copied() {
        let LedgerEntry { record, sequence: NO_MESSAGE, now, .. } = entry else { continue };
        let LedgerRecord::Receipt(receipt) = record else { continue };
        if receipt.state != Delivered::Sent || receipt.provider_id.is_some() || receipt.address_gone {
            continue;
        }
        match groups.iter_mut().find(|(of, at, _)| *of == receipt && (*now - *at).abs() < SAME_TIME) {
            Some((.., group)) => group.push(entry),
            None => groups.push((receipt, *now, vec![entry])),
        }
    }
    groups.into_iter().map(|(.., group)| group).filter(|group| group.len() >= LEAST_ALIKE).collect()
}

fn direct_sends<'q>(entries: &[&'q LedgerEntry]) -> Result<Statement<'q>, StoreError> {
    let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    let outcome = OutcomeRow::of(entries[0]);
    RECORD_DIRECT_SENDS
        .bind()
        .value("ids", ids)
        .value("state", outcome.state)
        .value("reason", outcome.reason)
        .value("provider", outcome.provider)
        .value("answer", outcome.answer)
        .value("now", outcome.now)
        .value("delivered", outcome.delivered)
        .value("sequence", outcome.sequence)
        .value("worker", outcome.worker)
        .statement()
}

fn outcomes<'q>(entries: &[&'q LedgerEntry]) -> Result<Statement<'q>, StoreError> {
    RECORD_DELIVERIES.bind().rows("outcomes", entries.iter().map(|entry| OutcomeRow::of(entry))).statement()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_name_what_is_bound() {
        let entry = LedgerEntry {
            id: "a".into(),
            sequence: NO_MESSAGE,
            delivered: 1,
            worker: "one".into(),
            record: LedgerRecord::Expired("expired"),
            now: DateTime::UNIX_EPOCH,
        };
        assert!(outcomes(&[&entry]).is_ok());
        assert!(direct_sends(&[&entry]).is_ok());
    }
}
