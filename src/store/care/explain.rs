//! What the care tables say about one dose or event and one user. Reads no name, title or place.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::Row;

use super::{
    super::{care_reminders::CareKind, database::Store, error::StoreError},
    DoseState, EventStatus,
};

/// A medication, as far as it decides who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CareMedication {
    /// Whether it is still taken.
    pub is_active: bool,
    /// The care recipient's IANA time zone, unvalidated.
    pub zone: String,
    /// Whether the user is a member of the family.
    pub is_member: bool,
}

/// A row of `medication_schedules`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoseSchedule {
    /// Times of day as Postgres writes them: `09:00:00`, `24:00:00`.
    pub times: Vec<String>,
    /// ISO weekdays; empty for each day.
    pub weekdays: Vec<i32>,
    /// First day.
    pub start: Option<NaiveDate>,
    /// Last day, inclusive.
    pub end: Option<NaiveDate>,
    /// Leads of its reminders, in minutes.
    pub leads: Vec<i32>,
    /// Whether `status` is ACTIVE.
    pub is_active: bool,
}

/// An appointment or shift, as far as it decides who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CareEvent {
    /// Start.
    pub starts_at: DateTime<Utc>,
    /// Status.
    pub status: EventStatus,
    /// The care recipient's IANA time zone, unvalidated.
    pub zone: String,
    /// Whether the user is a member of the family, or the caregiver of the shift.
    pub concerns: bool,
    /// Whether anybody has the shift; true for an appointment.
    pub is_assigned: bool,
    /// Leads of its reminders, in minutes.
    pub leads: Vec<i32>,
}

impl Store {
    /// The user's time zone, unvalidated and empty if unknown; `None` if there is no such user.
    pub async fn zone_of_user(&self, user_id: &str) -> Result<Option<String>, StoreError> {
        let zone = sqlx::query_scalar("SELECT COALESCE(timezone, '') FROM users WHERE id = $1").bind(user_id);
        Ok(zone.fetch_optional(&self.pool).await?)
    }

    /// A medication, and whether the user is of its family.
    pub async fn care_medication(&self, id: &str, user_id: &str) -> Result<Option<CareMedication>, StoreError> {
        let row = sqlx::query(
            "SELECT COALESCE(m.is_active, false) AS is_active, COALESCE(r.timezone, '') AS zone, \
                    EXISTS (SELECT FROM family_members f WHERE f.family_id = r.family_id AND f.user_id = $2) AS is_member \
             FROM medications m JOIN care_recipients r ON r.id = m.care_recipient_id WHERE m.id = $1",
        )
        .bind(id)
        .bind(user_id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(CareMedication {
            is_active: row.try_get("is_active")?,
            zone: row.try_get("zone")?,
            is_member: row.try_get("is_member")?,
        }))
    }

    /// State of a dose in `medication_logs`.
    pub async fn dose_state(&self, medication_id: &str, at: DateTime<Utc>) -> Result<DoseState, StoreError> {
        let status: Option<String> = sqlx::query_scalar(
            "SELECT status FROM medication_logs \
             WHERE medication_id = $1 AND scheduled_time = $2 AND status IN ('GIVEN', 'SKIPPED') ORDER BY status LIMIT 1",
        )
        .bind(medication_id)
        .bind(at)
        .fetch_optional(&self.pool)
        .await?;
        Ok(match status.as_deref() {
            Some("GIVEN") => DoseState::Given,
            Some("SKIPPED") => DoseState::Skipped,
            _ => DoseState::Open,
        })
    }

    /// All schedules of a medication, also those that rest.
    pub async fn dose_schedules(&self, medication_id: &str) -> Result<Vec<DoseSchedule>, StoreError> {
        let rows = sqlx::query(
            "SELECT array_remove(times::text[], NULL) AS times, array_remove(weekdays, NULL) AS weekdays, start_date, end_date, \
                    array_remove(reminder_minutes, NULL) AS leads, COALESCE(status = 'ACTIVE', false) AS is_active \
             FROM medication_schedules WHERE medication_id = $1",
        )
        .bind(medication_id)
        .fetch_all(&self.pool)
        .await?;
        let mut schedules = Vec::with_capacity(rows.len());
        for row in rows {
            schedules.push(DoseSchedule {
                times: row.try_get::<Option<_>, _>("times")?.unwrap_or_default(),
                weekdays: row.try_get::<Option<_>, _>("weekdays")?.unwrap_or_default(),
                start: row.try_get("start_date")?,
                end: row.try_get("end_date")?,
                leads: row.try_get::<Option<_>, _>("leads")?.unwrap_or_default(),
                is_active: row.try_get("is_active")?,
            });
        }
        Ok(schedules)
    }

    /// An appointment or shift, and whether it concerns the user. `None` for other kinds.
    pub async fn care_event(&self, kind: CareKind, id: &str, user_id: &str) -> Result<Option<CareEvent>, StoreError> {
        let text = match kind {
            CareKind::Appointment => {
                "SELECT e.starts_at, COALESCE(e.status, '') AS status, COALESCE(r.timezone, '') AS zone, \
                        EXISTS (SELECT FROM family_members f WHERE f.family_id = r.family_id AND f.user_id = $2) AS concerns, \
                        true AS is_assigned, array_remove(e.reminder_minutes, NULL) AS leads \
                 FROM appointments e JOIN care_recipients r ON r.id = e.care_recipient_id WHERE e.id = $1"
            }
            CareKind::Shift => {
                "SELECT e.starts_at, COALESCE(e.status, '') AS status, COALESCE(r.timezone, '') AS zone, \
                        COALESCE(e.user_id = $2, false) AS concerns, e.user_id IS NOT NULL AS is_assigned, \
                        array_remove(e.reminder_minutes, NULL) AS leads \
                 FROM caregiver_shifts e JOIN care_recipients r ON r.id = e.care_recipient_id WHERE e.id = $1"
            }
            CareKind::Medication | CareKind::Refill => return Ok(None),
        };
        let row = sqlx::query(text).bind(id).bind(user_id).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(CareEvent {
            starts_at: row.try_get("starts_at")?,
            status: EventStatus::read(row.try_get("status")?),
            zone: row.try_get("zone")?,
            concerns: row.try_get("concerns")?,
            is_assigned: row.try_get("is_assigned")?,
            leads: row.try_get::<Option<_>, _>("leads")?.unwrap_or_default(),
        }))
    }
}
