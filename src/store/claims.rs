//! Claims: the right to send one delivery.
//!
//! The claim also reads all that is needed to send. Its fence (worker, stream sequence, delivery count) keeps a worker
//! that was taken for dead from overwriting its successor.

use std::{collections::HashMap, fmt, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value};
use sqlx::{Row, postgres::PgRow};

use super::{
    asks::first_of_each,
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
    people::{read_channels, read_quiet_hours},
};
use crate::{kind::Lane, meta::NO_MESSAGE, person::Subscription, plan::Content, preferences::Preferences};

static CLAIM_DELIVERIES: NamedSql = NamedSql::new(include_str!("sql/claim_deliveries.sql"));

/// The rest of a claim's lease, beside the longest send: from the claim to its beginning, and from its end to its
/// record.
pub const AROUND_A_SEND: TimeDelta = TimeDelta::seconds(10);

/// Wait while another worker sends the delivery. Sends take seconds at most.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(5);

/// Deliveries of one sequence with nothing recorded, after which the message counts as killing its workers.
pub const CRASHES: i64 = 5;

rows! {
    struct ClaimRow<'q> {
        id: &'q str,
        sequence: i64,
        delivered: i64,
        now: DateTime<Utc>,
        worker: &'q str,
        patience: TimeDelta,
        lease: TimeDelta,
    }
}

/// A request to send one delivery.
#[derive(Clone, Debug)]
pub struct ClaimAsk {
    /// `deliveries.id`.
    pub id: String,
    /// Stream sequence of its message.
    pub sequence: i64,
    /// Delivery count.
    pub delivered: i64,
    /// Asking worker.
    pub worker: Arc<str>,
    /// Age at which another worker's claim by the same message counts as dead (`effects::silence`). A redelivery before
    /// that comes from a server that lost its state in a crash; the other worker may be alive.
    pub patience: TimeDelta,
    /// Age at which a claim by another message, or a direct send, counts as dead: the longest send and
    /// [`AROUND_A_SEND`].
    pub lease: TimeDelta,
    /// Time.
    pub now: DateTime<Utc>,
}

/// Outcome of a claim.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// This worker sends it.
    Taken(Box<Claim>),
    /// It ended in this state.
    Ended(String),
    /// Recorded as dead under this message, which still has to be dead-lettered.
    Dead {
        /// `deliveries.reason`.
        reason: String,
        /// Last error.
        error: String,
        /// Recorded failures.
        attempts: i32,
    },
    /// Held, or sent by another worker: ask again then.
    Busy(DateTime<Utc>),
    /// An earlier delivery of the same message claimed it: ask again then, when its worker counts as dead.
    Again(DateTime<Utc>),
    /// Delivered repeatedly with nothing recorded: it kills its workers.
    Crashing {
        /// Recorded failures.
        attempts: i32,
    },
    /// No such row.
    Missing,
}

/// A claimed delivery, ready to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// `deliveries.id`.
    pub id: String,
    /// Root job.
    pub root_id: String,
    /// The recipient; empty for a raw address.
    pub user_id: String,
    /// `deliveries.address`.
    pub address: String,
    /// Lane.
    pub lane: Lane,
    /// Recorded failures.
    pub attempts: i32,
    /// Number of claims, including this one.
    pub claims: i32,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// The text, shared by a notification's deliveries.
    pub content: Arc<Content>,
    /// The Web Push subscription, if it still exists.
    pub subscription: Option<Subscription>,
    /// The webhook, if it still exists.
    pub webhook: Option<Webhook>,
    /// Whether the address still belongs to the recipient and is not known to be gone.
    pub is_theirs: bool,
    /// Whether the job named the channel, which overrides the recipient's choice.
    pub named: bool,
    /// Whether an earlier claim may have sent it.
    pub unsettled: bool,
    /// Recipient's current preferences.
    pub preferences: Preferences,
    /// `users.locale`; empty if unknown.
    pub locale: String,
}

/// A user's webhook. Both parts are secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// URL.
    pub url: String,
    /// Signing secrets, separated by blanks.
    pub secrets: String,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhook(…)")
    }
}

impl Store {
    /// Claims deliveries. Answers in the order asked. If a group asks twice for a row, the second ask is busy.
    pub async fn claim_deliveries(&self, asks: &[ClaimAsk]) -> Result<Vec<Claimed>, StoreError> {
        let order = first_of_each(asks, |ask| &ask.id);
        let rows = self.keyed.fetch_all(claim(order.iter().map(|index| &asks[*index]))?).await?;
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

    /// Rare, hence a second statement.
    async fn explain_refusals(&self, asks: &[ClaimAsk], answers: &mut [Option<Claimed>]) -> Result<(), StoreError> {
        let refused: Vec<usize> = (0..asks.len()).filter(|index| answers[*index].is_none()).collect();
        if refused.is_empty() {
            return Ok(());
        }
        let statement = sqlx::query(
            "SELECT id, state, reason, answer, attempts, held_until, claim_seq, claimed_at, \
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

fn claim<'q>(asks: impl Iterator<Item = &'q ClaimAsk>) -> Result<Statement<'q>, StoreError> {
    let asks = asks.map(|ask| ClaimRow {
        id: &ask.id,
        sequence: ask.sequence,
        delivered: ask.delivered,
        now: ask.now,
        worker: &ask.worker,
        patience: ask.patience,
        lease: ask.lease,
    });
    CLAIM_DELIVERIES.bind().rows("asks", asks).value("crashes", CRASHES).statement()
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
        preferences: Preferences { channels: read_channels(row)?, quiet: read_quiet_hours(row)? },
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
    let claimed_at = row.try_get::<Option<DateTime<Utc>>, _>("claimed_at")?.unwrap_or(ask.now);
    Ok(match state.as_str() {
        "pending" | "held" | "sending" if ask.delivered - recorded > CRASHES => Claimed::Crashing { attempts },
        "held" => Claimed::Busy(held_until.unwrap_or(ask.now)),
        "sending" if same_message => Claimed::Again(claimed_at + ask.patience),
        "pending" | "sending" => Claimed::Busy((ask.now + LOOK_AGAIN).min(claimed_at + ask.lease)),
        // A dead direct send had no message until now.
        "dead" if same_message || claim_seq == Some(NO_MESSAGE) => Claimed::Dead {
            reason: row.try_get::<Option<String>, _>("reason")?.unwrap_or_default(),
            error: row.try_get::<Option<String>, _>("answer")?.unwrap_or_default(),
            attempts,
        },
        _ => Claimed::Ended(state),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(super::claim(std::iter::empty()).is_ok());
    }
}
