//! Claims: the right to send one delivery, and all that is needed to send it.
//!
//! A delivery is claimed before it is sent, and the claim is also the read. The claim's fence — worker, stream sequence
//! and the server's delivery count — keeps a worker that was thought dead from writing over its successor.

use std::{collections::HashMap, fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use sqlx::{Row, postgres::PgRow};

use super::{Store, StoreError, people, runs::first_of_each};
use crate::{kind::Lane, person::Subscription, plan::Content, preferences::Preferences};

/// After how long a claim under another sequence counts as abandoned. Longer than any send may take.
pub const CLAIM_LEASE: TimeDelta = TimeDelta::seconds(60);

/// How long a message waits whose delivery another worker is at. Sends take seconds at most, so that it most often finds
/// the delivery ended when it comes again.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// Deliveries of the same sequence with nothing recorded after which the message counts as one that ends its worker.
pub const CRASHES: i64 = 5;

/// In place of a stream sequence: the claim of the worker that planned the delivery, made when it was planned. There is no
/// message yet.
pub const AT_ONCE: i64 = 0;

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
    /// The text to send, which all of one notification share.
    pub content: Arc<Content>,
    /// The Web Push subscription, while it exists.
    pub subscription: Option<Subscription>,
    /// The webhook, while it exists.
    pub webhook: Option<Webhook>,
    /// Whether the address still is the recipient's, and not known to be gone.
    pub is_theirs: bool,
    /// Whether the job named the channel, so that the recipient's own choice does not count.
    pub named: bool,
    /// Whether it was claimed before and nothing is known of how that ended: perhaps it was sent.
    pub unsettled: bool,
    /// What the recipient wants by now.
    pub preferences: Preferences,
    /// `users.locale`; empty where that is not known.
    pub locale: String,
}

/// A webhook of a user's. Both parts are secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where requests go.
    pub url: String,
    /// What they are signed with, separated by blanks.
    pub secrets: String,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhook(…)")
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
        // A server that has forgotten deliveries in a crash counts them anew. What is on record under the same count is then
        // of a delivery before it, and says nothing of the one that is claimed here.
        let statement = sqlx::query(
            "WITH asked AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[], $7::text[], \
                                                 $8::interval[]) AS a(id, seq, delivered, now, worker, patience)), \
             locked AS (SELECT a.*, d.state, d.claim_seq, d.claim_delivery, d.claimed_by \
                        FROM asked a JOIN deliveries d USING (id) ORDER BY d.id FOR UPDATE OF d), \
             taken AS ( \
                 UPDATE deliveries d SET state = 'sending', reason = NULL, held_until = NULL, claims = claims + 1, \
                        claim_seq = a.seq, claim_delivery = a.delivered, claimed_by = a.worker, claimed_at = a.now, \
                        updated_at = a.now, \
                        recorded_delivery = CASE WHEN d.claim_seq = a.seq THEN least(d.recorded_delivery, a.delivered - 1) ELSE 0 END \
                 FROM locked a \
                 WHERE d.id = a.id \
                   AND (d.state = 'pending' OR (d.state = 'held' AND (COALESCE(d.held_until <= a.now, true) OR d.not_after <= a.now)) \
                        OR (d.state = 'sending' AND CASE WHEN d.claim_seq = a.seq \
                             THEN d.claim_delivery <= a.delivered \
                                  AND ((d.claim_delivery, d.claimed_by) = (a.delivered, a.worker) \
                                       OR d.recorded_delivery >= d.claim_delivery \
                                       OR d.claimed_at < a.now - a.patience) \
                             ELSE d.claimed_at < a.now - $5::interval \
                                  OR (d.claim_seq = 0 AND d.recorded_delivery >= d.claim_delivery) END)) \
                   AND a.delivered - CASE WHEN d.claim_seq = a.seq THEN d.recorded_delivery ELSE 0 END <= $6 \
                 RETURNING d.id, d.job_id, d.user_id, d.channel, d.address, d.lane, d.attempts, d.claims, d.created_at, \
                           d.locale, d.named, \
                           a.state = 'sending' AND (a.claim_seq, a.claim_delivery, a.claimed_by) \
                               IS DISTINCT FROM (a.seq, a.delivered, a.worker) AS unsettled) \
             SELECT t.id, t.job_id, t.user_id, t.address, t.lane, t.attempts, t.claims, t.created_at, t.named, t.unsettled, \
                    c.locale, c.type, c.title, c.body, c.url, c.data, c.tag, s.endpoint, s.p256dh, s.auth, \
                    CASE WHEN t.channel = 'webhook' THEN w.address END AS webhook_url, w.secrets, \
                    COALESCE(CASE WHEN t.channel = 'web_push' THEN s.id IS NOT NULL \
                                  WHEN w.id IS NOT NULL THEN w.state = 'active' \
                                  WHEN t.user_id = '' THEN true \
                                  WHEN t.channel = 'email' THEN btrim(u.email, E' \\t\\r\\n') = t.address \
                                  WHEN t.channel <> 'webhook' THEN btrim(u.phone, E' \\t\\r\\n') = t.address END, false) AS is_theirs, \
                    u.locale AS users_locale, u.timezone, COALESCE(p.channels, q.channels) AS channels, \
                    COALESCE(p.quiet_from, q.quiet_from) AS quiet_from, COALESCE(p.quiet_to, q.quiet_to) AS quiet_to, \
                    COALESCE(p.quiet_zone, q.quiet_zone) AS quiet_zone \
             FROM taken t JOIN contents c ON c.job_id = t.job_id AND c.locale = t.locale \
             LEFT JOIN push_subscriptions s ON t.channel = 'web_push' AND s.id = t.address \
             LEFT JOIN user_addresses w ON t.channel <> 'web_push' AND w.user_id = t.user_id AND w.channel = t.channel \
                 AND CASE WHEN t.channel = 'webhook' THEN w.id ELSE w.address END = t.address \
             LEFT JOIN users u ON u.id = t.user_id \
             LEFT JOIN preferences p ON p.user_id = t.user_id AND p.type = c.type \
             LEFT JOIN preferences q ON q.user_id = t.user_id AND q.type = '*'",
        )
        .bind(order.iter().map(|index| asks[*index].id.as_str()).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].sequence).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].delivered).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].now).collect::<Vec<_>>())
        .bind(CLAIM_LEASE)
        .bind(CRASHES)
        .bind(order.iter().map(|index| &*asks[*index].worker).collect::<Vec<_>>())
        .bind(order.iter().map(|index| asks[*index].patience).collect::<Vec<_>>());
        let rows = self.keyed.fetch_all(statement).await?;
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
        let statement = sqlx::query(
            "SELECT id, state, reason, answer, attempts, held_until, claim_seq, \
                    recorded_delivery FROM deliveries WHERE id = ANY($1)",
        )
        .bind(refused.iter().map(|index| asks[*index].id.as_str()).collect::<Vec<_>>());
        let rows = self.keyed.fetch_all(statement).await?;
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
}

fn read_claim(row: &PgRow) -> Result<Claim, StoreError> {
    let data: Value = row.try_get("data")?;
    let lane: String = row.try_get("lane")?;
    let endpoint: Option<String> = row.try_get("endpoint")?;
    let subscription = match endpoint {
        Some(endpoint) => Some(Subscription { endpoint, p256dh: row.try_get("p256dh")?, auth: row.try_get("auth")? }),
        None => None,
    };
    let webhook = match row.try_get::<Option<String>, _>("webhook_url")? {
        Some(url) => Some(Webhook { url, secrets: row.try_get::<Option<String>, _>("secrets")?.unwrap_or_default() }),
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
        content: Arc::new(Content {
            locale: row.try_get("locale")?,
            kind: row.try_get("type")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            url: row.try_get("url")?,
            data: match data {
                Value::Object(data) => data,
                _ => Map::new(),
            },
            tag: row.try_get("tag")?,
        }),
        subscription,
        webhook,
        is_theirs: row.try_get("is_theirs")?,
        named: row.try_get("named")?,
        unsettled: row.try_get("unsettled")?,
        preferences: Preferences { channels: people::read_channels(row)?, quiet: people::read_quiet_hours(row)? },
        locale: row.try_get::<Option<String>, _>("users_locale")?.unwrap_or_default(),
    })
}

fn refusal(ask: &ClaimAsk, row: &PgRow) -> Result<Claimed, StoreError> {
    let state: String = row.try_get("state")?;
    let attempts: i32 = row.try_get("attempts")?;
    let claim_seq: Option<i64> = row.try_get("claim_seq")?;
    let same_message = claim_seq == Some(ask.sequence);
    let recorded = if same_message { row.try_get::<i64, _>("recorded_delivery")? } else { 0 };
    let held_until: Option<DateTime<Utc>> = row.try_get("held_until")?;
    Ok(match state.as_str() {
        "pending" | "held" | "sending" if ask.delivered - recorded > CRASHES => Claimed::Crashing { attempts },
        "held" => Claimed::Busy(held_until.unwrap_or(ask.now)),
        "pending" | "sending" => Claimed::Busy(ask.now + LOOK_AGAIN),
        // What died when it was sent at once had no message until this one.
        "dead" if same_message || claim_seq == Some(AT_ONCE) => Claimed::Dead {
            reason: row.try_get::<Option<String>, _>("reason")?.unwrap_or_default(),
            error: row.try_get::<Option<String>, _>("answer")?.unwrap_or_default(),
            attempts,
        },
        _ => Claimed::Ended(state),
    })
}
