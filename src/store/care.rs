//! The care tables, read only. An application with tables of its own puts views of these names over them, so this file
//! names no column beyond those of `migrations/care.sql`.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{
    Store, StoreError,
    check::{
        CareColumn,
        ColumnKind::{self, Boolean, Instant, Text},
    },
};

/// Every column that is read here, and in `subscriptions.rs` of `users`. `carebell doctor` and each start of a worker
/// compare it with the database.
pub(super) const COLUMNS: [CareColumn; 14] = [
    read("users", "id", Text),
    read("family_members", "family_id", Text),
    read("family_members", "user_id", Text),
    read("care_recipients", "id", Text),
    read("care_recipients", "family_id", Text),
    read("care_recipients", "name", Text),
    read("medications", "id", Text),
    read("medications", "care_recipient_id", Text),
    read("medications", "name", Text),
    read("medications", "dosage", Text),
    read("medications", "is_active", Boolean),
    read("medication_logs", "medication_id", Text),
    read("medication_logs", "scheduled_time", Instant),
    read("medication_logs", "status", Text),
];

const fn read(table: &'static str, column: &'static str, kind: ColumnKind) -> CareColumn {
    CareColumn { table, column, kind }
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
    /// The users of the family, in order.
    pub family: Vec<String>,
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

impl Store {
    /// A medication with its family and the state of the dose at `scheduled_time`. None where it does not exist.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn medication(
        &self,
        id: &str,
        scheduled_time: DateTime<Utc>,
    ) -> Result<Option<MedicationRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT m.name, m.dosage, m.is_active, r.id AS recipient_id, r.name AS recipient_name, \
                    ARRAY(SELECT f.user_id FROM family_members f WHERE f.family_id = r.family_id ORDER BY 1) AS family, \
                    (SELECT l.status FROM medication_logs l WHERE l.medication_id = m.id AND l.scheduled_time = $2 \
                        AND l.status IN ('GIVEN', 'SKIPPED') ORDER BY l.status LIMIT 1) AS dose \
             FROM medications m JOIN care_recipients r ON r.id = m.care_recipient_id WHERE m.id = $1",
        )
        .bind(id)
        .bind(scheduled_time)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(MedicationRecord {
            name: row.try_get("name")?,
            dosage: row.try_get("dosage")?,
            is_active: row.try_get("is_active")?,
            care_recipient_id: row.try_get("recipient_id")?,
            care_recipient_name: row.try_get("recipient_name")?,
            family: row.try_get("family")?,
            dose: match row.try_get::<Option<&str>, _>("dose")? {
                Some("GIVEN") => DoseState::Given,
                Some("SKIPPED") => DoseState::Skipped,
                _ => DoseState::Open,
            },
        }))
    }
}
