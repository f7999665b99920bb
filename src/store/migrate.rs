//! Creates and updates the schema.

use sqlx::Executor;

use super::{check::own_tables, database::Store, error::StoreError, migrations::MIGRATIONS};

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
        let others: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace \
             WHERE relname = '_sqlx_migrations' AND has_table_privilege(pg_class.oid, 'SELECT') \
             ORDER BY nspname <> $1",
        )
        .bind(schema)
        .fetch_all(&self.pool)
        .await?;
        for found in others {
            let is_ours = self.is_ours(&found).await?;
            match (found == *schema, is_ours) {
                (true, true) => return Ok(()),
                (true, false) => {
                    return Err(StoreError::Fault(format!(
                        "the schema `{schema}` has the migrations of another program: name another schema in DATABASE_SCHEMA"
                    )));
                }
                (false, true) => {
                    return Err(StoreError::Fault(format!(
                        "Carebell's tables are in the schema `{found}`, where a build before this one made them. Stop all \
                         workers, then move each with ALTER TABLE {found}.<name> SET SCHEMA {schema} ({}), or set \
                         DATABASE_SCHEMA to `{found}`",
                        own_tables().join(", ")
                    )));
                }
                (false, false) => {}
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

    /// Whether the migrations of a schema are Carebell's, by the first one's name. An unreleased build's checksum differs.
    async fn is_ours(&self, schema: &str) -> Result<bool, StoreError> {
        let Some(first) = MIGRATIONS.iter().next() else { return Ok(false) };
        let quoted = schema.replace('"', "\"\"");
        let query = format!(
            "SELECT EXISTS (SELECT FROM \"{quoted}\"._sqlx_migrations WHERE version = $1 AND description = $2)"
        );
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(first.version).bind(first.description.as_ref());
        Ok(query.fetch_one(&self.pool).await?)
    }
}
