//! All SQL, a file a table family. Nothing else names `sqlx`.
//!
//! Writes take groups: one statement for many jobs, so that the cost of a commit is shared (see `group.rs`).

mod audit;
mod callbacks;
mod care;
mod care_reminders;
mod check;
mod claims;
mod commits;
mod deliveries;
mod demo;
mod inspect;
mod keyed;
mod listen;
mod people;
mod rate_limits;
mod runs;
mod schedules;
mod shortages;
mod subscriptions;
mod upkeep;

use std::{sync::LazyLock, time::Duration};

use sqlx::{
    Executor, PgPool, Row, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::time::timeout;

use self::keyed::Keyed;
pub use self::{
    audit::AuditEntry,
    callbacks::{Noted, Reported},
    care::{
        AppointmentRecord, DoseState, DoseTimes, Event, EventStatus, Horizon, MedicationAsk, MedicationRecord, Planned,
        ShiftRecord, SupplyRecord,
    },
    care_reminders::{CARE_CHANGED, CareKind, CarePlan, CareReminder, DueReminders},
    check::{Lacks, Probe, ServerFacts},
    claims::{AT_ONCE, CLAIM_LEASE, CRASHES, Claim, ClaimAsk, Claimed, Webhook},
    deliveries::{LedgerEntry, LedgerRecord},
    demo::{DemoAddress, DemoMember},
    inspect::{AttemptLine, InboxLine, LedgerLine, PlannedLine, RunLine, Totals, Way},
    listen::Listener,
    people::{PeopleAsk, Person},
    rate_limits::{BookAsk, Booked},
    runs::{Answer, Child, ClaimedAtOnce, Commit, Committed, FailedRun, RunAsk, RunRecord, RunState, Verdict},
    schedules::{CHANGED, DueSchedules, Moved, Next, ScheduleRow, ScheduleSpec},
    subscriptions::Orphans,
    upkeep::{Page, Seen},
};

/// Carebell's own tables.
///
/// A schema that is newer is none of an older program's business: its worker runs on it, and its `migrate` leaves it be.
/// So the pods of a rollout, and of one that is taken back, start in any order.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |&(number, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    let mut migrations = Migrator::with_migrations(EMBEDDED.iter().map(migration).collect());
    migrations.set_ignore_missing(true);
    migrations
});

/// Number, name and text of each file in `migrations/`. Written by `build.rs`.
const EMBEDDED: &[(i64, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// How statements of the groups are planned: once a connection, and by the indexes of the keys that they are given. Left
/// alone, the planner takes a table that was empty when it looked for a small one, reads all of it for each group, and
/// plans the same statement again and again. A plan by keys costs the same however long the tables are and however old
/// their statistics. (`jit` goes by costs, and these are not meant.)
const KEYED: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
                     SET enable_mergejoin = off; SET jit = off";

/// The most connections for such statements: as many as groups are usually busy at the same moment, and one more.
const MOST_KEYED: u32 = 6;

/// How long a job waits for a connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the database may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// SQLSTATE of a table that is not there.
const UNDEFINED_TABLE: &str = "42P01";

/// Postgres, through two pools of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// For statements that look up each row by a key, and only those: see [`KEYED`].
    keyed: Keyed,
}

/// What went wrong in the database, by what can be done about it. Texts hold SQLSTATE codes and names of tables and
/// constraints, never values: those may be personal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Away, read-only, without the schema: the same statement may go through when somebody has mended it.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Busy with a conflicting transaction: the same statement goes through in a moment.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// It refuses the data itself.
    #[error("the database refuses the data: {0}")]
    Data(String),
    /// It answers what this program does not understand.
    #[error("the database gives an unexpected answer: {0}")]
    Fault(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(database) = &error else {
            return match error {
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
        // Appendix A of the Postgres manual: the first two characters are the class. Only what is wrong with the data
        // is a job's own fault; a password that was changed or a failover to a read-only server is nobody's.
        match code.get(..2) {
            // Two groups wrote the same mark at the same moment: put again, the one that was refused finds it.
            Some("23") if database.constraint() == Some("reminder_marks_pkey") => Self::Busy(text),
            Some("22" | "23" | "54") => Self::Data(text),
            Some("40" | "55") => Self::Busy(text),
            Some("42") => {
                Self::Unavailable(format!("{text} (`carebell doctor` says which table or permission is missing)"))
            }
            _ => Self::Unavailable(text),
        }
    }
}

impl Store {
    /// A pool for `url`, without connecting yet.
    ///
    /// # Errors
    /// If the URL is not one of Postgres. The text does not repeat it: it may hold a password.
    pub fn new(url: &str, connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(|_| {
            StoreError::Fault("the URL is not of the form postgres://user:password@host:5432/database".into())
        })?;
        let options = options.application_name("carebell");
        // A worker whose machine stands still keeps rows locked for no longer than this.
        let idle = "SET idle_in_transaction_session_timeout = '30s'";
        let pool = |connections: u32, settings: String| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(move |connection, _| {
                    let settings = sqlx::AssertSqlSafe(settings.clone());
                    Box::pin(async move { connection.execute(settings).await.map(|_| ()) })
                })
                .connect_lazy_with(options.clone())
        };
        let keyed = (connections / 2).clamp(1, MOST_KEYED);
        Ok(Self {
            pool: pool((connections - keyed).max(1), idle.to_owned()),
            keyed: Keyed::new(pool(keyed, format!("{idle}; {KEYED}"))),
        })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let answer = timeout(PING_TIMEOUT, self.pool.execute("SELECT 1")).await;
        answer.map_err(|_| StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}")))??;
        Ok(())
    }

    /// Creates or updates Carebell's own tables. Safe to repeat, and to run from several processes at once.
    ///
    /// # Errors
    /// If a migration fails; what was applied before it stays.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS.run(&self.pool).await.map_err(migration_error)
    }

    /// Creates the care tables that are not there yet. Views of the same names are left alone.
    ///
    /// # Errors
    /// If a table cannot be created.
    pub async fn create_care_tables(&self) -> Result<(), StoreError> {
        self.pool.execute(include_str!("../migrations/care.sql")).await?;
        Ok(())
    }

    /// Closes all connections, after the statements under way.
    pub async fn close(&self) {
        self.pool.close().await;
        self.keyed.close().await;
    }

    /// Connections that are in use, those that are idle, and the most that there may be.
    #[must_use]
    pub fn connections(&self) -> [u32; 3] {
        let [mut open, mut idle, mut most] = [0_u32; 3];
        for (pool, resting) in [(&self.pool, self.pool.num_idle()), (self.keyed.pool(), self.keyed.idle())] {
            open += pool.size();
            idle += u32::try_from(resting).unwrap_or(u32::MAX);
            most += pool.options().get_max_connections();
        }
        [open.saturating_sub(idle), idle, most]
    }

    /// The pool, for tests and `carebell dev`, which write the care tables that this program only reads.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// What a row of an answer to many asks belongs to, by its column `position`: 1 for the first, as Postgres counts.
fn at_position<'a, T>(answers: &'a mut [T], row: &PgRow) -> Result<&'a mut T, StoreError> {
    let position: i64 = row.try_get("position")?;
    let index = usize::try_from(position - 1).ok().and_then(|index| answers.get_mut(index));
    index.ok_or_else(|| StoreError::Fault(format!("position {position} was not asked for")))
}

fn migration_error(error: sqlx::migrate::MigrateError) -> StoreError {
    match error {
        sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
            error.into()
        }
        other => StoreError::Fault(other.to_string()),
    }
}
