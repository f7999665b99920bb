//! Checks of the database before a worker relies on it.

use chrono::{DateTime, Utc};
use sqlx::{ConnectOptions, Executor, PgConnection, Row};
use tokio::time::timeout;

use super::{
    care::{
        columns::{COLUMNS, CareColumn},
        lookups::without_index,
        odd_rows::{OddRows, odd_rows},
    },
    database::{PING_TIMEOUT, Store},
    error::StoreError,
    migrations::MIGRATIONS,
};

/// Carebell's tables, with the privileges that a worker needs. `FOR UPDATE` needs UPDATE too.
const OWN_TABLES: [(&str, &[&str]); 22] = [
    ("_sqlx_migrations", &["SELECT"]),
    ("care_reminders", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("delayed_jobs", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("contents", &["SELECT", "INSERT", "DELETE"]),
    ("deliveries", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("delivery_attempts", &["SELECT", "INSERT"]),
    ("job_children", &["SELECT", "INSERT", "DELETE"]),
    ("job_runs", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("notifications", &["SELECT", "INSERT"]),
    ("pauses", &["SELECT"]),
    ("outcome_counts", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("preferences", &["SELECT"]),
    ("push_subscriptions", &["SELECT", "UPDATE", "DELETE"]),
    ("job_tasks", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("rate_limits", &["SELECT", "INSERT", "UPDATE"]),
    ("refill_shortages", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("reminder_marks", &["SELECT", "INSERT", "DELETE"]),
    ("scheduler_state", &["SELECT", "INSERT", "UPDATE"]),
    ("schedules", &["SELECT", "UPDATE"]),
    ("unsent_deliveries", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("user_addresses", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("workers", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
];

/// Names of Carebell's tables.
pub(super) fn own_tables() -> Vec<&'static str> {
    OWN_TABLES.iter().map(|(table, _)| *table).chain(["audit_log"]).collect()
}

/// A connection.
#[derive(Debug)]
pub struct Probe {
    connection: PgConnection,
    schema: String,
}

/// Facts about the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// For example `18.3`.
    pub version: String,
    /// Whether it is a standby or read-only.
    pub is_read_only: bool,
    /// How it may lose commits that it has answered.
    pub risk: Option<CommitRisk>,
}

/// How a server may lose commits that it has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitRisk {
    /// A crash loses the last of them: `synchronous_commit` is `off` for the role.
    NotFlushed,
    /// A failover does: `synchronous_commit` is `local` for the role, though there are synchronous standbys.
    NotAwaited,
    /// A failover does: no standby is synchronous.
    AsynchronousStandbys,
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
        let server = self.database.server();
        let connected = timeout(PING_TIMEOUT, self.database.options.connect()).await;
        let mut connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(sqlx::Error::Io(why))) => {
                return Err(StoreError::Unavailable(format!("no connection to {server}: {why}")));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(StoreError::Unavailable(format!("no answer from {server} within {PING_TIMEOUT:?}"))),
        };
        connection.execute(sqlx::AssertSqlSafe(self.database.search_path())).await?;
        Ok(Probe { connection, schema: self.database.schema.clone() })
    }
}

impl Probe {
    /// Reads version, mode and how commits are kept. Every role may read these.
    pub async fn facts(&mut self) -> Result<ServerFacts, StoreError> {
        // Of standbys, most roles see no more than that they are there. Logical subscribers look alike, but for their
        // slots.
        let row = self
            .one(
                "SELECT current_setting('server_version') AS version, \
                        current_setting('transaction_read_only')::boolean AS is_read_only, \
                        current_setting('synchronous_commit') AS synchronous_commit, \
                        current_setting('synchronous_standby_names') <> '' AS waits, \
                        EXISTS (SELECT FROM pg_stat_replication s WHERE NOT EXISTS ( \
                            SELECT FROM pg_replication_slots p \
                            WHERE p.active_pid = s.pid AND p.slot_type = 'logical')) AS has_standbys",
            )
            .await?;
        let version: String = row.try_get("version")?;
        let version = version.split_whitespace().next().unwrap_or_default().to_owned();
        let waits: bool = row.try_get("waits")?;
        let risk = match row.try_get("synchronous_commit")? {
            "off" => Some(CommitRisk::NotFlushed),
            "local" if waits => Some(CommitRisk::NotAwaited),
            _ if !waits && row.try_get("has_standbys")? => Some(CommitRisk::AsynchronousStandbys),
            _ => None,
        };
        Ok(ServerFacts { version, is_read_only: row.try_get("is_read_only")?, risk })
    }

    /// The server's time.
    pub async fn now(&mut self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.one("SELECT clock_timestamp() AS now").await?.try_get("now")?)
    }

    /// The schema version. The error for missing migrations names the versions found and needed.
    pub async fn schema(&mut self) -> Result<i64, StoreError> {
        let schema = self.schema.clone();
        if !self.has_own_tables().await? {
            return Err(StoreError::Fault(format!("the schema `{schema}` has no tables of Carebell")));
        }
        // Never one of the application's, further on in the search path.
        let versions = format!("SELECT max(version) FROM {schema}._sqlx_migrations WHERE success");
        let applied: Option<i64> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(versions)).fetch_one(&mut self.connection).await?;
        let (found, wanted) = (applied.unwrap_or(0), newest_migration());
        if found < wanted {
            return Err(StoreError::Fault(format!("the schema is at version {found}, this program needs {wanted}")));
        }
        self.same_migrations().await?;
        Ok(found)
    }

    /// Whether a migration ran in the schema. Its privileges need not suffice for more.
    ///
    /// A schema that the role may not use is passed over by the search path: the application's tables of the same names
    /// would be found.
    pub async fn has_own_tables(&mut self) -> Result<bool, StoreError> {
        let query = "SELECT has_schema_privilege(to_regnamespace($1), 'USAGE')";
        let may_use: Option<bool> =
            sqlx::query_scalar(query).bind(&self.schema).fetch_one(&mut self.connection).await?;
        if may_use == Some(false) {
            let schema = &self.schema;
            return Err(StoreError::Fault(format!(
                "the role may not use the schema `{schema}`: GRANT USAGE ON SCHEMA {schema}"
            )));
        }
        let found = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                            WHERE nspname = $1 AND relname = '_sqlx_migrations')",
        );
        Ok(found.bind(&self.schema).fetch_one(&mut self.connection).await?)
    }

    /// Refuses a schema whose migrations have our numbers and another content, as unreleased builds made them.
    async fn same_migrations(&mut self) -> Result<(), StoreError> {
        let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT version, checksum FROM {}._sqlx_migrations",
            self.schema
        )))
        .fetch_all(&mut self.connection)
        .await?;
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

    /// Rows of the care tables that are not read as they are written.
    pub async fn odd_rows(&mut self) -> Result<Vec<OddRows>, StoreError> {
        odd_rows(&mut self.connection).await
    }

    /// Look-ups in the care tables that read a large table whole, because what is behind a view lacks an index.
    pub async fn without_index(&mut self) -> Result<Vec<String>, StoreError> {
        without_index(&mut self.connection).await
    }

    /// How many push subscriptions cannot be sent to, and the first by its id, with the reason.
    pub async fn malformed_subscriptions(&mut self) -> Result<Option<(i64, String)>, StoreError> {
        let table = format!("{}.push_subscriptions", self.schema);
        let query = format!(
            "SELECT count(*) AS rows, min(id) AS id, (array_agg(problem ORDER BY id))[1] AS problem FROM {table} \
             WHERE problem IS NOT NULL AND problem_of = encode(sha256(convert_to(endpoint || ' ' || p256dh || ' ' || auth, 'UTF8')), 'hex')"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_one(&mut self.connection).await?;
        let (count, id): (i64, Option<String>) = (row.try_get("rows")?, row.try_get("id")?);
        let problem: Option<String> = row.try_get("problem")?;
        Ok(id.map(|id| (count, format!("The first is {id}: {}", problem.unwrap_or_default()))))
    }

    /// Privileges that the role lacks on Carebell's tables, as `UPDATE on deliveries`. [`schema`](Self::schema) finds
    /// missing tables.
    pub async fn missing_privileges(&mut self) -> Result<Vec<String>, StoreError> {
        let may_use: Option<bool> = sqlx::query_scalar("SELECT has_schema_privilege(to_regnamespace($1), 'USAGE')")
            .bind(&self.schema)
            .fetch_one(&mut self.connection)
            .await?;
        if may_use == Some(false) {
            return Ok(vec![format!("USAGE on SCHEMA {}", self.schema)]);
        }
        let asked = OWN_TABLES.iter().flat_map(|(table, needs)| needs.iter().map(move |need| (*table, *need)));
        let (tables, privileges): (Vec<&str>, Vec<&str>) = asked.unzip();
        let rows = sqlx::query(
            "SELECT tab, privilege FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w(tab, privilege, position) \
             WHERE NOT has_table_privilege(to_regclass($3 || '.' || tab), privilege) ORDER BY position",
        )
        .bind(tables)
        .bind(privileges)
        .bind(&self.schema)
        .fetch_all(&mut self.connection)
        .await?;
        let mut missing = Vec::with_capacity(rows.len());
        for row in rows {
            let (privilege, table): (&str, &str) = (row.try_get("privilege")?, row.try_get("tab")?);
            missing.push(format!("{privilege} on {}.{table}", self.schema));
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
