use std::cell::Cell;

use chrono::{DateTime, SecondsFormat, Utc};
use opentelemetry::{
    KeyValue,
    trace::{Span as _, SpanKind, Status},
};
use opentelemetry_sdk::trace::Span;
use tokio::task_local;

use super::{begin, context, ids, is_on, names};
use crate::{intake, kind::Queue, meta::StreamPosition, plan::JobOutcome};

task_local! {
    /// The current request's last status, or 0.
    static ANSWERED: Cell<u16>;
}

/// One run of a message.
#[derive(Debug, Default)]
pub struct Processing {
    /// Attempt, if known.
    pub attempt: Option<u32>,
    span: Option<Box<Span>>,
}

/// Begins the span of a run. `ids` are job id and root id, if readable; `size` is the body's, in bytes; `parent` is the
/// context that the job brought. Also returns the context for everything that follows, if new.
///
/// A message without a context gets its own trace, the same on each redelivery.
#[must_use]
pub fn process(
    queue: Queue,
    position: &StreamPosition,
    ids: Option<(&str, &str)>,
    size: usize,
    parent: Option<&str>,
) -> (Processing, Option<String>) {
    if !is_on() {
        return (Processing::default(), None);
    }
    let root = || ids::of_message(&position.stream, position.sequence, position.published);
    let (mut span, trace) = begin("process", &SpanKind::Consumer, parent, Some(&root));
    if let Some(span) = &mut span {
        let subject = if intake::is_intake(&position.stream) { queue.intake_subject() } else { queue.subject() };
        span.update_name(format!("process {subject}"));
        span.set_attributes([
            KeyValue::new(names::SYSTEM, "nats"),
            KeyValue::new(names::OPERATION_TYPE, "process"),
            KeyValue::new(names::OPERATION, "process"),
            KeyValue::new(names::DESTINATION, subject),
            KeyValue::new(names::CONSUMER, queue.durable()),
            KeyValue::new(names::SIZE, i64::try_from(size).unwrap_or(i64::MAX)),
            KeyValue::new(names::KIND, queue.kind.name),
            KeyValue::new(names::STREAM, position.stream.clone()),
            KeyValue::new(names::SEQUENCE, position.sequence),
            KeyValue::new(names::DELIVERED, position.delivered),
        ]);
        if let Some((job, root)) = ids {
            span.set_attribute(KeyValue::new(names::MESSAGE, job.to_owned()));
            span.set_attribute(KeyValue::new(names::ROOT, root.to_owned()));
        }
    }
    (Processing { attempt: None, span }, trace)
}

/// Ending of a run.
pub struct End<'a> {
    /// Outcome.
    pub outcome: JobOutcome,
    /// Reason, in a word.
    pub reason: Option<&'static str>,
    /// Error, without personal data.
    pub error: Option<&'a str>,
    /// When the job comes again.
    pub until: Option<DateTime<Utc>>,
}

impl Processing {
    /// The job is held while a part is away.
    pub fn held(&mut self, why: &str) {
        if let Some(span) = &mut self.span {
            span.add_event("held", vec![KeyValue::new(names::EXCEPTION, why.to_owned())]);
        }
    }

    /// Records the ending. The span lasts until this is dropped.
    pub fn ended(&mut self, end: &End<'_>) {
        let Some(span) = &mut self.span else { return };
        span.set_attribute(KeyValue::new(names::OUTCOME, end.outcome.name()));
        if let Some(attempt) = self.attempt {
            span.set_attribute(KeyValue::new(names::ATTEMPT, i64::from(attempt)));
        }
        if let Some(reason) = end.reason {
            span.set_attribute(KeyValue::new(names::REASON, reason));
        }
        let mut again = Vec::new();
        if let Some(until) = end.until {
            again.push(KeyValue::new(names::UNTIL, until.to_rfc3339_opts(SecondsFormat::Millis, true)));
        }
        match end.outcome {
            JobOutcome::Retry | JobOutcome::Dead | JobOutcome::Unknown => {
                let error = end.error.unwrap_or_default();
                span.set_attribute(KeyValue::new(names::ERROR, end.reason.unwrap_or(end.outcome.name())));
                let event = if end.outcome == JobOutcome::Retry { "retry" } else { "exception" };
                again.push(KeyValue::new(names::EXCEPTION, error.to_owned()));
                span.add_event(event, again);
                span.set_status(Status::error(error.to_owned()));
            }
            JobOutcome::Waits => span.add_event("parked", again),
            _ => {}
        }
    }
}

/// Publishing to one subject.
#[derive(Debug, Default)]
pub struct Sending {
    span: Option<Box<Span>>,
    trace: Option<String>,
}

/// Begins publishing to one subject, in the context `parent`.
#[must_use]
pub fn send(subject: &str, job: Option<&str>, messages: usize, parent: Option<&str>) -> Sending {
    let (mut span, trace) = begin("send", &SpanKind::Producer, parent, None);
    if let Some(span) = &mut span {
        span.update_name(format!("send {subject}"));
        span.set_attributes([
            KeyValue::new(names::SYSTEM, "nats"),
            KeyValue::new(names::OPERATION_TYPE, "send"),
            KeyValue::new(names::OPERATION, "send"),
            KeyValue::new(names::DESTINATION, subject.to_owned()),
        ]);
        if let Some(job) = job {
            span.set_attribute(KeyValue::new(names::MESSAGE, job.to_owned()));
        }
        if messages > 1 {
            span.set_attribute(KeyValue::new(names::BATCH, i64::try_from(messages).unwrap_or(i64::MAX)));
        }
    }
    Sending { span, trace }
}

impl Sending {
    /// The messages' context, if it differs.
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        self.trace.as_deref()
    }

    /// The job is due later.
    pub fn due(&mut self, at: DateTime<Utc>) {
        if let Some(span) = &mut self.span {
            let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
            span.set_attribute(KeyValue::new(names::UNTIL, at));
        }
    }

    /// Publishing is tried again.
    pub fn again(&mut self, why: &str) {
        if let Some(span) = &mut self.span {
            span.add_event("retry", vec![KeyValue::new(names::EXCEPTION, why.to_owned())]);
        }
    }

    /// Publishing failed.
    pub fn failed(&mut self, why: &str) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(names::ERROR, "not_published"));
            span.set_status(Status::error(why.to_owned()));
        }
    }
}

/// One request to a provider.
#[derive(Debug)]
pub struct Requesting(Option<Box<Span>>);

/// Begins a request in the context `trace`. `server` is `None` if it belongs to a user.
#[must_use]
pub fn request(trace: Option<&str>, channel: &'static str, is_http: bool, server: Option<&str>) -> Requesting {
    let Some(trace) = trace.filter(|trace| context::is_sampled(trace)) else { return Requesting(None) };
    let name = if is_http { "POST" } else { "send mail" };
    let (mut span, _) = begin(name, &SpanKind::Client, Some(trace), None);
    if let Some(span) = &mut span {
        span.set_attribute(KeyValue::new(names::CHANNEL, channel));
        if is_http {
            span.set_attribute(KeyValue::new(names::METHOD, "POST"));
        }
        let named = server.map(|server| server.rsplit_once(':').unwrap_or((server, "")));
        if let Some((host, port)) = named {
            span.set_attribute(KeyValue::new(names::SERVER, host.to_owned()));
            if let Ok(port) = port.parse::<i64>() {
                span.set_attribute(KeyValue::new(names::PORT, port));
            }
        }
    }
    Requesting(span)
}

impl Requesting {
    /// Runs the request and records its status ([`http_status`]).
    pub async fn around<T>(&mut self, request: impl Future<Output = T>) -> T {
        let Some(span) = &mut self.0 else { return request.await };
        let (answer, status) = ANSWERED
            .scope(Cell::new(0), async {
                let answer = request.await;
                (answer, ANSWERED.with(Cell::get))
            })
            .await;
        if status != 0 {
            span.set_attribute(KeyValue::new(names::STATUS, i64::from(status)));
        }
        answer
    }

    /// Records the class of the answer, and any error.
    pub fn answered(&mut self, class: &'static str, error: Option<&str>) {
        let Some(span) = &mut self.0 else { return };
        span.set_attribute(KeyValue::new(names::ANSWER, class));
        if let Some(error) = error {
            span.set_attribute(KeyValue::new(names::ERROR, class));
            span.set_status(Status::error(error.to_owned()));
        }
    }
}

/// Sets the current request's status. Free unless it is traced.
pub fn http_status(status: u16) {
    let _ = ANSWERED.try_with(|answered| answered.set(status));
}
