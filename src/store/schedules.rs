//! `schedules`: what people let publish itself, and when it is next due.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder, Row, Transaction, postgres::PgRow};

use super::{AuditEntry, Store, StoreError, audit};

/// The channel on which changes of schedules are announced.
pub const CHANGED: &str = "carebell_schedules";

/// What a person sets.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSpec {
    /// Its unique name, which job ids are made of.
    pub name: String,
    /// The kind of job that it publishes.
    pub kind: String,
    /// The lane, for kinds that have lanes.
    pub lane: Option<String>,
    /// The job, as canonical protobuf JSON.
    pub payload: Value,
    /// When: see [`crate::schedule::Expression`].
    pub expression: String,
    /// The IANA name of its time zone.
    pub zone: String,
    /// See [`crate::schedule::Gap`].
    pub gap: String,
    /// See [`crate::schedule::Fold`].
    pub fold: String,
    /// What happens to missed instants: `skip`, `latest` or `all`.
    pub missed: String,
    /// The most that `all` makes up.
    pub missed_limit: i32,
    /// What is later than this is not made up, in seconds.
    pub missed_seconds: i64,
    /// Published up to this much later, in seconds.
    pub jitter_seconds: i64,
    /// How long the job is of use after its instant, in seconds; none for the kind's own.
    pub expiry_seconds: Option<i64>,
    /// No instant before this one; the anchor of intervals.
    pub starts_at: DateTime<Utc>,
    /// No instant from this one on.
    pub ends_at: Option<DateTime<Utc>>,
    /// Whether it rests.
    pub paused: bool,
    /// What it belongs to.
    pub owner: Option<String>,
}

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRow {
    /// Its id.
    pub id: String,
    /// What a person set.
    pub spec: ScheduleSpec,
    /// Where it stands.
    pub next: Next,
    /// The last instant that was published.
    pub last_at: Option<DateTime<Utc>>,
    /// The job of that instant.
    pub last_job_id: Option<String>,
    /// Instants that were published.
    pub fired: i64,
    /// Instants that were not, because nobody was there.
    pub missed_count: i64,
    /// What was last decided about missed instants.
    pub last_note: Option<String>,
    /// When and by whom it was made.
    pub created: (DateTime<Utc>, String),
    /// When and by whom it was last changed.
    pub changed: (DateTime<Utc>, String),
}

/// The next instant of a schedule, and when that is published: a jitter later. None when none is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The instant.
    pub at: Option<DateTime<Utc>>,
    /// When it is published.
    pub due: Option<DateTime<Utc>>,
}

/// When schedules are next due. None where none is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextDue {
    /// Of all.
    pub all: Option<DateTime<Utc>>,
    /// Of those that were not to be left out.
    pub without: Option<DateTime<Utc>>,
}

/// How a schedule goes on after it was due.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// Its id.
    pub id: String,
    /// Where it stands now.
    pub next: Next,
    /// The last instant that was published, and its job.
    pub last: Option<(DateTime<Utc>, String)>,
    /// How many were published.
    pub fired: i64,
    /// How many were not.
    pub missed: i64,
    /// What was decided about them.
    pub note: Option<String>,
}

/// Schedules that are due, locked for this scheduler. Dropped, they are as they were.
pub struct DueSchedules {
    transaction: Transaction<'static, Postgres>,
    /// The schedules.
    pub rows: Vec<ScheduleRow>,
}

const COLUMNS: &str = "id, name, kind, lane, payload, expression, zone, gap, fold, missed, missed_limit, missed_seconds, \
    jitter_seconds, expiry_seconds, starts_at, ends_at, paused, owner, next_at, due_at, last_at, last_job_id, fired, \
    missed_count, last_note, created_at, created_by, changed_at, changed_by";

impl Store {
    /// Saves a schedule, and its history in the audit log. One of that name is replaced, if that is meant; it keeps its
    /// id and its counts. Answers whether it was saved.
    ///
    /// # Errors
    /// If the database does not take it.
    pub async fn save_schedule(
        &self,
        id: &str,
        spec: &ScheduleSpec,
        next: Next,
        replace: bool,
        act: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let mut query = QueryBuilder::<Postgres>::new(
            "INSERT INTO schedules (id, name, kind, lane, payload, expression, zone, gap, fold, missed, missed_limit, \
             missed_seconds, jitter_seconds, expiry_seconds, starts_at, ends_at, paused, owner, next_at, due_at, \
             created_at, created_by, changed_at, changed_by) VALUES (",
        );
        let mut values = query.separated(", ");
        values.push_bind(id).push_bind(&spec.name).push_bind(&spec.kind).push_bind(&spec.lane);
        values.push_bind(&spec.payload).push_bind(&spec.expression).push_bind(&spec.zone).push_bind(&spec.gap);
        values.push_bind(&spec.fold).push_bind(&spec.missed).push_bind(spec.missed_limit);
        values.push_bind(spec.missed_seconds).push_bind(spec.jitter_seconds).push_bind(spec.expiry_seconds);
        values.push_bind(spec.starts_at).push_bind(spec.ends_at).push_bind(spec.paused).push_bind(&spec.owner);
        values.push_bind(next.at).push_bind(next.due);
        values.push_bind(act.at).push_bind(&act.actor).push_bind(act.at).push_bind(&act.actor);
        query.push(") ON CONFLICT (name) DO ");
        query.push(if replace {
            "UPDATE SET kind = EXCLUDED.kind, lane = EXCLUDED.lane, payload = EXCLUDED.payload, \
             expression = EXCLUDED.expression, zone = EXCLUDED.zone, gap = EXCLUDED.gap, fold = EXCLUDED.fold, \
             missed = EXCLUDED.missed, missed_limit = EXCLUDED.missed_limit, missed_seconds = EXCLUDED.missed_seconds, \
             jitter_seconds = EXCLUDED.jitter_seconds, expiry_seconds = EXCLUDED.expiry_seconds, \
             starts_at = EXCLUDED.starts_at, ends_at = EXCLUDED.ends_at, paused = EXCLUDED.paused, \
             owner = EXCLUDED.owner, next_at = EXCLUDED.next_at, due_at = EXCLUDED.due_at, \
             changed_at = EXCLUDED.changed_at, changed_by = EXCLUDED.changed_by"
        } else {
            "NOTHING"
        });
        let saved = query.build().execute(&mut *transaction).await?.rows_affected() > 0;
        if saved {
            announce(&mut transaction, act).await?;
            transaction.commit().await?;
        }
        Ok(saved)
    }

    /// Pauses a schedule, or lets it go on. Answers whether there is one of that name.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pause_schedule(
        &self,
        name: &str,
        paused: bool,
        next: Next,
        act: &AuditEntry,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let updated = sqlx::query(
            "UPDATE schedules SET paused = $2, next_at = $3, due_at = $4, changed_at = $5, changed_by = $6 WHERE name = $1",
        )
        .bind(name)
        .bind(paused)
        .bind(next.at)
        .bind(next.due)
        .bind(act.at)
        .bind(&act.actor)
        .execute(&mut *transaction)
        .await?;
        if updated.rows_affected() == 0 {
            return Ok(false);
        }
        announce(&mut transaction, act).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Deletes a schedule. Answers whether there was one of that name.
    ///
    /// # Errors
    /// If the database does not answer.
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

    /// One schedule.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn schedule(&self, name: &str) -> Result<Option<ScheduleRow>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM schedules WHERE name = $1")))
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The schedules by name, of one owner or of all.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn schedules(&self, owner: Option<&str>) -> Result<Vec<ScheduleRow>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM schedules WHERE $1::text IS NULL OR owner = $1 ORDER BY name");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).bind(owner).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Locks schedules that are due, the longest due first; those that another scheduler has are passed over, and so are
    /// those `without`, and all but `only` where that is said.
    ///
    /// # Errors
    /// If the database does not answer.
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

    /// When the next schedule is due, of all and of all `without` some.
    ///
    /// # Errors
    /// If the database does not answer.
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
    /// Moves schedules on; those that are not named stay due.
    ///
    /// # Errors
    /// If the database does not take it; then all stay due.
    pub async fn move_on(mut self, moved: &[Moved]) -> Result<(), StoreError> {
        let last = |moved: &Moved| moved.last.clone().map_or((None, None), |(at, job_id)| (Some(at), Some(job_id)));
        sqlx::query(
            "UPDATE schedules s SET next_at = m.next_at, due_at = m.due_at, last_at = COALESCE(m.last_at, s.last_at), \
                    last_job_id = COALESCE(m.last_job_id, s.last_job_id), fired = s.fired + m.fired, \
                    missed_count = s.missed_count + m.missed, last_note = COALESCE(m.note, s.last_note) \
             FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::text[], \
                         $6::bigint[], $7::bigint[], $8::text[]) \
                  AS m(id, next_at, due_at, last_at, last_job_id, fired, missed, note) \
             WHERE s.id = m.id",
        )
        .bind(moved.iter().map(|moved| moved.id.as_str()).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| moved.next.at).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| moved.next.due).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| last(moved).0).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| last(moved).1).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| moved.fired).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| moved.missed).collect::<Vec<_>>())
        .bind(moved.iter().map(|moved| moved.note.as_deref()).collect::<Vec<_>>())
        .execute(&mut *self.transaction)
        .await?;
        self.transaction.commit().await?;
        Ok(())
    }
}

/// Writes down who did it, and wakes the schedulers.
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
        next: Next { at: row.try_get("next_at")?, due: row.try_get("due_at")? },
        last_at: row.try_get("last_at")?,
        last_job_id: row.try_get("last_job_id")?,
        fired: row.try_get("fired")?,
        missed_count: row.try_get("missed_count")?,
        last_note: row.try_get("last_note")?,
        created: (row.try_get("created_at")?, row.try_get("created_by")?),
        changed: (row.try_get("changed_at")?, row.try_get("changed_by")?),
    })
}
