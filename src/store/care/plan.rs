//! What is due follows from the care tables. The comparison with what is planned is made in the database, a statement for
//! each kind, so that no row of a hundred thousand schedules has to leave it. Only civil times are reckoned outside: the
//! database has time zones of its own, with another rule for lost and repeated hours.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::{Row, postgres::PgRow};

use super::{
    super::{
        StoreError,
        care_reminders::{CareKind, CarePlan, DueReminders},
    },
    close_ended_shortages,
};

/// From when until when reminders are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The present.
    pub now: DateTime<Utc>,
    /// What was due at this instant or before was seen by an earlier look, or was not there yet.
    pub since: DateTime<Utc>,
    /// Doses and starts that are no later than this are of no use to anybody.
    pub oldest: DateTime<Utc>,
    /// What is due until then is planned.
    pub until: DateTime<Utc>,
    /// Appointments and shifts that begin until then are planned too, so that one that is moved is known.
    pub known_until: DateTime<Utc>,
}

/// Times of one day at which doses are due, where clocks show this zone and reminders are this long before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoseTimes {
    /// The time zone, as the care recipients have it.
    pub zone: String,
    /// The reminders' lead.
    pub lead_minutes: i32,
    /// The day there.
    pub day: NaiveDate,
    /// The first time of the day.
    pub first: NaiveTime,
    /// The last, this included.
    pub last: NaiveTime,
    /// How far the clock is ahead of UTC, in seconds.
    pub offset: i32,
    /// No instant is before this one.
    pub not_before: DateTime<Utc>,
}

/// What a look at the care tables has changed in the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Reminders that are new.
    pub added: i64,
    /// Reminders that are not to be any more.
    pub removed: i64,
}

impl Planned {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { added: self.added + other.added, removed: self.removed + other.removed }
    }
}

/// `$1` kind, `$2` oldest, `$3` since, `$4`… the columns of [`DoseTimes`]. A dose at 24:00 is one at 00:00 of the next day.
const DOSES: &str = "times AS (SELECT * FROM unnest($4::text[], $5::int[], $6::date[], $7::time[], $8::time[], \
                                                    $9::int[], $10::timestamptz[]) \
                    AS t(zone, lead_minutes, day, first, last, seconds, not_before)), \
     wanted AS MATERIALIZED (SELECT DISTINCT s.medication_id AS record_id, l.lead_minutes, \
             GREATEST((t.day + d.time) AT TIME ZONE 'UTC' - make_interval(secs => t.seconds), t.not_before) AS instant \
         FROM medication_schedules s JOIN medications m ON m.id = s.medication_id \
         JOIN care_recipients r ON r.id = m.care_recipient_id \
         CROSS JOIN LATERAL unnest(s.reminder_minutes) AS l(lead_minutes) \
         JOIN times t ON t.zone = COALESCE(r.timezone, '') AND t.lead_minutes = l.lead_minutes \
         CROSS JOIN LATERAL (SELECT CASE o.time WHEN '24:00' THEN '00:00' ELSE o.time END AS time, \
                                    t.day - (o.time = '24:00')::int AS day FROM unnest(s.times) AS o(time)) AS d \
         WHERE s.status = 'ACTIVE' AND m.is_active AND d.time BETWEEN t.first AND t.last \
           AND (s.start_date <= d.day) IS NOT FALSE AND (d.day <= s.end_date) IS NOT FALSE \
           AND (COALESCE(cardinality(s.weekdays), 0) = 0 OR EXTRACT(isodow FROM d.day)::int = ANY (s.weekdays))), \
     planned AS (SELECT instant, record_id, lead_minutes FROM care_reminders WHERE kind = $1 AND instant > $2), \
     new AS (SELECT w.*, w.instant - make_interval(mins => w.lead_minutes) AS due_at FROM wanted w \
         WHERE w.instant - make_interval(mins => w.lead_minutes) > $3 AND NOT EXISTS (SELECT FROM planned p \
             WHERE p.instant = w.instant AND p.record_id = w.record_id AND p.lead_minutes = w.lead_minutes))";

/// `$1` kind, `$2` oldest, `$3` since, `$4` now, `$5` until, `$6` known until. Of a record that was planned for another
/// instant, and is moved to one that is still to come but whose leads have passed, the last that has is due now.
fn events(table: &str) -> String {
    format!(
        "wanted AS MATERIALIZED (SELECT DISTINCT e.id AS record_id, e.starts_at AS instant, l.lead_minutes, \
                 e.starts_at - make_interval(mins => l.lead_minutes) AS due_at \
             FROM {table} e CROSS JOIN LATERAL unnest(e.reminder_minutes) AS l(lead_minutes) \
             WHERE COALESCE(e.status, '') NOT IN ('CANCELLED', 'COMPLETED') AND l.lead_minutes IS NOT NULL \
               AND e.starts_at > $2 \
               AND (e.starts_at <= $6 OR e.starts_at - make_interval(mins => l.lead_minutes) <= $5)), \
         planned AS MATERIALIZED (SELECT instant, record_id, lead_minutes FROM care_reminders WHERE kind = $1), \
         unplanned AS MATERIALIZED (SELECT w.* FROM wanted w WHERE NOT EXISTS (SELECT FROM planned p \
             WHERE p.instant = w.instant AND p.record_id = w.record_id AND p.lead_minutes = w.lead_minutes)), \
         new AS (SELECT record_id, instant, lead_minutes, due_at FROM unplanned WHERE due_at > $3 \
             UNION ALL SELECT u.record_id, u.instant, min(u.lead_minutes), $4 FROM unplanned u \
                 WHERE u.due_at <= $3 AND u.instant > $4 \
                   AND EXISTS (SELECT FROM planned p WHERE p.record_id = u.record_id) \
                   AND NOT EXISTS (SELECT FROM planned p WHERE p.record_id = u.record_id AND p.instant = u.instant) \
                 GROUP BY u.record_id, u.instant)"
    )
}

/// `$1` kind, `$2` the day, `$3` now. A shortage of which nobody was told after all, because its notification came to
/// nothing, is found again.
const REFILLS: &str = "wanted AS MATERIALIZED (SELECT m.id AS record_id, $2::timestamptz AS instant, 0 AS lead_minutes \
         FROM medications m WHERE m.is_active AND m.current_supply <= m.refill_at), \
     new AS (SELECT w.*, $3::timestamptz AS due_at FROM wanted w WHERE NOT EXISTS (SELECT FROM refill_shortages s \
             WHERE s.medication_id = w.record_id AND NOT EXISTS (SELECT FROM job_runs n \
                 WHERE n.job_id = s.job_id || ':notification' AND n.state IN ('expired', 'skipped', 'dead'))))";

/// The whole statement: removes what is planned and not `wanted`, but for what is being published, and adds what is `new`.
fn compared(tables: &str, is_stale: &str) -> String {
    format!(
        "WITH {tables}, \
         stale AS (SELECT c.kind, c.instant, c.record_id, c.lead_minutes FROM care_reminders c \
             WHERE c.kind = $1 AND {is_stale} FOR UPDATE OF c SKIP LOCKED), \
         removed AS (DELETE FROM care_reminders c USING stale s WHERE c.kind = s.kind AND c.instant = s.instant \
             AND c.record_id = s.record_id AND c.lead_minutes = s.lead_minutes RETURNING 1), \
         added AS (INSERT INTO care_reminders (kind, record_id, instant, lead_minutes, due_at) \
             SELECT $1, record_id, instant, lead_minutes, due_at FROM new ON CONFLICT DO NOTHING RETURNING 1) \
         SELECT (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM removed) AS removed"
    )
}

/// Of what is not published yet.
const NOT_WANTED: &str = "c.published_at IS NULL AND NOT EXISTS (SELECT FROM wanted w \
    WHERE w.instant = c.instant AND w.record_id = c.record_id AND w.lead_minutes = c.lead_minutes)";

/// A shortage that is over takes its row with it, published or not, so that the next one is told of.
const OVER: &str = "NOT EXISTS (SELECT FROM wanted w WHERE w.record_id = c.record_id)";

impl CarePlan {
    /// The time zones and leads of all doses. A zone that is not given is the empty one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn zones_and_leads(&mut self) -> Result<Vec<(String, i32)>, StoreError> {
        let rows = sqlx::query_as(
            "SELECT DISTINCT COALESCE(r.timezone, ''), l.lead_minutes FROM medication_schedules s \
             JOIN medications m ON m.id = s.medication_id JOIN care_recipients r ON r.id = m.care_recipient_id \
             CROSS JOIN LATERAL unnest(s.reminder_minutes) AS l(lead_minutes) \
             WHERE s.status = 'ACTIVE' AND m.is_active AND l.lead_minutes IS NOT NULL",
        );
        Ok(rows.fetch_all(&mut *self.transaction).await?)
    }

    /// Plans the doses of all medications that are taken.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn plan_doses(&mut self, horizon: &Horizon, times: &[DoseTimes]) -> Result<Planned, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(compared(DOSES, NOT_WANTED)))
            // A plan for these very lists: one for any lists would guess that they are short.
            .persistent(false)
            .bind(CareKind::Medication.name())
            .bind(horizon.oldest)
            .bind(horizon.since)
            .bind(times.iter().map(|times| times.zone.as_str()).collect::<Vec<_>>())
            .bind(times.iter().map(|times| times.lead_minutes).collect::<Vec<_>>())
            .bind(times.iter().map(|times| times.day).collect::<Vec<_>>())
            .bind(times.iter().map(|times| times.first).collect::<Vec<_>>())
            .bind(times.iter().map(|times| times.last).collect::<Vec<_>>())
            .bind(times.iter().map(|times| times.offset).collect::<Vec<_>>())
            .bind(times.iter().map(|times| times.not_before).collect::<Vec<_>>())
            .fetch_one(&mut *self.transaction)
            .await?;
        read(&row)
    }

    /// Plans appointments and shifts.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn plan_events(&mut self, horizon: &Horizon) -> Result<Planned, StoreError> {
        let mut planned = Planned::default();
        for (kind, table) in [(CareKind::Appointment, "appointments"), (CareKind::Shift, "caregiver_shifts")] {
            let row = sqlx::query(sqlx::AssertSqlSafe(compared(&events(table), NOT_WANTED)))
                .persistent(false)
                .bind(kind.name())
                .bind(horizon.oldest)
                .bind(horizon.since)
                .bind(horizon.now)
                .bind(horizon.until)
                .bind(horizon.known_until)
                .fetch_one(&mut *self.transaction)
                .await?;
            planned = planned.and(read(&row)?);
        }
        Ok(planned)
    }

    /// Plans alerts of medications that run out, one for each shortage and day until it is told of, after ending the
    /// shortages that are over.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn plan_refills(&mut self, now: DateTime<Utc>) -> Result<Planned, StoreError> {
        close_ended_shortages(&mut self.transaction).await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(compared(REFILLS, OVER)))
            .persistent(false)
            .bind(CareKind::Refill.name())
            .bind(now.date_naive().and_time(NaiveTime::MIN).and_utc())
            .bind(now)
            .fetch_one(&mut *self.transaction)
            .await?;
        read(&row)
    }
}

impl DueReminders {
    /// Supply and threshold of the medications that run out, by id.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn supplies(&mut self) -> Result<HashMap<String, (i32, i32)>, StoreError> {
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
        Ok(rows.into_iter().map(|(id, left, refill_at)| (id, (left, refill_at))).collect())
    }
}

fn read(row: &PgRow) -> Result<Planned, StoreError> {
    Ok(Planned { added: row.try_get("added")?, removed: row.try_get("removed")? })
}
