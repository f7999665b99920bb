/// A database error, by its remedy. Texts hold SQLSTATE codes and names of tables and constraints, never values, which
/// may be personal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Away, read-only or without the schema. The statement may succeed once that is fixed.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A conflicting transaction. Try again soon.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// The data is refused.
    #[error("the database refuses the data: {0}")]
    Data(String),
    /// An unexpected answer.
    #[error("the database gives an unexpected answer: {0}")]
    Fault(String),
}

impl StoreError {
    /// Whether a table, a column or the permission to read it is missing (SQLSTATE class 42).
    #[must_use]
    pub fn is_of_schema(&self) -> bool {
        matches!(self, Self::Unavailable(text) if text.starts_with("SQLSTATE 42"))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(database) = &error else {
            return match error {
                sqlx::Error::Tls(ref why) if why.to_string() == "server does not support TLS" => Self::Unavailable(
                    "the server offers no TLS, which is required off this machine (on a network that you trust, \
                         `?sslmode=disable` at the end of the URL does without)"
                        .into(),
                ),
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable(error.to_string()),
                sqlx::Error::Encode(_) => Self::Data("a value cannot be encoded".into()),
                sqlx::Error::ColumnDecode { index, .. } => {
                    Self::Fault(format!("column {index} has an unexpected type"))
                }
                other => Self::Fault(other.to_string()),
            };
        };
        let code = database.code().unwrap_or_default().into_owned();
        let place = database.constraint().or(database.table()).map(|name| format!(" at {name}")).unwrap_or_default();
        let text = format!("SQLSTATE {code}{place}");
        // The first two characters are the class (Postgres manual, appendix A). Only bad data is a job's fault; a
        // changed password or a failover to a read-only server is not.
        match code.get(..2) {
            // Two groups wrote the same mark concurrently. The refused one is repeated and finds it.
            Some("23") if database.constraint() == Some("reminder_marks_pkey") => Self::Busy(text),
            Some("22" | "23" | "54") => Self::Data(text),
            Some("40" | "55") => Self::Busy(text),
            _ if code == "57014" => Self::Unavailable(format!(
                "the statement was cancelled ({text}): it took too long, or somebody ended it"
            )),
            _ if code == "25006" => Self::Unavailable(format!(
                "it is read-only ({text}): a standby, or set so with default_transaction_read_only"
            )),
            Some("42") => {
                Self::Unavailable(format!("{text} (`carebell doctor` says which table or permission is missing)"))
            }
            _ => Self::Unavailable(text),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
                error.into()
            }
            other => Self::Fault(other.to_string()),
        }
    }
}
