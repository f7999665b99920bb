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

    /// Tables of these names that no migration made would be in the way of one in the middle.
    async fn refuse_foreign_tables(&self) -> Result<(), StoreError> {
        let foreign: Option<String> = sqlx::query_scalar(
            "SELECT min(relname::text) FROM pg_class WHERE relnamespace = $1::regnamespace AND relname = ANY ($2) \
             AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = $1::regnamespace \
                             AND c.relname = '_sqlx_migrations')",
        )
        .bind(&self.database.schema)
        .bind(own_tables())
        .fetch_one(&self.pool)
        .await?;
        let Some(table) = foreign else { return Ok(()) };
        let schema = &self.database.schema;
        Err(StoreError::Fault(format!(
            "the schema `{schema}` has a table `{table}` that Carebell did not create: name another schema in \
             DATABASE_SCHEMA, or move that table to another one with ALTER TABLE {schema}.{table} SET SCHEMA"
        )))
    }
}
