//! Queue of spans for the collector, and log lines about its absence.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

/// Between log lines about an absent collector.
const SAY_EVERY: Duration = Duration::from_mins(5);

/// Counts of spans, for metrics.
pub struct SpanCounts {
    /// Ended and not exported yet.
    waiting: AtomicUsize,
    /// Lost because the queue was full.
    pub dropped: AtomicU64,
    /// Lost because the collector did not take them.
    pub refused: AtomicU64,
}

/// A process has one exporter.
pub static COUNTS: SpanCounts =
    SpanCounts { waiting: AtomicUsize::new(0), dropped: AtomicU64::new(0), refused: AtomicU64::new(0) };

/// Bounds the waiting spans, and counts those it drops.
#[derive(Debug)]
pub struct Bounded {
    /// Makes batches.
    pub inner: BatchSpanProcessor,
    /// Most waiting spans, with the batch under way.
    pub longest: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        if COUNTS.waiting.fetch_add(1, Ordering::Relaxed) < self.longest {
            self.inner.on_end(span);
        } else {
            COUNTS.waiting.fetch_sub(1, Ordering::Relaxed);
            COUNTS.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Exports. Logs an absent collector every few minutes, and its return.
#[derive(Debug)]
pub struct LoggingExporter {
    inner: OtlpExporter,
    endpoint: String,
    state: Mutex<Option<Away>>,
}

/// An absent collector.
#[derive(Clone, Copy, Debug)]
struct Away {
    told: Instant,
    lost: u64,
}

impl LoggingExporter {
    pub fn new(inner: OtlpExporter, endpoint: &str) -> Self {
        Self { inner, endpoint: endpoint.to_owned(), state: Mutex::new(None) }
    }

    fn tell(&self, spans: usize, result: &OTelSdkResult) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, *state) {
            (Ok(()), None) => {}
            (Ok(()), Some(away)) => {
                tracing::info!(lost = away.lost, "the trace collector accepts spans again");
                *state = None;
            }
            (Err(error), away) => {
                let lost = spans as u64;
                COUNTS.refused.fetch_add(lost, Ordering::Relaxed);
                let lost = away.map_or(0, |away| away.lost) + lost;
                let told = match away {
                    Some(away) if away.told.elapsed() < SAY_EVERY => away.told,
                    _ => {
                        // A URL may contain a key.
                        let why = error.to_string().replace(&self.endpoint, "the collector");
                        tracing::warn!(lost, "spans cannot be exported, jobs continue without them: {why}");
                        Instant::now()
                    }
                };
                *state = Some(Away { told, lost });
            }
        }
    }
}

impl SpanExporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        COUNTS.waiting.fetch_sub(spans, Ordering::Relaxed);
        self.tell(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
