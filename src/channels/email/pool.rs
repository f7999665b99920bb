//! Idle SMTP connections.
//!
//! lettre's pool takes a connection back from an abandoned send, so the next mail would read the previous replies.
//! Sends must be abandoned, since lettre limits only connecting (<https://github.com/lettre/lettre/issues/1027>). Here
//! a send owns its connection, and returns it only at its end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use lettre::transport::smtp::client::AsyncSmtpConnection;
use tokio::time::{Instant, sleep, timeout};

/// Servers close idle connections after five minutes (RFC 5321 §4.5.3.2.7), firewalls sooner.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// For both queues of a process.
const MOST_KEPT: usize = 20;

const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections of one server.
#[derive(Default)]
pub struct Pool(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    connections: Vec<(Instant, AsyncSmtpConnection)>,
    watched: bool,
}

impl Pool {
    /// The most recently used connection, which may be dead.
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

    pub fn clear(&self) {
        self.kept().connections.clear();
    }

    /// Removes expired connections. Also answers whether any are left.
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
