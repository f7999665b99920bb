//! Metrics of a worker. Recording takes a few atomic additions on prepared handles; only reasons are looked up by
//! label. No other file names `prometheus`.

mod gateway;
mod tasks;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
    core::Collector,
};

use super::{
    names::{Metric, Spec, Type},
    process,
    tally::{EndKey, Running, RunningJob, Tally},
    traces,
};
use crate::{
    kind::{Queue, Stage},
    plan::{Channel, JobOutcome},
};

/// The label `lane` of kinds without lanes.
pub const NO_LANE: &str = "none";

/// Classes of answers in `carebell_deliveries_total`.
pub const ANSWERS: [&str; 8] = ["accepted", "later", "retry", "down", "unknown", "permanent", "refused", "gone"];

/// Ends in `carebell_never_accepted_total`.
pub const NEVER_ACCEPTED: [&str; 3] = ["expired", "dead", "unknown"];

/// The label `channel` of jobs before their deliveries.
pub const NO_CHANNEL: &str = "none";

/// Metrics of one process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    /// In the order of [`Metric::ALL`].
    families: Vec<Family>,
    /// Held by a scrape, so that no other sees half of its values.
    filling: Mutex<()>,
    tally: Tally,
}

enum Family {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

/// Metrics of one queue.
#[derive(Debug)]
pub struct QueueMetrics {
    metrics: Metrics,
    queue: Queue,
    labels: [&'static str; 2],
    consumed: Counter,
    duration: Histogram,
    waited: Histogram,
    attempts: Histogram,
    /// Of a queue of deliveries.
    due_to_accepted: Option<Histogram>,
    /// Of a queue for whose jobs somebody waits.
    never_accepted: Vec<(&'static str, Counter)>,
    outcomes: [Counter; JobOutcome::ALL.len()],
}

/// Metrics of one provider.
#[derive(Debug)]
pub struct ProviderMetrics {
    answers: [(&'static str, Counter); ANSWERS.len()],
    duration: Histogram,
}

/// Metrics of one group's statements.
#[derive(Clone, Debug)]
pub struct GroupMetrics(Histogram);

/// Metrics of callbacks with one fate.
#[derive(Clone, Debug)]
pub struct CallbackMetrics(Counter);

/// Metric of overdue jobs with one end.
#[derive(Clone, Debug)]
pub struct OverdueMetrics(Counter);

/// Load of one queue, from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Undelivered messages.
    pub waiting: u64,
    /// Delivered, unsettled messages.
    pub in_flight: u64,
    /// Open pulls.
    pub pulls: u64,
    /// Age of the oldest waiting message, if known.
    pub oldest: Option<Duration>,
}

/// Values read on each scrape.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// The worst breaker by channel and label: 0 closed, 1 open.
    pub breakers: BTreeMap<(Channel, String), f64>,
    /// Scope and name of each pause.
    pub paused: Vec<(&'static str, String)>,
    /// Whether each part works.
    pub parts: BTreeMap<&'static str, bool>,
    /// Delay of the last due job, and when it was due.
    pub schedule: Option<(Duration, DateTime<Utc>)>,
    /// Busy, idle and maximum connections.
    pub connections: Option<[u32; 3]>,
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self::empty();
        metrics.set(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        metrics
    }

    /// Those of a process that is no worker: workers are counted by their build info.
    pub(super) fn empty() -> Self {
        let registry = Registry::new();
        let families = Metric::ALL.iter().map(|metric| register(&registry, &metric.spec())).collect();
        Self(Arc::new(Inner { registry, families, filling: Mutex::new(()), tally: Tally::default() }))
    }

    /// The version of the time zones' rules.
    pub fn zone_data(&self, version: &str) {
        self.set(Metric::ZoneDataInfo, &[version], 1.0);
    }

    /// Rows of the care tables with a mistake.
    pub fn odd_care_rows(&self, what: &str, rows: i64) {
        self.set(Metric::OddCareRows, &[what], count(u64::try_from(rows).unwrap_or(0)));
    }

    /// Handles of a queue.
    #[must_use]
    pub fn queue(&self, queue: Queue) -> QueueMetrics {
        let labels = labels(queue);
        let channel = Channel::of(queue.kind);
        let lane = [channel.map_or(NO_CHANNEL, Channel::name), labels[1]];
        let never = |end: &'static str| (end, self.counter(Metric::NeverAccepted, &[lane[0], lane[1], end]));
        let is_awaited = !matches!(queue.kind.stage, Stage::Maintenance | Stage::Delay);
        let outcome = |outcome: JobOutcome| self.counter(Metric::Jobs, &[labels[0], labels[1], outcome.name()]);
        QueueMetrics {
            consumed: self.counter(Metric::Consumed, &labels),
            duration: self.histogram(Metric::ProcessDuration, &labels),
            waited: self.histogram(Metric::QueueTime, &labels),
            attempts: self.histogram(Metric::Attempts, &labels),
            due_to_accepted: channel.map(|_| self.histogram(Metric::DueToAccepted, &lane)),
            never_accepted: if is_awaited { NEVER_ACCEPTED.map(never).into() } else { Vec::new() },
            outcomes: JobOutcome::ALL.map(outcome),
            metrics: self.clone(),
            queue,
            labels,
        }
    }

    /// The handles of a provider, by its channel's label for it.
    #[must_use]
    pub fn provider(&self, channel: Channel, label: &str) -> ProviderMetrics {
        let labels = [channel.name(), label];
        ProviderMetrics {
            answers: ANSWERS.map(|answer| (answer, self.counter(Metric::Deliveries, &[labels[0], labels[1], answer]))),
            duration: self.histogram(Metric::SendDuration, &labels),
        }
    }

    /// How runs ended and which are in progress, for the database.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Handle of a group.
    #[must_use]
    pub fn group(&self, name: &str) -> GroupMetrics {
        GroupMetrics(self.histogram(Metric::GroupSize, &[name]))
    }

    /// Handle of callbacks with one fate.
    #[must_use]
    pub fn callbacks(&self, fate: &str) -> CallbackMetrics {
        CallbackMetrics(self.counter(Metric::Callbacks, &[fate]))
    }

    /// Handle of overdue jobs with one end.
    #[must_use]
    pub fn overdue(&self, end: &str) -> OverdueMetrics {
        OverdueMetrics(self.counter(Metric::Overdue, &[end]))
    }

    /// Sets a queue's load; `None` removes it.
    pub fn set_queue(&self, queue: Queue, state: Option<QueueState>) {
        let labels = labels(queue);
        let oldest = state.and_then(|state| state.oldest).map(|age| age.as_secs_f64());
        for (metric, value) in [
            (Metric::QueueWaiting, state.map(|state| count(state.waiting))),
            (Metric::QueueInFlight, state.map(|state| count(state.in_flight))),
            (Metric::QueuePulls, state.map(|state| count(state.pulls))),
            (Metric::QueueOldest, oldest),
        ] {
            self.set_or_remove(metric, &labels, value);
        }
    }

    /// All queues were seen at `now`.
    pub fn queues_looked_at(&self, now: DateTime<Utc>) {
        self.set(Metric::QueuesLookedAt, &[], seconds(now));
    }

    /// Replaces the parked deliveries: number and longest wait by channel, lane and reason.
    pub fn set_parked(&self, parked: &BTreeMap<[&'static str; 3], (u64, Duration)>) {
        let filling = self.0.filling.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in [Metric::ParkedDeliveries, Metric::OldestParked] {
            if let Family::Gauge(gauges) = self.family(metric) {
                gauges.reset();
            }
        }
        for (labels, (number, oldest)) in parked {
            self.set(Metric::ParkedDeliveries, labels, count(*number));
            self.set(Metric::OldestParked, labels, oldest.as_secs_f64());
        }
        drop(filling);
    }

    /// Sets a stream's number of messages; `None` removes it.
    pub fn set_depth(&self, metric: Metric, depth: Option<u64>) {
        self.set_or_remove(metric, &[], depth.map(count));
    }

    /// Prometheus text format 0.0.4.
    #[must_use]
    pub fn text(&self, present: &Present) -> String {
        let filling = self.0.filling.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(present);
        let text = TextEncoder::new().encode_to_string(&self.0.registry.gather());
        drop(filling);
        text.unwrap_or_else(|error| {
            tracing::error!("metrics cannot be written: {error}");
            String::new()
        })
    }

    fn fill(&self, present: &Present) {
        if let Family::Gauge(breakers) = self.family(Metric::BreakerState) {
            breakers.reset();
        }
        for ((channel, provider), state) in &present.breakers {
            self.set(Metric::BreakerState, &[channel.name(), provider], *state);
        }
        if let Family::Gauge(paused) = self.family(Metric::Paused) {
            paused.reset();
        }
        for (scope, name) in &present.paused {
            self.set(Metric::Paused, &[scope, name], 1.0);
        }
        for (part, up) in &present.parts {
            self.set(Metric::PartUp, &[part], f64::from(u8::from(*up)));
        }
        if let Some((lag, due)) = present.schedule {
            self.set(Metric::ScheduleLag, &[], lag.as_secs_f64());
            self.set(Metric::ScheduleDue, &[], seconds(due));
        }
        if let Some([used, idle, most]) = present.connections {
            self.set(Metric::Connections, &["used"], f64::from(used));
            self.set(Metric::Connections, &["idle"], f64::from(idle));
            self.set(Metric::ConnectionsMax, &[], f64::from(most));
        }
        for (reason, lost) in traces::lost() {
            let spans = self.counter(Metric::SpansLost, &[reason]);
            spans.inc_by((count(lost) - spans.get()).max(0.0));
        }
        let Some(process) = process::look() else { return };
        let cpu = self.counter(Metric::ProcessCpu, &[]);
        cpu.inc_by((process.cpu - cpu.get()).max(0.0));
        self.set(Metric::ProcessResident, &[], process.resident);
        self.set(Metric::ProcessVirtual, &[], process.size);
        self.set(Metric::ProcessStart, &[], process.start);
        self.set_or_remove(Metric::ProcessFiles, &[], process.files);
    }

    fn family(&self, metric: Metric) -> &Family {
        &self.0.families[metric as usize]
    }

    pub(super) fn set(&self, metric: Metric, labels: &[&str], value: f64) {
        self.gauge(metric, labels).set(value);
    }

    fn set_or_remove(&self, metric: Metric, labels: &[&str], value: Option<f64>) {
        match (value, self.family(metric)) {
            (Some(value), _) => self.set(metric, labels, value),
            (None, Family::Gauge(gauges)) => {
                // Fails if it did not exist.
                let _ = gauges.remove_label_values(labels);
            }
            (None, _) => {}
        }
    }

    pub(super) fn counter(&self, metric: Metric, labels: &[&str]) -> Counter {
        match self.family(metric) {
            Family::Counter(family) => family.with_label_values(labels),
            _ => unreachable!("{metric:?} is not a counter"),
        }
    }

    fn gauge(&self, metric: Metric, labels: &[&str]) -> Gauge {
        match self.family(metric) {
            Family::Gauge(family) => family.with_label_values(labels),
            _ => unreachable!("{metric:?} is not a gauge"),
        }
    }

    pub(super) fn histogram(&self, metric: Metric, labels: &[&str]) -> Histogram {
        match self.family(metric) {
            Family::Histogram(family) => family.with_label_values(labels),
            _ => unreachable!("{metric:?} is not a histogram"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl QueueMetrics {
    /// Counts a message, with its time in the queue on the first delivery.
    pub fn begun(&self, waited: Option<Duration>) {
        self.consumed.inc();
        if let Some(waited) = waited {
            self.waited.observe(waited.as_secs_f64());
        }
    }

    /// Shows a run as in progress until the answer is dropped.
    #[must_use]
    pub fn running(&self, job_id: &str, since: DateTime<Utc>) -> Running {
        self.metrics.tally().begun(RunningJob { job_id: job_id.to_owned(), queue: self.queue, since })
    }

    /// Counts a run that ended, for the database.
    pub fn tally(&self, outcome: JobOutcome, reason: Option<&'static str>) {
        self.metrics.tally().ended(EndKey { queue: self.queue, outcome, reason });
    }

    /// Counts an accepted delivery, by the time since it was due.
    pub fn accepted(&self, late: Duration) {
        if let Some(late_by) = &self.due_to_accepted {
            late_by.observe(late.as_secs_f64());
        }
    }

    /// Counts a job that ended as in [`NEVER_ACCEPTED`].
    pub fn never_accepted(&self, end: &str) {
        if let Some((_, counter)) = self.never_accepted.iter().find(|(known, _)| *known == end) {
            counter.inc();
        }
    }

    /// Counts a run that ended.
    pub fn ended(&self, outcome: JobOutcome, took: Duration, reason: Option<&'static str>, attempts: Option<u32>) {
        self.outcomes[outcome as usize].inc();
        self.duration.observe(took.as_secs_f64());
        if let Some(attempts) = attempts {
            self.attempts.observe(f64::from(attempts));
        }
        if let Some(reason) = reason {
            let [kind, lane] = self.labels;
            self.metrics.counter(Metric::Reasons, &[kind, lane, reason]).inc();
        }
    }
}

impl ProviderMetrics {
    /// Counts an answer of a class in [`ANSWERS`].
    pub fn answered(&self, class: &str, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        if let Some((_, counter)) = self.answers.iter().find(|(answer, _)| *answer == class) {
            counter.inc();
        }
    }
}

impl GroupMetrics {
    /// Counts a statement shared by `asks` asks.
    pub fn answered(&self, asks: usize) {
        self.0.observe(count(asks as u64));
    }
}

impl OverdueMetrics {
    /// Counts one.
    pub fn add(&self) {
        self.0.inc();
    }
}

impl CallbackMetrics {
    /// Counts one.
    pub fn add(&self) {
        self.0.inc();
    }

    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "only `add` changes it")]
    /// The count so far.
    pub fn count(&self) -> u64 {
        self.0.get() as u64
    }
}

fn labels(queue: Queue) -> [&'static str; 2] {
    [queue.kind.name, queue.lane.map_or(NO_LANE, crate::kind::Lane::name)]
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn count(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 are exact for another two centuries")]
fn seconds(instant: DateTime<Utc>) -> f64 {
    instant.timestamp_micros() as f64 / 1e6
}

#[expect(
    clippy::expect_used,
    reason = "names and labels are constants, and each process makes them all when it starts"
)]
fn register(registry: &Registry, spec: &Spec) -> Family {
    let Spec { name, r#type, labels, buckets, help, .. } = *spec;
    let options = Opts::new(name, help);
    let (family, collector): (Family, Box<dyn Collector>) = match r#type {
        Type::Counter => {
            let counters = CounterVec::new(options, labels).expect("a name and labels of Prometheus");
            (Family::Counter(counters.clone()), Box::new(counters))
        }
        Type::Gauge => {
            let gauges = GaugeVec::new(options, labels).expect("a name and labels of Prometheus");
            (Family::Gauge(gauges.clone()), Box::new(gauges))
        }
        Type::Histogram => {
            let options = HistogramOpts::from(options).buckets(buckets.to_vec());
            let histograms = HistogramVec::new(options, labels).expect("a name and labels of Prometheus");
            (Family::Histogram(histograms.clone()), Box::new(histograms))
        }
    };
    registry.register(collector).expect("no two metrics have one name");
    family
}
