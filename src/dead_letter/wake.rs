//! Wakes parked jobs: their messages are published where they would come back, and then taken out of HOLD.
//!
//! Safe to repeat, and beside a server that sends them off meanwhile: a job that arrives twice runs once.

use async_nats::{
    HeaderMap,
    jetstream::{self, message::StreamMessage, stream::LastRawMessageErrorKind},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use prost::Message;

use super::{held::show, remove_last, take_out, undrawn::target};
use crate::{
    effects::{
        park,
        publish::{self, rfc3339},
    },
    header,
    meta::NO_MESSAGE,
    store::WokenDelivery,
    wire,
};

/// The stream of deliveries.
const DELIVERIES: &str = "DELIVERIES";

/// A parked run.
pub struct ParkedRun {
    message: StreamMessage,
    /// When it comes back by itself.
    pub until: Option<DateTime<Utc>>,
    /// When it expires.
    pub not_after: Option<DateTime<Utc>>,
    /// The subject that it comes back on.
    pub subject: String,
}

/// The parked copy of a message, if there is one.
///
/// # Errors
/// If the server does not answer.
pub async fn parked_run(
    context: &jetstream::Context,
    stream: &str,
    sequence: i64,
) -> Result<Option<ParkedRun>, String> {
    let hold = context.get_stream_no_info(park::STREAM).await.map_err(show)?;
    let message = match hold.get_last_raw_message_by_subject(&park::subject_of(stream, sequence)).await {
        Ok(message) => message,
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => return Ok(None),
        Err(error) => return Err(show(error)),
    };
    let header = |name| message.headers.get(name).map(async_nats::HeaderValue::as_str);
    let instant = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
    let Some(comes_back) = header(header::SCHEDULE_TARGET) else { return Ok(None) };
    Ok(Some(ParkedRun {
        until: header(header::SCHEDULE).and_then(|at| instant(at.strip_prefix("@at ")?)),
        not_after: header(header::NOT_AFTER).and_then(instant),
        subject: target(comes_back),
        message,
    }))
}

/// Lets a parked run go on now.
///
/// # Errors
/// If the server does not answer. Then it may still wait.
pub async fn run(context: &jetstream::Context, parked: ParkedRun) -> Result<(), String> {
    let ParkedRun { message, subject, .. } = parked;
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let name: &str = name.as_ref();
        // A stream without schedules refuses what names one.
        if !name.starts_with("Nats-") {
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
    headers.insert(header::PARKED_AS, message.subject.as_str());
    let id = format!("woken.{}.{}", message.sequence, message.time.unix_timestamp_nanos());
    headers.insert(header::MSG_ID, id.as_str());
    publish::send(context, &subject, headers, message.payload).await.map_err(show)?;
    // The server may have been faster.
    let _ = take_out(context, park::STREAM, message.sequence).await;
    Ok(())
}

/// Publishes a delivery that may be claimed from now on.
///
/// # Errors
/// If the server does not answer. Then it comes back when its wait would have ended.
pub async fn delivery(context: &jetstream::Context, woken: &WokenDelivery) -> Result<(), String> {
    let WokenDelivery { id, root_id, subject, not_after, trace, claim_sequence, waited_until } = woken;
    let mut headers = HeaderMap::new();
    headers.insert(header::JOB_ID, id.as_str());
    headers.insert(header::ROOT_ID, root_id.as_str());
    headers.insert(header::NOT_AFTER, rfc3339(*not_after));
    let instant = waited_until.map_or(0, |until| until.timestamp_micros());
    headers.insert(header::MSG_ID, format!("woken.{id}.{instant}").as_str());
    publish::set_trace(&mut headers, trace.as_deref());
    let body = Bytes::from(wire::Delivery { delivery_id: id.clone() }.encode_to_vec());
    publish::send(context, subject, headers, body).await.map_err(show)?;
    let place = match *claim_sequence {
        Some(NO_MESSAGE) | None => format!("{}{DELIVERIES}.{id}", park::PREFIX),
        Some(sequence) => park::subject_of(DELIVERIES, sequence),
    };
    // If that fails, it comes back later, to no effect.
    let _ = remove_last(context, park::STREAM, &place).await;
    Ok(())
}
