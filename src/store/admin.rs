//! `admin_tokens` and `admin_sessions`: who may use the console and its API.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Row, postgres::PgRow};

use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
};

/// `last_used_at` and `seen_at` are written no more often.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// A token's row, without its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: String,
    /// Its name, unique among those not revoked.
    pub name: String,
    /// The name of a role.
    pub role: String,
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

/// A session's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The token that it was opened with.
    pub token_id: Option<String>,
    /// Who signed in.
    pub name: String,
    /// The name of a role.
    pub role: String,
    /// When it ends, however busy it is.
    pub ends_at: DateTime<Utc>,
}

impl Store {
    /// Keeps a new token, on record. `false` if another that is not revoked has its name.
    pub async fn add_token(&self, row: &TokenRow, hash: &[u8], act: &AuditEntry) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let added = sqlx::query(
            "INSERT INTO admin_tokens (id, name, hash, role, created_at, created_by, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(&row.id)
        .bind(&row.name)
        .bind(hash)
        .bind(&row.role)
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
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, name, role, created_at, created_by, expires_at, revoked_at, last_used_at \
             FROM admin_tokens ORDER BY created_at DESC, id LIMIT 1000",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(token).collect()
    }

    /// Refuses a token and its sessions from now on, on record, or the sessions of somebody who signed in without one.
    /// `false` if there is none of this name.
    pub async fn revoke_token(&self, name: &str, act: &AuditEntry) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let id: Option<String> = sqlx::query_scalar(
            "UPDATE admin_tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL RETURNING id",
        )
        .bind(name)
        .bind(act.at)
        .fetch_optional(&mut *transaction)
        .await?;
        let ended = sqlx::query("DELETE FROM admin_sessions WHERE token_id = $1 OR (token_id IS NULL AND name = $2)")
            .bind(&id)
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        if id.is_none() && ended.rows_affected() == 0 {
            return Ok(false);
        }
        audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The token with this hash, unless it is revoked or has expired. Notes its use.
    pub async fn token_in_use(&self, hash: &[u8], now: DateTime<Utc>) -> Result<Option<TokenRow>, StoreError> {
        let row = sqlx::query(
            "SELECT id, name, role, created_at, created_by, expires_at, revoked_at, last_used_at FROM admin_tokens \
             WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(hash)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row.as_ref().map(token).transpose()? else { return Ok(None) };
        if row.last_used_at.is_none_or(|used| used < now - NOTED_EVERY) {
            sqlx::query("UPDATE admin_tokens SET last_used_at = $2 WHERE id = $1")
                .bind(&row.id)
                .bind(now)
                .execute(&self.pool)
                .await?;
        }
        Ok(Some(row))
    }

    /// Opens a session, on record. Those that have ended are forgotten.
    pub async fn open_session(&self, hash: &[u8], row: &SessionRow, act: &AuditEntry) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM admin_sessions WHERE ends_at < $1").bind(act.at).execute(&mut *transaction).await?;
        sqlx::query(
            "INSERT INTO admin_sessions (hash, token_id, name, role, created_at, seen_at, ends_at) \
             VALUES ($1, $2, $3, $4, $5, $5, $6)",
        )
        .bind(hash)
        .bind(&row.token_id)
        .bind(&row.name)
        .bind(&row.role)
        .bind(act.at)
        .bind(row.ends_at)
        .execute(&mut *transaction)
        .await?;
        audit::insert(&mut transaction, std::slice::from_ref(act)).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The session with this hash, unless it has ended or was idle for longer than `idle`. Notes its use.
    pub async fn session(
        &self,
        hash: &[u8],
        idle: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Option<SessionRow>, StoreError> {
        let row = sqlx::query(
            "SELECT s.token_id, s.name, s.role, s.ends_at, s.seen_at FROM admin_sessions s \
             LEFT JOIN admin_tokens t ON t.id = s.token_id \
             WHERE s.hash = $1 AND s.ends_at > $2 AND s.seen_at > $3 AND (t.expires_at IS NULL OR t.expires_at > $2)",
        )
        .bind(hash)
        .bind(now)
        .bind(now - idle)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let seen_at: DateTime<Utc> = row.try_get("seen_at")?;
        if seen_at < now - NOTED_EVERY {
            sqlx::query("UPDATE admin_sessions SET seen_at = $2 WHERE hash = $1")
                .bind(hash)
                .bind(now)
                .execute(&self.pool)
                .await?;
        }
        Ok(Some(SessionRow {
            token_id: row.try_get("token_id")?,
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            ends_at: row.try_get("ends_at")?,
        }))
    }

    /// Ends a session.
    pub async fn end_session(&self, hash: &[u8]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM admin_sessions WHERE hash = $1").bind(hash).execute(&self.pool).await?;
        Ok(())
    }
}

fn token(row: &PgRow) -> Result<TokenRow, StoreError> {
    Ok(TokenRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: row.try_get("role")?,
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}
