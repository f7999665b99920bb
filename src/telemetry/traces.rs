//! Traces: one tree of spans for a job's publisher, runs, messages and requests to providers.
//!
//! Sampling is decided before any span exists. An unsampled message costs a look at two bytes. The context is stored
//! with each job as text ([`context`]), so it survives a crash. Only this module names `opentelemetry`.

pub mod context;
mod export;
mod ids;
pub mod names;
mod settings;
mod spans;
mod waiting;

use std::{
    sync::{OnceLock, atomic::Ordering},
    time::Duration,
};

use opentelemetry::{
    Context, InstrumentationScope,
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

use self::ids::Ids;
pub use self::{
    settings::{Compression, Exporter, Headers, Protocol, QueueSettings, Sampler, Settings, Tls},
    spans::{End, Processing, Requesting, Sending, http_status, process, request, send},
};

struct Traces {
    propagate: bool,
    sampler: Sampler,
    spans: Option<(SdkTracerProvider, SdkTracer)>,
}

static TRACES: OnceLock<Traces> = OnceLock::new();

/// Sets up traces once per process, within a Tokio runtime.
///
/// # Errors
/// The exporter's configuration is invalid. Shows no secrets.
pub fn init(settings: &Settings) -> Result<(), String> {
    let spans = match &settings.export {
        None => None,
        Some(exporter) => {
            let provider = export::provider(exporter, settings)?;
            let scope = InstrumentationScope::builder("carebell").with_version(env!("CARGO_PKG_VERSION")).build();
            let tracer = provider.tracer_with_scope(scope);
            Some((provider, tracer))
        }
    };
    let _ = TRACES.set(Traces { propagate: settings.propagate, sampler: settings.sampler, spans });
    Ok(())
}

/// Exports the remaining spans within `limit`. Loses later ones.
pub async fn close(limit: Duration) {
    let Some((provider, _)) = TRACES.get().and_then(|traces| traces.spans.as_ref()) else { return };
    let provider = provider.clone();
    let closed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit)).await;
    if !matches!(closed, Ok(Ok(()))) {
        tracing::warn!("the last spans could not be exported");
    }
}

/// Number of lost spans, by reason.
#[must_use]
pub fn lost() -> [(&'static str, u64); 2] {
    let counts = &waiting::COUNTS;
    [("queue_full", counts.dropped.load(Ordering::Relaxed)), ("not_exported", counts.refused.load(Ordering::Relaxed))]
}

/// Whether to read contexts of messages.
#[must_use]
pub fn propagates() -> bool {
    TRACES.get().is_none_or(|traces| traces.propagate)
}

fn is_on() -> bool {
    TRACES.get().is_some_and(|traces| traces.spans.is_some())
}

/// Begins a span if the sampler takes it. A root has the trace id of `root`, or a random one. Also returns the context
/// to hand on, if it changes.
fn begin(
    name: &'static str,
    kind: &SpanKind,
    parent: Option<&str>,
    root: Option<&dyn Fn() -> [u8; 16]>,
) -> (Option<Box<Span>>, Option<String>) {
    let Some(all) = TRACES.get() else { return (None, None) };
    let Some((_, tracer)) = &all.spans else { return (None, None) };
    if !all.sampler.may_sample(parent) {
        return (None, None);
    }
    let mut builder = SpanBuilder::from_name(name).with_kind(kind.clone());
    let mut cx = Context::new();
    match parent.map(context::parse).filter(SpanContext::is_valid) {
        Some(parent) => {
            // Jaeger's service graph needs parents; the conventions ask for a link.
            if *kind == SpanKind::Consumer {
                builder = builder.with_links(vec![Link::with_context(parent.clone())]);
            }
            cx = cx.with_remote_span_context(parent);
        }
        None => Ids::next(root.map(|root| root())),
    }
    let span = builder.start_with_context(tracer, &cx);
    let handed_on = all.propagate.then(|| context::write(span.span_context()));
    // An unsampled span decides for all its descendants.
    (span.is_recording().then(|| Box::new(span)), handed_on)
}
