//! A receiver of traces (OTLP over HTTP) that shows one as a tree, for `carebell dev`. Production has a collector.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::telemetry::traces::names;

/// The oldest spans go first.
const MOST_SPANS: usize = 5000;

/// Attributes shown after a span's name.
const SHOWN: [&str; 4] = [names::OUTCOME, names::REASON, names::STATUS, names::SERVER];

type SpanStore = Arc<Mutex<Vec<Span>>>;

/// A running receiver on a free loopback port, until dropped.
pub struct TraceReceiver {
    port: u16,
    spans: SpanStore,
    _stop: DropGuard,
}

impl TraceReceiver {
    /// Starts it.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (spans, stop) = (SpanStore::default(), CancellationToken::new());
        let router = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&spans));
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move { served.await });
        Ok(Self { port, spans, _stop: stop.drop_guard() })
    }

    /// Value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The trace of a root job as a tree, one span per line. `None` until it has `runs` runs.
    #[must_use]
    pub fn tree(&self, root_id: &str, runs: usize) -> Option<String> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let is_run = |span: &&Span| text(span, names::ROOT).as_deref() == Some(root_id);
        let trace = &spans.iter().find(is_run)?.trace_id;
        let mut of_trace: Vec<&Span> = spans.iter().filter(|span| span.trace_id == *trace).collect();
        if of_trace.iter().filter(|span| is_run(span)).count() < runs {
            return None;
        }
        of_trace.sort_by_key(|span| span.start_time_unix_nano);
        let began = of_trace.first()?.start_time_unix_nano;
        let mut below: HashMap<&[u8], Vec<&Span>> = HashMap::new();
        for span in &of_trace {
            let is_there = of_trace.iter().any(|other| other.span_id == span.parent_span_id);
            below.entry(if is_there { &span.parent_span_id } else { &[] }).or_default().push(span);
        }
        let mut tree = String::new();
        write(&below, &[], began, 0, &mut tree);
        Some(tree)
    }
}

async fn receive(State(spans): State<SpanStore>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    spans.extend(scopes.flat_map(|scope| scope.spans));
    let over = spans.len().saturating_sub(MOST_SPANS);
    spans.drain(..over);
    StatusCode::OK
}

fn write(below: &HashMap<&[u8], Vec<&Span>>, parent: &[u8], began: u64, depth: usize, into: &mut String) {
    for span in below.get(parent).into_iter().flatten() {
        let millis = |nanos: u64| nanos / 1_000_000;
        let after = millis(span.start_time_unix_nano.saturating_sub(began));
        let took = millis(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano));
        let name = format!("{}{}", "  ".repeat(depth), span.name);
        let _ = write!(into, "{after:>7} ms  {name:<52} {took:>5} ms");
        for said in SHOWN.iter().filter_map(|attribute| text(span, attribute)) {
            let _ = write!(into, "  {said}");
        }
        into.push('\n');
        write(below, &span.span_id, began, depth + 1, into);
    }
}

/// An attribute as text.
fn text(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}
