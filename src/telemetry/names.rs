//! Every metric. A test compares `docs/METRICS.md`.
//!
//! Names follow OpenTelemetry's messaging conventions in Prometheus form, else begin with `carebell_`. Process metrics
//! are named as in Prometheus client libraries.

/// Prometheus metric type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations counted by size.
    Histogram,
}

impl Type {
    /// As in `# TYPE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds, as in the name.
    Seconds,
    /// Bytes, as in the name.
    Bytes,
    /// Things, as in the name.
    Count,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each says of itself what it is, in `Metric::spec`")]
pub enum Metric {
    Consumed,
    ProcessDuration,
    Jobs,
    Reasons,
    QueueTime,
    Attempts,
    Deliveries,
    SendDuration,
    DueToAccepted,
    NeverAccepted,
    Callbacks,
    GatewayRequests,
    GatewayDuration,
    GatewayJobs,
    TaskRequests,
    OpenTasks,
    Overdue,
    OddCareRows,
    BreakerState,
    Paused,
    QueueWaiting,
    QueueInFlight,
    QueueOldest,
    QueuePulls,
    QueuesLookedAt,
    DeadLetters,
    Parked,
    ParkedDeliveries,
    OldestParked,
    Delayed,
    ScheduleLag,
    ScheduleDue,
    GroupSize,
    Connections,
    ConnectionsMax,
    SpansLost,
    PartUp,
    ConsoleRequests,
    ConsoleDuration,
    ConsoleSlowQueries,
    ConsoleStreams,
    BuildInfo,
    /// `carebell_zone_data_info`
    ZoneDataInfo,
    ProcessCpu,
    ProcessResident,
    ProcessVirtual,
    ProcessFiles,
    ProcessStart,
}

/// Description of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub r#type: Type,
    /// Unit.
    pub unit: Unit,
    /// Label names. Values are bounded and never personal.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets.
    pub buckets: &'static [f64],
    /// Meaning.
    pub help: &'static str,
}

/// From a look-up in memory to the longest queue timeout.
const DURATIONS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 300.];
/// From no wait to the end of an outage.
const WAITS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 300., 900., 3600.];
/// Around the objective of five seconds, up to a reminder's expiry.
const SINCE_DUE: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1., 2., 5., 10., 30., 60., 300., 900., 3600., 14400.];
/// `carebell.attempts` is at most ten.
const ATTEMPTS: &[f64] = &[1., 2., 3., 4., 5., 10.];
/// Up to the most asks per statement.
const SIZES: &[f64] = &[1., 2., 5., 10., 20., 50., 100., 200.];

const QUEUE: &[&str] = &["kind", "lane"];
const LANE: &[&str] = &["channel", "lane"];
const PARKED: &[&str] = &["channel", "lane", "reason"];
const PROVIDER: &[&str] = &["channel", "provider"];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, r#type: Type::Counter, unit: Unit::Count, labels, buckets: &[], help }
}

const fn gauge(name: &'static str, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, r#type: Type::Gauge, unit, labels, buckets: &[], help }
}

const fn histogram(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    help: &'static str,
) -> Spec {
    Spec { name, r#type: Type::Histogram, unit, labels, buckets, help }
}

impl Metric {
    /// Whether `carebell admin` has it, and no worker.
    #[must_use]
    pub const fn is_of_console(self) -> bool {
        matches!(self, Self::ConsoleRequests | Self::ConsoleDuration | Self::ConsoleSlowQueries | Self::ConsoleStreams)
    }

    /// In order of declaration.
    pub const ALL: [Self; 48] = [
        Self::Consumed,
        Self::ProcessDuration,
        Self::Jobs,
        Self::Reasons,
        Self::QueueTime,
        Self::Attempts,
        Self::Deliveries,
        Self::SendDuration,
        Self::DueToAccepted,
        Self::NeverAccepted,
        Self::Callbacks,
        Self::GatewayRequests,
        Self::GatewayDuration,
        Self::GatewayJobs,
        Self::TaskRequests,
        Self::OpenTasks,
        Self::Overdue,
        Self::OddCareRows,
        Self::BreakerState,
        Self::Paused,
        Self::QueueWaiting,
        Self::QueueInFlight,
        Self::QueueOldest,
        Self::QueuePulls,
        Self::QueuesLookedAt,
        Self::DeadLetters,
        Self::Parked,
        Self::ParkedDeliveries,
        Self::OldestParked,
        Self::Delayed,
        Self::ScheduleLag,
        Self::ScheduleDue,
        Self::GroupSize,
        Self::Connections,
        Self::ConnectionsMax,
        Self::SpansLost,
        Self::PartUp,
        Self::ConsoleRequests,
        Self::ConsoleDuration,
        Self::ConsoleSlowQueries,
        Self::ConsoleStreams,
        Self::BuildInfo,
        Self::ZoneDataInfo,
        Self::ProcessCpu,
        Self::ProcessResident,
        Self::ProcessVirtual,
        Self::ProcessFiles,
        Self::ProcessStart,
    ];

    /// Its description.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table: one entry a metric")]
    pub const fn spec(self) -> Spec {
        use Unit::{Bytes, Count, Seconds};
        match self {
            Self::Consumed => counter(
                "messaging_client_consumed_messages_total",
                QUEUE,
                "Messages that this worker began, including redeliveries.",
            ),
            Self::ProcessDuration => histogram(
                "messaging_process_duration_seconds",
                Seconds,
                QUEUE,
                DURATIONS,
                "Time from the start of a message in this worker until it is settled.",
            ),
            Self::Jobs => counter(
                "carebell_jobs_total",
                &["kind", "lane", "outcome"],
                "Runs that ended in this worker, by outcome.",
            ),
            Self::Reasons => counter(
                "carebell_job_reasons_total",
                &["kind", "lane", "reason"],
                "Reasons for jobs to be skipped, wait or die.",
            ),
            Self::QueueTime => histogram(
                "carebell_queue_time_seconds",
                Seconds,
                QUEUE,
                WAITS,
                "Time of a message in its queue before this worker began it; first deliveries only.",
            ),
            Self::Attempts => histogram(
                "carebell_job_attempts",
                Count,
                QUEUE,
                ATTEMPTS,
                "Attempts of a job until it was done or dead, including the last one.",
            ),
            Self::Deliveries => counter(
                "carebell_deliveries_total",
                &["channel", "provider", "answer"],
                "Sends to a provider, by class of answer.",
            ),
            Self::SendDuration => histogram(
                "carebell_send_duration_seconds",
                Seconds,
                PROVIDER,
                DURATIONS,
                "Time of a send until the provider's answer.",
            ),
            Self::DueToAccepted => histogram(
                "carebell_due_to_accepted_seconds",
                Seconds,
                LANE,
                SINCE_DUE,
                "Time from the instant at which somebody was to be told until a provider accepted it; waits that people asked for do not count.",
            ),
            Self::NeverAccepted => counter(
                "carebell_never_accepted_total",
                &["channel", "lane", "end"],
                "Jobs that ended too late or for a fault, so that no provider accepted anything: `expired`, `dead` or `unknown`.",
            ),
            Self::Overdue => counter(
                "carebell_overdue_jobs_total",
                &["end"],
                "Jobs that still waited ten seconds after their instant: `published`, or `buried` because they had none.",
            ),
            Self::OddCareRows => gauge(
                "carebell_odd_care_rows",
                Count,
                &["what"],
                "Rows of the care tables that are not read as they are written: an unknown `zone`, `weekday` or `time`.",
            ),
            Self::Callbacks => counter(
                "carebell_callbacks_total",
                &["fate"],
                "Callbacks of providers, by outcome; absent if this worker receives none.",
            ),
            Self::GatewayRequests => counter(
                "carebell_gateway_requests_total",
                &["route", "status"],
                "Requests of producers, by route and class of status; absent unless this process is the gateway.",
            ),
            Self::GatewayDuration => histogram(
                "carebell_gateway_request_duration_seconds",
                Seconds,
                &["route"],
                DURATIONS,
                "Time of a producer's request until its answer, with the time that it asked to wait.",
            ),
            Self::GatewayJobs => counter(
                "carebell_gateway_jobs_total",
                &["answer"],
                "Jobs of producers, by answer: `accepted`, `duplicate`, `refused`, `conflict` or `unavailable`.",
            ),
            Self::TaskRequests => histogram(
                "carebell_task_request_duration_seconds",
                Seconds,
                &["kind", "answer"],
                DURATIONS,
                "Time of a request to the endpoint of a declared kind, by class of status, or `silence`, `not_sent` or `too_large`.",
            ),
            Self::OpenTasks => gauge(
                "carebell_open_tasks",
                Count,
                &["kind"],
                "Jobs of a declared kind that its endpoint may be working at; each worker reports the same number.",
            ),
            Self::BreakerState => gauge(
                "carebell_breaker_state",
                Count,
                PROVIDER,
                "The circuit breaker of a provider in this worker: 0 closed, 0.5 half-open, 1 open; the worst of several with one label.",
            ),
            Self::Paused => gauge(
                "carebell_paused",
                Count,
                &["scope", "name"],
                "1 for each `queue`, `channel` or `provider` that is paused; absent when it is resumed.",
            ),
            Self::QueueWaiting => gauge(
                "carebell_queue_waiting_messages",
                Count,
                QUEUE,
                "Messages of a queue not delivered yet; each worker reports the same number.",
            ),
            Self::QueueInFlight => gauge(
                "carebell_queue_in_flight_messages",
                Count,
                QUEUE,
                "Messages running in some worker, or waiting up to ten seconds for a retry; each worker reports the same number.",
            ),
            Self::QueueOldest => gauge(
                "carebell_queue_oldest_waiting_seconds",
                Seconds,
                QUEUE,
                "Age of the oldest message not delivered yet, or 0; each worker reports the same.",
            ),
            Self::QueuePulls => gauge(
                "carebell_queue_waiting_pulls",
                Count,
                QUEUE,
                "Open pulls of a queue; 0 if all workers are busy or there are none.",
            ),
            Self::QueuesLookedAt => gauge(
                "carebell_queues_looked_at_timestamp_seconds",
                Seconds,
                &[],
                "When this worker last saw all queues, in seconds since 1970.",
            ),
            Self::DeadLetters => {
                gauge("carebell_dead_letters", Count, &[], "Dead letters, which need somebody's attention.")
            }
            Self::Parked => gauge("carebell_parked_jobs", Count, &[], "Jobs in HOLD: parked or delayed."),
            Self::ParkedDeliveries => gauge(
                "carebell_parked_deliveries",
                Count,
                PARKED,
                "Parked deliveries by the reason of their wait; each worker reports the same number.",
            ),
            Self::OldestParked => gauge(
                "carebell_oldest_parked_delivery_seconds",
                Seconds,
                PARKED,
                "Since when the longest parked of these deliveries waits; each worker reports the same.",
            ),
            Self::Delayed => gauge("carebell_delayed_jobs", Count, &[], "Delayed jobs that wait."),
            Self::ScheduleLag => gauge(
                "carebell_schedule_lag_seconds",
                Seconds,
                &[],
                "Delay of this worker's scheduler when a job was last due; absent until then.",
            ),
            Self::ScheduleDue => gauge(
                "carebell_schedule_due_timestamp_seconds",
                Seconds,
                &[],
                "When this worker's scheduler last found a job due, in seconds since 1970; absent until then.",
            ),
            Self::GroupSize => {
                histogram("carebell_group_size", Count, &["group"], SIZES, "Jobs that shared one database statement.")
            }
            Self::Connections => {
                gauge("carebell_database_connections", Count, &["state"], "Database connections, by state.")
            }
            Self::ConnectionsMax => gauge(
                "carebell_database_connections_max",
                Count,
                &[],
                "Most database connections that this worker opens.",
            ),
            Self::SpansLost => counter(
                "carebell_spans_lost_total",
                &["reason"],
                "Spans lost before reaching the collector: `queue_full`, or `not_exported` if it refused them or was away.",
            ),
            Self::PartUp => {
                gauge("carebell_part_up", Count, &["part"], "Whether a part that the worker needs is up: 1 or 0.")
            }
            Self::ConsoleRequests => counter(
                "carebell_console_requests_total",
                &["route", "method", "status"],
                "Requests that `carebell admin` answered, by route and class of status.",
            ),
            Self::ConsoleDuration => histogram(
                "carebell_console_request_duration_seconds",
                Seconds,
                &["route", "method"],
                DURATIONS,
                "Time until `carebell admin` began its answer.",
            ),
            Self::ConsoleSlowQueries => counter(
                "carebell_console_slow_queries_total",
                &[],
                "Statements of `carebell admin` that took over half a second.",
            ),
            Self::ConsoleStreams => {
                gauge("carebell_console_event_streams", Count, &[], "Open pages that `carebell admin` keeps current.")
            }
            Self::BuildInfo => gauge("carebell_build_info", Count, &["version"], "1, with the version as a label."),
            Self::ZoneDataInfo => {
                gauge("carebell_zone_data_info", Count, &["version"], "1, with the version of the time zones' rules.")
            }
            Self::ProcessCpu => Spec {
                unit: Seconds,
                ..counter("process_cpu_seconds_total", &[], "Processor time used by the process.")
            },
            Self::ProcessResident => {
                gauge("process_resident_memory_bytes", Bytes, &[], "Resident memory of the process.")
            }
            Self::ProcessVirtual => gauge("process_virtual_memory_bytes", Bytes, &[], "Address space of the process."),
            Self::ProcessFiles => gauge("process_open_fds", Count, &[], "Open file descriptors of the process."),
            Self::ProcessStart => {
                gauge("process_start_time_seconds", Seconds, &[], "When the process started, in seconds since 1970.")
            }
        }
    }
}
