//! Publishes what is due by itself: schedules that people made, and what follows from the care tables ([`care`]).
//!
//! Any number of schedulers may run. Each locks what is due, publishes it under job ids made of what it is and when, and
//! moves it on in the same transaction: a stop in between publishes the same ids again, which has no second effect.

pub mod care;
pub mod timing;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::future::join_all;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    care::LOOK_EVERY,
    timing::{Decision, Timing},
};
use crate::{
    checkpoint::{self, Step},
    clock::Clock,
    effects::submit::{Producer, Submission, submit},
    health::Health,
    store::{CARE_CHANGED, CHANGED, Moved, Next, ScheduleRow, ScheduleSpec, Store},
};

/// The longest sleep: also how long a change goes unseen whose announcement was lost, and a jump of the clock.
const LONGEST_SLEEP: TimeDelta = TimeDelta::seconds(30);

/// After a pass that found what is due locked by another scheduler, or could not publish it.
const SHORTEST_SLEEP: TimeDelta = TimeDelta::milliseconds(100);

/// After a database or server that does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at the care tables, however often changes of them are announced.
const LOOK_APART: Duration = Duration::from_secs(1);

/// Between two looks where the tables cannot be read, or another scheduler is at it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The most schedules, or reminders, of one transaction.
const BATCH: usize = 1000;

/// What a scheduler works with.
#[derive(Clone)]
pub struct Scheduler {
    /// Where schedules are.
    pub store: Store,
    /// Where jobs go.
    pub producer: Producer,
    /// The time.
    pub clock: Clock,
    /// The worker's state.
    pub health: Arc<Health>,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pass {
    /// Schedules or reminders that were due, and moved on.
    pub moved: usize,
    /// Those that stay due, because their jobs could not be published.
    pub stuck: usize,
    /// Jobs published.
    pub published: usize,
    /// How late the latest of them was.
    pub lag: TimeDelta,
}

/// What the parts of a running scheduler tell each other. Told twice is told once.
#[derive(Default)]
struct News {
    /// Something may be due sooner than was known.
    sooner: Notify,
    /// Care data has changed.
    care: Notify,
}

impl Scheduler {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let news = News::default();
        let all = async {
            // What was planned before a downtime may have been called off since.
            if let Err(why) = self.look_if_needed(None).await {
                tracing::warn!("the care tables cannot be looked at yet: {why}");
            }
            tokio::join!(self.listen(&news), self.publish(&news), self.look(&news))
        };
        stop.run_until_cancelled(Box::pin(all)).await;
    }

    /// Hears what the database announces, on one connection.
    async fn listen(&self, news: &News) {
        loop {
            self.health.database_up().await;
            let mut listener = self.store.listen(&[CHANGED, CARE_CHANGED]).await;
            // What was announced before somebody listened is not known.
            news.sooner.notify_one();
            news.care.notify_one();
            while let Ok(open) = &mut listener {
                match open.hear().await {
                    Ok(Some(channel)) if channel == CHANGED => news.sooner.notify_one(),
                    Ok(Some(_)) => news.care.notify_one(),
                    // A connection that was lost and made again: nor is what was announced meanwhile.
                    Ok(None) => {
                        news.sooner.notify_one();
                        news.care.notify_one();
                    }
                    Err(why) => listener = Err(why),
                }
            }
            if let Err(why) = listener {
                tracing::warn!("changes are not heard at present, and seen within a minute: {why}");
            }
            sleep(AGAIN).await;
        }
    }

    /// Publishes what is due, and sleeps until more is, or something changes.
    async fn publish(&self, news: &News) {
        loop {
            let rest = match self.turn().await {
                Ok(rest) => rest.to_std().unwrap_or_default(),
                Err(why) => {
                    tracing::warn!("the scheduler goes on in a while: {why}");
                    AGAIN
                }
            };
            tokio::select! {
                () = sleep(rest) => {}
                () = news.sooner.notified() => {}
            }
        }
    }

    /// Looks at the care tables each minute, and when they have changed. Beside the publishing, which a look that takes
    /// its time would hold up.
    async fn look(&self, news: &News) {
        let mut heard = None;
        loop {
            self.health.database_up().await;
            let rest = match self.look_if_needed(heard).await {
                Ok(Some(rest)) => {
                    heard = None;
                    news.sooner.notify_one();
                    rest
                }
                Ok(None) => LOOK_AGAIN,
                Err(why) => {
                    tracing::warn!("the care tables cannot be looked at, again soon: {why}");
                    LOOK_AGAIN
                }
            };
            // Changes that are announced meanwhile are one.
            sleep(LOOK_APART).await;
            tokio::select! {
                () = sleep(rest) => {}
                () = news.care.notified() => heard = Some(self.clock.now()),
            }
        }
    }

    /// Looks at the care tables, unless somebody has within the last minute and after what was heard. Answers when to do
    /// so again; nothing while another scheduler does.
    async fn look_if_needed(&self, heard: Option<DateTime<Utc>>) -> Result<Option<Duration>, String> {
        let looked_at = self.store.care_looked_at().await.map_err(|error| error.to_string())?;
        let since = looked_at.map(|looked_at| self.clock.now() - looked_at);
        let is_fresh =
            since.is_some_and(|since| since.abs() < LOOK_EVERY) && heard.is_none_or(|heard| looked_at > Some(heard));
        if is_fresh {
            let rest = LOOK_EVERY - since.unwrap_or_default();
            return Ok(Some(rest.to_std().unwrap_or_default()));
        }
        let planned = self.plan_care().await?;
        Ok(planned.map(|_| LOOK_EVERY.to_std().unwrap_or_default()))
    }

    /// Publishes all that is due. Answers how long there is nothing to do.
    async fn turn(&self) -> Result<TimeDelta, String> {
        self.health.database_up().await;
        let mut stuck = 0;
        loop {
            let (saved, care) = (self.pass(BATCH).await?, self.care_pass(BATCH).await?);
            stuck += saved.stuck + care.stuck;
            if saved.moved.max(care.moved) < BATCH {
                break;
            }
        }
        let saved = self.store.next_schedule().await.map_err(|error| error.to_string())?;
        let care = self.store.next_reminder().await.map_err(|error| error.to_string())?;
        let until = [saved, care].into_iter().flatten().min().map_or(LONGEST_SLEEP, |next| next - self.clock.now());
        let least = if stuck > 0 { TimeDelta::seconds(1) } else { SHORTEST_SLEEP };
        // What is due already is another scheduler's, or could not be published.
        Ok(if until <= TimeDelta::zero() { least } else { until.min(LONGEST_SLEEP) })
    }

    /// Publishes what is due, at most so many schedules, and moves them on. A step of its own, for tests with a clock of
    /// their own.
    ///
    /// # Errors
    /// If the database does not answer; then all stay due.
    pub async fn pass(&self, limit: usize) -> Result<Pass, String> {
        let now = self.clock.now();
        let due = self.store.due_schedules(now, limit).await.map_err(|error| error.to_string())?;
        if due.rows.is_empty() {
            return Ok(Pass::default());
        }
        checkpoint::reached(Step::Due);
        let fired = join_all(due.rows.iter().map(|row| self.fire(row, now))).await;
        checkpoint::reached(Step::Fired);
        let mut pass = Pass::default();
        let mut moved = Vec::with_capacity(fired.len());
        for (row, fired) in due.rows.iter().zip(fired) {
            match fired {
                Ok((decision, job_id)) => {
                    pass.published += decision.publish.len();
                    let lag = row.next.due.map(|due| now - due).filter(|_| decision.note.is_none());
                    pass.lag = pass.lag.max(lag.unwrap_or_default());
                    moved.push(go_on(row, decision, job_id));
                }
                Err(why) => {
                    pass.stuck += 1;
                    tracing::error!(schedule = row.spec.name, "its job cannot be published, again soon: {why}");
                }
            }
        }
        pass.moved = moved.len();
        due.move_on(&moved).await.map_err(|error| error.to_string())?;
        self.health.scheduled(pass.lag);
        Ok(pass)
    }

    /// Publishes the jobs of one schedule. Answers what was decided, and the last job's id.
    async fn fire(&self, row: &ScheduleRow, now: DateTime<Utc>) -> Result<(Decision, Option<String>), String> {
        let name = &row.spec.name;
        let Some(next) = row.next.at else { return Ok((Decision::default(), None)) };
        let decision = match Timing::read(&row.spec) {
            Ok(timing) => timing.decide(next, now),
            // Nobody can make one that cannot be read; somebody may have written to the table.
            Err(why) => {
                tracing::error!(schedule = name, "it rests until it is mended: {why}");
                return Ok((Decision { note: Some(why), ..Decision::default() }, None));
            }
        };
        if let Some(note) = &decision.note {
            tracing::warn!(schedule = name, missed = decision.missed, "{note}");
        }
        let mut last = None;
        for at in &decision.publish {
            let job = submission(&row.spec, job_id(name, *at), *at);
            let id = job_id(name, *at);
            submit(&self.producer, job).await.map_err(|refused| refused.to_string())?;
            let after_ms = (self.clock.now() - *at).num_milliseconds();
            tracing::info!(schedule = name, job = id, after_ms, "{name} is due");
            last = Some(id);
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
        submit(&self.producer, job).await.map(|_| ()).map_err(|refused| refused.to_string())
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
