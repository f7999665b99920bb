//! Publishes what is due by itself: schedules that people made, and what follows from the care tables ([`care`]).
//!
//! Any number of schedulers may run. Each locks what is due, publishes it under job ids made of what it is and when, and
//! moves it on in the same transaction: a stop in between publishes the same ids again, which has no second effect.

pub mod care;
mod saved;
pub mod timing;

use std::{future::Future, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::saved::job_id;
use self::{care::LOOK_EVERY, saved::Stuck};
use crate::{
    clock::Clock,
    effects::submit::{Producer, Submission, submit},
    health::{CARE_REMINDERS, CARE_TABLES, Health, Part, SCHEDULER},
    store::{CARE_CHANGED, CHANGED, Store},
};

/// The longest sleep: also how long a change goes unseen whose announcement was lost, and a jump of the clock.
const LONGEST_SLEEP: TimeDelta = TimeDelta::seconds(30);

/// After a pass that found what is due locked by another scheduler, and after one that could not publish all of it.
const SHORTEST_SLEEP: TimeDelta = TimeDelta::milliseconds(100);
const STUCK_SLEEP: Duration = Duration::from_secs(1);

/// How long a publish may take. What is locked for it, and what is due beside it, waits so long.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a step may take: a thousand publishes and their statements, with much to spare.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a look at the care tables may take: many times what it takes for a hundred thousand doses. Somebody's lock on
/// one of them is not waited for longer.
const LOOK_TIMEOUT: Duration = Duration::from_mins(5);

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
    store: Store,
    producer: Producer,
    clock: Clock,
    /// The worker's state, which this tells how late it was.
    pub health: Arc<Health>,
    stuck: Stuck,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pass {
    /// Schedules that were due.
    pub seen: usize,
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
    /// A saved schedule may be due sooner than was known.
    saved: Notify,
    /// A care reminder may be.
    sooner: Notify,
    /// Care data has changed.
    care: Notify,
}

impl Scheduler {
    /// What it works with: where schedules are, where jobs go, the time, the worker's state.
    #[must_use]
    pub fn new(store: Store, producer: Producer, clock: Clock, health: Arc<Health>) -> Self {
        Self { store, producer, clock, health, stuck: Stuck::default() }
    }

    /// Runs until `stop`. A panic is told of, and the scheduler started anew.
    pub async fn run(self, stop: CancellationToken) {
        while let Err(panic) = tokio::spawn(self.clone().run_all(stop.clone())).await {
            if stop.is_cancelled() {
                return;
            }
            self.health.set(SCHEDULER, Part::Down(format!("it has failed: {panic}")));
            let _ = stop.run_until_cancelled(sleep(self.clock.paced(AGAIN))).await;
        }
    }

    async fn run_all(self, stop: CancellationToken) {
        let news = News::default();
        let all = async {
            // What was planned before a downtime may have been called off since.
            self.look_once(None).await;
            tokio::join!(
                self.listen(&news),
                self.publish_saved(&news),
                self.publish_stuck(),
                self.publish_care(&news),
                self.look(&news)
            )
        };
        stop.run_until_cancelled(Box::pin(all)).await;
    }

    /// Hears what the database announces, on one connection.
    async fn listen(&self, news: &News) {
        loop {
            self.health.database_up().await;
            let mut listener = self.store.listen(&[CHANGED, CARE_CHANGED]).await;
            // What was announced before somebody listened is not known.
            news.saved.notify_one();
            news.care.notify_one();
            while let Ok(open) = &mut listener {
                match open.hear().await {
                    Ok(Some(channel)) if channel == CHANGED => news.saved.notify_one(),
                    Ok(Some(_)) => news.care.notify_one(),
                    // A connection that was lost and made again: nor is what was announced meanwhile.
                    Ok(None) => {
                        news.saved.notify_one();
                        news.care.notify_one();
                    }
                    Err(why) => listener = Err(why),
                }
            }
            if let Err(why) = listener {
                tracing::warn!("changes are not heard at present, and seen within a minute: {why}");
            }
            sleep(self.clock.paced(AGAIN)).await;
        }
    }

    /// Publishes saved schedules that are due, and sleeps until more are, or something changes.
    async fn publish_saved(&self, news: &News) {
        loop {
            let rest = self.rest_after(SCHEDULER, self.saved_turn().await);
            tokio::select! {
                () = sleep(rest) => {}
                () = news.saved.notified() => {}
            }
        }
    }

    /// The same for those that could not be published, so that no others wait for them.
    async fn publish_stuck(&self) {
        loop {
            if let Err(why) = within(self.mend(BATCH)).await {
                tracing::warn!("schedules that are stuck, again soon: {why}");
            }
            sleep(self.clock.paced(AGAIN)).await;
        }
    }

    /// The same for what follows from the care tables.
    async fn publish_care(&self, news: &News) {
        loop {
            let rest = self.rest_after(CARE_REMINDERS, self.care_turn().await);
            tokio::select! {
                () = sleep(rest) => {}
                () = news.sooner.notified() => {}
            }
        }
    }

    /// A part for each that has turns: what works says nothing of what does not.
    fn rest_after(&self, part: &'static str, turn: Result<TimeDelta, String>) -> Duration {
        match turn {
            Ok(rest) => {
                self.health.set(part, Part::Up);
                rest.to_std().unwrap_or_default()
            }
            Err(why) => {
                self.health.set(part, Part::Down(why));
                self.clock.paced(AGAIN)
            }
        }
    }

    /// Looks at the care tables each minute, and when they have changed. Beside the publishing, which a look that takes
    /// its time would hold up.
    async fn look(&self, news: &News) {
        let mut heard = None;
        loop {
            self.health.database_up().await;
            let next = self.look_once(heard).await;
            if next.is_some() {
                heard = None;
                news.sooner.notify_one();
            }
            let rest = next.unwrap_or(self.clock.paced(LOOK_AGAIN));
            // Changes that are announced meanwhile are one.
            sleep(self.clock.paced(LOOK_APART)).await;
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

    /// The same, and notes whether the care tables can be read. None also where they cannot.
    async fn look_once(&self, heard: Option<DateTime<Utc>>) -> Option<Duration> {
        let looked = timeout(LOOK_TIMEOUT, self.look_if_needed(heard)).await;
        match looked.unwrap_or_else(|_| Err(format!("no answer within {LOOK_TIMEOUT:?}"))) {
            Ok(rest) => {
                self.health.set(CARE_TABLES, Part::Up);
                rest
            }
            Err(why) => {
                tracing::warn!("the care tables cannot be looked at, again soon: {why}");
                // Of a database that is away its own part tells.
                if self.store.ping().await.is_ok() {
                    self.health.set(CARE_TABLES, Part::Down(why));
                }
                None
            }
        }
    }

    /// Publishes all saved schedules that are due. Answers how long there is nothing to do.
    async fn saved_turn(&self) -> Result<TimeDelta, String> {
        self.health.database_up().await;
        let mut lag = None;
        loop {
            let pass = within(self.pass(BATCH)).await?;
            if pass.seen > 0 {
                lag = lag.max(Some(pass.lag));
            }
            if pass.seen < BATCH {
                break;
            }
        }
        let stuck = self.stuck.ids();
        let next = within(async { self.store.next_schedule(&stuck).await.map_err(|error| error.to_string()) }).await?;
        // What is stuck is late too, and most of all.
        let overdue = next.all.map(|due| self.clock.now() - due).filter(|_| !stuck.is_empty());
        if let Some(lag) = lag.max(overdue.filter(|overdue| *overdue > TimeDelta::zero())) {
            self.health.scheduled(lag, self.clock.now());
        }
        Ok(self.until(next.without))
    }

    /// Publishes all care reminders that are due. Answers how long there is nothing to do.
    async fn care_turn(&self) -> Result<TimeDelta, String> {
        self.health.database_up().await;
        let mut stuck = 0;
        loop {
            let pass = within(self.care_pass(BATCH)).await?;
            stuck += pass.stuck;
            if pass.moved < BATCH {
                break;
            }
        }
        let next = within(async { self.store.next_reminder().await.map_err(|error| error.to_string()) }).await?;
        let until = self.until(next);
        let stuck_sleep = TimeDelta::from_std(self.clock.paced(STUCK_SLEEP)).unwrap_or_default();
        Ok(if stuck > 0 { until.max(stuck_sleep) } else { until })
    }

    /// How long until then. What is due already is another scheduler's.
    fn until(&self, next: Option<DateTime<Utc>>) -> TimeDelta {
        let until = next.map_or(LONGEST_SLEEP, |next| next - self.clock.now());
        if until <= TimeDelta::zero() { SHORTEST_SLEEP } else { until.min(LONGEST_SLEEP) }
    }

    /// Publishes a job. A server that does not answer soon is not waited for: the job is published again, under its id.
    async fn publish(&self, job: Submission) -> Result<(), String> {
        match timeout(PUBLISH_TIMEOUT, submit(&self.producer, job)).await {
            Ok(submitted) => submitted.map(|_| ()).map_err(|refused| refused.to_string()),
            Err(_) => Err(format!("no acknowledgement within {PUBLISH_TIMEOUT:?}")),
        }
    }
}

/// A step that takes longer than this has lost its database without noticing.
async fn within<T>(step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(STEP_TIMEOUT, step).await.unwrap_or_else(|_| Err(format!("no answer within {STEP_TIMEOUT:?}")))
}
