//! Planning of reminders from the care tables.
//!
//! One statement per kind compares wanted with planned reminders, so that a hundred thousand schedules stay in the
//! database. Only civil times are computed outside: Postgres has another rule for lost and repeated hours.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::{Row, postgres::PgRow};

use super::{
    super::{
        care_reminders::{CareKind, CarePlan, DueReminders},
        error::StoreError,
        keyed::Statement,
        named_sql::{NamedSql, rows},
    },
    shortages::close_ended_shortages,
};

const PLAN: &str = include_str!("../sql/plan_reminders.sql");
const DOSES: &str = include_str!("../sql/plan_doses.sql");
pub(super) const DOSES_OF_DAY: &str = include_str!("../sql/doses_of_day.sql");
const EVENTS: &str = include_str!("../sql/plan_events.sql");
const REFILLS: &str = include_str!("../sql/plan_refills.sql");

const NOT_WANTED: &str = "c.published_at IS NULL AND NOT EXISTS (SELECT FROM wanted w \
    WHERE w.instant = c.instant AND w.record_id = c.record_id AND w.lead_minutes = c.lead_minutes)";

/// Refills that are over, published or not, so that the next shortage is reported.
const RESTOCKED: &str = "NOT EXISTS (SELECT FROM wanted w WHERE w.record_id = c.record_id)";

static PLAN_DOSES: NamedSql =
    NamedSql::with(PLAN, &[("wanted_and_new", DOSES), ("doses_of_day", DOSES_OF_DAY), ("is_stale", NOT_WANTED)]);
static PLAN_APPOINTMENTS: NamedSql =
    NamedSql::with(PLAN, &[("wanted_and_new", EVENTS), ("event_table", "appointments"), ("is_stale", NOT_WANTED)]);
static PLAN_SHIFTS: NamedSql =
    NamedSql::with(PLAN, &[("wanted_and_new", EVENTS), ("event_table", "caregiver_shifts"), ("is_stale", NOT_WANTED)]);
static PLAN_REFILLS: NamedSql = NamedSql::with(PLAN, &[("wanted_and_new", REFILLS), ("is_stale", RESTOCKED)]);

/// The time span that is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Now.
    pub now: DateTime<Utc>,
    /// Reminders due up to this instant were handled by an earlier pass.
    pub since: DateTime<Utc>,
    /// Jobs for doses and starts up to this instant have expired.
    pub oldest: DateTime<Utc>,
    /// Latest due time planned.
    pub until: DateTime<Utc>,
    /// Appointments and shifts that begin until then are planned too, so that a move is noticed.
    pub known_until: DateTime<Utc>,
}

/// Part of a day in one time zone in which doses with this lead are planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoseTimes {
    /// `care_recipients.timezone`.
    pub zone: String,
    /// Lead of the reminders.
    pub lead_minutes: i32,
    /// Local day.
    pub day: NaiveDate,
    /// First time of day.
    pub first: NaiveTime,
    /// Last time of day, inclusive.
    pub last: NaiveTime,
    /// UTC offset in seconds, positive to the east.
    pub offset: i32,
    /// Lower bound of the instants.
    pub not_before: DateTime<Utc>,
}

/// Changes to the planned reminders by one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanChanges {
    /// Reminders added.
    pub added: i64,
    /// Reminders removed.
    pub removed: i64,
}

impl PlanChanges {
    /// The sum.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { added: self.added + other.added, removed: self.removed + other.removed }
    }
}

rows! {
    struct DoseTimesRow<'q> {
        zone: &'q str,
        lead_minutes: i32,
        day: NaiveDate,
        first_time: NaiveTime,
        last_time: NaiveTime,
        utc_offset: i32,
        not_before: DateTime<Utc>,
    }
}

/// Supply of a medication that runs low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Doses left.
    pub left: i32,
    /// Threshold.
    pub refill_at: i32,
}

impl CarePlan {
    /// Time zones (perhaps empty) and leads of all doses.
    pub async fn zones_and_leads(&mut self) -> Result<Vec<(String, i32)>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT DISTINCT COALESCE(r.timezone, ''), l.lead_minutes FROM medication_schedules s \
             JOIN medications m ON m.id = s.medication_id JOIN care_recipients r ON r.id = m.care_recipient_id \
             CROSS JOIN LATERAL unnest(s.reminder_minutes) AS l(lead_minutes) \
             WHERE s.status = 'ACTIVE' AND m.is_active AND l.lead_minutes IS NOT NULL",
        );
        Ok(rows.fetch_all(&mut *self.transaction).await?)
    }

    /// Plans the doses of all active medications.
    pub async fn plan_doses(&mut self, horizon: &Horizon, times: &[DoseTimes]) -> Result<PlanChanges, StoreError> {
        self.change(doses(horizon, times)?).await
    }

    /// Plans appointments and shifts.
    pub async fn plan_events(&mut self, horizon: &Horizon) -> Result<PlanChanges, StoreError> {
        let appointments = self.change(events(&PLAN_APPOINTMENTS, CareKind::Appointment, horizon)?).await?;
        let shifts = self.change(events(&PLAN_SHIFTS, CareKind::Shift, horizon)?).await?;
        Ok(appointments.and(shifts))
    }

    /// Closes ended shortages. Then plans an alert per shortage and day until the family is told.
    pub async fn plan_refills(&mut self, now: DateTime<Utc>) -> Result<PlanChanges, StoreError> {
        close_ended_shortages(&mut self.transaction).await?;
        self.change(refills(now)?).await
    }

    async fn change(&mut self, statement: Statement<'_>) -> Result<PlanChanges, StoreError> {
        // Not prepared: a generic plan would guess that these lists are short.
        let row = statement.persistent(false).fetch_one(&mut *self.transaction).await?;
        read(&row)
    }
}

impl DueReminders {
    /// Supplies of medications that run low, by id.
    pub async fn supplies(&mut self) -> Result<HashMap<String, Supply>, StoreError> {
        let ids: Vec<&str> =
            self.rows.iter().filter(|row| row.kind == CareKind::Refill).map(|row| row.record_id.as_str()).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(String, i32, i32)> = sqlx::query_as(
            "SELECT id, current_supply, refill_at FROM medications WHERE id = ANY($1) AND current_supply <= refill_at",
        )
        .bind(ids)
        .fetch_all(&mut *self.transaction)
        .await?;
        Ok(rows.into_iter().map(|(id, left, refill_at)| (id, Supply { left, refill_at })).collect())
    }
}

fn doses<'q>(horizon: &Horizon, times: &'q [DoseTimes]) -> Result<Statement<'q>, StoreError> {
    let times = times.iter().map(|times| DoseTimesRow {
        zone: &times.zone,
        lead_minutes: times.lead_minutes,
        day: times.day,
        first_time: times.first,
        last_time: times.last,
        utc_offset: times.offset,
        not_before: times.not_before,
    });
    PLAN_DOSES
        .bind()
        .value("kind", CareKind::Medication.name())
        .value("oldest", horizon.oldest)
        .value("since", horizon.since)
        .rows("dose_times", times)
        .statement()
}

fn events(sql: &'static NamedSql, kind: CareKind, horizon: &Horizon) -> Result<Statement<'static>, StoreError> {
    sql.bind()
        .value("kind", kind.name())
        .value("oldest", horizon.oldest)
        .value("since", horizon.since)
        .value("now", horizon.now)
        .value("until", horizon.until)
        .value("known_until", horizon.known_until)
        .statement()
}

fn refills(now: DateTime<Utc>) -> Result<Statement<'static>, StoreError> {
    PLAN_REFILLS
        .bind()
        .value("kind", CareKind::Refill.name())
        .value("day", now.date_naive().and_time(NaiveTime::MIN).and_utc())
        .value("now", now)
        .statement()
}

fn read(row: &PgRow) -> Result<PlanChanges, StoreError> {
    Ok(PlanChanges { added: row.try_get("added")?, removed: row.try_get("removed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_name_what_is_bound() {
        let at = DateTime::UNIX_EPOCH;
        let horizon = Horizon { now: at, since: at, oldest: at, until: at, known_until: at };
        assert!(doses(&horizon, &[]).is_ok());
        assert!(events(&PLAN_APPOINTMENTS, CareKind::Appointment, &horizon).is_ok());
        assert!(events(&PLAN_SHIFTS, CareKind::Shift, &horizon).is_ok());
        assert!(refills(at).is_ok());
    }
}
