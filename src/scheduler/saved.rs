use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::future::join_all;

use super::{
    state::{Scheduler, Tally},
    stuck::STUCK_FOR,
    timing::{Firing, Timing},
};
use crate::{
    checkpoint::{self, Step},
    effects::submit::Submission,
    kind::{Lane, WORK},
    meta::SCHEDULE,
    store::{Advance, NextInstant, PublishedInstant, ScheduleRow, ScheduleSpec},
};

impl Scheduler {
    /// Publishes at most `limit` due schedules, without stuck ones, and moves them on. Public for tests.
    ///
    /// # Errors
    /// The database does not answer. All stay due.
    pub async fn pass(&self, limit: usize) -> Result<Tally, String> {
        self.pass_of(limit, &self.stuck.ids(), None).await
    }

    pub(super) async fn mend(&self, limit: usize) -> Result<Tally, String> {
        let mut ready = self.stuck.ready();
        ready.truncate(limit);
        if ready.is_empty() {
            return Ok(Tally::default());
        }
        self.pass_of(limit, &[], Some(&ready)).await
    }

    async fn pass_of(&self, limit: usize, without: &[String], only: Option<&[String]>) -> Result<Tally, String> {
        let now = self.clock.now();
        let due = self.store.due_schedules(now, limit, without, only).await.map_err(|error| error.to_string())?;
        // Those not found were moved on, paused, deleted, or locked elsewhere.
        if let Some(only) = only {
            let is_found = |id: &&str| due.rows.iter().any(|row| row.id == *id);
            self.stuck.remove(only.iter().map(String::as_str).filter(|id| !is_found(id)));
        }
        if due.rows.is_empty() {
            return Ok(Tally::default());
        }
        checkpoint::reached(Step::Due);
        let fired = join_all(due.rows.iter().map(|row| self.fire(row, now))).await;
        checkpoint::reached(Step::Fired);
        let mut pass = Tally { seen: due.rows.len(), ..Tally::default() };
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
            tracing::error!(schedule = row.spec.name, count, "schedules cannot be published, trying again soon: {why}");
        }
        pass.stuck = stuck.len();
        self.stuck.add(stuck.iter().map(|(row, _)| row.id.clone()), self.clock.paced(STUCK_FOR));
        pass.moved = moved.len();
        due.advance(&moved).await.map_err(|error| error.to_string())?;
        // Not before: during a retry too, the others' turns count them as late.
        self.stuck.remove(moved.iter().map(|advance| advance.id.as_str()));
        Ok(pass)
    }

    /// Returns the decision and the last job's id.
    async fn fire(&self, row: &ScheduleRow, now: DateTime<Utc>) -> Result<(Firing, Option<String>), String> {
        let name = &row.spec.name;
        let Some(next) = row.next.at else { return Ok((Firing::default(), None)) };
        // An unreadable one stays due: a newer version may have saved it.
        let timing = Timing::read(&row.spec)?;
        // A row that makes the calendar panic must not stop other schedules.
        let decision = catch_unwind(AssertUnwindSafe(|| timing.decide(next, now)));
        let decision = decision.map_err(|_| "its next instant cannot be computed")?;
        let mut last = None;
        for at in &decision.publish {
            let id = job_id(name, *at);
            // One with less jitter than the instant before it waits for that.
            let due = timing.due(*at).max(row.next.due.unwrap_or(*at));
            self.publish(submission(&row.spec, id.clone(), *at, due)).await?;
            let after_ms = (self.clock.now() - *at).num_milliseconds();
            tracing::info!(schedule = name, job = id, after_ms, "{name} is due");
            last = Some(id);
        }
        if let Some(note) = &decision.note {
            tracing::warn!(schedule = name, missed = decision.missed, "{note}");
        }
        Ok((decision, last))
    }

    /// Id of a job outside its schedule's instants.
    #[must_use]
    pub fn run_now_id(row: &ScheduleRow, unique: &str) -> String {
        format!("{SCHEDULE}{}:now:{unique}", row.spec.name)
    }

    /// Publishes a schedule's job now, outside its instants.
    ///
    /// # Errors
    /// The publish is not confirmed.
    pub async fn run_now(&self, row: &ScheduleRow, job_id: &str) -> Result<(), String> {
        let now = self.clock.now();
        let job = submission(&row.spec, job_id.to_owned(), now, now);
        self.publish(job).await
    }
}

/// Job id of an instant, the same for every publisher.
#[must_use]
pub fn job_id(name: &str, at: DateTime<Utc>) -> String {
    format!("{SCHEDULE}{name}:{}", at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn submission(spec: &ScheduleSpec, job_id: String, at: DateTime<Utc>, due: DateTime<Utc>) -> Submission {
    let lane = spec.lane.as_ref().map(|lane| format!(".{lane}")).unwrap_or_default();
    Submission {
        subject: format!("{WORK}{}{lane}", spec.kind),
        job_id,
        body: Bytes::from(spec.payload.to_string()),
        content_type: "application/json",
        not_after: spec
            .expiry_seconds
            .and_then(TimeDelta::try_seconds)
            .and_then(|expiry| at.checked_add_signed(expiry)),
        at: None,
        due: (spec.lane.as_deref() != Some(Lane::Bulk.name())).then_some(due),
    }
}

fn go_on(row: &ScheduleRow, decision: Firing, job_id: Option<String>) -> Advance {
    let last = decision.publish.last().copied().zip(job_id);
    Advance {
        id: row.id.clone(),
        next: if decision == Firing::default() { NextInstant::default() } else { decision.next },
        last: last.map(|(at, job_id)| PublishedInstant { at, job_id }),
        fired: i64::try_from(decision.publish.len()).unwrap_or(i64::MAX),
        missed: i64::try_from(decision.missed).unwrap_or(i64::MAX),
        note: decision.note,
    }
}
