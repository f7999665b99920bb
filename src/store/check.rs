//! Checks of the database before a worker relies on it.

use chrono::{DateTime, Utc};
use sqlx::{ConnectOptions, PgConnection, Row, error::DatabaseError};
use tokio::time::timeout;

use super::{
    care::columns::{COLUMNS, CareColumn},
    database::{MIGRATIONS, PING_TIMEOUT, Store},
    error::StoreError,
};

/// SQLSTATE.
const UNDEFINED_TABLE: &str = "42P01";

/// Carebell's tables, with the privileges that a worker needs. `FOR UPDATE` needs UPDATE too.
const OWN_TABLES: [(&str, &[&str]); 17] = [
    ("_sqlx_migrations", &["SELECT"]),
    ("care_reminders", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("delayed_jobs", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("contents", &["SELECT", "INSERT", "DELETE"]),
    ("deliveries", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("delivery_attempts", &["SELECT", "INSERT"]),
    ("job_children", &["SELECT", "INSERT", "DELETE"]),
    ("job_runs", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("notifications", &["SELECT", "INSERT"]),
    ("preferences", &["SELECT"]),
    ("push_subscriptions", &["SELECT", "UPDATE", "DELETE"]),
    ("rate_limits", &["SELECT", "INSERT", "UPDATE"]),
    ("refill_shortages", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("reminder_marks", &["SELECT", "INSERT", "DELETE"]),
    ("scheduler_state", &["SELECT", "INSERT", "UPDATE"]),
    ("schedules", &["SELECT", "UPDATE"]),
    ("user_addresses", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
];

/// A connection.
#[derive(Debug)]
pub struct Probe {
    connection: PgConnection,
}

/// Facts about the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// For example `18.3`.
    pub version: String,
    /// Whether it is a standby or read-only.
    pub is_read_only: bool,
}

/// Deficiencies of the care tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Missing and mistyped columns, and missing tables.
    pub care: Vec<String>,
    /// Tables that the role may not read.
    pub unreadable: Vec<String>,
}

impl Store {
    /// Connects once, outside the pool, which would retry silently if the server refuses.
    pub async fn probe(&self) -> Result<Probe, StoreError> {
        let connect = self.pool.connect_options();
        let connected = timeout(PING_TIMEOUT, connect.connect()).await;
        let connection =
            connected.map_err(|_| StoreError::Unavailable(format!("no connection within {PING_TIMEOUT:?}")))??;
        Ok(Probe { connection })
    }
}

impl Probe {
    /// Reads version and mode.
    pub async fn facts(&mut self) -> Result<ServerFacts, StoreError> {
        let row = self
            .one(
                "SELECT current_setting('server_version') AS version, \
                        current_setting('transaction_read_only')::boolean AS is_read_only",
            )
            .await?;
        let version: String = row.try_get("version")?;
        let version = version.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(ServerFacts { version, is_read_only: row.try_get("is_read_only")? })
    }

    /// The server's time.
    pub async fn now(&mut self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.one("SELECT clock_timestamp() AS now").await?.try_get("now")?)
    }

    /// The schema version. The error for missing migrations names the versions found and needed.
    pub async fn schema(&mut self) -> Result<i64, StoreError> {
        let applied: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut self.connection)
            .await
            .map_err(|error| match error.as_database_error().and_then(DatabaseError::code).as_deref() {
                Some(UNDEFINED_TABLE) => StoreError::Fault("the schema is not there".into()),
                _ => error.into(),
            })?;
        let (found, wanted) = (applied.unwrap_or(0), newest_migration());
        if found < wanted {
            return Err(StoreError::Fault(format!("the schema is at version {found}, this program needs {wanted}")));
        }
        self.same_migrations().await?;
        Ok(found)
    }

    /// Refuses a schema whose migrations have our numbers and another content, as unreleased builds made them.
    async fn same_migrations(&mut self) -> Result<(), StoreError> {
        let applied: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations").fetch_all(&mut self.connection).await?;
        for (version, checksum) in applied {
            let other = MIGRATIONS.iter().find(|known| known.version == version && *known.checksum != *checksum);
            if other.is_some() {
                return Err(StoreError::Fault(format!(
                    "migration {version} of the schema is not this program's: an unreleased build made it; create the \
                     database anew and run `carebell migrate`"
                )));
            }
        }
        Ok(())
    }

    /// Compares the care tables or views with the columns that are read.
    pub async fn care_tables(&mut self) -> Result<Lacks, StoreError> {
        let (tables, columns): (Vec<&str>, Vec<&str>) =
            COLUMNS.iter().map(|wanted| (wanted.table, wanted.column)).unzip();
        // A domain counts as its base type.
        let rows = sqlx::query(
            "SELECT to_regclass(w.tab) IS NOT NULL AS is_there, \
                    format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL) AS kind, \
                    has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS is_readable \
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(tab, col, position) \
             LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(w.tab) AND a.attname = w.col AND a.attnum > 0 \
                                     AND NOT a.attisdropped \
             LEFT JOIN pg_type t ON t.oid = a.atttypid ORDER BY w.position",
        )
        .bind(tables)
        .bind(columns)
        .fetch_all(&mut self.connection)
        .await?;
        let mut lacks = Lacks::default();
        for (wanted, row) in COLUMNS.iter().zip(rows) {
            let CareColumn { table, column, kind } = wanted;
            match row.try_get::<Option<String>, _>("kind")? {
                _ if !row.try_get::<bool, _>("is_there")? => {
                    lacks.care.push(format!("there is no table or view {table}"));
                }
                None => lacks.care.push(format!("{table} has no column {column}")),
                Some(found) if !kind.takes(&found) => {
                    lacks.care.push(format!("{table}.{column} is {found}, and must be {}", kind.name()));
                }
                Some(_) if row.try_get("is_readable")? => {}
                Some(_) => lacks.unreadable.push((*table).to_owned()),
            }
        }
        lacks.care.dedup();
        lacks.unreadable.dedup();
        Ok(lacks)
    }

    /// Privileges that the role lacks on Carebell's tables, as `UPDATE on deliveries`. [`schema`](Self::schema) finds
    /// missing tables.
    pub async fn missing_privileges(&mut self) -> Result<Vec<String>, StoreError> {
        let asked = OWN_TABLES.iter().flat_map(|(table, needs)| needs.iter().map(move |need| (*table, *need)));
        let (tables, privileges): (Vec<&str>, Vec<&str>) = asked.unzip();
        let rows = sqlx::query(
            "SELECT tab, privilege FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(tab, privilege, position) \
             WHERE NOT has_table_privilege(to_regclass(tab), privilege) ORDER BY position",
        )
        .bind(tables)
        .bind(privileges)
        .fetch_all(&mut self.connection)
        .await?;
        let mut missing = Vec::with_capacity(rows.len());
        for row in rows {
            missing.push(format!("{} on {}", row.try_get::<&str, _>("privilege")?, row.try_get::<&str, _>("tab")?));
        }
        Ok(missing)
    }

    async fn one(&mut self, query: &'static str) -> Result<sqlx::postgres::PgRow, StoreError> {
        let answer = timeout(PING_TIMEOUT, sqlx::query(query).fetch_one(&mut self.connection)).await;
        Ok(answer.map_err(|_| StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}")))??)
    }
}

fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}
