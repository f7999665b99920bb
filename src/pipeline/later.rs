//! The queues of delayed jobs of all kinds and of their cancellations.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{
    ending::Disposition,
    message::{Form, Pulled},
    registry::{Decoder, Runnable},
    run::{Origin, Run},
    runner::Runner,
    settle::settle,
};
use crate::{
    checkpoint::{self, Step},
    dead_letter::sweep,
    effects::{Death, Refused},
    header,
    intake::{self, Unreadable, asked},
    kind::{CANCEL, LATER},
    meta::IntakePosition,
    plan::DeadReason,
    store::DelayAnswer,
};

/// The wait while the database is away.
const HELD_FOR: Duration = Duration::from_secs(1);

/// The wait before a cancelled job is looked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// The runners of the kinds that applications publish, by the end of their subjects.
pub struct Routes(HashMap<String, Arc<Runner>>);

impl Routes {
    /// Routes to these runners.
    pub fn new(runners: impl IntoIterator<Item = Arc<Runner>>) -> Self {
        let end = |runner: &Runner| asked(&runner.queue.intake_subject()).unwrap_or_default().to_owned();
        Self(runners.into_iter().map(|runner| (end(&runner), runner)).collect())
    }

    /// Parks a delayed job, or ends it. `runner` is that of the queue of delayed jobs.
    pub async fn take(&self, runner: &Runner, message: Pulled) {
        match self.0.get(delayed(&message)) {
            Some(runner) => {
                let message = message.of_queue(runner.queue);
                Run::begin(runner, None, Origin::Message(message)).run().await;
            }
            None => unknown(runner, message).await,
        }
    }
}

/// The kind and lane of a delayed job.
fn delayed(message: &Pulled) -> &str {
    asked(message.subject()).and_then(|asked| asked.strip_prefix(LATER)).unwrap_or_default()
}

/// A delayed job of a kind that this worker lacks: it is a newer worker's, or dead.
async fn unknown(runner: &Runner, message: Pulled) {
    let kind = delayed(&message);
    let subject = message.subject().replacen(&format!(".{LATER}"), ".", 1);
    let taken = sweep::is_taken(runner.effects.context(), &message.position.stream, &subject).await;
    // The subjects of delays are no kinds.
    let is_no_kind = kind.starts_with(LATER) || kind == CANCEL.kind.name;
    if is_no_kind || taken == Ok(false) {
        let error = format!("there is no kind {}: check the spelling", kind.escape_debug());
        return bury(runner, message, DeadReason::UnknownKind, error).await;
    }
    let doubled = u32::try_from(message.position.delivered - 1).unwrap_or(0).min(6);
    let wait = Duration::from_secs(1 << doubled);
    settle(message, Disposition::Retry(wait), &runner.effects).await;
}

/// Takes a delayed job back, as a message asks.
pub async fn cancel(runner: &Runner, message: Pulled) {
    let lifeline = message.lifeline();
    let noted = async {
        let (meta, id) = match read_cancellation(&message) {
            Ok(read) => read,
            Err(unreadable) => return Err(unreadable),
        };
        loop {
            match runner.effects.cancel_delayed(&id, &meta).await {
                Ok(answer) => return Ok((id, answer)),
                Err(Refused::Data(why)) => return Err(Unreadable { reason: DeadReason::Permanent, why }),
                Err(Refused::Fault(why) | Refused::Unavailable(why)) => {
                    warn!(job = id, "a cancellation waits for the database: {why}");
                    sleep(HELD_FOR).await;
                }
            }
        }
    };
    let noted = tokio::select! {
        biased;
        noted = noted => noted,
        never = lifeline.keep() => match never {},
        () = runner.deadline.cancelled() => {
            return settle(message, Disposition::Release, &runner.effects).await;
        }
    };
    let told = match noted {
        Ok((job, DelayAnswer::Taken(Some(parked)))) => {
            checkpoint::reached(Step::Noted);
            info!(job, "a delayed job is cancelled");
            runner.effects.take_back(&parked).await
        }
        Ok((job, _)) => {
            debug!(job, "nothing to cancel: the job does not wait, or was cancelled before");
            runner.effects.take_back_cancelled(&job).await
        }
        Err(Unreadable { reason, why }) => return bury(runner, message, reason, why).await,
    };
    let disposition = match told {
        Ok(()) => Disposition::Done,
        Err(why) => {
            warn!("a cancelled job cannot be removed, again soon: {why}");
            Disposition::Again(AGAIN)
        }
    };
    settle(message, disposition, &runner.effects).await;
}

/// The id in a cancellation, and its position.
fn read_cancellation(message: &Pulled) -> Result<(IntakePosition, String), Unreadable> {
    intake::check(&message.position.stream, message.headers())?;
    let id = message.headers().and_then(|headers| headers.get(header::JOB_ID));
    let Some(id) = id else {
        let why = format!("names no job: set the header {}", header::JOB_ID);
        return Err(Unreadable { reason: DeadReason::Undecodable, why });
    };
    let job_id = intake::checked_id(header::JOB_ID, id.as_str(), &message.position.stream)?;
    Ok((message.intake_position(), job_id))
}

async fn bury(runner: &Runner, message: Pulled, reason: DeadReason, error: String) {
    let (sequence, first) = (message.position.sequence, message.position.published);
    tracing::error!(sequence, "{error}: dead letter");
    settle(message, Disposition::Dead(Death { reason, error, attempts: 1, first }), &runner.effects).await;
}

/// The decoder of a queue whose messages are about jobs of other kinds.
pub struct NoBody;

impl Decoder for NoBody {
    fn decode(&self, _: &Bytes, _: Form) -> Result<Box<dyn Runnable>, String> {
        Err("this message is not a job".into())
    }

    fn to_json(&self, _: &Bytes, _: Form) -> Result<serde_json::Value, String> {
        Err("this message is not a job".into())
    }
}
