//! Metrics of declared kinds.

use std::time::Duration;

use super::Metrics;
use crate::telemetry::names::Metric;

impl Metrics {
    /// Counts a request to a kind's endpoint, by the class of its answer.
    pub fn task_request(&self, kind: &str, answer: &str, took: Duration) {
        self.histogram(Metric::TaskRequests, &[kind, answer]).observe(took.as_secs_f64());
    }

    /// Sets how many tasks of a kind are under way in all workers.
    pub fn open_tasks(&self, kind: &str, tasks: i64) {
        self.set(Metric::OpenTasks, &[kind], super::count(u64::try_from(tasks).unwrap_or(0)));
    }
}
