//! Rows of the care tables whose values mean nothing here. They are read as if the value were not there, so a dose may
//! come at another hour, or not at all: somebody has to be told.

use sqlx::{Connection, PgConnection, Row};

use super::super::{database::Store, error::StoreError};
use crate::{cut, schedule::zone};

/// Characters of a value that are repeated.
const SHOWN: usize = 40;

/// Rows with the same mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddRows {
    /// `zone`, `weekday` or `time`.
    pub what: &'static str,
    /// Their number.
    pub count: i64,
    /// The first by its id, for logs and `/health`: without the value, which may be anything if a view has a mistake.
    pub first: String,
    /// With the value and what it is read as, for whoever asks `doctor`.
    pub detail: String,
}

impl OddRows {
    /// All mistakes that are looked for.
    pub const WHAT: [&str; 3] = ["zone", "weekday", "time"];
}

impl Store {
    /// Looks at all rows.
    pub async fn odd_rows(&self) -> Result<Vec<OddRows>, StoreError> {
        odd_rows(&mut *self.pool.acquire().await?).await
    }
}

/// Zones: of care recipients, of users, and of quiet hours, with the ids of the first.
const ZONES: [(&str, &str, &str); 3] = [
    (
        "care recipient",
        "SELECT timezone AS zone, count(*) AS rows, min(id) AS id FROM care_recipients \
         WHERE btrim(timezone) <> '' GROUP BY timezone",
        "UTC",
    ),
    (
        "user",
        "SELECT timezone AS zone, count(*) AS rows, min(id) AS id FROM users WHERE btrim(timezone) <> '' GROUP BY timezone",
        "UTC, for quiet hours",
    ),
    (
        "preferences of user",
        "SELECT quiet_zone AS zone, count(*) AS rows, min(user_id) AS id FROM preferences \
         WHERE btrim(quiet_zone) <> '' GROUP BY quiet_zone",
        "the user's own",
    ),
];

const WEEKDAYS: &str = "SELECT count(*) AS rows, min(s.medication_id) AS id, \
    (array_agg(d.day::text ORDER BY s.medication_id, d.day))[1] AS value \
    FROM medication_schedules s CROSS JOIN LATERAL \
        (SELECT min(day) AS day FROM unnest(s.weekdays) AS day WHERE day NOT BETWEEN 1 AND 7 OR day IS NULL \
         HAVING count(*) > 0) AS d \
    WHERE s.status = 'ACTIVE'";

const TIMES: &str = "SELECT count(*) AS rows, min(s.medication_id) AS id FROM medication_schedules s \
    WHERE s.status = 'ACTIVE' AND (array_position(s.times, NULL) IS NOT NULL \
        OR array_position(s.reminder_minutes, NULL) IS NOT NULL)";

pub(in super::super) async fn odd_rows(connection: &mut PgConnection) -> Result<Vec<OddRows>, StoreError> {
    let mut odd = Vec::new();
    // Large tables, or views over them, must not keep a connection for long.
    let mut connection = connection.begin().await?;
    sqlx::query("SET LOCAL statement_timeout = '30s'").execute(&mut *connection).await?;
    for (whose, query, read_as) in ZONES {
        let mut unknown: Vec<(String, i64, String)> = Vec::new();
        for row in sqlx::query(query).fetch_all(&mut *connection).await? {
            let name: String = row.try_get("zone")?;
            if zone(name.trim()).is_err() {
                unknown.push((row.try_get("id")?, row.try_get("rows")?, name));
            }
        }
        unknown.sort_unstable();
        let count = unknown.iter().map(|(_, count, _)| count).sum();
        if let Some((id, _, name)) = unknown.into_iter().next() {
            // The error has the name, cut, and a name that is like it.
            let why = zone(&name).err().map(|error| error.to_string()).unwrap_or_default();
            let why = why.split("; expected").next().unwrap_or_default().to_owned();
            let first = format!("{whose} {} has an unknown time zone", shown(&id));
            let detail = format!("{whose} {}: {why}; it is read as {read_as}", shown(&id));
            odd.push(OddRows { what: "zone", count, first, detail });
        }
    }
    for (what, query, why) in [
        ("weekday", WEEKDAYS, "has weekday VALUE, and only 1 (Monday) to 7 (Sunday) are days"),
        ("time", TIMES, "has null among its times or reminder_minutes, which is passed over"),
    ] {
        let row = sqlx::query(query).fetch_one(&mut *connection).await?;
        let count: i64 = row.try_get("rows")?;
        if count > 0 {
            let value = match what {
                "weekday" => row.try_get::<Option<String>, _>("value")?,
                _ => None,
            };
            let why = why.replace("VALUE", value.as_deref().unwrap_or("null"));
            let id: Option<String> = row.try_get("id")?;
            let first = format!("the schedule of medication {} {why}", shown(&id.unwrap_or_default()));
            odd.push(OddRows { what, count, detail: first.clone(), first });
        }
    }
    Ok(odd)
}

fn shown(id: &str) -> String {
    let id: String = id.chars().filter(|c| !c.is_control()).collect();
    cut::with_ellipsis(&id, SHOWN, cut::one)
}
