//! The server's timeline, which changes with each failover and each restore of a backup.
//!
//! A worker's connections to a server on another timeline wait until what is missing there has been looked for
//! (`effects/restore.rs`). Until then the database counts as away.

use std::{sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::{sync::watch, time::sleep};

use super::error::StoreError;

/// Interval of questions to a standby, which may be promoted soon.
const STANDBY_AGAIN: Duration = Duration::from_millis(200);

/// Number of a timeline, counted from 1.
pub type Timeline = i32;

/// What a process knows of timelines. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Timelines(Arc<watch::Sender<Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    /// Whether connections wait at all: those of commands don't.
    is_watched: bool,
    /// Of the newest connection.
    seen: Option<Timeline>,
    caught_up: Option<Timeline>,
    /// Why it takes long to catch up.
    hindrance: Option<String>,
}

impl Known {
    fn behind(&self) -> Option<Timeline> {
        self.seen.filter(|_| self.is_watched && self.seen != self.caught_up)
    }
}

impl Timelines {
    pub fn unwatched() -> Self {
        Self(Arc::new(watch::Sender::new(Known::default())))
    }

    pub fn watch(&self) {
        self.0.send_modify(|known| known.is_watched = true);
    }

    /// Waits for a timeline that connections wait for.
    pub async fn behind(&self) -> Timeline {
        let mut known = self.0.subscribe();
        loop {
            if let Some(timeline) = known.borrow_and_update().behind() {
                return timeline;
            }
            // Cannot fail: the sender lives as long as `self`.
            let _ = known.changed().await;
        }
    }

    pub fn caught_up(&self, timeline: Timeline) {
        self.0.send_modify(|known| {
            known.caught_up = Some(timeline);
            known.hindrance = None;
        });
    }

    pub fn is_hindered(&self, why: &str) {
        self.0.send_modify(|known| known.hindrance = Some(why.to_owned()));
    }

    /// Tells why the database counts as away, if it does for its timeline.
    pub fn check(&self) -> Result<(), StoreError> {
        let known = self.0.borrow();
        let Some(timeline) = known.behind() else { return Ok(()) };
        let hindrance = known.hindrance.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        Err(StoreError::Unavailable(format!(
            "it is on timeline {timeline}, as after a failover; what is missing there is being looked for in the \
             journal{hindrance}"
        )))
    }

    /// Lets a new connection through once its server may be used. The pool limits the wait.
    pub async fn admit(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.0.borrow().is_watched {
            return Ok(());
        }
        loop {
            match timeline_of(connection).await {
                Ok(Some(timeline)) => {
                    let seen = Some(timeline);
                    self.0.send_if_modified(|known| std::mem::replace(&mut known.seen, seen) != seen);
                    // Cannot fail: the sender lives as long as `self`.
                    let _ = self.0.subscribe().wait_for(|known| known.caught_up == seen).await;
                    return Ok(());
                }
                Ok(None) => sleep(STANDBY_AGAIN).await,
                // A service that hides its timeline keeps its acknowledged commits by other means, or says so.
                Err(sqlx::Error::Database(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// None for a standby. Every role may ask.
pub(super) async fn timeline_of(connection: &mut PgConnection) -> Result<Option<Timeline>, sqlx::Error> {
    // The first eight digits of a segment's name, which are hexadecimal.
    let statement = "SELECT CASE WHEN NOT pg_is_in_recovery() \
                     THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END";
    sqlx::query_scalar(statement).fetch_one(connection).await
}
