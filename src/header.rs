//! Names of the headers that Carebell reads and writes (`docs/ARCHITECTURE.md`).

/// Job id.
pub const JOB_ID: &str = "Carebell-Job-Id";
/// Id of the job that an application published.
pub const ROOT_ID: &str = "Carebell-Root-Id";
/// RFC 3339: expiry of the job.
pub const NOT_AFTER: &str = "Carebell-Not-After";
/// RFC 3339: when the job is due.
pub const AT: &str = "Carebell-At";
/// On a job that was delayed: the message that asked for it (`meta::IntakePosition`).
pub const DELAYED_BY: &str = "Carebell-Delayed-By";
/// On a job that came back without the server's [`SCHEDULER`]: the subject that it was parked under.
pub const PARKED_AS: &str = "Carebell-Parked-As";
/// RFC 3339: the instant from which somebody waits for this job (`meta::Meta::due`).
pub const DUE: &str = "Carebell-Due";
/// On a parked job: why it waits, and since when (`meta::Waiting`).
pub const WAITS: &str = "Carebell-Waits";
/// On a job in quiet hours: the version of the time zones' rules by which their end was reckoned.
pub const ZONE_DATA: &str = "Carebell-Zone-Data";
/// The job's number of attempts.
pub const ATTEMPTS: &str = "Carebell-Attempts";
/// The job's wait between attempts.
pub const BACKOFF: &str = "Carebell-Backoff";
/// The job's timeout.
pub const TIMEOUT: &str = "Carebell-Timeout";
/// The outcomes of which its application wants to hear ([`crate::events`]).
pub const NOTIFY: &str = "Carebell-Notify";
/// Told to an endpoint: the job's kind.
pub const KIND: &str = "Carebell-Kind";
/// Told to an endpoint: the version of its kind's declaration.
pub const KIND_VERSION: &str = "Carebell-Kind-Version";
/// Told to an endpoint: the number of the attempt.
pub const ATTEMPT: &str = "Carebell-Attempt";
/// Told to an endpoint, RFC 3339: when the attempt ends. [`TIMEOUT`] has the seconds until then.
pub const DEADLINE: &str = "Carebell-Deadline";
/// Told to an endpoint, RFC 3339: the instant that the job is about.
pub const SCHEDULED_FOR: &str = "Carebell-Scheduled-For";
/// Told to an endpoint: authorises its reports about the attempt.
pub const TASK_TOKEN: &str = "Carebell-Task-Token";
/// In an endpoint's answer: overrides its status.
pub const OUTCOME: &str = "Carebell-Outcome";
/// Format of the body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Vendor data of the trace context.
pub const TRACESTATE: &str = "tracestate";
/// Publish dedupe; the job id if no other is given.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// `@at <RFC 3339>`: when the server fires the message.
pub const SCHEDULE: &str = "Nats-Schedule";
/// Destination of the fired message.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// `sub`: the message replaces all earlier ones of its subject.
pub const ROLLUP: &str = "Nats-Rollup";
/// On a fired message: subject of its schedule.
pub const SCHEDULER: &str = "Nats-Scheduler";

/// Set by a consumer that delivers headers only: bytes of the body.
pub const MSG_SIZE: &str = "Nats-Msg-Size";
/// Set by a stream that sources another: that stream's name, and more.
pub const SOURCE: &str = "Nats-Stream-Source";
