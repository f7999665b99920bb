//! Connection pools and the schema.

use std::{sync::LazyLock, time::Duration};

use sqlx::{
    Executor, PgPool, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::time::timeout;

use super::{
    error::StoreError,
    keyed::{ACQUIRE_TIMEOUT, Keyed},
};
use crate::host::is_this_machine;

/// An older worker runs on a newer schema, and its `migrate` leaves that alone: pods of a rollout or rollback start in
/// any order.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |&(number, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    let mut migrations = Migrator::with_migrations(EMBEDDED.iter().map(migration).collect());
    migrations.set_ignore_missing(true);
    migrations
});

/// Number, name and text of each file in `migrations/`. Written by `build.rs`.
const EMBEDDED: &[(i64, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// Settings for grouped statements: each is planned once, by the indexes of its keys.
///
/// Otherwise the planner takes a table that it last saw empty for a small one, scans it for each group, and plans again
/// and again. `jit` is off because it is chosen by cost estimates, which these settings distort.
const KEYED: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
                     SET enable_mergejoin = off; SET jit = off";

/// Upper bound of connections for grouped statements: the groups usually busy at once, plus one.
const MOST_KEYED: u32 = 6;

pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Postgres, through two connection pools. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: PgPool,
    /// Only for statements that find each row by a key ([`KEYED`]).
    pub(super) keyed: Keyed,
    is_exposed: bool,
}

impl Store {
    /// A pool for `url`, not connected yet. Off this machine, TLS is required unless the URL has `sslmode=disable`.
    /// Errors omit the URL: it may hold a password.
    pub fn new(url: &str, connections: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(|_| {
            StoreError::Fault("the URL is not of the form postgres://user:password@host:5432/database".into())
        })?;
        // A host that begins with a slash is the directory of a socket.
        let host = options.get_host();
        let is_here = options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host);
        let mode = match options.get_ssl_mode() {
            // Whoever does without says so in the URL, and not in PGSSLMODE.
            PgSslMode::Disable if !is_here && !says_no_tls(url) => PgSslMode::Require,
            // These two would take what an attacker in between says.
            PgSslMode::Allow | PgSslMode::Prefer if !is_here => PgSslMode::Require,
            mode => mode,
        };
        let is_exposed = !is_here && matches!(mode, PgSslMode::Disable);
        let options = options.ssl_mode(mode).application_name("carebell");
        // A frozen worker keeps rows locked for no longer.
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
            is_exposed,
        })
    }

    /// Whether the URL does without encryption (`sslmode=disable`) off this machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.is_exposed
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let answer = timeout(PING_TIMEOUT, self.pool.execute("SELECT 1")).await;
        answer.map_err(|_| StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}")))??;
        Ok(())
    }

    /// Creates or updates Carebell's tables. Idempotent; several processes may run it at once. Migrations before a
    /// failed one stay.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// Creates missing care tables. Leaves views of these names alone.
    pub async fn create_care_tables(&self) -> Result<(), StoreError> {
        self.pool.execute(include_str!("../../migrations/care.sql")).await?;
        Ok(())
    }

    /// Closes all connections after their current statements.
    pub async fn close(&self) {
        self.pool.close().await;
        self.keyed.close().await;
    }

    /// Connections in use, idle, and the limit.
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

    /// The pool, for tests and `carebell dev`, which write the care tables.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

fn says_no_tls(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|parameter| ["sslmode=disable", "ssl-mode=disable"].contains(&parameter))
}
