//! Creates and updates the schema.

use sqlx::Executor;

use super::{check::own_tables, database::Store, error::StoreError, migrations::MIGRATIONS};

/// The first migration of a build that has its tables in a schema of their own.
const FIRST_WITH_SCHEMA: i64 = 5;

/// SQLSTATE.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Store {
    /// Creates or updates Carebell's tables, and their schema. Idempotent; several processes may run it at once.
    /// Migrations before a failed one stay.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.create_schema().await?;
        self.refuse_foreign_tables().await?;
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    async fn has_schema(&self) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)");
        Ok(query.bind(&self.database.schema).fetch_one(&self.pool).await?)
    }

    async fn create_schema(&self) -> Result<(), StoreError> {
        // Even IF NOT EXISTS needs the privilege to create one.
        if self.has_schema().await? {
            return Ok(());
        }
        let schema = &self.database.schema;
        let create = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        let Err(error) = self.pool.execute(sqlx::AssertSqlSafe(create)).await else { return Ok(()) };
        // Another process may have created it at the same time.
        if self.has_schema().await? {
            return Ok(());
        }
        let is_denied =
            error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE));
        if is_denied {
            return Err(StoreError::Fault(format!(
                "the role of DATABASE_URL may not create the schema `{schema}`: let an administrator run `CREATE SCHEMA \
                 {schema} AUTHORIZATION` with that role, then run `carebell migrate` again"
            )));
        }
        Err(error.into())
    }

    /// What would be in the way of a migration, or taken for one's work.
    async fn refuse_foreign_tables(&self) -> Result<(), StoreError> {
        let schema = &self.database.schema;
        let current: Option<String> = sqlx::query_scalar("SELECT current_schema()").fetch_one(&self.pool).await?;
        if current.as_ref() != Some(schema) {
            return Err(StoreError::Fault(format!(
                "the role of DATABASE_URL may not use the schema `{schema}`: make it the owner (`ALTER SCHEMA {schema} \
                 OWNER TO …`), or grant it USAGE and CREATE"
            )));
        }
        let others: Vec<(String, bool)> = sqlx::query_as(
            "SELECT nspname::text, has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(pg_class.oid, 'SELECT') \
             FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = '_sqlx_migrations' \
             ORDER BY nspname <> $1",
        )
        .bind(schema)
        .fetch_all(&self.pool)
        .await?;
        for (found, is_readable) in others {
            let is_own = found == *schema;
            if !is_readable && is_own {
                return Err(StoreError::Fault(format!(
                    "the role of DATABASE_URL may not read {schema}._sqlx_migrations: run `carebell migrate` as the owner \
                     of the tables"
                )));
            }
            if !is_readable {
                continue;
            }
            match (is_own, self.is_ours(&found, is_own).await?) {
                (true, true) => return Ok(()),
                (true, false) => {
                    return Err(StoreError::Fault(format!(
                        "the schema `{schema}` has the migrations of another program: name another schema in DATABASE_SCHEMA"
                    )));
                }
                // Another installation's, unless no build with a schema of its own can have made them.
                (false, true) if !self.has_run(&found, FIRST_WITH_SCHEMA).await? => {
                    return Err(StoreError::Fault(format!(
                        "Carebell's tables are in the schema `{found}`, where a build before this one made them. Stop all \
                         workers, then move each with ALTER TABLE {found}.<name> SET SCHEMA {schema} ({}), or set \
                         DATABASE_SCHEMA to `{found}`",
                        own_tables().join(", ")
                    )));
                }
                (false, _) => {}
            }
        }
        let foreign: Option<String> = sqlx::query_scalar(
            "SELECT min(relname::text) FROM pg_class WHERE relnamespace = $1::regnamespace AND relname = ANY ($2)",
        )
        .bind(schema)
        .bind(own_tables())
        .fetch_one(&self.pool)
        .await?;
        let Some(table) = foreign else { return Ok(()) };
        Err(StoreError::Fault(format!(
            "the schema `{schema}` has a table `{table}` that Carebell did not create: name another schema in \
             DATABASE_SCHEMA, or move that table to another one with ALTER TABLE {schema}.{table} SET SCHEMA"
        )))
    }

    /// Whether a migration ran in a schema of Carebell's.
    async fn has_run(&self, schema: &str, version: i64) -> Result<bool, StoreError> {
        let quoted = schema.replace('"', "\"\"");
        let query = format!("SELECT EXISTS (SELECT FROM \"{quoted}\"._sqlx_migrations WHERE version = $1)");
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(version).fetch_one(&self.pool).await?)
    }

    /// Whether the migrations of a schema are Carebell's, by the first one's name: an unreleased build's checksum differs.
    /// Of its own schema, also if none has ended: another process is at it, or was stopped.
    async fn is_ours(&self, schema: &str, is_own: bool) -> Result<bool, StoreError> {
        let Some(first) = MIGRATIONS.iter().next() else { return Ok(false) };
        let quoted = schema.replace('"', "\"\"");
        let query = format!(
            "SELECT EXISTS (SELECT FROM \"{quoted}\"._sqlx_migrations WHERE version = $1 AND description = $2) \
                 OR ($3 AND NOT EXISTS (SELECT FROM \"{quoted}\"._sqlx_migrations))"
        );
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
        Ok(query.bind(first.version).bind(first.description.as_ref()).bind(is_own).fetch_one(&self.pool).await?)
    }
}
