//! Schedules that people saved: what is due is published, and moved on.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::future::join_all;
use tokio::time::Instant;

use super::{
    Pass, Scheduler,
    timing::{Decision, Timing},
};
use crate::{
    checkpoint::{self, Step},
    effects::submit::Submission,
    store::{Moved, Next, ScheduleRow, ScheduleSpec},
};

/// How long a schedule whose job could not be published is left alone.
const STUCK_FOR: Duration = Duration::from_secs(5);

/// Schedules whose job could not be published, by id, with when to try again: they must not stand in front of others.
#[derive(Clone, Default)]
pub(super) struct Stuck(Arc<Mutex<HashMap<String, Instant>>>);

impl Stuck {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Those to be tried again now.
    pub(super) fn ready(&self) -> Vec<String> {
        let now = Instant::now();
        self.lock().iter().filter(|(_, until)| **until <= now).map(|(id, _)| id.clone()).collect()
    }

    fn add(&self, ids: impl Iterator<Item = String>, wait: Duration) {
        let until = Instant::now() + wait;
        self.lock().extend(ids.map(|id| (id, until)));
    }

    fn remove<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let mut stuck = self.lock();
        for id in ids {
            stuck.remove(id);
        }
    }
}

impl Scheduler {
    /// Publishes what is due, at most so many schedules, and moves them on; those that are stuck are left out. A step of
    /// its own, for tests with a clock of their own.
    ///
    /// # Errors
    /// If the database does not answer; then all stay due.
    pub async fn pass(&self, limit: usize) -> Result<Pass, String> {
        self.pass_of(limit, &self.stuck.ids(), None).await
    }

    /// Tries those again that were stuck for a while.
    pub(super) async fn mend(&self, limit: usize) -> Result<Pass, String> {
        let mut ready = self.stuck.ready();
        ready.truncate(limit);
        if ready.is_empty() {
            return Ok(Pass::default());
        }
        self.pass_of(limit, &[], Some(&ready)).await
    }

    async fn pass_of(&self, limit: usize, without: &[String], only: Option<&[String]>) -> Result<Pass, String> {
        let now = self.clock.now();
        let due = self.store.due_schedules(now, limit, without, only).await.map_err(|error| error.to_string())?;
        // Those that are not found here were moved on, paused, deleted, or are another scheduler's.
        if let Some(only) = only {
            self.stuck.remove(only.iter().map(String::as_str));
        }
        if due.rows.is_empty() {
            return Ok(Pass::default());
        }
        checkpoint::reached(Step::Due);
        let fired = join_all(due.rows.iter().map(|row| self.fire(row, now))).await;
        checkpoint::reached(Step::Fired);
        let mut pass = Pass { seen: due.rows.len(), ..Pass::default() };
        let mut moved = Vec::with_capacity(fired.len());
        let mut stuck = Vec::new();
        for (row, fired) in due.rows.iter().zip(fired) {
            match fired {
                Ok((decision, job_id)) => {
                    pass.published += decision.publish.len();
                    pass.lag = pass.lag.max(row.next.due.map(|due| now - due).unwrap_or_default());
                    moved.push(go_on(row, decision, job_id));
                }
                Err(why) => stuck.push((row, why)),
            }
        }
        if let Some((row, why)) = stuck.first() {
            let count = stuck.len();
            tracing::error!(schedule = row.spec.name, count, "schedules cannot be published, again soon: {why}");
        }
        pass.stuck = stuck.len();
        self.stuck.add(stuck.iter().map(|(row, _)| row.id.clone()), self.clock.paced(STUCK_FOR));
        pass.moved = moved.len();
        due.move_on(&moved).await.map_err(|error| error.to_string())?;
        Ok(pass)
    }

    /// Publishes the jobs of one schedule. Answers what was decided, and the last job's id.
    async fn fire(&self, row: &ScheduleRow, now: DateTime<Utc>) -> Result<(Decision, Option<String>), String> {
        let name = &row.spec.name;
        let Some(next) = row.next.at else { return Ok((Decision::default(), None)) };
        // One that cannot be read stays due: a newer program may have saved it, and can.
        let timing = Timing::read(&row.spec)?;
        // A row that breaks the reckoning must not end all other schedules.
        let decision = catch_unwind(AssertUnwindSafe(|| timing.decide(next, now)));
        let decision = decision.map_err(|_| "when it is due cannot be reckoned")?;
        let mut last = None;
        for at in &decision.publish {
            let id = job_id(name, *at);
            self.publish(submission(&row.spec, id.clone(), *at)).await?;
            let after_ms = (self.clock.now() - *at).num_milliseconds();
            tracing::info!(schedule = name, job = id, after_ms, "{name} is due");
            last = Some(id);
        }
        if let Some(note) = &decision.note {
            tracing::warn!(schedule = name, missed = decision.missed, "{note}");
        }
        Ok((decision, last))
    }

    /// The id of a job beside its schedule's instants.
    #[must_use]
    pub fn run_now_id(row: &ScheduleRow, unique: &str) -> String {
        format!("schedule:{}:now:{unique}", row.spec.name)
    }

    /// Publishes a schedule's job now, beside its instants, under this id.
    ///
    /// # Errors
    /// If it is not known to be published.
    pub async fn run_now(&self, row: &ScheduleRow, job_id: &str) -> Result<(), String> {
        let job = submission(&row.spec, job_id.to_owned(), self.clock.now());
        self.publish(job).await
    }
}

/// The id of the job of an instant: the same whoever publishes it, and however often.
#[must_use]
pub fn job_id(name: &str, at: DateTime<Utc>) -> String {
    format!("schedule:{name}:{}", at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn submission(spec: &ScheduleSpec, job_id: String, at: DateTime<Utc>) -> Submission {
    let lane = spec.lane.as_ref().map(|lane| format!(".{lane}")).unwrap_or_default();
    Submission {
        subject: format!("jobs.{}{lane}", spec.kind),
        job_id,
        body: Bytes::from(spec.payload.to_string()),
        content_type: "application/json",
        not_after: spec
            .expiry_seconds
            .and_then(TimeDelta::try_seconds)
            .and_then(|expiry| at.checked_add_signed(expiry)),
        at: None,
    }
}

fn go_on(row: &ScheduleRow, decision: Decision, job_id: Option<String>) -> Moved {
    Moved {
        id: row.id.clone(),
        next: if decision == Decision::default() { Next::default() } else { decision.next },
        last: decision.publish.last().copied().zip(job_id),
        fired: i64::try_from(decision.publish.len()).unwrap_or(i64::MAX),
        missed: i64::try_from(decision.missed).unwrap_or(i64::MAX),
        note: decision.note,
    }
}
