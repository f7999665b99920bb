//! One run of a job: how it begins and ends, whatever its [`Origin`]. `perform.rs` has its way between.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{
    combined::Combined,
    direct::DirectSends,
    ending::{Disposition, Ending, Logged},
    message::Pulled,
    punctuality,
    runner::{RELEASE_TIMEOUT, Runner},
    settle::settle,
    telling::Telling,
};
use crate::{
    checkpoint::{self, Step},
    intake::Unreadable,
    kind::Stage,
    meta::{Ids, Meta, NO_MESSAGE},
    plan::{JobOutcome, Reason},
    store::{Child, Committed},
    telemetry::{
        tally::Running,
        traces::{self, Processing},
    },
};

/// How a job reached its run.
#[expect(clippy::large_enum_variant, reason = "the largest is the usual one, and a box would cost each message")]
pub enum Origin<'a> {
    /// By a pulled message.
    Message(Pulled),
    /// Planned with its reminder: a notification.
    Planned {
        /// Its identity.
        meta: Meta,
        /// The size of its body, in bytes.
        size: usize,
        /// When planning began.
        started: Instant,
    },
    /// Sent directly: a claimed push, with the message that it would have.
    Direct(&'a Child, DateTime<Utc>),
}

/// Combined commits and direct sends, which skip messages.
pub struct Shortcuts {
    /// Plans notifications with their reminders.
    pub combined: Combined,
    /// Sends pushes directly.
    pub direct: DirectSends,
}

/// A running job. Dropping it settles nothing: the server redelivers its message.
pub struct Run {
    pub(super) runner: Arc<Runner>,
    pub(super) shortcuts: Option<Arc<Shortcuts>>,
    pub(super) message: Option<Pulled>,
    pub(super) meta: Result<Meta, Unreadable>,
    pub(super) span: Processing,
    started: Instant,
    is_counted: bool,
    /// Until the run is dropped.
    _running: Running,
}

impl Run {
    /// Begins a run.
    pub fn begin(runner: &Arc<Runner>, shortcuts: Option<&Arc<Shortcuts>>, origin: Origin<'_>) -> Self {
        let mut started = Instant::now();
        let is_counted = !matches!(origin, Origin::Planned { .. });
        let mut message = None;
        let (meta, span) = match origin {
            Origin::Message(mut pulled) => {
                let position = &pulled.position;
                let waited = || (runner.clock.now() - position.published).to_std().unwrap_or_default();
                // A redelivery's wait was not for a free worker.
                runner.metrics.begun((position.delivered == 1).then(waited));
                let mut meta = pulled.meta();
                if let Ok(meta) = &mut meta {
                    punctuality::excuse_pauses(runner, meta);
                }
                let span = pulled.begin_span(meta.as_mut().map_err(|invalid| &*invalid));
                if let Ok(meta) = &meta {
                    let delivery_count = meta.position.delivered;
                    debug!(job = meta.job_id, root = meta.root_id, kind = %meta.kind, delivery_count, "begun");
                }
                message = Some(pulled);
                (meta, span)
            }
            Origin::Planned { meta, size, started: since } => {
                started = since;
                let mut begun = begin_without_message(runner, meta, size);
                begun.1.attempt = Some(1);
                begun
            }
            Origin::Direct(child, claimed_at) => {
                checkpoint::reached(Step::Claimed);
                runner.metrics.begun(Some(Duration::ZERO));
                let ids = Ids { job: child.job_id.clone(), root: child.root_id.clone() };
                let mut meta = Meta::without_message(runner.queue, &runner.stream, ids, claimed_at, child.not_after);
                meta.trace.clone_from(&child.trace);
                meta.due = child.due;
                begin_without_message(runner, meta, child.body.len())
            }
        };
        let job_id = meta.as_ref().map_or("", |meta| meta.job_id.as_str());
        let running = runner.metrics.running(job_id, runner.clock.now());
        let (runner, shortcuts) = (Arc::clone(runner), shortcuts.cloned());
        Self { runner, shortcuts, message, meta, span, started, is_counted, _running: running }
    }

    pub(super) async fn end(mut self, ending: Ending) {
        self.close(&ending);
        let took = self.started.elapsed();
        // Its id may be right though another header is not.
        let identity = self.message.as_ref().filter(|_| self.meta.is_err()).and_then(|message| message.identity().ok());
        let position = self.message.as_ref().map(|message| &message.position);
        let position = position.or(self.meta.as_ref().ok().map(|meta| &meta.position));
        ending.log(&Logged {
            queue: self.runner.queue,
            sequence: position.map_or(NO_MESSAGE, |position| position.sequence),
            delivered: position.map_or(1, |position| position.delivered),
            meta: self.meta.as_ref().ok().or(identity.as_ref()),
            attempt: self.span.attempt,
            took,
        });
        let (outcome, reason, attempts) = (ending.outcome, ending.label(), ending.attempts());
        let because = reason.or(ending.receipt);
        let punctual = punctuality::End::of(&ending);
        let runner = &self.runner;
        if let Some(message) = self.message.take() {
            let lifeline = message.lifeline();
            let telling = self.meta.as_ref().ok().and_then(|meta| Telling::of(meta, &ending, runner.clock.now()));
            let settled = async {
                if let Some(telling) = telling {
                    Box::pin(telling.tell(&runner.effects)).await;
                }
                settle(message, ending.disposition, &runner.effects).await;
            };
            tokio::select! {
                biased;
                () = settled => checkpoint::reached(Step::Settled),
                never = lifeline.keep() => match never {},
                () = out_of_time(runner) => {}
            }
        }
        if !self.is_counted {
            runner.metrics.begun(Some(Duration::ZERO));
        }
        runner.metrics.ended(outcome, self.started.elapsed(), reason, attempts);
        runner.metrics.tally(outcome, because);
        if let (Some(end), Ok(meta)) = (punctual, &self.meta) {
            punctuality::count(runner, meta, end);
        }
    }

    /// Ends a notification planned and written with its reminder, unless it had already ended through its own message.
    pub(super) async fn end_with_reminder(mut self, reminder: Committed, followed: bool, pushes: Option<usize>) {
        let ending = match reminder {
            Committed::Fresh if followed => {
                Ending { attempts: Some(1), pushes, ..Ending::new(JobOutcome::Done, Disposition::Done) }
            }
            Committed::Fresh | Committed::Duplicate | Committed::InFlight(_) => {
                Ending::new(JobOutcome::Duplicate, Disposition::Done)
            }
            // Another job sent this reminder, so there is no such notification.
            Committed::MarkTaken => {
                return self.close(&Ending::new(JobOutcome::Skipped, Disposition::Done).by(Reason::AlreadySent));
            }
        };
        self.end(ending).await;
    }

    /// Closes a span without log line or count: the message will repeat the run, or the job does not exist.
    pub(super) fn close(&mut self, ending: &Ending) {
        ending.close(&mut self.span, self.runner.clock.now());
    }
}

/// Whether giving it back is to be recorded. A delayed job has no run before it is due.
pub(super) fn is_begun(meta: &Meta, now: DateTime<Utc>) -> bool {
    meta.delay.as_ref().is_none_or(|delay| !delay.only_waits && delay.due <= now)
}

fn begin_without_message(runner: &Runner, mut meta: Meta, size: usize) -> (Result<Meta, Unreadable>, Processing) {
    let ids = Some((meta.job_id.as_str(), meta.root_id.as_str()));
    let (span, trace) = traces::process(runner.queue, &meta.position, ids, size, meta.trace.as_deref());
    meta.trace = trace.or(meta.trace);
    (Ok(meta), span)
}

/// Returns shortly after the deadline. A message unsettled by then is settled after its redelivery.
async fn out_of_time(runner: &Runner) {
    runner.deadline.cancelled().await;
    sleep(RELEASE_TIMEOUT).await;
}

/// Keeps a message this worker's until its time. False if the worker stops first, or the queue is paused.
pub async fn hold(runner: &Runner, message: &Pulled, until: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = runner.stop.cancelled() => false,
        () = runner.pauses.begun(runner.queue) => false,
        () = until => true,
        never = message.lifeline().keep() => match never {},
    }
}

/// Gives back a message that was pulled and not begun.
pub async fn give_back(runner: &Runner, message: Pulled) {
    let meta = message
        .meta()
        .ok()
        .filter(|meta| is_begun(meta, runner.clock.now()))
        .filter(|_| runner.queue.kind.stage != Stage::Delay);
    let ending = runner.release(meta.as_ref()).await;
    settle(message, ending.disposition, &runner.effects).await;
}
