//! The care tables, read only. Applications with other tables provide views of these names, so name no column that
//! `migrations/care.sql` lacks.

pub(super) mod columns;
mod doses;
mod explain;
pub(super) mod lookups;
pub(super) mod odd_rows;
mod plan;
mod shortages;
mod zones;

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};

pub use self::{
    doses::{DoseAsk, TimesOfDay},
    explain::{CareEvent, CareMedication, DoseSchedule},
    odd_rows::OddRows,
    plan::{DoseTimes, Horizon, PlanChanges, Supply},
};
use super::{
    asks::at_position,
    database::Store,
    error::StoreError,
    people::{person, read_person},
};
use crate::person::People;

/// A question about one dose.
#[derive(Clone, Debug)]
pub struct MedicationAsk {
    /// Notification type, for the family's preferences.
    pub kind: &'static str,
    /// `medications.id`.
    pub id: String,
    /// When the dose is due.
    pub scheduled_time: DateTime<Utc>,
    /// Whether [`MedicationRecord::has_schedule`] is asked for.
    pub looks_at_schedule: bool,
}

/// A medication, for a reminder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MedicationRecord {
    /// Name.
    pub name: String,
    /// For example `500 mg`.
    pub dosage: String,
    /// Whether it is still taken.
    pub is_active: bool,
    /// Who takes it.
    pub care_recipient_id: String,
    /// That person's name.
    pub care_recipient_name: String,
    /// That person's IANA time zone, unvalidated.
    pub timezone: String,
    /// Users of the family, sorted.
    pub family: Vec<String>,
    /// Existing family members, and how to reach them.
    pub people: People,
    /// State of the dose.
    pub dose: DoseState,
    /// Whether it has an active schedule with times; false if that was not asked.
    pub has_schedule: bool,
}

/// State of a dose in `medication_logs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoseState {
    /// Neither given nor skipped.
    Open,
    /// GIVEN.
    Given,
    /// SKIPPED.
    Skipped,
}

/// A medication, for a refill alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupplyRecord {
    /// Name.
    pub name: String,
    /// For example `500 mg`.
    pub dosage: String,
    /// Whether it is still taken.
    pub is_active: bool,
    /// Doses left, if known.
    pub current_supply: Option<i32>,
    /// Refill threshold, if set.
    pub refill_at: Option<i32>,
    /// Who takes it.
    pub care_recipient_id: String,
    /// That person's name.
    pub care_recipient_name: String,
    /// Users of the family, sorted.
    pub family: Vec<String>,
    /// The job that reported its current shortage.
    pub told_by: Option<String>,
}

/// Common part of appointments and shifts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Start.
    pub starts_at: DateTime<Utc>,
    /// Status.
    pub status: EventStatus,
    /// Care recipient.
    pub care_recipient_id: String,
    /// That person's name.
    pub care_recipient_name: String,
    /// That person's IANA time zone, unvalidated.
    pub timezone: String,
}

/// Status of an appointment or shift, for a reminder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// SCHEDULED, CONFIRMED or any other value.
    Ahead,
    /// COMPLETED.
    Completed,
    /// CANCELLED.
    Cancelled,
}

/// An appointment, for a reminder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppointmentRecord {
    /// Time, status and person.
    pub event: Event,
    /// Title.
    pub title: String,
    /// Location, if known.
    pub location: Option<String>,
    /// Users of the family, sorted.
    pub family: Vec<String>,
}

/// A caregiver's shift, for a reminder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftRecord {
    /// Time, status and person.
    pub event: Event,
    /// End.
    pub ends_at: DateTime<Utc>,
    /// Assigned user.
    pub user_id: Option<String>,
}

impl Store {
    /// Medications, in the order asked.
    pub async fn medications(&self, asks: &[MedicationAsk]) -> Result<Vec<Option<MedicationRecord>>, StoreError> {
        let statement = sqlx::query(person!(
            "SELECT q.position, m.name AS medication_name, m.dosage, m.is_active, r.id AS recipient_id, \
                    r.name AS recipient_name, r.timezone AS recipient_timezone, l.status AS dose, f.user_id AS member, \
                    CASE WHEN q.looks THEN EXISTS (SELECT FROM medication_schedules s \
                        WHERE s.medication_id = m.id AND s.status = 'ACTIVE' AND cardinality(s.times) > 0) ELSE false END AS has_schedule, ",
            " FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::bool[]) \
                 WITH ORDINALITY AS q(id, at, type, looks, position) \
             JOIN medications m ON m.id = q.id JOIN care_recipients r ON r.id = m.care_recipient_id \
             LEFT JOIN LATERAL (SELECT l.status FROM medication_logs l \
                 WHERE l.medication_id = m.id AND l.scheduled_time = q.at AND l.status IN ('GIVEN', 'SKIPPED') \
                 ORDER BY l.status LIMIT 1) l ON true \
             LEFT JOIN family_members f ON f.family_id = r.family_id LEFT JOIN users u ON u.id = f.user_id "
        ))
        .bind(asks.iter().map(|ask| ask.id.as_str()).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.scheduled_time).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.kind).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.looks_at_schedule).collect::<Vec<_>>());
        let rows = self.keyed.fetch_all(statement).await?;
        let mut found: Vec<Option<MedicationRecord>> = vec![None; asks.len()];
        for row in rows {
            let of = at_position(&mut found, &row)?;
            let medication = match of {
                Some(medication) => medication,
                None => of.insert(MedicationRecord {
                    name: row.try_get("medication_name")?,
                    dosage: row.try_get("dosage")?,
                    is_active: row.try_get("is_active")?,
                    care_recipient_id: row.try_get("recipient_id")?,
                    care_recipient_name: row.try_get("recipient_name")?,
                    timezone: row.try_get::<Option<_>, _>("recipient_timezone")?.unwrap_or_default(),
                    family: Vec::new(),
                    people: People::new(),
                    dose: match row.try_get::<Option<&str>, _>("dose")? {
                        Some("GIVEN") => DoseState::Given,
                        Some("SKIPPED") => DoseState::Skipped,
                        _ => DoseState::Open,
                    },
                    has_schedule: row.try_get("has_schedule")?,
                }),
            };
            medication.family.extend(row.try_get::<Option<String>, _>("member")?);
            if let Some(id) = row.try_get::<Option<String>, _>("id")? {
                medication.people.insert(id, read_person(&row)?);
            }
        }
        for medication in found.iter_mut().flatten() {
            medication.family.sort_unstable();
        }
        Ok(found)
    }

    /// A medication's supply.
    pub async fn supply(&self, id: &str) -> Result<Option<SupplyRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT m.name, m.dosage, m.is_active, m.current_supply, m.refill_at, \
                    r.id AS recipient_id, r.name AS recipient_name, \
                    ARRAY(SELECT f.user_id FROM family_members f WHERE f.family_id = r.family_id ORDER BY 1) AS family, \
                    (SELECT s.job_id FROM refill_shortages s WHERE s.medication_id = m.id) AS told_by \
             FROM medications m JOIN care_recipients r ON r.id = m.care_recipient_id WHERE m.id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SupplyRecord {
            name: row.try_get("name")?,
            dosage: row.try_get("dosage")?,
            is_active: row.try_get("is_active")?,
            current_supply: row.try_get("current_supply")?,
            refill_at: row.try_get("refill_at")?,
            care_recipient_id: row.try_get("recipient_id")?,
            care_recipient_name: row.try_get("recipient_name")?,
            family: row.try_get("family")?,
            told_by: row.try_get("told_by")?,
        }))
    }

    /// An appointment.
    pub async fn appointment(&self, id: &str) -> Result<Option<AppointmentRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT a.starts_at, a.status, r.id AS recipient_id, r.name AS recipient_name, r.timezone, \
                    a.title, a.location, \
                    ARRAY(SELECT f.user_id FROM family_members f WHERE f.family_id = r.family_id ORDER BY 1) AS family \
             FROM appointments a JOIN care_recipients r ON r.id = a.care_recipient_id WHERE a.id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(AppointmentRecord {
            event: event(&row)?,
            title: row.try_get("title")?,
            location: row.try_get("location")?,
            family: row.try_get("family")?,
        }))
    }

    /// A caregiver's shift.
    pub async fn shift(&self, id: &str) -> Result<Option<ShiftRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT s.starts_at, s.status, r.id AS recipient_id, r.name AS recipient_name, r.timezone, \
                    s.ends_at, s.user_id \
             FROM caregiver_shifts s JOIN care_recipients r ON r.id = s.care_recipient_id WHERE s.id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(ShiftRecord {
            event: event(&row)?,
            ends_at: row.try_get("ends_at")?,
            user_id: row.try_get("user_id")?,
        }))
    }
}

impl EventStatus {
    fn read(status: &str) -> Self {
        match status {
            "COMPLETED" => Self::Completed,
            "CANCELLED" => Self::Cancelled,
            _ => Self::Ahead,
        }
    }
}

fn event(row: &PgRow) -> Result<Event, StoreError> {
    Ok(Event {
        starts_at: row.try_get("starts_at")?,
        status: EventStatus::read(row.try_get("status")?),
        care_recipient_id: row.try_get("recipient_id")?,
        care_recipient_name: row.try_get("recipient_name")?,
        timezone: row.try_get::<Option<_>, _>("timezone")?.unwrap_or_default(),
    })
}
