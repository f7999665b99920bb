//! Cancellation: of what waits and has not begun. Dead jobs are discarded.

use serde_json::{Value, json};

use super::{Acting, Refused, is_task, retry::nowhere};
use crate::{
    dead_letter::{self, Filter, Letters, Redriver, redrive::CHUNK, taken_back, wake::parked_run},
    store::{AuditEntry, Cancellation, RunAsk, RunLine, TaskCancel, WaitingRun},
};

/// What a cancellation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was delayed. A note if its message stays parked until it is due, to no effect.
    Delayed(Option<String>),
    /// It waited, with what followed from it; or it is being sent, and the rest has ended.
    Waiting(Cancellation),
    /// Its endpoint may be at work: it ends before its next attempt, or when its endpoint says so.
    Asked,
    /// It was dead: the dead letters with these numbers are discarded.
    Discarded(Vec<u64>),
}

impl Ended {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self, id: &str) -> Value {
        match self {
            Self::Delayed(_) => json!({ "job_id": id, "cancelled": true }),
            Self::Waiting(done) => json!({
                "job_id": id, "cancelled": done.is_any(), "deliveries": done.deliveries, "being_sent": done.sending,
                "sent_before": done.sent,
            }),
            Self::Asked => json!({ "job_id": id, "cancelled": false, "asked": true }),
            Self::Discarded(letters) => json!({ "job_id": id, "discarded": letters }),
        }
    }
}

impl Acting<'_> {
    /// Cancels a job that waits, and what followed from it and has not begun. One that is dead is discarded if `discards`.
    ///
    /// # Errors
    /// If there is nothing to cancel: why. Or if a server does not answer.
    pub async fn cancel(&self, id: &str, discards: Option<&str>) -> Result<Ended, Refused> {
        let now = self.clock.now();
        if let Some(position) = self.store.cancel_delayed(id, now).await? {
            let act = self.act("job.cancelled", Some(id), Some(id), json!({}));
            let recorded = self.store.record_audit(&[act]).await;
            recorded.map_err(|error| {
                Refused::Nats(format!("job {id} is cancelled, but the audit log lacks it: {error}"))
            })?;
            let removed = match self.context {
                Ok(context) => taken_back::delayed(context, &position, now).await,
                Err(why) => Err(why.to_owned()),
            };
            return Ok(Ended::Delayed(removed.err()));
        }
        let way = self.store.trail_of(id).await?;
        let root = way.as_ref().map_or_else(|| id.to_owned(), |way| way.root_id.clone());
        let run = way.as_ref().and_then(|way| way.runs.iter().find(|run| run.job_id == root));
        // NATS tells of jobs that are not on record, and whether a dead one was redriven.
        let (mut waits, mut revived, mut kind) = (false, false, run.map(|run| run.kind.clone()).unwrap_or_default());
        if run.is_none_or(|run| run.state == "dead") {
            let letters = Letters::open(self.nats()?).await.map_err(Refused::Nats)?;
            let filter = Filter { job_ids: vec![root.clone()], ..Filter::default() };
            let mut numbers = Vec::new();
            letters.each(&filter, |found| numbers.push(found.number)).await.map_err(Refused::Nats)?;
            if let Some(last) = numbers.last() {
                let Some(why) = discards else {
                    return Err(Refused::Conflict(format!(
                        "job {root} is dead: `carebell dead-letters discard {last}` keeps it from being redriven"
                    )));
                };
                return self.discard(numbers, why).await.map(Ended::Discarded);
            }
            let (found, longer) = self.streams.find(self.nats()?, &root).await.map_err(Refused::Nats)?;
            waits = !found.is_empty() || !longer.is_empty();
            revived = waits;
            kind = found.first().map_or(kind, |found| dead_letter::kind_of(&found.subject).to_owned());
            if !waits && way.is_none() {
                return Err(Refused::Unknown(nowhere(id, &[])));
            }
        }
        let act = self.act("job.cancelled", Some(id), Some(&root), json!({}));
        if is_task(&kind) {
            return self.cancel_task(id, &root, run, (&kind, revived), &act).await;
        }
        let done = self.store.cancel_waiting(&WaitingRun::root(&root), waits, revived, &act).await?;
        self.tell_parked(&done.runs).await;
        if done.is_any() || done.sending > 0 {
            return Ok(Ended::Waiting(done));
        }
        // Its run is done, and some of its deliveries are dead.
        if let Some(why) = discards {
            let found = self.look(id, way.as_ref(), None, usize::MAX, true).await?;
            if !found.letters.is_empty() {
                let numbers = found.letters.iter().map(|letter| letter.number).collect();
                return self.discard(numbers, why).await.map(Ended::Discarded);
            }
        }
        Err(Refused::Conflict(ended(id, &done)))
    }

    /// Tells applications of cancelled jobs that are parked. Others are told of by the workers that take them, as these
    /// are when they come back if that fails.
    pub(super) async fn tell_parked(&self, runs: &[String]) {
        let Ok(context) = self.context else { return };
        let asks: Vec<RunAsk> = runs.iter().map(|id| RunAsk { job_id: id.clone() }).collect();
        let Ok(found) = self.store.look_up_runs(&asks).await else { return };
        for (id, record) in runs.iter().zip(found) {
            if let Some(record) = record {
                let _ = taken_back::run(context, id, &record, self.clock.now()).await;
            }
        }
    }

    /// A task that is parked ends at once, unless its endpoint is at work.
    async fn cancel_task(
        &self,
        id: &str,
        root: &str,
        run: Option<&RunLine>,
        (kind, revived): (&str, bool),
        act: &AuditEntry,
    ) -> Result<Ended, Refused> {
        let parked = match run {
            Some(run) => parked_run(self.nats()?, &run.stream, run.stream_seq).await.map_err(Refused::Nats)?,
            None => None,
        };
        let waiting = WaitingRun { kind: kind.to_owned(), ..WaitingRun::root(root) };
        match self.store.cancel_task(&waiting, parked.is_some(), revived, act).await? {
            TaskCancel::Ended => {
                Ok(Ended::Waiting(Cancellation { runs: vec![root.to_owned()], ..Cancellation::default() }))
            }
            TaskCancel::Asked => Ok(Ended::Asked),
            TaskCancel::Over(state, reason) => Err(Refused::Conflict(ended(
                id,
                &Cancellation { root: Some((state, reason)), ..Cancellation::default() },
            ))),
        }
    }

    async fn discard(&self, numbers: Vec<u64>, why: &str) -> Result<Vec<u64>, Refused> {
        let context = self.nats()?;
        let all = Letters::open(context).await.map_err(Refused::Nats)?;
        let mut letters = Vec::with_capacity(numbers.len());
        for number in &numbers {
            letters.extend(all.get(*number).await.map_err(Refused::Nats)?);
        }
        let why = Some(why).filter(|why| !why.is_empty());
        let Self { store, clock, actor, .. } = *self;
        for letters in letters.chunks(CHUNK) {
            let redriver = Redriver { context, letters: &all, store, clock, actor };
            redriver.discard(letters, why).await.map_err(Refused::Nats)?;
        }
        Ok(numbers)
    }
}

/// Deliveries that a cancellation did not end: those that are being sent, and those that were.
#[must_use]
pub fn rest(done: &Cancellation) -> String {
    let mut rest = Vec::new();
    if done.sending > 0 {
        rest.push(format!("{} of its deliveries are being sent now", done.sending));
    }
    if done.sent > 0 {
        rest.push(format!("{} were sent before", done.sent));
    }
    rest.join(", ")
}

fn ended(id: &str, done: &Cancellation) -> String {
    let rest = rest(done);
    match &done.root {
        Some((state, Some(reason))) => format!("job {id} has ended before: {state} ({reason})"),
        Some((state, None)) if rest.is_empty() => format!("job {id} has already run: {state}"),
        Some((state, None)) => format!("job {id} has already run: {state}, {rest}"),
        None => format!("job {id} has nothing left to cancel; `carebell jobs show {id}` tells what became of it"),
    }
}
