//! Answers as the document describes them. A conformance run holds them to what is served.

#![expect(dead_code, reason = "they are described, and never made: `show.rs` and others write the JSON")]
#![expect(clippy::struct_field_names, reason = "they are the names of the JSON")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

/// A page of a list.
#[derive(ToSchema)]
pub struct Page<T: ToSchema> {
    items: Vec<T>,
    /// The `cursor` of the page that follows. Null after the last.
    #[schema(required)]
    next: Option<String>,
}

/// A job of a list.
#[derive(ToSchema)]
pub struct Job {
    job_id: String,
    root_id: String,
    kind: String,
    queue: Option<String>,
    state: String,
    reason: Option<String>,
    user_id: Option<String>,
    attempts: i64,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    #[schema(format = DateTime)]
    due_at: Option<String>,
}

/// What only waits in a queue.
#[derive(ToSchema)]
pub struct Queued {
    queue: String,
    messages: u64,
    first: Vec<Value>,
    #[schema(format = DateTime)]
    as_of: String,
}

/// A page of jobs.
#[derive(ToSchema)]
pub struct Jobs {
    items: Vec<Job>,
    next: Option<String>,
    in_streams: Vec<Queued>,
    #[schema(format = DateTime)]
    as_of: String,
}

/// The history of a job.
#[derive(ToSchema)]
pub struct History {
    root_id: String,
    runs: Vec<Value>,
    unpublished: Vec<String>,
    inbox: Vec<Value>,
    deliveries: Vec<Value>,
    #[schema(value_type = Option<Object>)]
    delayed: Option<Value>,
    audit: Vec<Value>,
}

/// Counts of jobs. What cannot be seen is null.
#[derive(ToSchema)]
pub struct Counts {
    waiting: Option<u64>,
    active: Option<u64>,
    completed: Option<u64>,
    failed: Option<u64>,
    delayed: Option<u64>,
    total: u64,
    exact: bool,
    #[schema(format = DateTime)]
    ended_since: String,
    #[schema(format = DateTime)]
    as_of: String,
}

/// A pause that holds.
#[derive(ToSchema)]
pub struct Pause {
    scope: String,
    name: String,
    reason: String,
    by: String,
    #[schema(format = DateTime)]
    since: String,
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// A queue with its load.
#[derive(ToSchema)]
pub struct Queue {
    queue: String,
    streams: Vec<String>,
    on_server: bool,
    waiting: Option<u64>,
    in_flight: Option<u64>,
    oldest_waiting_s: Option<u64>,
    pulls: Option<u64>,
    attempts: u64,
    backoff: String,
    timeout_s: f64,
    concurrency: u64,
    paused: Option<Pause>,
    rate: Option<String>,
}

/// All queues.
#[derive(ToSchema)]
pub struct Queues {
    queues: Vec<Queue>,
    parked: Option<u64>,
    dead_letters: Option<u64>,
    delayed: Option<u64>,
    #[schema(format = DateTime)]
    as_of: String,
}

/// How runs of a queue ended.
#[derive(ToSchema)]
pub struct Stats {
    queue: String,
    waiting: Option<u64>,
    in_flight: Option<u64>,
    /// `last_hour` and `last_day`, each by outcome.
    counts: BTreeMap<String, BTreeMap<String, u64>>,
    #[schema(value_type = Object)]
    throughput: Value,
    #[schema(format = DateTime)]
    as_of: String,
}

/// What a pause holds up at the moment.
#[derive(ToSchema)]
pub struct HeldUp {
    /// Null if it cannot be told, as of a provider.
    jobs: Option<u64>,
    /// So many of them were read, at most a thousand.
    looked_at: Option<u64>,
    /// So many of those expire before the pause ends. Null if it has no end.
    would_expire: Option<u64>,
    #[schema(format = DateTime)]
    first_expires_at: Option<String>,
}

/// A queue, channel or provider that is paused now.
#[derive(ToSchema)]
pub struct Paused {
    queue: Option<String>,
    channel: Option<String>,
    provider: Option<String>,
    paused: bool,
    #[schema(format = DateTime)]
    until: Option<String>,
    held_up: HeldUp,
}

/// One that is not paused any more.
#[derive(ToSchema)]
pub struct Resumed {
    queue: Option<String>,
    channel: Option<String>,
    provider: Option<String>,
    paused: bool,
}

/// A worker.
#[derive(ToSchema)]
pub struct Worker {
    id: String,
    host: String,
    version: String,
    duties: Vec<String>,
    status: String,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(format = DateTime)]
    seen_at: String,
    busy: u64,
    processed: u64,
    failed: u64,
    running: Vec<Value>,
}

/// Workers that live, and those lost within the last day.
#[derive(ToSchema)]
pub struct Workers {
    items: Vec<Worker>,
    #[schema(format = DateTime)]
    as_of: String,
}

/// How things are.
#[derive(ToSchema)]
pub struct Health {
    /// well, look or act.
    status: String,
    verdict: String,
    #[schema(value_type = Option<Object>)]
    queues: Option<Value>,
    workers: Option<Vec<Value>>,
    #[schema(value_type = Object)]
    parts: Value,
    #[schema(format = DateTime)]
    as_of: String,
}

/// Channels and providers in the last hour.
#[derive(ToSchema)]
pub struct Providers {
    channels: Vec<Value>,
    providers: Vec<Value>,
    #[schema(format = DateTime)]
    since: String,
    #[schema(format = DateTime)]
    as_of: String,
}

/// A job that failed for good.
#[derive(ToSchema)]
pub struct Letter {
    letter: u64,
    kind: String,
    job_id: String,
    root_id: String,
    reason: String,
    error: String,
    attempts: i64,
    #[schema(format = DateTime)]
    first: Option<String>,
    #[schema(format = DateTime)]
    last: String,
    stream: String,
    stream_seq: u64,
    subject: String,
    redrives: u64,
    bytes: u64,
}

/// A saved schedule, without its job.
#[derive(ToSchema)]
pub struct Schedule {
    name: String,
    kind: String,
    lane: Option<String>,
    expression: String,
    zone: String,
    gap: String,
    fold: String,
    missed: String,
    missed_limit: i64,
    missed_window_s: i64,
    jitter_s: i64,
    expires_s: Option<i64>,
    #[schema(format = DateTime)]
    starts_at: String,
    #[schema(format = DateTime)]
    ends_at: Option<String>,
    paused: bool,
    owner: Option<String>,
    #[schema(format = DateTime)]
    next_at: Option<String>,
    #[schema(format = DateTime)]
    due_at: Option<String>,
    #[schema(format = DateTime)]
    last_at: Option<String>,
    last_job_id: Option<String>,
    fired: i64,
    missed_count: i64,
    last_note: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    created_by: String,
    #[schema(format = DateTime)]
    changed_at: String,
    changed_by: String,
    /// Of one schedule: its next instants, in its zone.
    upcoming: Option<Vec<String>>,
}

/// All schedules.
#[derive(ToSchema)]
pub struct Schedules {
    items: Vec<Schedule>,
}

/// The next instants of a recurrence.
#[derive(ToSchema)]
pub struct Previewed {
    expression: String,
    zone: String,
    items: Vec<Value>,
}

/// A job that a schedule has published now.
#[derive(ToSchema)]
pub struct Ran {
    schedule: String,
    job_id: String,
}

/// An operation with its progress.
#[derive(ToSchema)]
pub struct Operation {
    operation: i64,
    act: String,
    #[schema(value_type = Object)]
    filter: Value,
    counted: i64,
    reason: String,
    by: String,
    state: String,
    done: i64,
    skipped: BTreeMap<String, i64>,
    failed: BTreeMap<String, i64>,
    note: Option<String>,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

/// What an operation would act on.
#[derive(ToSchema)]
pub struct Looked {
    act: String,
    #[schema(value_type = Object)]
    filter: Value,
    count: u64,
    sample: Vec<Value>,
}

/// What a retry has done, or would do.
#[derive(ToSchema)]
pub struct Retried {
    job_id: String,
    redriven: Option<Vec<u64>>,
    woken: Option<Vec<String>>,
    refused: Option<Vec<Value>>,
    would_retry: Option<Vec<Value>>,
}

/// A letter that is sent back.
#[derive(ToSchema)]
pub struct Redriven {
    letter: u64,
    redriven: bool,
}

/// An act by hand.
#[derive(ToSchema)]
pub struct Act {
    #[schema(format = DateTime)]
    at: String,
    actor: String,
    action: String,
    job_id: Option<String>,
    root_id: Option<String>,
    detail: Value,
}
