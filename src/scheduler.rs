//! Publishes due jobs: saved schedules, and reminders from the care tables ([`care`]).
//!
//! Any number of schedulers may run. Each locks due rows, publishes their jobs and moves the rows on in one
//! transaction. Job ids are deterministic, so publishing twice has no second effect.

pub mod care;
mod care_rows;
mod saved;
mod state;
mod stuck;
pub mod timing;
mod zones;

use std::{future::Future, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::care::LOOK_EVERY;
pub use self::{
    saved::job_id,
    state::{Scheduler, Tally},
};
use crate::{
    health::{CARE_REMINDERS, CARE_TABLES, Part, SCHEDULER},
    schedule::ZoneData,
    store::{CARE_CHANGED, CHANGED},
};

/// Also bounds how late a lost announcement or clock jump is noticed.
const LONGEST_SLEEP: TimeDelta = TimeDelta::seconds(30);

/// After a pass that found due rows locked, and after one that could not publish all of them.
const SHORTEST_SLEEP: TimeDelta = TimeDelta::milliseconds(100);
const STUCK_SLEEP: Duration = Duration::from_secs(1);

/// Ample for a thousand publishes.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Ample for a hundred thousand doses. Bounds the wait for a foreign lock.
const LOOK_TIMEOUT: Duration = Duration::from_mins(5);

/// After a failure of database or server.
const AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at the care tables, however often they change.
const LOOK_APART: Duration = Duration::from_secs(1);

/// Between two looks for schedules that older rules of time zones have set.
const RECKON_EVERY: Duration = Duration::from_mins(2);

/// Between two looks while the tables are unreadable or another scheduler is looking.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Schedules or reminders per transaction.
const BATCH: usize = 1000;

#[derive(Default)]
struct News {
    /// A saved schedule may be due earlier.
    saved: Notify,
    /// A care reminder may be due earlier.
    sooner: Notify,
    /// Care data has changed.
    care: Notify,
}

impl Scheduler {
    /// Runs until `stop`. Restarts after a panic.
    pub async fn run(self, stop: CancellationToken) {
        while let Err(panic) = tokio::spawn(self.clone().run_all(stop.clone())).await {
            if stop.is_cancelled() {
                return;
            }
            self.health.set(SCHEDULER, Part::Down(format!("it panicked: {panic}")));
            let _ = stop.run_until_cancelled(sleep(self.clock.paced(AGAIN))).await;
        }
    }

    async fn run_all(self, stop: CancellationToken) {
        let news = News::default();
        let all = async {
            // Before what is due is published.
            self.reckon_once().await;
            // Reminders planned before a downtime may be obsolete.
            self.look_once(None).await;
            tokio::join!(
                self.listen(&news),
                self.publish_saved(&news),
                self.reckon(),
                self.publish_stuck(),
                self.publish_care(&news),
                self.watch_care_rows(),
                self.look(&news)
            )
        };
        stop.run_until_cancelled(Box::pin(all)).await;
    }

    /// Listens on one connection.
    async fn listen(&self, news: &News) {
        loop {
            self.health.database_up().await;
            let mut listener = self.store.listen(&[CHANGED, CARE_CHANGED]).await;
            // Earlier notifications were missed.
            news.saved.notify_one();
            news.care.notify_one();
            while let Ok(open) = &mut listener {
                match open.hear().await {
                    Ok(Some(channel)) if channel == CHANGED => news.saved.notify_one(),
                    Ok(Some(_)) => news.care.notify_one(),
                    // Reconnected: some may have been missed.
                    Ok(None) => {
                        news.saved.notify_one();
                        news.care.notify_one();
                    }
                    Err(why) => listener = Err(why),
                }
            }
            if let Err(why) = listener {
                tracing::warn!("notifications are unavailable, changes are seen within a minute: {why}");
            }
            sleep(self.clock.paced(AGAIN)).await;
        }
    }

    async fn publish_saved(&self, news: &News) {
        loop {
            let rest = self.rest_after(SCHEDULER, self.saved_turn().await);
            tokio::select! {
                () = sleep(rest) => {}
                () = news.saved.notified() => {}
            }
        }
    }

    /// Workers of an older version may move schedules by older rules of time zones.
    async fn reckon(&self) {
        loop {
            let rest = if self.reckon_once().await { RECKON_EVERY } else { LOOK_AGAIN };
            sleep(self.clock.paced(rest)).await;
        }
    }

    async fn reckon_once(&self) -> bool {
        let reckoned = within(self.reckon_anew(ZoneData::in_use())).await;
        if let Err(why) = &reckoned {
            tracing::warn!("schedules cannot be reckoned by the rules of time zones, trying again soon: {why}");
        }
        reckoned.is_ok()
    }

    /// Retries stuck schedules separately, so that others do not wait.
    async fn publish_stuck(&self) {
        loop {
            if let Err(why) = within(self.mend(BATCH)).await {
                tracing::warn!("stuck schedules cannot be retried now, trying again soon: {why}");
            }
            sleep(self.clock.paced(AGAIN)).await;
        }
    }

    async fn publish_care(&self, news: &News) {
        loop {
            let rest = self.rest_after(CARE_REMINDERS, self.care_turn().await);
            tokio::select! {
                () = sleep(rest) => {}
                () = news.sooner.notified() => {}
            }
        }
    }

    /// Each loop has its own health part.
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

    /// Looks at the care tables each minute and after changes. A slow look does not delay publishing.
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
            // Merges changes announced meanwhile.
            sleep(self.clock.paced(LOOK_APART)).await;
            tokio::select! {
                () = sleep(rest) => {}
                () = news.care.notified() => heard = Some(self.clock.now()),
            }
        }
    }

    /// Skips the look if someone looked within the last minute and after `heard`. Returns the time until the next one,
    /// or `None` while another scheduler looks.
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

    /// `None` if the care tables are unreadable, which it records.
    async fn look_once(&self, heard: Option<DateTime<Utc>>) -> Option<Duration> {
        let looked = timeout(LOOK_TIMEOUT, self.look_if_needed(heard)).await;
        match looked.unwrap_or_else(|_| Err(format!("no answer within {LOOK_TIMEOUT:?}"))) {
            Ok(rest) => {
                self.health.set(CARE_TABLES, Part::Up);
                rest
            }
            Err(why) => {
                tracing::warn!("the care tables cannot be read, trying again soon: {why}");
                // A lost database has its own health part.
                if self.store.ping().await.is_ok() {
                    self.health.set(CARE_TABLES, Part::Down(why));
                }
                None
            }
        }
    }

    /// Returns the time until more are due.
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
        // Stuck schedules are the latest of all.
        let overdue = next.all.map(|due| self.clock.now() - due).filter(|_| !stuck.is_empty());
        if let Some(lag) = lag.max(overdue.filter(|overdue| *overdue > TimeDelta::zero())) {
            self.health.scheduled(lag, self.clock.now());
        }
        Ok(self.until(next.without))
    }

    /// Returns the time until more are due.
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

    /// Due rows that remain belong to another scheduler.
    fn until(&self, next: Option<DateTime<Utc>>) -> TimeDelta {
        let until = next.map_or(LONGEST_SLEEP, |next| next - self.clock.now());
        if until <= TimeDelta::zero() { SHORTEST_SLEEP } else { until.min(LONGEST_SLEEP) }
    }
}

/// A slower step has lost its database unnoticed.
async fn within<T>(step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(STEP_TIMEOUT, step).await.unwrap_or_else(|_| Err(format!("no answer within {STEP_TIMEOUT:?}")))
}
