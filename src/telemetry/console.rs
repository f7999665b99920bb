//! Metrics of `carebell admin`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::{
    metrics::{Metrics, Present},
    names::Metric,
};

/// The label `route` of requests for what is not there.
pub const NO_ROUTE: &str = "none";

/// The label `method` of methods that no route has.
const OTHER: &str = "other";

const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "DELETE"];

const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A field of the lines in which the database's client tells of slow statements, and of no others.
const OF_SLOW_QUERY: &str = "slow_threshold";

/// Of the process, as its log is.
static SLOW_QUERIES: AtomicU64 = AtomicU64::new(0);

/// Metrics of `carebell admin`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConsoleMetrics(Metrics);

impl ConsoleMetrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Metrics::empty();
        metrics.counter(Metric::ConsoleSlowQueries, &[]);
        Self(metrics)
    }

    /// Counts an answer. `route` is the template of a path.
    pub fn answered(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        let route = route.unwrap_or(NO_ROUTE);
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        let class = usize::from(status / 100).saturating_sub(1).min(STATUSES.len() - 1);
        self.0.counter(Metric::ConsoleRequests, &[route, method, STATUSES[class]]).inc();
        self.0.histogram(Metric::ConsoleDuration, &[route, method]).observe(took.as_secs_f64());
    }

    /// Prometheus text format 0.0.4, with the number of pages that are kept current.
    #[must_use]
    pub fn text(&self, streams: usize) -> String {
        self.0.set(Metric::ConsoleStreams, &[], u32::try_from(streams).unwrap_or(u32::MAX).into());
        let slow = self.0.counter(Metric::ConsoleSlowQueries, &[]);
        let now = u32::try_from(SLOW_QUERIES.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        slow.inc_by((f64::from(now) - slow.get()).max(0.0));
        self.0.text(&Present::default())
    }
}

impl Default for ConsoleMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts what the database's client says of slow statements.
pub(super) struct SlowQueries;

impl<S: Subscriber> Layer<S> for SlowQueries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().fields().field(OF_SLOW_QUERY).is_some() {
            SLOW_QUERIES.fetch_add(1, Ordering::Relaxed);
        }
    }
}
