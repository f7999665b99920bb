//! `pauses`: queues, channels and providers that people have stopped.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row, Transaction, postgres::PgRow};

use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
};
use crate::pauses::{Pause, Scope};

/// NOTIFY channel for changes of pauses.
pub const PAUSES_CHANGED: &str = "carebell_pauses";

impl Store {
    /// The pauses that hold at `now`.
    pub async fn pauses(&self, now: DateTime<Utc>) -> Result<Vec<Pause>, StoreError> {
        let rows = sqlx::query(
            "SELECT scope, name, reason, actor, since, until FROM pauses WHERE until IS NULL OR until > $1 \
             ORDER BY scope, name",
        )
        .bind(now)
        .fetch_all(&self.pool)
        .await?;
        let mut pauses = Vec::with_capacity(rows.len());
        for row in &rows {
            pauses.extend(read(row)?);
        }
        Ok(pauses)
    }

    /// Pauses, or changes the pause that holds, which keeps its beginning. Tells the workers.
    pub async fn pause(&self, pause: &Pause, act: &AuditEntry) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO pauses AS p (scope, name, reason, actor, since, until) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (scope, name) DO UPDATE SET reason = EXCLUDED.reason, actor = EXCLUDED.actor, \
                 until = EXCLUDED.until, since = CASE WHEN p.until <= EXCLUDED.since THEN EXCLUDED.since ELSE p.since END",
        )
        .bind(pause.scope.name())
        .bind(&pause.name)
        .bind(&pause.reason)
        .bind(&pause.actor)
        .bind(pause.since)
        .bind(pause.until)
        .execute(&mut *transaction)
        .await?;
        announce(&mut transaction, act).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends a pause. False, without an audit entry, if there is none that holds.
    pub async fn resume(&self, scope: Scope, name: &str, act: &AuditEntry) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        // With those that have ended by themselves.
        let rows = sqlx::query(
            "DELETE FROM pauses WHERE (scope = $1 AND name = $2) OR until <= $3 \
             RETURNING scope = $1 AND name = $2 AND COALESCE(until > $3, true) AS is_this",
        )
        .bind(scope.name())
        .bind(name)
        .bind(act.at)
        .fetch_all(&mut *transaction)
        .await?;
        let mut resumed = false;
        for row in &rows {
            resumed |= row.try_get::<bool, _>("is_this")?;
        }
        if resumed {
            announce(&mut transaction, act).await?;
        }
        transaction.commit().await?;
        Ok(resumed)
    }
}

/// Audits the act and wakes the workers.
async fn announce(transaction: &mut Transaction<'_, Postgres>, act: &AuditEntry) -> Result<(), StoreError> {
    audit::insert(transaction, std::slice::from_ref(act)).await?;
    sqlx::query("SELECT pg_notify($1, '')").bind(PAUSES_CHANGED).execute(&mut **transaction).await?;
    Ok(())
}

/// `None` if a newer program wrote it.
fn read(row: &PgRow) -> Result<Option<Pause>, StoreError> {
    let Some(scope) = Scope::parse(row.try_get("scope")?) else { return Ok(None) };
    Ok(Some(Pause {
        scope,
        name: row.try_get("name")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        since: row.try_get("since")?,
        until: row.try_get("until")?,
    }))
}
