//! Connections for grouped statements.
//!
//! The pool pings a connection before and after each use: two needless round trips while groups follow each other
//! within milliseconds. So connections in steady use are kept outside the pool. A rested one is pinged first. A failed
//! or old one returns to the pool.

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

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Wait for a connection after which the database counts as away.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection counts as alive for this long after its last use. A server takes longer to restart.
const ALIVE: Duration = Duration::from_millis(500);

/// Time outside the pool, which closes old connections.
const KEPT: Duration = Duration::from_mins(5);

#[derive(Clone, Debug)]
pub(super) struct Keyed {
    pool: PgPool,
    /// One per connection of the pool: its holder finds a connection, resting or in the pool.
    permits: Arc<Semaphore>,
    resting: Arc<Resting>,
}

/// Kept connections not in use.
#[derive(Debug, Default)]
struct Resting(Mutex<Vec<KeptConnection>>);

impl Resting {
    fn all(&self) -> MutexGuard<'_, Vec<KeptConnection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        // The pool may be dropped too, outside a runtime: returning a connection would spawn a task.
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
    /// None if closed or kept too long.
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

/// A connection in use. If dropped, it returns to the pool, which checks it.
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

    pub fn idle(&self) -> usize {
        self.pool.num_idle() + self.resting.all().len()
    }

    pub async fn close(&self) {
        // From now on, none is kept.
        self.permits.close();
        self.resting.all().clear();
        self.pool.close().await;
    }

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

    pub async fn fetch_all(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.take().await?;
        let rows = statement.fetch_all(connection.get()).await?;
        connection.keep();
        Ok(rows)
    }

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

    /// Keeps the connection, which is in a good state.
    pub fn keep(mut self) {
        self.kept.used = Instant::now();
        // Before `self` drops the permit.
        let mut resting = self.keyed.resting.all();
        if !self.keyed.permits.is_closed() {
            resting.push(self.kept);
        }
    }
}
