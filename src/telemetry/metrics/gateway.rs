//! Metrics of requests of producers.

use std::time::Duration;

use super::Metrics;
use crate::telemetry::names::Metric;

impl Metrics {
    /// Counts a request to a route that ended with this status.
    pub fn gateway_request(&self, route: &str, status: u16, took: Duration) {
        let class = ["1xx", "2xx", "3xx", "4xx", "5xx"].get(usize::from(status / 100).saturating_sub(1));
        self.counter(Metric::GatewayRequests, &[route, class.copied().unwrap_or("5xx")]).inc();
        self.histogram(Metric::GatewayDuration, &[route]).observe(took.as_secs_f64());
    }

    /// Counts a job that was answered so.
    pub fn gateway_job(&self, answer: &str) {
        self.counter(Metric::GatewayJobs, &[answer]).inc();
    }
}
