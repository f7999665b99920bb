//! `gateway_tokens` and `gateway_jobs`: who may publish over HTTP, and which job an id stands for.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{Row, postgres::PgRow};

use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
};

static OFFER_JOBS: NamedSql = NamedSql::new(include_str!("sql/offer_jobs.sql"));

/// As long as the records of jobs.
const KEEP: TimeDelta = TimeDelta::days(90);

/// `last_used_at` is written no more often.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Rows that one statement prunes.
const PRUNED_TOGETHER: i64 = 5000;

/// A token of an application, without its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayToken {
    /// Its id.
    pub id: String,
    /// Its name, unique among those not revoked.
    pub name: String,
    /// Its application; empty if there is only one.
    pub application: String,
    /// Kinds that it may publish; `reminder.*` stands for a family.
    pub kinds: Vec<String>,
    /// Jobs a second in each process, if limited.
    pub rate: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// By whom.
    pub created_by: String,
    /// From when it is refused.
    pub expires_at: Option<DateTime<Utc>>,
    /// Since when it is refused.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Last use, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A job that is about to be published.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its id, with its application.
    pub job_id: String,
    /// SHA-256 of kind, lane and body.
    pub digest: [u8; 32],
    /// Its kind.
    pub kind: &'static str,
    /// Its lane, if the kind has some.
    pub lane: Option<&'static str>,
    /// When it is due, if it is delayed.
    pub due: Option<DateTime<Utc>>,
}

/// Whether an id is free for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is, or was that of a delayed job that this one replaces.
    New,
    /// It is the id of the same job.
    Same,
    /// It is another job's.
    Conflict,
}

/// How far a producer's job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobState {
    /// Its kind; empty if it was cancelled before that was known.
    pub kind: String,
    /// Its lane, if the kind has some.
    pub lane: Option<String>,
    /// When the gateway accepted it, if it came that way.
    pub accepted_at: Option<DateTime<Utc>>,
    /// When it is or was due, if delayed.
    pub due_at: Option<DateTime<Utc>>,
    /// `waiting`, `fired` or `cancelled`, if it was delayed and a worker has read it.
    pub delay: Option<String>,
    /// Its run, if there is one.
    pub run: Option<JobRun>,
    /// Its result, if it has one.
    pub result: Option<Value>,
    /// Percent and words of its endpoint, if it is a task under way.
    pub progress: (Option<i16>, Option<String>),
    /// The run of the notification that it planned, if it is a reminder.
    pub notification: Option<JobRun>,
    /// Its deliveries: those that go on, those sent, those ended otherwise.
    pub deliveries: [i64; 3],
    /// The last change of these.
    pub deliveries_at: Option<DateTime<Utc>>,
}

/// A run of a [`JobState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRun {
    /// As in `RunRecord::state`.
    pub state: String,
    /// Reason of the state.
    pub reason: Option<String>,
    /// Recorded failures.
    pub attempts: i32,
    /// Last error.
    pub error: Option<String>,
    /// Last write.
    pub at: DateTime<Utc>,
}

rows! {
    struct OfferRow<'q> {
        job_id: &'q str,
        digest: &'q [u8],
        kind: &'q str,
        lane: Option<&'q str>,
        due_at: Option<DateTime<Utc>>,
    }
}

impl Store {
    /// Keeps a new token, on record. `false` if another that is not revoked has its name.
    pub async fn add_gateway_token(
        &self,
        row: &GatewayToken,
        hash: &[u8],
        act: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let added = sqlx::query(
            "INSERT INTO gateway_tokens (id, name, hash, application, kinds, rate, created_at, created_by, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        )
        .bind(&row.id)
        .bind(&row.name)
        .bind(hash)
        .bind(&row.application)
        .bind(&row.kinds)
        .bind(row.rate)
        .bind(row.created_at)
        .bind(&row.created_by)
        .bind(row.expires_at)
        .execute(&mut *transaction)
        .await?;
        if added.rows_affected() == 0 {
            return Ok(false);
        }
        audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// All tokens, newest first.
    pub async fn gateway_tokens(&self) -> Result<Vec<GatewayToken>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, name, application, kinds, rate, created_at, created_by, expires_at, revoked_at, last_used_at \
             FROM gateway_tokens ORDER BY created_at DESC, id LIMIT 1000",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(token).collect()
    }

    /// Refuses a token from now on, on record. `false` if there is none of this name.
    pub async fn revoke_gateway_token(&self, name: &str, act: &AuditEntry) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let revoked = sqlx::query("UPDATE gateway_tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL")
            .bind(name)
            .bind(act.at)
            .execute(&mut *transaction)
            .await?;
        if revoked.rows_affected() == 0 {
            return Ok(false);
        }
        audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The token with this hash, unless it is revoked or has expired. Notes its use.
    pub async fn gateway_token(&self, hash: &[u8], now: DateTime<Utc>) -> Result<Option<GatewayToken>, StoreError> {
        let row = sqlx::query(
            "SELECT id, name, application, kinds, rate, created_at, created_by, expires_at, revoked_at, last_used_at \
             FROM gateway_tokens WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(hash)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row.as_ref().map(token).transpose()? else { return Ok(None) };
        if row.last_used_at.is_none_or(|used| used < now - NOTED_EVERY) {
            sqlx::query("UPDATE gateway_tokens SET last_used_at = $2 WHERE id = $1")
                .bind(&row.id)
                .bind(now)
                .execute(&self.pool)
                .await?;
        }
        Ok(Some(row))
    }

    /// Notes jobs before they are published. Each has an id of its own. Answers in the order asked.
    pub async fn offer_jobs(&self, offers: &[Offer], now: DateTime<Utc>) -> Result<Vec<Offered>, StoreError> {
        let rows = self.keyed.fetch_all(offer(offers, now)?).await?;
        let mut answers = HashMap::with_capacity(rows.len());
        for row in rows {
            let answer = match (row.try_get("is_same")?, row.try_get("is_taken")?) {
                (true, _) => Offered::Same,
                (false, true) => Offered::New,
                (false, false) => Offered::Conflict,
            };
            answers.insert(row.try_get::<String, _>("job_id")?, answer);
        }
        Ok(offers.iter().map(|offer| answers.get(&offer.job_id).copied().unwrap_or(Offered::Conflict)).collect())
    }

    /// How far these jobs have come, those of which there is any record.
    pub async fn job_states(&self, job_ids: &[String]) -> Result<HashMap<String, JobState>, StoreError> {
        let rows = sqlx::query(include_str!("sql/job_states.sql")).bind(job_ids).fetch_all(&self.pool).await?;
        let mut states = HashMap::with_capacity(rows.len());
        for row in &rows {
            if let Some(state) = state(row)? {
                states.insert(row.try_get("job_id")?, state);
            }
        }
        Ok(states)
    }

    /// Forgets jobs that were accepted long ago. Returns whether there are more.
    pub async fn prune_gateway_jobs(&self, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let removed = sqlx::query(
            "DELETE FROM gateway_jobs WHERE job_id IN (SELECT job_id FROM gateway_jobs WHERE keep_until < $1 \
             ORDER BY keep_until LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now)
        .bind(PRUNED_TOGETHER)
        .execute(&self.pool)
        .await?;
        Ok(removed.rows_affected() > 0)
    }
}

fn offer(offers: &[Offer], now: DateTime<Utc>) -> Result<Statement<'_>, StoreError> {
    let rows = offers.iter().map(|offer| OfferRow {
        job_id: &offer.job_id,
        digest: &offer.digest,
        kind: offer.kind,
        lane: offer.lane,
        due_at: offer.due,
    });
    OFFER_JOBS.bind().rows("offers", rows).value("now", now).value("keep", KEEP).statement()
}

fn state(row: &PgRow) -> Result<Option<JobState>, StoreError> {
    let run = match row.try_get::<Option<String>, _>("run")? {
        None => None,
        Some(state) => Some(JobRun {
            state,
            reason: row.try_get("reason")?,
            attempts: row.try_get("attempts")?,
            error: row.try_get("last_error")?,
            at: row.try_get("run_at")?,
        }),
    };
    let notification = match row.try_get::<Option<String>, _>("notification")? {
        None => None,
        Some(state) => Some(JobRun {
            state,
            reason: row.try_get("notification_reason")?,
            attempts: 0,
            error: None,
            at: row.try_get("notification_at")?,
        }),
    };
    let state = JobState {
        kind: row.try_get::<Option<String>, _>("kind")?.unwrap_or_default(),
        lane: row.try_get("lane")?,
        accepted_at: row.try_get("accepted_at")?,
        due_at: row.try_get("due_at")?,
        delay: row.try_get("delay")?,
        run,
        result: row.try_get("result")?,
        progress: (row.try_get("percent")?, row.try_get("note")?),
        notification,
        deliveries: [
            row.try_get("deliveries_open")?,
            row.try_get("deliveries_sent")?,
            row.try_get("deliveries_unsent")?,
        ],
        deliveries_at: row.try_get("deliveries_at")?,
    };
    let is_known = state.accepted_at.is_some() || state.delay.is_some() || state.run.is_some();
    Ok(is_known.then_some(state))
}

fn token(row: &PgRow) -> Result<GatewayToken, StoreError> {
    Ok(GatewayToken {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        application: row.try_get("application")?,
        kinds: row.try_get("kinds")?,
        rate: row.try_get("rate")?,
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(super::offer(&[], chrono::DateTime::UNIX_EPOCH).is_ok());
    }
}
