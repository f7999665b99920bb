//! Notes what becomes of delayed jobs.

use super::{Effects, Refused, park};
use crate::{
    dead_letter::{remove_last, taken_back},
    intake::application,
    kind::Lane,
    meta::{IntakePosition, Meta},
    store::{DelayAnswer, DelayAsk, DelayStep, RunAsk},
};

impl Effects {
    /// Notes that a delayed job waits, or is due. `size` is that of its body, in bytes. The answer says whether the message counts.
    ///
    /// # Errors
    /// If the database refuses it.
    pub async fn delay(
        &self,
        meta: &Meta,
        size: usize,
        position: &IntakePosition,
        step: DelayStep,
    ) -> Result<DelayAnswer, Refused> {
        let ask = DelayAsk {
            step,
            job_id: meta.job_id.clone(),
            application: application(&position.stream).to_owned(),
            kind: meta.kind.name,
            lane: meta.kind.lane_for(meta.lane).map(Lane::name),
            due: meta.delay.as_ref().map(|delay| delay.due),
            size,
            position: position.clone(),
            now: self.clock.now(),
        };
        match step {
            DelayStep::Run => self.due.ask(ask).await,
            DelayStep::Wait | DelayStep::Cancel => self.delays.ask(ask).await,
        }
    }

    /// Notes that a job is taken back by the message at this position.
    ///
    /// # Errors
    /// If the database refuses it.
    pub async fn cancel_delayed(&self, job_id: &str, position: &IntakePosition) -> Result<DelayAnswer, Refused> {
        let ask = DelayAsk {
            step: DelayStep::Cancel,
            job_id: job_id.to_owned(),
            application: application(&position.stream).to_owned(),
            kind: "",
            lane: None,
            due: None,
            size: 0,
            position: position.clone(),
            now: self.clock.now(),
        };
        self.delays.ask(ask).await
    }

    /// Tells of a delayed job that was taken back, and removes it.
    ///
    /// # Errors
    /// If a server does not answer.
    pub async fn take_back(&self, position: &IntakePosition) -> Result<(), String> {
        taken_back::delayed(&self.context, position, self.clock.now()).await
    }

    /// As [`Self::take_back`], of a job that was cancelled before, delayed or not. To no effect if there is none.
    ///
    /// # Errors
    /// If a server does not answer.
    pub async fn take_back_cancelled(&self, job_id: &str) -> Result<(), String> {
        if let Some(position) = self.store.cancelled_delay(job_id).await.map_err(|error| error.to_string())? {
            self.take_back(&position).await?;
        }
        let record = self.look_ups.ask(RunAsk { job_id: job_id.to_owned() }).await;
        match record.map_err(|refused| format!("{refused:?}"))? {
            Some(record) => taken_back::run(&self.context, job_id, &record, self.clock.now()).await,
            None => Ok(()),
        }
    }

    /// Removes a parked job that does not count any more, so that it takes no room. One that stays has no effect.
    pub async fn remove_parked(&self, position: &IntakePosition) {
        let subject = park::delayed_subject(position);
        if let Err(why) = remove_last(&self.context, park::STREAM, &subject).await {
            tracing::debug!(subject, "a replaced job stays parked, to no effect: {why}");
        }
    }
}
