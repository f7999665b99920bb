//! Publishes messages, and waits for acknowledgements.

use std::{error::Error as _, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::future::join_all;
use tokio::time::Instant;

use crate::{
    header,
    retry::DoublingWait,
    store::Child,
    telemetry::traces::{self, context},
};

/// For a first publish of the same id to be replicated.
const IN_PROCESS: Duration = Duration::from_secs(5);

/// Between looks at whether it is.
const IN_PROCESS_WAIT: DoublingWait = DoublingWait::new(Duration::from_millis(20), Duration::from_millis(500));

/// Waits after unacknowledged publishes.
const WAIT: DoublingWait = DoublingWait::new(Duration::from_millis(200), Duration::from_secs(10));

/// `Content-Type` of a body in JSON. Without one, it is protobuf.
const JSON: &str = "application/json";

/// Publishes a run's children and waits until all are acknowledged, however long: a lost server or a full stream holds
/// the job. Drop the future to give up; unacknowledged children stay planned.
pub async fn children(context: &jetstream::Context, children: &[Child]) {
    let mut left: Vec<&Child> = children.iter().collect();
    let mut spans = Spans::begin(children);
    let mut wait = WAIT;
    loop {
        let acks = join_all(left.iter().map(|child| acknowledged(context, child, spans.of(child)))).await;
        let mut refusal = None;
        let mut unpublished = Vec::new();
        for (child, ack) in left.into_iter().zip(acks) {
            if let Err(why) = ack {
                refusal = Some(why);
                unpublished.push(child);
            }
        }
        let Some(why) = refusal else { return };
        tracing::warn!(left = unpublished.len(), "publishing what follows from a job, again soon: {why}");
        spans.again(&why);
        left = unpublished;
        wait.pass().await;
    }
}

/// A span per subject among the sampled children. Allocates nothing without them.
struct Spans(Vec<(String, traces::Sending)>);

impl Spans {
    fn begin(children: &[Child]) -> Self {
        let mut spans = Self(Vec::new());
        for child in children {
            let Some(trace) = child.trace.as_deref().filter(|trace| context::is_sampled(trace)) else { continue };
            if spans.of(child).is_none() {
                let messages = children.iter().filter(|other| other.subject == child.subject).count();
                let job = (messages == 1).then_some(child.job_id.as_str());
                spans.0.push((child.subject.clone(), traces::send(&child.subject, job, messages, Some(trace))));
            }
        }
        spans
    }

    /// Context of the span that publishes a child.
    fn of(&self, child: &Child) -> Option<&str> {
        self.0.iter().find(|(subject, _)| *subject == child.subject)?.1.trace()
    }

    fn again(&mut self, why: &str) {
        self.0.iter_mut().for_each(|(_, span)| span.again(why));
    }
}

/// The trace context in these headers.
#[must_use]
pub fn trace(headers: &HeaderMap) -> Option<String> {
    if !traces::propagates() {
        return None;
    }
    let header = |name| headers.get(name).map(async_nats::HeaderValue::as_str);
    context::of_headers(header(header::TRACEPARENT), header(header::TRACESTATE))
}

/// Sets the headers of a trace context.
pub fn set_trace(headers: &mut HeaderMap, trace: Option<&str>) {
    let Some((parent, state)) = trace.map(context::headers) else { return };
    headers.insert(header::TRACEPARENT, parent);
    if let Some(state) = state {
        headers.insert(header::TRACESTATE, state);
    }
}

async fn acknowledged(context: &jetstream::Context, child: &Child, trace: Option<&str>) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::MSG_ID, child.job_id.as_str());
    headers.insert(header::JOB_ID, child.job_id.as_str());
    headers.insert(header::ROOT_ID, child.root_id.as_str());
    headers.insert(header::NOT_AFTER, rfc3339(child.not_after));
    if child.is_json {
        headers.insert(header::CONTENT_TYPE, JSON);
    }
    if let Some(at) = child.at {
        headers.insert(header::AT, rfc3339(at));
    }
    if let Some(due) = child.due {
        headers.insert(header::DUE, rfc3339(due));
    }
    set_trace(&mut headers, trace.or(child.trace.as_deref()));
    let published = send(context, &child.subject, headers, child.body.clone().into()).await;
    published.map(|_| ()).map_err(|error| words(&error))
}

/// The client says of a stream without a leader that there is none.
fn words(error: &PublishError) -> String {
    match error.kind() {
        PublishErrorKind::StreamNotFound => "the stream has no leader, or is not there".into(),
        _ => error.to_string(),
    }
}

/// Publishes a message and waits for its acknowledgement. While another of the same id is on its way to the replicas,
/// the server refuses it ([`is_in_process`]): then waits a moment and publishes it again, which finds the first.
///
/// # Errors
/// The refusal, or that no acknowledgement came.
pub async fn send(
    context: &jetstream::Context,
    subject: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<jetstream::publish::PublishAck, PublishError> {
    let since = Instant::now();
    let mut wait = IN_PROCESS_WAIT;
    loop {
        match send_once(context, subject, headers.clone(), body.clone()).await {
            Err(error) if is_in_process(&error) && since.elapsed() < IN_PROCESS => wait.pass().await,
            sent => return sent,
        }
    }
}

async fn send_once(
    context: &jetstream::Context,
    subject: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<jetstream::publish::PublishAck, PublishError> {
    let message = PublishMessage::build().headers(headers).payload(body);
    context.send_publish(subject.to_owned(), message).await?.await
}

/// Whether another publish of the same id is not replicated yet. If the leader is lost meanwhile, neither may be stored.
#[must_use]
pub fn is_in_process(error: &PublishError) -> bool {
    error_code(error) == Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT)
}

/// Repeats [`send`] to a subject that must be empty until acknowledged. False if a message is there already.
pub async fn insist_if_empty(context: &jetstream::Context, subject: &str, mut headers: HeaderMap, body: Bytes) -> bool {
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    let mut wait = WAIT;
    while let Err(error) = send(context, subject, headers.clone(), body.clone()).await {
        if error.kind() == PublishErrorKind::WrongLastSequence {
            return false;
        }
        again_soon(subject, &error, &mut wait).await;
    }
    true
}

/// Repeats [`send`] until acknowledged, but gives up on a message that exceeds its stream's size. False if it does.
pub async fn insist_if_it_fits(context: &jetstream::Context, subject: &str, headers: HeaderMap, body: Bytes) -> bool {
    let mut wait = WAIT;
    while let Err(error) = send(context, subject, headers.clone(), body.clone()).await {
        if error_code(&error) == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM) {
            return false;
        }
        again_soon(subject, &error, &mut wait).await;
    }
    true
}

async fn again_soon(subject: &str, error: &PublishError, wait: &mut DoublingWait) {
    // The first token is enough; the last are ids.
    let stream = subject.split('.').next().unwrap_or_default();
    tracing::warn!("publishing to {stream}.*, again soon: {}", words(error));
    wait.pass().await;
}

/// The server's code for a refused publish.
#[must_use]
pub fn error_code(error: &PublishError) -> Option<ErrorCode> {
    error.source()?.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

/// RFC 3339 in UTC with microseconds.
#[must_use]
pub fn rfc3339(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Micros, true)
}
