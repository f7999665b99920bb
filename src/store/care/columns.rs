use self::ColumnKind::{Boolean, Date, Instant, Integer, Integers, Text, Times};

/// Every column of the care tables that is read. `carebell doctor` and each worker's start compare it with the
/// database.
pub const COLUMNS: &[CareColumn] = &[
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

/// A column of a care table.
#[derive(Clone, Copy, Debug)]
pub struct CareColumn {
    pub table: &'static str,
    pub column: &'static str,
    pub kind: ColumnKind,
}

/// The type that a care column must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Boolean,
    Integer,
    Integers,
    /// A civil date.
    Date,
    /// Times of day in the care recipient's time zone.
    Times,
    /// With time zone; without one, a dose's hour would depend on the server's settings.
    Instant,
}

impl ColumnKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Integers => "integer[]",
            Self::Date => "date",
            Self::Times => "time without time zone[]",
            Self::Instant => "timestamp with time zone",
        }
    }

    /// Whether a column of type `found` is readable as this.
    pub fn takes(self, found: &str) -> bool {
        match self {
            Self::Text => ["text", "character varying", "character", "citext", "name"].contains(&found),
            _ => found == self.name(),
        }
    }
}
