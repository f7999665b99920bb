use std::cell::Cell;

use aws_lc_rs::digest::{Context, SHA256};
use chrono::{DateTime, Utc};
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

thread_local! {
    /// The SDK only takes a root's trace id from the id generator.
    static NEXT: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Random ids, except for roots chosen by [`Ids::next`].
#[derive(Debug, Default)]
pub struct Ids(RandomIdGenerator);

impl Ids {
    /// Sets the trace id of this thread's next root; `None` makes it random.
    pub fn next(trace_id: Option<[u8; 16]>) {
        NEXT.set(trace_id.map(TraceId::from_bytes));
    }
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Trace id of a message without a context: unique, and the same for all its deliveries.
pub fn of_message(stream: &str, sequence: i64, published: DateTime<Utc>) -> [u8; 16] {
    let mut hash = Context::new(&SHA256);
    hash.update(stream.as_bytes());
    hash.update(&sequence.to_be_bytes());
    hash.update(&published.timestamp_nanos_opt().unwrap_or_default().to_be_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finish().as_ref()[..16]);
    id
}
