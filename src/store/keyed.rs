//! Connections for the statements of the groups.
//!
//! A pool asks the server for a sign of life before each use of a connection and after it: three round trips for each
//! statement, of which two say nothing new while groups follow each other by milliseconds. So a connection that a group has
//! just used is kept beside the pool. One that has rested is asked for that sign; one that has failed, or has been kept for
//! long, goes back.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{Connection, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgRow};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::{ACQUIRE_TIMEOUT, StoreError, commits::Statement};

/// For so long after its last use a connection counts as alive. A server that is started again takes longer.
const ALIVE: Duration = Duration::from_millis(500);

/// For so long a connection is kept from the pool, which closes what is too old.
const KEPT: Duration = Duration::from_mins(5);

/// A pool, and connections of it that are in steady use. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    pool: PgPool,
    /// As many as the pool has connections: whoever has one finds a connection in one of the two places.
    turns: Arc<Semaphore>,
    resting: Arc<Resting>,
}

/// Those that nobody uses at this moment.
#[derive(Debug, Default)]
struct Resting(Mutex<Vec<Kept>>);

impl Resting {
    fn all(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        // The pool is dropped too, perhaps where no task can be spawned to give them back to it.
        for kept in self.all().drain(..) {
            drop(kept.connection.detach());
        }
    }
}

#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    since: Instant,
    used: Instant,
}

impl Kept {
    /// Itself, unless it has ended or has been kept for long.
    async fn alive(mut self) -> Option<Self> {
        if self.used.elapsed() >= ALIVE {
            let answer = timeout(ACQUIRE_TIMEOUT, self.connection.ping()).await;
            if !matches!(answer, Ok(Ok(()))) {
                // The pool would wait for its answer, and have one connection less for as long.
                drop(self.connection.detach());
                return None;
            }
        }
        (self.since.elapsed() < KEPT).then_some(self)
    }
}

/// A connection in use. One that is dropped goes back to the pool, which finds out what has become of it.
pub(super) struct InUse<'a> {
    keyed: &'a Keyed,
    kept: Kept,
    _turn: SemaphorePermit<'a>,
}

impl Keyed {
    pub fn new(pool: PgPool) -> Self {
        let turns = Semaphore::new(usize::try_from(pool.options().get_max_connections()).unwrap_or(1));
        Self { pool, turns: Arc::new(turns), resting: Arc::default() }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// How many connections rest.
    pub fn idle(&self) -> usize {
        self.pool.num_idle() + self.resting.all().len()
    }

    /// Closes all: those in use when their statements have ended.
    pub async fn close(&self) {
        // From now on none is kept.
        self.turns.close();
        self.resting.all().clear();
        self.pool.close().await;
    }

    /// A connection.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn take(&self) -> Result<InUse<'_>, StoreError> {
        let turn = timeout(ACQUIRE_TIMEOUT, self.turns.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let turn = turn.map_err(|_| sqlx::Error::PoolClosed)?;
        let kept = self.resting.all().pop();
        if let Some(kept) = kept
            && let Some(kept) = kept.alive().await
        {
            return Ok(InUse { keyed: self, kept, _turn: turn });
        }
        let connection = self.pool.acquire().await?;
        let now = Instant::now();
        Ok(InUse { keyed: self, kept: Kept { connection, since: now, used: now }, _turn: turn })
    }

    /// The rows of a statement.
    ///
    /// # Errors
    /// If the database does not answer, or refuses it.
    pub async fn fetch_all(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.take().await?;
        let rows = statement.fetch_all(connection.get()).await?;
        connection.keep();
        Ok(rows)
    }

    /// Runs a statement that answers nothing.
    ///
    /// # Errors
    /// If the database does not answer, or refuses it.
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

    /// Says that it is as good as before: the next statement may have it.
    pub fn keep(mut self) {
        self.kept.used = Instant::now();
        // Before its turn ends with this.
        let mut resting = self.keyed.resting.all();
        if !self.keyed.turns.is_closed() {
            resting.push(self.kept);
        }
    }
}
