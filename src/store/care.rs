//! The care tables, read only. An application with tables of its own puts views of these names over them, so this file
//! and those below it name no column beyond those of `migrations/care.sql`. Whether a shortage is over is told by them, so
//! its end is here.

mod plan;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};

pub use self::plan::{DoseTimes, Horizon, Planned};
use super::{
    Store, StoreError, at_position,
    check::{
        CareColumn,
        ColumnKind::{self, Boolean, Date, Instant, Integer, Integers, Text, Times},
    },
    people::{self, person},
};
use crate::person::People;

/// Every column that is read here, and in `subscriptions.rs` of `users`. `carebell doctor` and each start of a worker
/// compare it with the database.
pub(super) const COLUMNS: &[CareColumn] = &[
    read("users", "id", Text),
    read("users", "email", Text),
    read("users", "phone", Text),
    read("users", "locale", Text),
    read("users", "timezone", Text),
    read("family_members", "family_id", Text),
    read("family_members", "user_id", Text),
    read("care_recipients", "id", Text),
    read("care_recipients", "family_id", Text),
    read("care_recipients", "name", Text),
    read("care_recipients", "timezone", Text),
    read("medications", "id", Text),
    read("medications", "care_recipient_id", Text),
    read("medications", "name", Text),
    read("medications", "dosage", Text),
    read("medications", "is_active", Boolean),
    read("medications", "current_supply", Integer),
    read("medications", "refill_at", Integer),
    read("medication_schedules", "medication_id", Text),
    read("medication_schedules", "times", Times),
    read("medication_schedules", "weekdays", Integers),
    read("medication_schedules", "start_date", Date),
    read("medication_schedules", "end_date", Date),
    read("medication_schedules", "reminder_minutes", Integers),
    read("medication_schedules", "status", Text),
    read("medication_logs", "medication_id", Text),
    read("medication_logs", "scheduled_time", Instant),
    read("medication_logs", "status", Text),
    read("appointments", "id", Text),
    read("appointments", "care_recipient_id", Text),
    read("appointments", "title", Text),
    read("appointments", "starts_at", Instant),
    read("appointments", "location", Text),
    read("appointments", "status", Text),
    read("appointments", "reminder_minutes", Integers),
    read("caregiver_shifts", "id", Text),
    read("caregiver_shifts", "care_recipient_id", Text),
    read("caregiver_shifts", "user_id", Text),
    read("caregiver_shifts", "starts_at", Instant),
    read("caregiver_shifts", "ends_at", Instant),
    read("caregiver_shifts", "status", Text),
    read("caregiver_shifts", "reminder_minutes", Integers),
];

const fn read(table: &'static str, column: &'static str, kind: ColumnKind) -> CareColumn {
    CareColumn { table, column, kind }
}

/// A question about one dose.
#[derive(Clone, Debug)]
pub struct MedicationAsk {
    /// The type of its notification, for the family's preferences.
    pub kind: &'static str,
    /// `medications.id`.
    pub id: String,
    /// When it is to be taken.
    pub scheduled_time: DateTime<Utc>,
}

/// A medication as a reminder needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MedicationRecord {
    /// What it is called.
    pub name: String,
    /// For example `500 mg`.
    pub dosage: String,
    /// Whether it is still taken.
    pub is_active: bool,
    /// Who takes it.
    pub care_recipient_id: String,
    /// The name of who takes it.
    pub care_recipient_name: String,
    /// The IANA name of the time zone there, or whatever the application holds for one.
    pub timezone: String,
    /// The users of the family, in order.
    pub family: Vec<String>,
    /// Those of them who exist, and how to reach them with a reminder of it.
    pub people: People,
    /// What the log says of the dose.
    pub dose: DoseState,
}

/// What `medication_logs` says of one dose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoseState {
    /// Nothing that settles it.
    Open,
    /// GIVEN.
    Given,
    /// SKIPPED.
    Skipped,
}

/// A medication as a refill alert needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupplyRecord {
    /// What it is called.
    pub name: String,
    /// For example `500 mg`.
    pub dosage: String,
    /// Whether it is still taken.
    pub is_active: bool,
    /// Doses left, if that is known.
    pub current_supply: Option<i32>,
    /// At how many doses left a refill is due, if it says so.
    pub refill_at: Option<i32>,
    /// Who takes it.
    pub care_recipient_id: String,
    /// The name of who takes it.
    pub care_recipient_name: String,
    /// The users of the family, in order.
    pub family: Vec<String>,
    /// The job that told of its shortage, where that is not known to be over.
    pub told_by: Option<String>,
}

/// What appointments and shifts have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it begins.
    pub starts_at: DateTime<Utc>,
    /// Whether it is still to come.
    pub status: EventStatus,
    /// Whom it is about.
    pub care_recipient_id: String,
    /// The name of whom it is about.
    pub care_recipient_name: String,
    /// The IANA name of the time zone there, or whatever the application holds for one.
    pub timezone: String,
}

/// What the status of an appointment or shift means for a reminder of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// It is to take place: SCHEDULED, CONFIRMED, and whatever else an application holds.
    Ahead,
    /// COMPLETED.
    Completed,
    /// CANCELLED.
    Cancelled,
}

/// An appointment as a reminder needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppointmentRecord {
    /// When, for whom, and whether at all.
    pub event: Event,
    /// What it is called.
    pub title: String,
    /// Where it is, if that is known.
    pub location: Option<String>,
    /// The users of the family, in order.
    pub family: Vec<String>,
}

/// A caregiver's shift as a reminder needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftRecord {
    /// When, for whom, and whether at all.
    pub event: Event,
    /// When it ends.
    pub ends_at: DateTime<Utc>,
    /// The user whose shift it is, if it is anybody's yet.
    pub user_id: Option<String>,
}

impl Store {
    /// Medications with their families and the state of their doses, in the order asked. None where one does not exist.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn medications(&self, asks: &[MedicationAsk]) -> Result<Vec<Option<MedicationRecord>>, StoreError> {
        let statement = sqlx::query(person!(
            "SELECT q.position, m.name AS medication_name, m.dosage, m.is_active, r.id AS recipient_id, \
                    r.name AS recipient_name, r.timezone AS recipient_timezone, l.status AS dose, f.user_id AS member, ",
            " FROM unnest($1::text[], $2::timestamptz[], $3::text[]) WITH ORDINALITY AS q(id, at, type, position) \
             JOIN medications m ON m.id = q.id JOIN care_recipients r ON r.id = m.care_recipient_id \
             LEFT JOIN LATERAL (SELECT l.status FROM medication_logs l \
                 WHERE l.medication_id = m.id AND l.scheduled_time = q.at AND l.status IN ('GIVEN', 'SKIPPED') \
                 ORDER BY l.status LIMIT 1) l ON true \
             LEFT JOIN family_members f ON f.family_id = r.family_id LEFT JOIN users u ON u.id = f.user_id "
        ))
        .bind(asks.iter().map(|ask| ask.id.as_str()).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.scheduled_time).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.kind).collect::<Vec<_>>());
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
                    people: BTreeMap::new(),
                    dose: match row.try_get::<Option<&str>, _>("dose")? {
                        Some("GIVEN") => DoseState::Given,
                        Some("SKIPPED") => DoseState::Skipped,
                        _ => DoseState::Open,
                    },
                }),
            };
            medication.family.extend(row.try_get::<Option<String>, _>("member")?);
            if let Some(id) = row.try_get::<Option<String>, _>("id")? {
                medication.people.insert(id, people::read_person(&row)?);
            }
        }
        for medication in found.iter_mut().flatten() {
            medication.family.sort_unstable();
        }
        Ok(found)
    }

    /// A medication with its supply and its family. None where it does not exist.
    ///
    /// # Errors
    /// If the database does not answer.
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

    /// Ends the shortages of all medications that are not short any more, or not there; answers how many. One that a
    /// job is about to write is left for the next time.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn close_ended_shortages(&self) -> Result<u64, StoreError> {
        close_ended_shortages(&mut *self.pool.acquire().await?).await
    }

    /// An appointment with the family that it concerns. None where it does not exist.
    ///
    /// # Errors
    /// If the database does not answer.
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

    /// A caregiver's shift. None where it does not exist.
    ///
    /// # Errors
    /// If the database does not answer.
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

async fn close_ended_shortages(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let closed = sqlx::query(
        "WITH ended AS (SELECT s.medication_id FROM refill_shortages s \
             WHERE NOT EXISTS (SELECT FROM medications m WHERE m.id = s.medication_id \
                                 AND m.current_supply <= COALESCE(m.refill_at, s.refill_at)) \
             ORDER BY s.medication_id FOR UPDATE OF s SKIP LOCKED) \
         DELETE FROM refill_shortages s USING ended WHERE s.medication_id = ended.medication_id",
    )
    .execute(connection)
    .await?;
    Ok(closed.rows_affected())
}

/// The columns `starts_at`, `status`, `recipient_id`, `recipient_name` and `timezone` of a row.
fn event(row: &PgRow) -> Result<Event, StoreError> {
    Ok(Event {
        starts_at: row.try_get("starts_at")?,
        status: match row.try_get("status")? {
            "COMPLETED" => EventStatus::Completed,
            "CANCELLED" => EventStatus::Cancelled,
            _ => EventStatus::Ahead,
        },
        care_recipient_id: row.try_get("recipient_id")?,
        care_recipient_name: row.try_get("recipient_name")?,
        timezone: row.try_get::<Option<_>, _>("timezone")?.unwrap_or_default(),
    })
}
