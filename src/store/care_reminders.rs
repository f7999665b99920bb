//! `care_reminders`: reminders planned from the care tables (`care/plan.rs`).

use chrono::{DateTime, Utc};
use sqlx::{Postgres, Row, Transaction};

use super::{database::Store, error::StoreError};

/// NOTIFY channel for changes of care data, written by applications.
pub const CARE_CHANGED: &str = "carebell_care";

const PART: &str = "care";

/// Advisory lock of the planning transaction: an arbitrary number.
const PLANNING: i64 = 0x6361_7265_6265_6c6c;

/// Kinds planned from care records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CareKind {
    /// A dose.
    Medication,
    /// An appointment.
    Appointment,
    /// A caregiver's shift.
    Shift,
    /// A medication that runs low.
    Refill,
}

impl CareKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Medication, Self::Appointment, Self::Shift, Self::Refill];

    /// The job kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Medication => "reminder.medication",
            Self::Appointment => "reminder.appointment",
            Self::Shift => "reminder.shift",
            Self::Refill => "alert.refill",
        }
    }
}

/// A newer version may plan other kinds during an upgrade; these are left to it.
const NAMES: &[&str] =
    &[CareKind::Medication.name(), CareKind::Appointment.name(), CareKind::Shift.name(), CareKind::Refill.name()];

/// A reminder that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CareReminder {
    /// Kind.
    pub kind: CareKind,
    /// Id of the medication, appointment or shift.
    pub record_id: String,
    /// The dose, the start, or a refill's day.
    pub instant: DateTime<Utc>,
    /// Lead in minutes.
    pub lead_minutes: i32,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Whether a later reminder of the same instant is also due.
    pub overtaken: bool,
}

/// Due reminders, locked for this scheduler. Dropping it changes nothing.
pub struct DueReminders {
    pub(super) transaction: Transaction<'static, Postgres>,
    /// Longest due first.
    pub rows: Vec<CareReminder>,
}

/// The exclusive right to plan. Takes effect as a whole; dropping it changes nothing.
pub struct CarePlan {
    pub(super) transaction: Transaction<'static, Postgres>,
    /// Last complete pass.
    pub looked_at: Option<DateTime<Utc>>,
    /// Due time of the oldest unpublished dose.
    pub oldest_due: Option<DateTime<Utc>>,
}

impl Store {
    /// Starts planning, unless another scheduler does.
    pub async fn plan_care(&self) -> Result<Option<CarePlan>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(PLANNING)
            .fetch_one(&mut *transaction)
            .await?;
        if !is_ours {
            return Ok(None);
        }
        // With old statistics, the planner takes these tables for short and would compare each row with each. Compiling
        // the statements takes longer than running them.
        sqlx::query("SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)")
            .execute(&mut *transaction)
            .await?;
        let row = sqlx::query(
            "SELECT (SELECT looked_at FROM scheduler_state WHERE part = $1) AS looked_at, \
                    (SELECT min(due_at) FROM care_reminders WHERE kind = $2 AND published_at IS NULL) AS oldest_due",
        )
        .bind(PART)
        .bind(CareKind::Medication.name())
        .fetch_one(&mut *transaction)
        .await?;
        let (looked_at, oldest_due) = (row.try_get("looked_at")?, row.try_get("oldest_due")?);
        Ok(Some(CarePlan { transaction, looked_at, oldest_due }))
    }

    /// The last complete pass over the care tables.
    pub async fn care_looked_at(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let looked_at = sqlx::query_scalar("SELECT looked_at FROM scheduler_state WHERE part = $1").bind(PART);
        Ok(looked_at.fetch_optional(&self.pool).await?)
    }

    /// Locks due reminders, longest due first. Skips those locked by another scheduler.
    pub async fn due_reminders(
        &self,
        kind: CareKind,
        now: DateTime<Utc>,
        limit: usize,
    ) -> Result<DueReminders, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query(
            "SELECT c.record_id, c.instant, c.lead_minutes, c.due_at, \
                    EXISTS (SELECT FROM care_reminders o WHERE o.kind = $1 AND o.instant = c.instant \
                        AND o.record_id = c.record_id AND o.lead_minutes < c.lead_minutes AND o.due_at <= $2) AS overtaken \
             FROM care_reminders c WHERE c.kind = $1 AND c.published_at IS NULL AND c.due_at <= $2 \
             ORDER BY c.due_at LIMIT $3 FOR UPDATE OF c SKIP LOCKED",
        )
        .bind(kind.name())
        .bind(now)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            due.push(CareReminder {
                kind,
                record_id: row.try_get("record_id")?,
                instant: row.try_get("instant")?,
                lead_minutes: row.try_get("lead_minutes")?,
                due_at: row.try_get("due_at")?,
                overtaken: row.try_get("overtaken")?,
            });
        }
        Ok(DueReminders { transaction, rows: due })
    }

    /// When the next reminder is due.
    pub async fn next_reminder(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let next = sqlx::query_scalar(
            "SELECT min((SELECT min(due_at) FROM care_reminders c WHERE c.kind = k.kind AND c.published_at IS NULL)) \
             FROM unnest($1::text[]) AS k(kind)",
        );
        Ok(next.bind(NAMES).fetch_one(&self.pool).await?)
    }
}

impl DueReminders {
    /// Marks these rows as published. The others stay due.
    pub async fn publish(mut self, rows: &[CareReminder], now: DateTime<Utc>) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE care_reminders c SET published_at = $1 \
             FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::int[]) \
                  AS p(kind, instant, record_id, lead_minutes) \
             WHERE c.kind = p.kind AND c.instant = p.instant AND c.record_id = p.record_id \
               AND c.lead_minutes = p.lead_minutes",
        )
        .bind(now)
        .bind(rows.iter().map(|row| row.kind.name()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.instant).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.record_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.lead_minutes).collect::<Vec<_>>())
        .execute(&mut *self.transaction)
        .await?;
        self.transaction.commit().await?;
        Ok(())
    }
}

impl CarePlan {
    /// Commits a complete pass. Deletes published reminders of instants before `oldest`.
    pub async fn finish(mut self, now: DateTime<Utc>, oldest: DateTime<Utc>) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM care_reminders WHERE kind = ANY($1) AND instant < $2 AND published_at IS NOT NULL")
            .bind(NAMES)
            .bind(oldest)
            .execute(&mut *self.transaction)
            .await?;
        sqlx::query(
            "INSERT INTO scheduler_state (part, looked_at) VALUES ($1, $2) \
             ON CONFLICT (part) DO UPDATE SET looked_at = EXCLUDED.looked_at",
        )
        .bind(PART)
        .bind(now)
        .execute(&mut *self.transaction)
        .await?;
        self.transaction.commit().await?;
        Ok(())
    }
}
