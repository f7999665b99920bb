//! Connections that are kept for the next mail.
//!
//! lettre has a pool of its own, which is not used: it takes a connection back from a send that was given up halfway, and
//! the next mail would read the answers to the last one. It has no bound in time either but for connecting
//! (<https://github.com/lettre/lettre/issues/1027>), so that sends do have to be given up. Here a connection belongs to the
//! send that uses it, and comes back only from its end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use lettre::transport::smtp::client::AsyncSmtpConnection;
use tokio::time::{Instant, sleep, timeout};

/// How long a connection is kept without a mail. Servers give up after five minutes (RFC 5321 §4.5.3.2.7), firewalls
/// sooner.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// The most that are kept: both queues' share of a process.
const MOST_KEPT: usize = 20;

/// How long saying goodbye may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The connections of one server on which nothing is under way.
#[derive(Default)]
pub struct Pool(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The one that was used last comes last.
    connections: Vec<(Instant, AsyncSmtpConnection)>,
    watched: bool,
}

impl Pool {
    /// The connection that was used last. Whether it still stands, only a question to the server tells.
    pub fn take(&self) -> Option<AsyncSmtpConnection> {
        let (since, connection) = self.kept().connections.pop()?;
        (since.elapsed() < KEPT_FOR).then_some(connection)
    }

    /// Keeps a connection whose last command was answered.
    pub fn put(self: &Arc<Self>, connection: AsyncSmtpConnection) {
        let mut kept = self.kept();
        if kept.connections.len() >= MOST_KEPT {
            return;
        }
        kept.connections.push((Instant::now(), connection));
        if !std::mem::replace(&mut kept.watched, true) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// Gives all of them up.
    pub fn clear(&self) {
        self.kept().connections.clear();
    }

    /// Takes out what was kept for too long; nothing is left to watch where there is no connection any more.
    fn take_old(&self) -> (Vec<AsyncSmtpConnection>, bool) {
        let mut kept = self.kept();
        let fresh = kept.connections.partition_point(|(since, _)| since.elapsed() >= KEPT_FOR);
        let old = kept.connections.drain(..fresh).map(|(_, connection)| connection).collect();
        kept.watched = !kept.connections.is_empty();
        (old, kept.watched)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what was kept for too long, until nothing is kept.
async fn watch(pool: Weak<Pool>) {
    loop {
        sleep(KEPT_FOR / 2).await;
        let Some((old, more)) = pool.upgrade().map(|pool| pool.take_old()) else { return };
        for mut connection in old {
            let _ = timeout(QUIT_TIMEOUT, connection.quit()).await;
        }
        if !more {
            return;
        }
    }
}
