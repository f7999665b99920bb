//! `deliveries`, the ledger: one row per job, user, channel and address.
//!
//! A delivery is claimed before it is sent, and the claim is also the read. The claim's fence — worker, stream sequence
//! and the server's delivery count — keeps a worker that was thought dead from writing over its successor.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message;
use serde_json::{Map, Value};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    Store, StoreError, Subscription,
    runs::{Child, Commit, Verdict, first_of_each},
};
use crate::{
    kind::Lane,
    plan::{Content, Delivered, Reason, Receipt},
    wire,
};

/// After how long a claim under another sequence counts as abandoned. Longer than any send may take.
pub const CLAIM_LEASE: TimeDelta = TimeDelta::seconds(60);

/// How long a message waits whose delivery another worker is at. Sends take seconds at most, so that it most often finds
/// the delivery ended when it comes again.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// Deliveries of the same sequence with nothing recorded after which the message counts as one that ends its worker.
pub const CRASHES: i64 = 5;

/// A wish to send one delivery.
#[derive(Clone, Debug)]
pub struct ClaimAsk {
    /// `deliveries.id`.
    pub id: String,
    /// The stream sequence of its message.
    pub sequence: i64,
    /// The server's delivery count.
    pub delivered: i64,
    /// Who asks.
    pub worker: Arc<str>,
    /// How old another worker's claim by the same message must be to count as that of a dead worker. Half an `ack_wait`:
    /// a redelivery that comes sooner is that of a server which has forgotten a delivery in a crash, and the other lives.
    pub patience: TimeDelta,
    /// The instant.
    pub now: DateTime<Utc>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// It is this worker's to send.
    Taken(Box<Claim>),
    /// It has ended, in this state.
    Ended(String),
    /// It was recorded as dead under this very message, which is therefore still to be dead-lettered.
    Dead {
        /// `deliveries.reason`.
        reason: String,
        /// What the last failure said.
        error: String,
        /// Recorded failures.
        attempts: i32,
    },
    /// It waits, or another worker is at it: ask again at this instant.
    Busy(DateTime<Utc>),
    /// Its message was delivered again and again with nothing recorded: it ends the workers that run it.
    Crashing {
        /// Recorded failures.
        attempts: i32,
    },
    /// The ledger has no such row.
    Missing,
}

/// A delivery that is this worker's to send, and all that is needed to send it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// `deliveries.id`.
    pub id: String,
    /// The job that an application published.
    pub root_id: String,
    /// Whom it is for; empty for a raw address.
    pub user_id: String,
    /// The address as the ledger has it.
    pub address: String,
    /// How urgent it is.
    pub lane: Lane,
    /// Recorded failures so far.
    pub attempts: i32,
    /// How often it was claimed, this time included.
    pub claims: i32,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// The text to send.
    pub content: Content,
    /// The Web Push subscription, while it exists.
    pub subscription: Option<Subscription>,
}

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
    /// It came too late.
    Expired,
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
            answer: None,
            gone: false,
        };
        match self {
            Self::Receipt(receipt) => Columns {
                reason: receipt.reason,
                provider: Some(&receipt.provider),
                answer: Some(&receipt.answer),
                gone: receipt.address_gone,
                ..plain(match receipt.state {
                    Delivered::Sent => "sent",
                    Delivered::Failed => "failed",
                    Delivered::Unknown => "unknown",
                })
            },
            Self::Expired => Columns { reason: Some("expired"), ..plain("expired") },
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
    /// Claims deliveries for sending; answers in the order asked. A row asked for twice in one group is claimed once,
    /// and busy for the second.
    ///
    /// # Errors
    /// If the database does not answer; then nothing is claimed.
    pub async fn claim_deliveries(&self, asks: &[ClaimAsk]) -> Result<Vec<Claimed>, StoreError> {
        let order = first_of_each(asks, |ask| &ask.id);
        let rows = sqlx::query(
            "WITH asked AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[], $7::text[], \
                                                 $8::interval[]) AS a(id, seq, delivered, now, worker, patience)), \
             locked AS (SELECT d.id FROM deliveries d JOIN asked USING (id) ORDER BY d.id FOR UPDATE OF d), \
             taken AS ( \
                 UPDATE deliveries d SET state = 'sending', reason = NULL, held_until = NULL, claims = claims + 1, \
                        claim_seq = a.seq, claim_delivery = a.delivered, claimed_by = a.worker, claimed_at = a.now, \
                        updated_at = a.now, \
                        recorded_delivery = CASE WHEN d.claim_seq = a.seq THEN d.recorded_delivery ELSE 0 END \
                 FROM asked a JOIN locked USING (id) \
                 WHERE d.id = a.id \
                   AND (d.state = 'pending' OR (d.state = 'held' AND (COALESCE(d.held_until <= a.now, true) OR d.not_after <= a.now)) \
                        OR (d.state = 'sending' AND CASE WHEN d.claim_seq = a.seq \
                             THEN d.claim_delivery <= a.delivered \
                                  AND ((d.claim_delivery, d.claimed_by) = (a.delivered, a.worker) \
                                       OR d.recorded_delivery >= d.claim_delivery \
                                       OR d.claimed_at < a.now - a.patience) \
                             ELSE d.claimed_at < a.now - $5::interval END)) \
                   AND a.delivered - CASE WHEN d.claim_seq = a.seq THEN d.recorded_delivery ELSE 0 END <= $6 \
                 RETURNING d.id, d.job_id, d.user_id, d.channel, d.address, d.lane, d.attempts, d.claims, d.created_at) \
             SELECT t.id, t.job_id, t.user_id, t.address, t.lane, t.attempts, t.claims, t.created_at, \
                    c.type, c.title, c.body, c.url, c.data, c.tag, s.endpoint, s.p256dh, s.auth \
             FROM taken t JOIN contents c ON c.job_id = t.job_id \
             LEFT JOIN push_subscriptions s ON t.channel = 'web_push' AND s.id = t.address",
        )
        .bind(order.iter().map(|index| asks[*index].id.as_str()).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].sequence).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].delivered).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].now).collect::<Vec<_>>())
        .bind(CLAIM_LEASE)
        .bind(CRASHES)
        .bind(order.iter().map(|index| &*asks[*index].worker).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].patience).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let mut taken = HashMap::with_capacity(rows.len());
        for row in rows {
            let claim = read_claim(&row)?;
            taken.insert(claim.id.clone(), claim);
        }
        let mut answers: Vec<Option<Claimed>> = vec![None; asks.len()];
        for index in order {
            answers[index] = taken.remove(&asks[index].id).map(|claim| Claimed::Taken(Box::new(claim)));
        }
        self.explain_refusals(asks, &mut answers).await?;
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Claimed::Missing)).collect())
    }

    /// Finds out why rows could not be claimed. Rare, so a second statement.
    async fn explain_refusals(&self, asks: &[ClaimAsk], answers: &mut [Option<Claimed>]) -> Result<(), StoreError> {
        let refused: Vec<usize> = (0..asks.len()).filter(|index| answers[*index].is_none()).collect();
        if refused.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query(
            "SELECT id, state, reason, answer, attempts, held_until, claim_seq, \
                    recorded_delivery FROM deliveries WHERE id = ANY($1)",
        )
        .bind(refused.iter().map(|index| asks[*index].id.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let mut found: HashMap<String, PgRow> = HashMap::with_capacity(rows.len());
        for row in rows {
            found.insert(row.try_get("id")?, row);
        }
        for index in refused {
            if let Some(row) = found.get(&asks[index].id) {
                answers[index] = Some(refusal(&asks[index], row)?);
            }
        }
        Ok(())
    }

    /// Writes what became of deliveries; answers whether each is on record. One that another worker has claimed since
    /// is not, except that a send that succeeded is always recorded. The same record twice counts once.
    ///
    /// # Errors
    /// On any error nothing is written.
    pub async fn record_deliveries(&self, entries: &[LedgerEntry]) -> Result<Vec<bool>, StoreError> {
        let mut order = first_of_each(entries, |entry| &entry.id);
        order.sort_by(|a, b| entries[*a].id.cmp(&entries[*b].id));
        let columns: Vec<Columns<'_>> = order.iter().map(|index| entries[*index].record.columns()).collect();
        let written: Vec<String> = sqlx::query_scalar(
            "WITH said AS ( \
                 SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::text[], \
                                      $6::text[], $7::int[], $8::timestamptz[], $9::text[], $10::text[], $11::boolean[], \
                                      $12::text[]) \
                      AS s(id, seq, delivered, now, state, reason, burnt, held_until, provider, answer, gone, worker)), \
             locked AS (SELECT d.id FROM deliveries d JOIN said USING (id) ORDER BY d.id FOR UPDATE OF d), \
             ended AS (SELECT p.id FROM push_subscriptions p \
                       JOIN deliveries d ON d.channel = 'web_push' AND d.address = p.id \
                       JOIN said s ON s.id = d.id WHERE s.gone ORDER BY p.id FOR UPDATE OF p), \
             removed AS (DELETE FROM push_subscriptions p USING ended WHERE p.id = ended.id), \
             written AS (UPDATE deliveries d SET state = s.state, reason = s.reason, attempts = d.attempts + s.burnt, \
                    held_until = s.held_until, provider = COALESCE(s.provider, d.provider), \
                    answer = COALESCE(s.answer, d.answer), recorded_delivery = s.delivered, updated_at = s.now \
             FROM said s JOIN locked USING (id) \
             WHERE d.id = s.id AND (d.state = 'sending' OR (d.state IN ('pending', 'held', 'dead') AND s.state = 'sent')) \
               AND (s.state = 'sent' OR (d.claim_seq, d.claim_delivery, d.claimed_by) = (s.seq, s.delivered, s.worker)) \
             RETURNING d.id) \
             SELECT id FROM written \
             UNION SELECT d.id FROM deliveries d JOIN said s USING (id) \
             WHERE (d.claim_seq, d.claim_delivery, d.recorded_delivery, d.claimed_by) \
                 = (s.seq, s.delivered, s.delivered, s.worker)",
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
        .fetch_all(&self.pool)
        .await?;
        let written: std::collections::HashSet<String> = written.into_iter().collect();
        Ok(entries.iter().map(|entry| written.contains(&entry.id)).collect())
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

    /// The messages of the deliveries that a run planned and that nobody has claimed yet.
    pub(super) async fn pending_deliveries(&self, run_id: &str) -> Result<Vec<Child>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, job_id, subject, not_after, trace FROM deliveries \
             WHERE run_id = $1 AND state = 'pending' AND claims = 0 AND subject IS NOT NULL ORDER BY id",
        )
        .bind(run_id)
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

fn read_claim(row: &PgRow) -> Result<Claim, StoreError> {
    let data: Value = row.try_get("data")?;
    let lane: String = row.try_get("lane")?;
    let endpoint: Option<String> = row.try_get("endpoint")?;
    let subscription = match endpoint {
        Some(endpoint) => Some(Subscription { endpoint, p256dh: row.try_get("p256dh")?, auth: row.try_get("auth")? }),
        None => None,
    };
    Ok(Claim {
        id: row.try_get("id")?,
        root_id: row.try_get("job_id")?,
        user_id: row.try_get("user_id")?,
        address: row.try_get("address")?,
        lane: Lane::parse(&lane).unwrap_or(Lane::Normal),
        attempts: row.try_get("attempts")?,
        claims: row.try_get("claims")?,
        created_at: row.try_get("created_at")?,
        content: Content {
            kind: row.try_get("type")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            url: row.try_get("url")?,
            data: match data {
                Value::Object(data) => data,
                _ => Map::new(),
            },
            tag: row.try_get("tag")?,
        },
        subscription,
    })
}

fn refusal(ask: &ClaimAsk, row: &PgRow) -> Result<Claimed, StoreError> {
    let state: String = row.try_get("state")?;
    let attempts: i32 = row.try_get("attempts")?;
    let same_message = row.try_get::<Option<i64>, _>("claim_seq")? == Some(ask.sequence);
    let recorded = if same_message { row.try_get::<i64, _>("recorded_delivery")? } else { 0 };
    let held_until: Option<DateTime<Utc>> = row.try_get("held_until")?;
    Ok(match state.as_str() {
        "pending" | "held" | "sending" if ask.delivered - recorded > CRASHES => Claimed::Crashing { attempts },
        "held" => Claimed::Busy(held_until.unwrap_or(ask.now)),
        "pending" | "sending" => Claimed::Busy(ask.now + LOOK_AGAIN),
        "dead" if same_message => Claimed::Dead {
            reason: row.try_get::<Option<String>, _>("reason")?.unwrap_or_default(),
            error: row.try_get::<Option<String>, _>("answer")?.unwrap_or_default(),
            attempts,
        },
        _ => Claimed::Ended(state),
    })
}

/// Writes the ledger rows of these runs. A row that is there already stays as it is.
pub(super) async fn insert(connection: &mut PgConnection, commits: &[&Commit]) -> Result<(), StoreError> {
    let planned: Vec<_> =
        commits.iter().flat_map(|commit| commit.plan.deliveries.iter().map(move |row| (*commit, row))).collect();
    if planned.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, subject, state, reason, \
                                 not_after, trace, created_at, updated_at) \
         SELECT id, job_id, run_id, user_id, channel, address, lane, subject, \
                CASE WHEN subject IS NULL THEN 'held' ELSE 'pending' END, \
                CASE WHEN subject IS NULL THEN 'no_channel' END, not_after, trace, now, now \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                     $9::timestamptz[], $10::text[], $11::timestamptz[]) \
              AS d(id, job_id, run_id, user_id, channel, address, lane, subject, not_after, trace, now) \
         ON CONFLICT (job_id, user_id, channel, address) DO NOTHING",
    )
    .bind(planned.iter().map(|(_, row)| row.id.as_str()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(commit, _)| commit.meta.root_id.as_str()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(commit, _)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(_, row)| row.user_id.as_str()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(_, row)| row.channel.name()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(_, row)| row.address.as_str()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(_, row)| row.lane.name()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(_, row)| row.sender.map(|kind| kind.subject(row.lane))).collect::<Vec<_>>())
    .bind(planned.iter().map(|(commit, _)| commit.not_after).collect::<Vec<_>>())
    .bind(planned.iter().map(|(commit, _)| commit.meta.trace.as_deref()).collect::<Vec<_>>())
    .bind(planned.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
