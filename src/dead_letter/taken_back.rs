//! Parked jobs that were cancelled: their applications are told if the jobs ask for it, and their messages are removed.

use async_nats::jetstream::{self, message::StreamMessage, stream::LastRawMessageErrorKind};
use chrono::{DateTime, Utc};

use super::{held::show, kind_of, lane_of, take_out};
use crate::{
    effects::{events::RootJob, park},
    events::End,
    header,
    meta::{IntakePosition, NO_MESSAGE},
    plan::Reason,
    store::RunRecord,
};

/// Removes a delayed job that was cancelled, so that it takes no room, and tells of it first.
///
/// # Errors
/// If the server does not answer. The job stays parked until it is due, to no effect, and is told of then.
pub async fn delayed(
    context: &jetstream::Context,
    position: &IntakePosition,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let Some(parked) = last(context, &park::delayed_subject(position)).await? else { return Ok(()) };
    tell(context, &parked, Some(position), now).await?;
    take_out(context, park::STREAM, parked.sequence).await
}

/// Removes a cancelled run that is parked, and tells of it first. One that is in a queue is told of by the worker that
/// takes it.
///
/// # Errors
/// If the server does not answer. The job is told of when it comes back.
pub async fn run(
    context: &jetstream::Context,
    job_id: &str,
    record: &RunRecord,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let is_cancelled = record.state == "skipped" && record.reason.as_deref() == Some(Reason::Cancelled.name());
    if !is_cancelled || record.sequence == NO_MESSAGE {
        return Ok(());
    }
    for subject in [park::subject_of(&record.stream, record.sequence), park::due_subject(job_id)] {
        if let Some(parked) = last(context, &subject).await? {
            tell(context, &parked, None, now).await?;
            take_out(context, park::STREAM, parked.sequence).await?;
        }
    }
    Ok(())
}

/// The last message of a subject of HOLD.
async fn last(context: &jetstream::Context, subject: &str) -> Result<Option<StreamMessage>, String> {
    let hold = context.get_stream_no_info(park::STREAM).await.map_err(show)?;
    match hold.get_last_raw_message_by_subject(subject).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(show(error)),
    }
}

/// Tells the application that published the job, if it asks for that.
async fn tell(
    context: &jetstream::Context,
    parked: &StreamMessage,
    asked_by: Option<&IntakePosition>,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let target = parked.headers.get(header::SCHEDULE_TARGET);
    let Some(subject) = target.and_then(|target| target.as_str().strip_prefix(park::RESUMED)) else {
        return Ok(());
    };
    let sequence = i64::try_from(parked.sequence).unwrap_or(i64::MAX);
    let (kind, lane) = (kind_of(subject), lane_of(subject));
    let job = RootJob::of_message(Some(&parked.headers), park::STREAM, sequence, kind, lane);
    let Some(mut event) = job.and_then(|job| job.event(End::Cancelled, now)) else { return Ok(()) };
    event.reason = Some(Reason::Cancelled.name().to_owned());
    if let Some(position) = asked_by {
        event = event.of_message(position);
    }
    event.publish(context).await
}
