//! `schedules`: saved schedules.

mod types;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row, Transaction, postgres::PgRow};

pub use self::types::{Advance, Edit, NextDue, NextInstant, PublishedInstant, Replace, ScheduleRow, ScheduleSpec};
use super::{
    audit::{self, AuditEntry},
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
};
use crate::schedule::ZoneData;

static SAVE_SCHEDULE: NamedSql = NamedSql::new(include_str!("sql/save_schedule.sql"));
static ADVANCE_SCHEDULES: NamedSql = NamedSql::new(include_str!("sql/advance_schedules.sql"));

/// NOTIFY channel for changes of schedules.
pub const CHANGED: &str = "carebell_schedules";

rows! {
    struct AdvanceRow<'q> {
        id: &'q str,
        next_at: Option<DateTime<Utc>>,
        due_at: Option<DateTime<Utc>>,
        last_at: Option<DateTime<Utc>>,
        last_job_id: Option<&'q str>,
        fired: i64,
        missed: i64,
        note: Option<&'q str>,
    }
}

/// Due schedules, locked for this scheduler. Dropping it changes nothing.
pub struct DueSchedules {
    transaction: Transaction<'static, Postgres>,
    /// Schedules.
    pub rows: Vec<ScheduleRow>,
}

const COLUMNS: &str = "id, name, kind, lane, payload, expression, zone, gap, fold, missed, missed_limit, missed_seconds, \
    jitter_seconds, expiry_seconds, starts_at, ends_at, paused, owner, next_at, due_at, last_at, last_job_id, fired, \
    missed_count, last_note, created_at, created_by, changed_at, changed_by";

impl Store {
    /// Saves a schedule and audits it. One that is replaced keeps its id and counts. Answers whether it was saved.
    pub async fn save_schedule(
        &self,
        id: &str,
        spec: &ScheduleSpec,
        next: NextInstant,
        replace: Replace,
        act: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        if let Replace::IfLastChanged(at) = replace {
            let changed: Option<DateTime<Utc>> =
                sqlx::query_scalar("SELECT changed_at FROM schedules WHERE name = $1 FOR UPDATE")
                    .bind(&spec.name)
                    .fetch_optional(&mut *transaction)
                    .await?;
            if changed != Some(at) {
                return Ok(false);
            }
        }
        let saved = save(id, spec, next, replace, act)?.execute(&mut *transaction).await?.rows_affected() > 0;
        if saved {
            announce(&mut transaction, act).await?;
            transaction.commit().await?;
        }
        Ok(saved)
    }

    /// Pauses or resumes a schedule. False if there is none.
    pub async fn pause_schedule(
        &self,
        name: &str,
        paused: bool,
        next: NextInstant,
        act: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let updated = sqlx::query(
            "UPDATE schedules SET paused = $2, next_at = $3, zone_next_at = $3, due_at = $4, changed_at = $5, changed_by = $6, \
                 zone_data = $7 WHERE name = $1",
        )
        .bind(name)
        .bind(paused)
        .bind(next.at)
        .bind(next.due)
        .bind(act.at)
        .bind(&act.actor)
        .bind(&ZoneData::in_use().version)
        .execute(&mut *transaction)
        .await?;
        if updated.rows_affected() == 0 {
            return Ok(false);
        }
        announce(&mut transaction, act).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Deletes a schedule. False if there was none.
    pub async fn delete_schedule(&self, name: &str, act: &AuditEntry) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let deleted =
            sqlx::query("DELETE FROM schedules WHERE name = $1").bind(name).execute(&mut *transaction).await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        announce(&mut transaction, act).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The schedule of this name.
    pub async fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM schedules WHERE name = $1")))
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Schedules of one owner or all, by name.
    pub async fn schedules(&self, owner: Option<&str>) -> Result<Vec<ScheduleRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM schedules WHERE $1::text IS NULL OR owner = $1 ORDER BY name");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).bind(owner).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Locks due schedules, longest due first. Skips those locked by another scheduler, in `without`, or not in `only`.
    pub async fn due_schedules(
        &self,
        now: DateTime<Utc>,
        limit: usize,
        without: &[String],
        only: Option<&[String]>,
    ) -> Result<DueSchedules, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let text = format!(
            "SELECT {COLUMNS} FROM schedules WHERE NOT paused AND due_at <= $1 \
               AND id <> ALL($3) AND ($4::text[] IS NULL OR id = ANY($4)) ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(now)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(without)
            .bind(only)
            .fetch_all(&mut *transaction)
            .await?;
        let rows = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(DueSchedules { transaction, rows })
    }

    /// Locks schedules whose next instant was not reckoned by this version of the time zones' rules, or a later one.
    pub async fn schedules_of_older_zones(&self, version: &str, limit: usize) -> Result<DueSchedules, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let text = format!(
            "SELECT {COLUMNS} FROM schedules WHERE NOT paused AND next_at IS NOT NULL \
               AND (zone_data IS NULL OR zone_data COLLATE \"C\" < $1 OR zone_next_at IS DISTINCT FROM next_at) \
             ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(version)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *transaction)
            .await?;
        let rows = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(DueSchedules { transaction, rows })
    }

    /// When the next schedule is due.
    pub async fn next_schedule(&self, without: &[String]) -> Result<NextDue, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT min(due_at) FROM schedules WHERE NOT paused AND due_at IS NOT NULL) AS all_due, \
                    (SELECT min(due_at) FROM schedules WHERE NOT paused AND due_at IS NOT NULL AND id <> ALL($1)) AS other",
        )
        .bind(without)
        .fetch_one(&self.pool)
        .await?;
        Ok(NextDue { all: row.try_get("all_due")?, without: row.try_get("other")? })
    }
}

impl DueSchedules {
    /// Sets the next instants, reckoned by this version of the time zones' rules.
    pub async fn reckoned(mut self, version: &str, next: &[(String, NextInstant)]) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE schedules s SET next_at = r.next_at, due_at = r.due_at, zone_data = $1, zone_next_at = r.next_at \
             FROM unnest($2::text[], $3::timestamptz[], $4::timestamptz[]) AS r(id, next_at, due_at) WHERE s.id = r.id",
        )
        .bind(version)
        .bind(next.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(next.iter().map(|(_, next)| next.at).collect::<Vec<_>>())
        .bind(next.iter().map(|(_, next)| next.due).collect::<Vec<_>>())
        .execute(&mut *self.transaction)
        .await?;
        self.transaction.commit().await?;
        Ok(())
    }

    /// Moves schedules to their next instants. Others stay due.
    pub async fn advance(mut self, advances: &[Advance]) -> Result<(), StoreError> {
        advance(advances)?.execute(&mut *self.transaction).await?;
        self.transaction.commit().await?;
        Ok(())
    }
}

fn save<'q>(
    id: &'q str,
    spec: &'q ScheduleSpec,
    next: NextInstant,
    replace: Replace,
    act: &'q AuditEntry,
) -> Result<Statement<'q>, StoreError> {
    SAVE_SCHEDULE
        .bind()
        .value("id", id)
        .value("name", &spec.name)
        .value("kind", &spec.kind)
        .value("lane", &spec.lane)
        .value("payload", &spec.payload)
        .value("expression", &spec.expression)
        .value("zone", &spec.zone)
        .value("gap", &spec.gap)
        .value("fold", &spec.fold)
        .value("missed", &spec.missed)
        .value("missed_limit", spec.missed_limit)
        .value("missed_seconds", spec.missed_seconds)
        .value("jitter_seconds", spec.jitter_seconds)
        .value("expiry_seconds", spec.expiry_seconds)
        .value("starts_at", spec.starts_at)
        .value("ends_at", spec.ends_at)
        .value("paused", spec.paused)
        .value("owner", &spec.owner)
        .value("next_at", next.at)
        .value("due_at", next.due)
        .value("now", act.at)
        .value("actor", &act.actor)
        .value("replace", replace != Replace::Never)
        .value("zone_data", &ZoneData::in_use().version)
        .statement()
}

fn advance(advances: &[Advance]) -> Result<Statement<'_>, StoreError> {
    let rows = advances.iter().map(|advance| AdvanceRow {
        id: &advance.id,
        next_at: advance.next.at,
        due_at: advance.next.due,
        last_at: advance.last.as_ref().map(|last| last.at),
        last_job_id: advance.last.as_ref().map(|last| last.job_id.as_str()),
        fired: advance.fired,
        missed: advance.missed,
        note: advance.note.as_deref(),
    });
    ADVANCE_SCHEDULES.bind().rows("advances", rows).value("zone_data", &ZoneData::in_use().version).statement()
}

/// Audits the action and wakes the schedulers.
async fn announce(transaction: &mut Transaction<'_, Postgres>, act: &AuditEntry) -> Result<(), StoreError> {
    audit::insert(transaction, std::slice::from_ref(act)).await?;
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANGED).execute(&mut **transaction).await?;
    Ok(())
}

fn read(row: &PgRow) -> Result<ScheduleRow, StoreError> {
    Ok(ScheduleRow {
        id: row.try_get("id")?,
        spec: ScheduleSpec {
            name: row.try_get("name")?,
            kind: row.try_get("kind")?,
            lane: row.try_get("lane")?,
            payload: row.try_get("payload")?,
            expression: row.try_get("expression")?,
            zone: row.try_get("zone")?,
            gap: row.try_get("gap")?,
            fold: row.try_get("fold")?,
            missed: row.try_get("missed")?,
            missed_limit: row.try_get("missed_limit")?,
            missed_seconds: row.try_get("missed_seconds")?,
            jitter_seconds: row.try_get("jitter_seconds")?,
            expiry_seconds: row.try_get("expiry_seconds")?,
            starts_at: row.try_get("starts_at")?,
            ends_at: row.try_get("ends_at")?,
            paused: row.try_get("paused")?,
            owner: row.try_get("owner")?,
        },
        next: NextInstant { at: row.try_get("next_at")?, due: row.try_get("due_at")? },
        last_at: row.try_get("last_at")?,
        last_job_id: row.try_get("last_job_id")?,
        fired: row.try_get("fired")?,
        missed_count: row.try_get("missed_count")?,
        last_note: row.try_get("last_note")?,
        created: Edit { at: row.try_get("created_at")?, by: row.try_get("created_by")? },
        changed: Edit { at: row.try_get("changed_at")?, by: row.try_get("changed_by")? },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_statements_name_what_is_bound() {
        let spec = ScheduleSpec {
            name: "hello".into(),
            kind: "notification".into(),
            lane: None,
            payload: Value::Null,
            expression: "@daily".into(),
            zone: "UTC".into(),
            gap: "shift".into(),
            fold: "first".into(),
            missed: "latest".into(),
            missed_limit: 10,
            missed_seconds: 3600,
            jitter_seconds: 0,
            expiry_seconds: None,
            starts_at: DateTime::UNIX_EPOCH,
            ends_at: None,
            paused: false,
            owner: None,
        };
        let act = AuditEntry {
            at: DateTime::UNIX_EPOCH,
            actor: "olga".into(),
            action: "schedule.added".into(),
            job_id: None,
            root_id: None,
            detail: Value::Null,
        };
        assert!(save("1", &spec, NextInstant::default(), Replace::Always, &act).is_ok());
        assert!(advance(&[]).is_ok());
    }
}
