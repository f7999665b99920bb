//! Look-ups in the care tables for which the tables behind a view have no index: each would read a table whole.

use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::super::error::StoreError;

/// Smaller tables are read whole as fast as by an index. Rows as the last `ANALYZE` counted them.
const SMALL: i64 = 1000;

/// The same for tables that were never analyzed, in bytes.
const SMALL_SIZE: i64 = 1 << 20;

/// Tables, and how their rows are looked up.
const LOOKUPS: [(&str, &str, &str); 10] = [
    ("users", "id", "id = 'x'"),
    ("care_recipients", "id", "id = 'x'"),
    ("family_members", "family_id", "family_id = 'x'"),
    ("medications", "id", "id = 'x'"),
    ("medication_schedules", "medication_id", "medication_id = 'x'"),
    (
        "medication_logs",
        "medication_id and scheduled_time",
        "medication_id = 'x' AND scheduled_time = '2000-01-01T00:00:00Z'::timestamptz",
    ),
    ("appointments", "id", "id = 'x'"),
    ("appointments", "starts_at", SOON),
    ("caregiver_shifts", "id", "id = 'x'"),
    ("caregiver_shifts", "starts_at", SOON),
];

const SOON: &str =
    "starts_at >= '2000-01-01T00:00:00Z'::timestamptz AND starts_at < '2000-01-01T00:01:00Z'::timestamptz";

/// One line for each look-up that reads a large table whole. `connection` changes nothing.
pub async fn without_index(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    let mut transaction = connection.begin().await?;
    // Then a plan that reads a table whole has no other way.
    sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut *transaction).await?;
    for (table, by, condition) in LOOKUPS {
        let explain = format!("EXPLAIN (VERBOSE, FORMAT JSON) SELECT FROM {table} WHERE {condition}");
        let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_one(&mut *transaction).await?;
        let mut whole = Vec::new();
        read_whole(&plan[0]["Plan"], &mut whole);
        for (schema, behind) in whole {
            let is_large: Option<bool> = sqlx::query_scalar(
                "SELECT CASE WHEN c.reltuples < 0 THEN pg_relation_size(c.oid) >= $4 ELSE c.reltuples >= $3 END \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            )
            .bind(&schema)
            .bind(&behind)
            .bind(SMALL)
            .bind(SMALL_SIZE)
            .fetch_optional(&mut *transaction)
            .await?;
            if is_large == Some(true) {
                found.push(format!("{schema}.{behind} has no index by which {table} is looked up by {by}"));
            }
        }
    }
    transaction.rollback().await?;
    found.dedup();
    Ok(found)
}

/// Schemas and names of the tables that this plan reads whole: scans without a condition that an index answers.
fn read_whole(plan: &Value, found: &mut Vec<(String, String)>) {
    let text = |name: &str| plan[name].as_str().unwrap_or_default();
    let is_whole = match text("Node Type") {
        "Seq Scan" => true,
        "Index Scan" | "Index Only Scan" => plan.get("Index Cond").is_none(),
        _ => false,
    };
    if is_whole {
        found.push((text("Schema").to_owned(), text("Relation Name").to_owned()));
    }
    for below in plan["Plans"].as_array().into_iter().flatten() {
        read_whole(below, found);
    }
}
