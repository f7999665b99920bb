//! `deliveries`, the ledger: one row per job, user, channel and address.
//! `claims.rs` says who may send one.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message;
use sqlx::Row;

use super::{
    AT_ONCE, ClaimAsk, Store, StoreError,
    commits::Statement,
    runs::{Child, Commit, Verdict, first_of_each},
};
use crate::{
    plan::{Delivered, PlannedDelivery, Reason, Receipt, Unsent},
    wire,
};

/// What a worker writes of a delivery.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    /// `deliveries.id`.
    pub id: String,
    /// The stream sequence of its message.
    pub sequence: i64,
    /// The server's delivery count.
    pub delivered: i64,
    /// Who says it.
    pub worker: Arc<str>,
    /// What is written.
    pub record: LedgerRecord,
    /// The instant.
    pub now: DateTime<Utc>,
}

/// What became of a claimed delivery.
#[derive(Clone, Debug)]
pub enum LedgerRecord {
    /// The other side answered.
    Receipt(Receipt),
    /// It came too late, or would have.
    Expired(&'static str),
    /// There was nothing to send.
    Skipped(&'static str),
    /// It waits until an instant; no attempt is burnt.
    Held(DateTime<Utc>, &'static str),
    /// It failed, or is given back.
    Verdict(Verdict),
}

/// The columns that a record sets.
struct Columns<'a> {
    state: &'static str,
    reason: Option<&'a str>,
    burnt: i32,
    held_until: Option<DateTime<Utc>>,
    provider: Option<&'a str>,
    provider_id: Option<&'a str>,
    answer: Option<&'a str>,
    gone: bool,
}

impl LedgerRecord {
    fn columns(&self) -> Columns<'_> {
        let plain = |state| Columns {
            state,
            reason: None,
            burnt: 0,
            held_until: None,
            provider: None,
            provider_id: None,
            answer: None,
            gone: false,
        };
        match self {
            Self::Receipt(receipt) => Columns {
                reason: receipt.reason,
                provider: Some(&receipt.provider),
                provider_id: receipt.provider_id.as_deref(),
                answer: Some(&receipt.answer),
                gone: receipt.address_gone,
                ..plain(match receipt.state {
                    Delivered::Sent => "sent",
                    Delivered::Failed => "failed",
                    Delivered::Unknown => "unknown",
                })
            },
            Self::Expired(reason) => Columns { reason: Some(reason), ..plain("expired") },
            Self::Skipped(reason) => Columns { reason: Some(reason), ..plain("skipped") },
            Self::Held(until, reason) => Columns { reason: Some(reason), held_until: Some(*until), ..plain("held") },
            Self::Verdict(Verdict::Attempt { error, until: None }) => {
                Columns { burnt: 1, answer: Some(error), ..plain("pending") }
            }
            Self::Verdict(Verdict::Attempt { error, until: Some(until) }) => Columns {
                burnt: 1,
                answer: Some(error),
                reason: Some(Reason::Retry.name()),
                held_until: Some(*until),
                ..plain("held")
            },
            Self::Verdict(Verdict::Dead { error, reason }) => {
                Columns { burnt: 1, reason: Some(reason.name()), answer: Some(error), ..plain("dead") }
            }
            // Whether it was sent is open, as after a crash: the next claim decides by its channel's rule.
            Self::Verdict(Verdict::Released) => plain("sending"),
        }
    }
}

impl Store {
    /// Writes what became of deliveries; answers whether each is on record. One that another worker has claimed since
    /// is not, except that a send that succeeded is always recorded. The same record twice counts once.
    ///
    /// # Errors
    /// On any error the group may be put again as it is.
    pub async fn record_deliveries(&self, entries: &[LedgerEntry]) -> Result<Vec<bool>, StoreError> {
        self.note_overridden(entries).await?;
        let mut order = first_of_each(entries, |entry| &entry.id);
        order.sort_by(|a, b| entries[*a].id.cmp(&entries[*b].id));
        let mut written = HashSet::new();
        for alike in alike(entries, &order) {
            written.extend(self.record_alike(entries, &alike).await?);
        }
        order.retain(|index| !written.contains(&entries[*index].id));
        if !order.is_empty() {
            written.extend(self.record_each(entries, &order).await?);
        }
        Ok(entries.iter().map(|entry| written.contains(&entry.id)).collect())
    }

    /// Records what has the same to be said of it by those who have claimed it: no row needs values of its own.
    async fn record_alike(&self, entries: &[LedgerEntry], alike: &[usize]) -> Result<Vec<String>, StoreError> {
        let Some(entry) = alike.first().map(|index| &entries[*index]) else { return Ok(Vec::new()) };
        let columns = entry.record.columns();
        let statement = sqlx::query(
            "UPDATE deliveries SET state = $2, reason = $3, held_until = NULL, provider = COALESCE($4, provider), \
                    answer = COALESCE($5, answer), sent_at = $6, recorded_delivery = $7, updated_at = $6 \
             WHERE id = ANY($1) AND state = 'sending' AND (claim_seq, claim_delivery, claimed_by) = ($8, $7, $9) \
             RETURNING id",
        )
        .bind(alike.iter().map(|index| entries[*index].id.as_str()).collect::<Vec<_>>())
        .bind(columns.state)
        .bind(columns.reason)
        .bind(columns.provider)
        .bind(columns.answer)
        .bind(entry.now)
        .bind(entry.delivered)
        .bind(entry.sequence)
        .bind(&*entry.worker);
        let rows = self.keyed.fetch_all(statement).await?;
        Ok(rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?)
    }

    async fn record_each(&self, entries: &[LedgerEntry], order: &[usize]) -> Result<Vec<String>, StoreError> {
        let columns: Vec<Columns<'_>> = order.iter().map(|index| entries[*index].record.columns()).collect();
        // What is locked is read as it is then: a provider's report may have been written while this waited for the row.
        let statement = sqlx::query(
            "WITH said AS ( \
                 SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::text[], \
                                      $6::text[], $7::int[], $8::timestamptz[], $9::text[], $10::text[], $11::boolean[], \
                                      $12::text[], $13::text[]) \
                      AS s(id, seq, delivered, now, state, reason, burnt, held_until, provider, answer, gone, worker, \
                           provider_id)), \
             locked AS (SELECT s.*, d.claim_seq, d.claim_delivery, d.recorded_delivery, d.claimed_by, d.user_id, d.channel, \
                               d.address \
                        FROM said s JOIN deliveries d USING (id) ORDER BY d.id FOR UPDATE OF d), \
             ended AS (SELECT p.id FROM locked l JOIN push_subscriptions p ON l.channel = 'web_push' AND p.id = l.address \
                       WHERE l.gone ORDER BY p.id FOR UPDATE OF p), \
             removed AS (DELETE FROM push_subscriptions p USING ended WHERE p.id = ended.id), \
             marked AS (INSERT INTO user_addresses (user_id, channel, address, state, reason, created_at, updated_at) \
                 SELECT DISTINCT ON (user_id, channel, address) user_id, channel, address, 'gone', reason, now, now \
                 FROM locked WHERE gone AND channel NOT IN ('web_push', 'webhook') ORDER BY user_id, channel, address \
                 ON CONFLICT (user_id, channel, address) DO UPDATE \
                     SET state = 'gone', reason = EXCLUDED.reason, updated_at = EXCLUDED.updated_at), \
             disabled AS (UPDATE user_addresses w SET state = 'gone', reason = l.reason, updated_at = l.now \
                 FROM locked l WHERE l.gone AND l.channel = 'webhook' AND w.id = l.address), \
             written AS (UPDATE deliveries d SET state = s.state, reason = s.reason, attempts = d.attempts + s.burnt, \
                    held_until = s.held_until, provider = COALESCE(s.provider, d.provider), \
                    provider_id = COALESCE(s.provider_id, d.provider_id), answer = COALESCE(s.answer, d.answer), \
                    sent_at = CASE WHEN s.state = 'sent' THEN s.now ELSE d.sent_at END, recorded_delivery = s.delivered, updated_at = s.now \
             FROM locked s \
             WHERE d.id = s.id AND (d.state = 'sending' OR (d.state IN ('pending', 'held', 'dead', 'unknown', 'expired', 'skipped') \
                    AND s.state = 'sent')) \
               AND (s.state = 'sent' OR (d.claim_seq, d.claim_delivery, d.claimed_by) = (s.seq, s.delivered, s.worker)) \
             RETURNING d.id, s.burnt, s.now, s.answer), \
             attempts AS (INSERT INTO delivery_attempts (delivery_id, at, answer) \
                 SELECT id, now, answer FROM written WHERE burnt = 1 ON CONFLICT DO NOTHING) \
             SELECT id FROM written \
             UNION ALL SELECT id FROM locked \
             WHERE (claim_seq, claim_delivery, recorded_delivery, claimed_by) = (seq, delivered, delivered, worker)",
        )
        .bind(order.iter().map(|index| entries[*index].id.as_str()).collect::<Vec<_>>())
        .bind(order.iter().map(|index| entries[*index].sequence).collect::<Vec<_>>())
        .bind(order.iter().map(|index| entries[*index].delivered).collect::<Vec<_>>())
        .bind(order.iter().map(|index| entries[*index].now).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.state).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.reason).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.burnt).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.held_until).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.provider).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.answer).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.gone).collect::<Vec<_>>())
        .bind(order.iter().map(|index| &*entries[*index].worker).collect::<Vec<_>>())
        .bind(columns.iter().map(|columns| columns.provider_id).collect::<Vec<_>>());
        let rows = self.keyed.fetch_all(statement).await?;
        Ok(rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?)
    }

    /// Notes of deliveries that they were sent in quiet hours: before what became of them is recorded, so that it is on
    /// record with it, and whatever a report has made of the row by then. Sent they were, whoever has claimed them since.
    async fn note_overridden(&self, entries: &[LedgerEntry]) -> Result<(), StoreError> {
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

    /// Records a delivery as dead that was never claimed, because its message ends its workers.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn record_crashed_delivery(&self, ask: &ClaimAsk, error: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET state = 'dead', reason = 'crashed', answer = $2, claim_seq = $3, \
                    claim_delivery = $4, claimed_by = $6, recorded_delivery = $4, updated_at = $5 \
             WHERE id = $1 AND state IN ('pending', 'held', 'sending')",
        )
        .bind(&ask.id)
        .bind(error)
        .bind(ask.sequence)
        .bind(ask.delivered)
        .bind(ask.now)
        .bind(&*ask.worker)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes deliveries that are dead claimable again, as if none of their failures had been. Others stay as they are.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn revive_deliveries(
        &self,
        ids: &[&str],
        not_after: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "WITH locked AS (SELECT id FROM deliveries WHERE id = ANY($1) AND state = 'dead' ORDER BY id FOR UPDATE) \
             UPDATE deliveries d SET state = 'pending', reason = NULL, attempts = 0, held_until = NULL, \
                    recorded_delivery = 0, claim_seq = NULL, claim_delivery = NULL, claimed_by = NULL, claimed_at = NULL, \
                    not_after = COALESCE($2, d.not_after), updated_at = $3 \
             FROM locked WHERE d.id = locked.id",
        )
        .bind(ids)
        .bind(not_after)
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives up what this worker has claimed of a run's deliveries as it planned them, and does not send.
    ///
    /// # Errors
    /// If the database does not answer; then others wait until the lease has run out.
    pub async fn release_at_once(&self, run_id: &str, worker: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET recorded_delivery = claim_delivery \
             WHERE job_id = (SELECT root_id FROM job_runs WHERE job_id = $1) AND run_id = $1 \
               AND state = 'sending' AND claim_seq = $3 AND claimed_by = $2",
        )
        .bind(run_id)
        .bind(worker)
        .bind(AT_ONCE)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The messages of the deliveries that a run planned and that nobody has claimed yet, or that its worker was to send at
    /// once and had claimed before `before`: whoever has to ask for them finds that worker dead.
    pub(super) async fn pending_deliveries(
        &self,
        run_id: &str,
        before: DateTime<Utc>,
    ) -> Result<Vec<Child>, StoreError> {
        let rows = sqlx::query(
            "WITH run AS (SELECT root_id FROM job_runs WHERE job_id = $1), \
             released AS (UPDATE deliveries SET recorded_delivery = claim_delivery \
                 WHERE job_id = (SELECT root_id FROM run) AND run_id = $1 \
                   AND state = 'sending' AND claim_seq = $3 AND claimed_at < $2) \
             SELECT id, job_id, subject, not_after, trace FROM deliveries \
             WHERE job_id = (SELECT root_id FROM run) AND run_id = $1 AND subject IS NOT NULL \
               AND ((state = 'pending' AND claims = 0) \
                    OR (claim_seq = $3 AND state IN ('pending', 'held', 'sending', 'dead'))) ORDER BY id",
        )
        .bind(run_id)
        .bind(before)
        .bind(AT_ONCE)
        .fetch_all(&self.pool)
        .await?;
        let mut children = Vec::with_capacity(rows.len());
        for row in rows {
            let id: String = row.try_get("id")?;
            children.push(Child {
                body: wire::Delivery { delivery_id: id.clone() }.encode_to_vec(),
                job_id: id,
                root_id: row.try_get("job_id")?,
                subject: row.try_get("subject")?,
                not_after: row.try_get("not_after")?,
                trace: row.try_get("trace")?,
            });
        }
        Ok(children)
    }
}

/// Deliveries of the short way that were sent, by what is to be said of them: most of a group, and most often all the same.
/// Of fewer than this each is recorded by itself.
const ALIKE: usize = 3;

/// What is sent within this is recorded as sent at one instant. A group may have waited for the database for longer.
const SAME_TIME: TimeDelta = TimeDelta::milliseconds(250);

fn alike(entries: &[LedgerEntry], order: &[usize]) -> Vec<Vec<usize>> {
    let mut kinds: Vec<(&Receipt, DateTime<Utc>, Vec<usize>)> = Vec::new();
    for index in order {
        let LedgerEntry { record, sequence: AT_ONCE, now, .. } = &entries[*index] else { continue };
        let LedgerRecord::Receipt(receipt) = record else { continue };
        if receipt.state != Delivered::Sent || receipt.provider_id.is_some() || receipt.address_gone {
            continue;
        }
        match kinds.iter_mut().find(|(of, at, _)| *of == receipt && (*now - *at).abs() < SAME_TIME) {
            Some((.., alike)) => alike.push(*index),
            None => kinds.push((receipt, *now, vec![*index])),
        }
    }
    kinds.into_iter().map(|(.., alike)| alike).filter(|alike| alike.len() >= ALIKE).collect()
}

/// Binds the ledger rows that these runs plan: the last parameters of a commit.
pub(super) fn bind<'q>(statement: Statement<'q>, commits: &[&'q Commit]) -> Statement<'q> {
    let planned: Vec<_> =
        commits.iter().flat_map(|commit| commit.plan.deliveries.iter().map(move |row| (*commit, row))).collect();
    statement
        .bind(planned.iter().map(|(_, row)| row.id.as_str()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(commit, _)| commit.meta.root_id.as_str()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(commit, _)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| row.user_id.as_str()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| row.channel.name()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| row.address.as_str()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| row.lane.name()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| subject(row)).collect::<Vec<_>>())
        .bind(planned.iter().map(|(commit, _)| commit.not_after).collect::<Vec<_>>())
        .bind(planned.iter().map(|(commit, _)| commit.meta.trace.as_deref()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
        .bind(
            planned
                .iter()
                .map(|(commit, row)| claimer(commit, row).map_or(begins(row).0, |_| "sending"))
                .collect::<Vec<_>>(),
        )
        .bind(planned.iter().map(|(_, row)| begins(row).1).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| row.locale.as_str()).collect::<Vec<_>>())
        .bind(planned.iter().map(|(_, row)| row.named).collect::<Vec<_>>())
        .bind(planned.iter().map(|(commit, row)| claimer(commit, row)).collect::<Vec<_>>())
}

/// Who sends a delivery as soon as it is planned, if anybody does.
fn claimer<'q>(commit: &'q Commit, row: &PlannedDelivery) -> Option<&'q str> {
    let at_once = commit.at_once.as_ref().filter(|at_once| at_once.ids.contains(&row.id))?;
    Some(&at_once.worker)
}

/// Where the message of a delivery is published; nowhere where it is never sent.
fn subject(row: &PlannedDelivery) -> Option<String> {
    row.unsent.is_none().then(|| row.channel.kind().subject(row.lane))
}

/// The state that a delivery begins in, and why.
fn begins(row: &PlannedDelivery) -> (&'static str, Option<&'static str>) {
    match row.unsent {
        None => ("pending", None),
        Some(Unsent::NoChannel) => ("failed", Some("no_channel")),
        Some(Unsent::NoAddress) => ("failed", Some("no_address")),
        Some(Unsent::NotNamed) => ("skipped", Some("not_named")),
        Some(Unsent::NotOptedIn) => ("skipped", Some("not_opted_in")),
    }
}
