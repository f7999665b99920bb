//! `audit_log`: manual actions.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{database::Store, error::StoreError};

/// One manual action.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// Time.
    pub at: DateTime<Utc>,
    /// Who acted.
    pub actor: String,
    /// For example `dead_letter.redriven`.
    pub action: String,
    /// Job.
    pub job_id: Option<String>,
    /// Root job.
    pub root_id: Option<String>,
    /// Further ids and reasons; no personal text.
    pub detail: Value,
}

/// Selects actions. Unset fields match all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActFilter {
    /// Who acted.
    pub actor: Option<String>,
    /// For example `dead_letter.redriven`.
    pub action: Option<String>,
    /// A job, or its root.
    pub job: Option<String>,
}

impl Store {
    /// Records actions, all or none.
    pub async fn record_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        insert(&mut connection, entries).await
    }

    /// Actions, newest first, each with its number: those before `before`, at most `limit`.
    pub async fn acts(
        &self,
        filter: &ActFilter,
        before: i64,
        limit: i64,
    ) -> Result<Vec<(i64, AuditEntry)>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, at, actor, action, job_id, root_id, detail FROM audit_log \
             WHERE id < $1 AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3) \
             AND ($4::text IS NULL OR root_id = $4 OR job_id = $4) ORDER BY id DESC LIMIT $5",
        )
        .bind(before)
        .bind(&filter.actor)
        .bind(&filter.action)
        .bind(&filter.job)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, read(row)?))).collect()
    }

    /// Actions on a job and its descendants, oldest first.
    pub async fn audit_of(&self, root_id: &str) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT at, actor, action, job_id, root_id, detail FROM audit_log WHERE root_id = $1 OR job_id = $1 ORDER BY at, id",
        )
        .bind(root_id)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// The last action on the dead letter `number`.
    pub async fn audit_of_letter(&self, number: u64) -> Result<Option<AuditEntry>, StoreError> {
        let row = sqlx::query(
            "SELECT at, actor, action, job_id, root_id, detail FROM audit_log \
             WHERE action LIKE 'dead_letter.%' AND detail ->> 'letter' = $1 ORDER BY id DESC LIMIT 1",
        )
        .bind(number.to_string())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read).transpose()
    }
}

pub(super) async fn insert(connection: &mut PgConnection, entries: &[AuditEntry]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_log (at, actor, action, job_id, root_id, detail) \
         SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[])",
    )
    .bind(entries.iter().map(|entry| entry.at).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.actor.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.job_id.as_deref()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.root_id.as_deref()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| &entry.detail).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

fn read(row: &PgRow) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        at: row.try_get("at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        job_id: row.try_get("job_id")?,
        root_id: row.try_get("root_id")?,
        detail: row.try_get("detail")?,
    })
}
