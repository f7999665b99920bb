//! Operations: acts on all that a filter finds, previewed, confirmed by the count, and carried out in small batches.
//!
//! Whoever holds the lease of an operation's row carries it out; the next holder goes on where the last one stopped. Each
//! batch is noted before it is begun where its effects are outside the database, so nothing is counted twice or left out.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Acting, Refused,
    preview::Preview,
    spec::{Act, Spec},
};
use crate::{
    clock::Clock,
    nats::JetStream,
    store::{AuditEntry, NewOperation, OperationRow, Progress, Store},
    streams::Streams,
    text::shorten,
};

/// Between looks for an operation that nobody carries out.
const LOOK: Duration = Duration::from_secs(1);

/// Between two batches: workers have the servers for themselves meanwhile.
const REST: Duration = Duration::from_millis(200);

/// Between two batches of a queue that is emptied: no worker sends because of them.
const SHORT_REST: Duration = Duration::from_millis(50);

/// After a server did not answer.
const AGAIN: Duration = Duration::from_secs(2);

/// The most characters of a reason.
pub const LONGEST_REASON: usize = 200;

/// What a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// There may be more.
    More,
    /// That was the last one.
    Ended,
    /// It was cancelled, or another one carries it out.
    Lost,
}

impl Acting<'_> {
    /// Begins what was previewed, if there is no more of it than was confirmed. Its row.
    ///
    /// # Errors
    /// If there is more by now, or nothing: how many. Or if a server does not answer.
    pub async fn begin(&self, spec: Spec, confirmed: u64, reason: &str) -> Result<OperationRow, Refused> {
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > LONGEST_REASON || reason.contains('\0') {
            let why = format!("expected 1 to {LONGEST_REASON} characters, for the colleagues");
            return Err(Refused::Wrong("reason", why));
        }
        let Preview { spec, count, cursor, .. } = self.preview(spec).await?;
        if count == 0 {
            return Err(Refused::Conflict("there is nothing left to act on: 0 jobs".to_owned()));
        }
        if count > confirmed {
            return Err(Refused::Conflict(format!(
                "there are {count} jobs by now, and {confirmed} were confirmed: look again, and confirm {count}"
            )));
        }
        let (act, filter) = (spec.act().name(), spec.to_json());
        let counted = i64::try_from(count).unwrap_or(i64::MAX);
        let new = NewOperation {
            act,
            filter: filter.clone(),
            counted,
            reason: reason.to_owned(),
            actor: self.actor.to_owned(),
            cursor,
        };
        let started = |id: i64| {
            let detail = json!({ "operation": id, "act": act, "filter": filter, "counted": counted, "reason": reason });
            self.act("operation.started", None, None, detail)
        };
        let id = self.store.begin_operation(&new, started, self.clock.now()).await?;
        self.operation(id).await
    }

    /// One operation.
    ///
    /// # Errors
    /// If there is none of this number, or the database does not answer.
    pub async fn operation(&self, id: i64) -> Result<OperationRow, Refused> {
        let found = self.store.operation(id).await?;
        found.ok_or_else(|| Refused::Unknown(format!("there is no operation {id}")))
    }

    /// Stops an operation. What it has done stays.
    ///
    /// # Errors
    /// If it has ended, or there is none of this number.
    pub async fn stop_operation(&self, id: i64) -> Result<OperationRow, Refused> {
        let act = self.act("operation.cancelled", None, None, json!({ "operation": id }));
        let stopped = self.store.cancel_operation(id, &act).await?;
        let row = self.operation(id).await?;
        if stopped {
            Ok(row)
        } else {
            Err(Refused::Conflict(format!("operation {id} has ended before: {}", row.state)))
        }
    }

    async fn step(&self, row: &OperationRow, progress: &mut Progress) -> Result<Stepped, Refused> {
        match Spec::read(&row.act, &row.filter)? {
            Spec::Letters(act, filter) => self.step_letters(row, act, &filter, progress).await,
            Spec::Jobs(act, filter) => self.step_jobs(row, act, &filter, progress).await,
            Spec::Queue(queue) => self.step_queue(row, queue, progress).await,
        }
    }

    pub(super) async fn note(&self, row: &OperationRow, progress: &Progress) -> Result<bool, Refused> {
        Ok(self.store.advance_operation(row, progress, None, self.clock.now()).await?)
    }

    async fn end(&self, row: &OperationRow, progress: &Progress, state: &str) -> Result<(), Refused> {
        let Progress { done, skipped, failed, note, .. } = progress;
        let detail = json!({ "operation": row.id, "done": done, "skipped": skipped, "failed": failed, "note": note });
        let act: AuditEntry = self.act(&format!("operation.{state}"), None, None, detail);
        self.store.advance_operation(row, progress, Some((state, &act)), self.clock.now()).await?;
        Ok(())
    }

    /// Carries out an operation that this process holds, until it ends, is cancelled or lost, or `stop`. `tell` hears how
    /// far it is.
    ///
    /// # Errors
    /// If the database does not answer. Another one goes on.
    pub async fn carry_out(
        &self,
        row: OperationRow,
        stop: &CancellationToken,
        tell: impl Fn(&Progress),
    ) -> Result<(), Refused> {
        let mut progress = row.progress.clone();
        while !stop.is_cancelled() {
            let mut next = Progress { note: None, ..progress.clone() };
            match self.step(&row, &mut next).await {
                Ok(Stepped::Lost) => return Ok(()),
                Ok(Stepped::Ended) => {
                    tell(&next);
                    return self.end(&row, &next, "done").await;
                }
                Ok(Stepped::More) => {
                    progress = next;
                    tell(&progress);
                    let rest = if row.act == Act::Empty.name() { SHORT_REST } else { REST };
                    sleep(self.clock.paced(rest)).await;
                }
                Err(Refused::Store(error)) => return Err(Refused::Store(error)),
                Err(Refused::Nats(why)) => {
                    // The batch is noted as begun, if it was.
                    let noted = self.operation(row.id).await?;
                    progress = Progress { note: Some(why), ..noted.progress };
                    if noted.fence != row.fence || !self.note(&row, &progress).await? {
                        return Ok(());
                    }
                    sleep(self.clock.paced(AGAIN)).await;
                }
                Err(Refused::Conflict(why) | Refused::Unknown(why) | Refused::Wrong(_, why)) => {
                    progress.note = Some(why);
                    return self.end(&row, &progress, "failed").await;
                }
            }
        }
        Ok(self.store.release_operation(row.id, row.fence).await?)
    }
}

/// Carries out operations, one after the other, as long as nobody else does.
pub struct Carrier {
    /// Holds them.
    pub store: Store,
    /// NATS, once it was reached.
    pub nats: Arc<OnceLock<JetStream>>,
    /// Streams and queues as declared.
    pub streams: Streams,
    /// The time.
    pub clock: Clock,
    /// This process, in their rows.
    pub holder: String,
}

impl Carrier {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(self.clock.paced(LOOK))).await.is_some() {
            let Some(context) = self.nats.get() else { continue };
            if let Err(why) = self.pass(context, &stop).await {
                tracing::warn!("an operation cannot be carried on, trying again soon: {why}");
            }
        }
    }

    async fn pass(&self, context: &JetStream, stop: &CancellationToken) -> Result<(), Refused> {
        let Self { store, streams, clock, holder, .. } = self;
        while let Some(row) = store.lease_operation(None, holder).await? {
            tracing::info!(operation = row.id, act = row.act, "carrying out an operation");
            let actor = row.actor.clone();
            let acting = Acting { store, context: Ok(context), streams, clock, actor: &actor };
            let (id, fence) = (row.id, row.fence);
            if let Err(why) = acting.carry_out(row, stop, |_| {}).await {
                // Otherwise it would wait for the end of the lease.
                let _ = store.release_operation(id, fence).await;
                return Err(why);
            }
            if stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }
}

/// Adds to a count by reason. There are at most so many reasons: an error may hold an id.
pub(super) fn add(counts: &mut BTreeMap<String, i64>, reason: &str, number: usize) {
    const MOST: usize = 20;
    if number == 0 {
        return;
    }
    let reason = shorten(reason, LONGEST_REASON);
    let key = if counts.len() < MOST || counts.contains_key(&reason) { reason } else { "others".to_owned() };
    *counts.entry(key).or_default() += i64::try_from(number).unwrap_or(i64::MAX);
}

/// An operation as JSON.
#[must_use]
pub fn operation_to_json(row: &OperationRow) -> Value {
    let Progress { done, skipped, failed, note, .. } = &row.progress;
    json!({
        "operation": row.id,
        "act": row.act,
        "filter": row.filter,
        "counted": row.counted,
        "reason": row.reason,
        "by": row.actor,
        "state": row.state,
        "done": done,
        "skipped": skipped,
        "failed": failed,
        "note": note,
        "started_at": row.started_at,
        "updated_at": row.updated_at,
        "ended_at": row.ended_at,
    })
}
