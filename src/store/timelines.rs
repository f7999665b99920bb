//! The server's timeline, which changes with each failover and each restore of a backup.
//!
//! A worker's connections to a server on another timeline wait until what is missing there has been looked for
//! (`effects/restore.rs`). Until then the database counts as away.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::{sync::watch, time::sleep};

use super::error::StoreError;

/// Interval of questions to a standby, which may be promoted soon.
const STANDBY_AGAIN: Duration = Duration::from_millis(200);

/// With the system identifier: each server that `initdb` made has its own, also one that `pg_upgrade` fills.
const OF_SYSTEM: &str = "SELECT system_identifier, CASE WHEN NOT pg_is_in_recovery() \
                         THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END \
                         FROM pg_control_system()";

/// For a role that may not read the system identifier. The number is the first eight digits of a segment's name, which
/// are hexadecimal.
const NUMBER_ALONE: &str = "SELECT NULL::bigint, CASE WHEN NOT pg_is_in_recovery() \
                            THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END";

/// A server's timeline. Numbers alone repeat: a new server counts from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// None if it may not be read.
    system: Option<i64>,
    /// Counted from 1.
    number: i32,
}

impl Timeline {
    /// Whether a standby began it, or a restored backup.
    #[must_use]
    pub const fn follows_another(self) -> bool {
        self.number > 1
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.system {
            // Postgres counts it without a sign.
            Some(system) => write!(f, "{}/{}", system.cast_unsigned(), self.number),
            None => write!(f, "{}", self.number),
        }
    }
}

/// What a server says of its timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Timeline(Timeline),
    /// It may be promoted soon, to a new timeline.
    Standby,
    /// It refuses to say, as some managed services do.
    Nothing,
}

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

    /// Of a server that does not tell its timeline: none.
    pub fn caught_up(&self, timeline: Option<Timeline>) {
        self.0.send_modify(|known| {
            known.caught_up = timeline;
            // Another server that a connection saw meanwhile may be gone. If not, the next connection tells.
            known.seen = timeline;
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
            match ask(connection).await? {
                Told::Timeline(timeline) => {
                    let seen = Some(timeline);
                    self.0.send_if_modified(|known| std::mem::replace(&mut known.seen, seen) != seen);
                    // Cannot fail: the sender lives as long as `self`.
                    let _ = self.0.subscribe().wait_for(|known| known.caught_up == seen).await;
                    return Ok(());
                }
                Told::Standby => sleep(STANDBY_AGAIN).await,
                Told::Nothing => return Ok(()),
            }
        }
    }
}

/// Asks a server for its timeline. By default every role may ask.
pub(super) async fn ask(connection: &mut PgConnection) -> Result<Told, sqlx::Error> {
    for statement in [OF_SYSTEM, NUMBER_ALONE] {
        let answer: Result<(Option<i64>, Option<i32>), _> = sqlx::query_as(statement).fetch_one(&mut *connection).await;
        match answer {
            Ok((system, Some(number))) => return Ok(Told::Timeline(Timeline { system, number })),
            Ok((_, None)) => return Ok(Told::Standby),
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Told::Nothing)
}

/// Whether the server does not answer this at all: no permission, no such function, not supported, not in its state.
/// Any other error, such as that of a server that is stopping, says nothing of the next time.
fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["42501", "42883", "0A000", "55000"].contains(&&*code))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::{Timeline, Timelines};

    const OLD: Timeline = Timeline { system: Some(-1), number: 1 };
    const NEW: Timeline = Timeline { number: 2, ..OLD };

    #[test]
    fn a_timeline_is_named_by_its_server_and_its_number() {
        assert_eq!(NEW.to_string(), "18446744073709551615/2");
        assert_eq!(Timeline { system: None, ..NEW }.to_string(), "2");
    }

    #[test]
    fn nothing_waits_any_more_for_a_server_that_was_seen_before_another_was_reached() {
        let timelines = Timelines::unwatched();
        timelines.watch();
        for reached in [Some(NEW), None] {
            timelines.0.send_modify(|known| known.seen = Some(OLD));
            assert!(timelines.check().is_err() && timelines.behind().now_or_never().is_some());
            timelines.caught_up(reached);
            assert!(timelines.check().is_ok() && timelines.behind().now_or_never().is_none());
        }
    }
}
