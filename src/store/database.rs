//! Connection pools.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use log::LevelFilter;
use sqlx::{ConnectOptions, Connection, Executor, PgPool, postgres::PgPoolOptions};
use tokio::time::{Instant, timeout};

use super::{
    error::StoreError,
    keyed::{ACQUIRE_TIMEOUT, Keyed},
    place::Database,
    timelines::Timelines,
};

/// Settings for grouped statements: each is planned once, by the indexes of its keys.
///
/// Otherwise the planner takes a table that it last saw empty for a small one, scans it for each group, and plans again
/// and again. `jit` is off because it is chosen by cost estimates, which these settings distort.
const KEYED: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
                     SET enable_mergejoin = off; SET jit = off";

/// Upper bound of connections for grouped statements. The groups that are usually busy at once need five; beside a far
/// database each needs several.
const MOST_KEYED: u32 = 12;

/// A statement for people who look at pages that takes longer is logged, and counted (`telemetry::console`).
const SLOW: Duration = Duration::from_millis(500);

pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// While a commit has no answer, and reads have.
const HANGING: &str =
    "reads are answered, and a commit is not: it waits for a synchronous standby that is lost, or for a lock";

/// Postgres, through two connection pools. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: PgPool,
    /// Only for statements that find each row by a key ([`KEYED`]).
    pub(super) keyed: Keyed,
    pub(super) database: Database,
    pub(super) timelines: Timelines,
    round_trips: Arc<RoundTrips>,
}

/// The last two, in microseconds.
#[derive(Debug, Default)]
struct RoundTrips([AtomicU64; 2]);

impl RoundTrips {
    fn add(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let [last, before] = &self.0;
        let first = last.swap(took, Ordering::Relaxed);
        before.store(if first == 0 { took } else { first }, Ordering::Relaxed);
    }

    /// A busy machine makes some longer, and nothing makes one shorter.
    fn shortest(&self) -> Duration {
        Duration::from_micros(self.0.iter().map(|micros| micros.load(Ordering::Relaxed)).min().unwrap_or(0))
    }
}

impl Store {
    /// Pools for a database, not connected yet.
    #[must_use]
    pub fn new(database: &Database, connections: u32) -> Self {
        // A frozen worker keeps rows locked for no longer.
        Self::with(database, connections, "SET idle_in_transaction_session_timeout = '30s'")
    }

    /// Pools whose statements fail after `longest`, to the millisecond: for people who look at pages, and must slow
    /// nobody who works.
    #[must_use]
    pub fn impatient(database: &Database, connections: u32, longest: Duration) -> Self {
        let limit = longest.as_millis();
        let settings = format!("SET statement_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}");
        let options = database.options.clone().log_slow_statements(LevelFilter::Warn, SLOW);
        Self::with(&Database { options, ..database.clone() }, connections, &settings)
    }

    fn with(database: &Database, connections: u32, settings: &str) -> Self {
        let Database { options, .. } = database;
        let path = database.search_path();
        let timelines = Timelines::unwatched();
        let pool = |connections: u32, settings: String| {
            let timelines = timelines.clone();
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(move |connection, _| {
                    let settings = sqlx::AssertSqlSafe(settings.clone());
                    let timelines = timelines.clone();
                    Box::pin(async move {
                        connection.execute(settings).await?;
                        timelines.admit(connection).await
                    })
                })
                .connect_lazy_with(options.clone())
        };
        let keyed = (connections / 2).clamp(1, MOST_KEYED);
        Self {
            pool: pool((connections - keyed).max(1), format!("{path}; {settings}")),
            keyed: Keyed::new(pool(keyed, format!("{path}; {settings}; {KEYED}"))),
            database: database.clone(),
            round_trips: Arc::default(),
            timelines,
        }
    }

    /// Whether the URL does without encryption (`sslmode=disable`) off this machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        self.database.is_exposed
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.timelines.check()?;
        let answer = timeout(PING_TIMEOUT, self.pool.execute("SELECT 1")).await;
        answer.map_err(|_| StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}")))??;
        Ok(())
    }

    /// Commits a row, as work does, and waits for it as long as the server answers reads. Tells why it waits every
    /// five seconds.
    ///
    /// A commit that waits for a lost standby cannot be taken back: its connection is the server's until the standby is
    /// there again. So this asks for no second one meanwhile.
    pub async fn commit_a_sign_of_life(&self, tell: impl Fn(&str)) -> Result<(), StoreError> {
        self.timelines.check()?;
        let mut connection =
            timeout(PING_TIMEOUT, self.pool.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let since = Instant::now();
        if matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
            self.round_trips.add(since.elapsed());
        }
        let mut committed = Box::pin(async {
            let statement = "INSERT INTO scheduler_state (part, looked_at) VALUES ('sign_of_life', now()) \
                             ON CONFLICT (part) DO UPDATE SET looked_at = excluded.looked_at";
            connection.execute(statement).await.map(|_| ())
        });
        loop {
            match timeout(PING_TIMEOUT, &mut committed).await {
                Ok(answer) => return Ok(answer?),
                Err(_) if self.is_reached().await => tell(HANGING),
                Err(_) => break,
            }
        }
        drop(committed);
        // The pool would wait for its answer, one connection short.
        drop(connection.detach());
        Err(StoreError::Unavailable(format!("no answer within {PING_TIMEOUT:?}")))
    }

    /// Whether the server answers a new connection, if only to refuse it. Not one of the pool's, which may all be waiting.
    async fn is_reached(&self) -> bool {
        match timeout(PING_TIMEOUT, self.database.options.connect()).await {
            Ok(Ok(connection)) => {
                let _ = timeout(PING_TIMEOUT, connection.close()).await;
                true
            }
            Ok(Err(error)) => matches!(error, sqlx::Error::Database(_)),
            Err(_) => false,
        }
    }

    /// To the server and back, as measured beside the last signs of life. Zero before.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.round_trips.shortest()
    }

    /// Creates missing care tables where the application's own are: in the first schema of the role's search path.
    /// Leaves tables and views of these names there alone.
    pub async fn create_care_tables(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?.detach();
        connection.execute("RESET search_path").await?;
        connection.execute(include_str!("../../migrations/care.sql")).await?;
        Ok(connection.close().await?)
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
