//! Connections for grouped statements, which look up rows by keys.
//!
//! The pool pings a connection before and after each use. That makes three round trips per statement, two of them
//! pointless while groups follow each other within milliseconds. So a connection that a group has just used is kept
//! outside the pool. One that has rested is pinged first. One that has failed, or was kept for long, returns to the pool.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::error::StoreError;

/// A statement with its values.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Wait for a connection after which the database counts as away.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after its last use for which a connection counts as alive. A server takes longer to restart.
const ALIVE: Duration = Duration::from_millis(500);

/// Time for which a connection is kept from the pool, which closes old connections.
const KEPT: Duration = Duration::from_mins(5);

/// A pool, and its connections in steady use. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    pool: PgPool,
    /// One permit per connection of the pool. Its holder finds a connection, either resting or in the pool.
    permits: Arc<Semaphore>,
    resting: Arc<Resting>,
}

/// Connections kept from the pool and not in use.
#[derive(Debug, Default)]
struct Resting(Mutex<Vec<KeptConnection>>);

impl Resting {
    fn all(&self) -> MutexGuard<'_, Vec<KeptConnection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        // The pool may be dropped too, outside a runtime: returning a connection to it would spawn a task.
        for kept in self.all().drain(..) {
            drop(kept.connection.detach());
        }
    }
}

#[derive(Debug)]
struct KeptConnection {
    connection: PoolConnection<Postgres>,
    since: Instant,
    used: Instant,
}

impl KeptConnection {
    /// Itself, unless it is closed or was kept for long.
    async fn alive(mut self) -> Option<Self> {
        if self.used.elapsed() >= ALIVE {
            let answer = timeout(ACQUIRE_TIMEOUT, self.connection.ping()).await;
            if !matches!(answer, Ok(Ok(()))) {
                // The pool would wait for its answer, one connection short.
                drop(self.connection.detach());
                return None;
            }
        }
        (self.since.elapsed() < KEPT).then_some(self)
    }
}

/// A connection in use. Dropped, it returns to the pool, which checks its state.
pub(super) struct InUse<'a> {
    keyed: &'a Keyed,
    kept: KeptConnection,
    _permit: SemaphorePermit<'a>,
}

impl Keyed {
    pub fn new(pool: PgPool) -> Self {
        let permits = Semaphore::new(usize::try_from(pool.options().get_max_connections()).unwrap_or(1));
        Self { pool, permits: Arc::new(permits), resting: Arc::default() }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Number of idle connections.
    pub fn idle(&self) -> usize {
        self.pool.num_idle() + self.resting.all().len()
    }

    /// Closes all connections; those in use after their statements.
    pub async fn close(&self) {
        // No connection is kept from now on.
        self.permits.close();
        self.resting.all().clear();
        self.pool.close().await;
    }

    /// A connection.
    pub async fn take(&self) -> Result<InUse<'_>, StoreError> {
        let permit = timeout(ACQUIRE_TIMEOUT, self.permits.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let kept = self.resting.all().pop();
        if let Some(kept) = kept
            && let Some(kept) = kept.alive().await
        {
            return Ok(InUse { keyed: self, kept, _permit: permit });
        }
        let connection = self.pool.acquire().await?;
        let now = Instant::now();
        Ok(InUse { keyed: self, kept: KeptConnection { connection, since: now, used: now }, _permit: permit })
    }

    /// Fetches the rows of a statement.
    pub async fn fetch_all(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.take().await?;
        let rows = statement.fetch_all(connection.get()).await?;
        connection.keep();
        Ok(rows)
    }

    /// Runs a statement without an answer.
    pub async fn execute(&self, statement: Statement<'_>) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        statement.execute(connection.get()).await?;
        connection.keep();
        Ok(())
    }
}

impl InUse<'_> {
    pub fn get(&mut self) -> &mut PgConnection {
        &mut self.kept.connection
    }

    /// Keeps the connection for the next statement: it is in a good state.
    pub fn keep(mut self) {
        self.kept.used = Instant::now();
        // Before the permit is dropped with `self`.
        let mut resting = self.keyed.resting.all();
        if !self.keyed.permits.is_closed() {
            resting.push(self.kept);
        }
    }
}
