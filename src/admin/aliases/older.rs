//! JSON as older systems have it: instants in milliseconds since 1970, words of `BullMQ`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    admin::{
        problem::Problem,
        snapshot::{Level, Snapshot},
        state::Admin,
    },
    jobs,
    kind::{Kind, Lane, Queue},
    store::{
        ScheduleRow,
        lists::{JobLine, JobState, QueueRate, RunningLine, WorkerLine},
    },
};

/// The queues of a name: one by its durable, or all lanes of a kind. `-` and `.` may stand for `_`.
pub struct Meant {
    /// Their kind.
    pub kind: Kind,
    /// Of one queue of several.
    pub lane: Option<Lane>,
    durables: Vec<String>,
}

impl Meant {
    /// # Errors
    /// If there is none of this name.
    pub fn named(admin: &Admin, name: &str) -> Result<Self, Problem> {
        let plain = name.replace(['-', '.'], "_");
        for kind in jobs::registry().kinds() {
            let queues = kind.queues();
            if kind.name.replace('.', "_") == plain {
                let durables = queues.iter().map(Queue::durable).collect();
                return Ok(Self { kind: *kind, lane: None, durables });
            }
            if let Some(queue) = queues.iter().find(|queue| queue.durable() == plain) {
                return Ok(Self { kind: *kind, lane: queue.lane, durables: vec![plain] });
            }
        }
        admin.check_queue(name)?;
        Err(Problem::not_found(format!("the queue {name:?} holds no jobs of its own")))
    }

    /// What they are called together: one durable, or the kind.
    pub fn name(&self) -> String {
        match (self.durables.as_slice(), self.lane) {
            ([durable], Some(_)) => durable.clone(),
            _ => self.kind.name.to_owned(),
        }
    }

    /// Their durables.
    pub fn names(&self) -> Vec<&str> {
        self.durables.iter().map(String::as_str).collect()
    }

    /// Whether all of them are paused.
    pub fn is_paused(&self, snapshot: &Snapshot) -> bool {
        self.durables.iter().all(|name| snapshot.pause_of(name).is_some())
    }

    /// Whether a schedule publishes to one of them.
    pub fn publishes(&self, row: &ScheduleRow) -> bool {
        queue_of(row).is_some_and(|queue| self.durables.contains(&queue))
    }
}

/// The queue that a schedule publishes to.
fn queue_of(row: &ScheduleRow) -> Option<String> {
    let registry = jobs::registry();
    let kind = registry.kinds().iter().find(|kind| kind.name == row.spec.kind)?;
    let lane = row.spec.lane.as_deref().and_then(Lane::parse).unwrap_or(Lane::Normal);
    let lane = kind.lane_for(lane);
    kind.queues().into_iter().find(|queue| queue.lane == lane).map(|queue| queue.durable())
}

fn millis(at: Option<DateTime<Utc>>) -> Option<i64> {
    at.map(|at| at.timestamp_millis())
}

/// A job of a list.
pub fn job(line: &JobLine) -> Value {
    let word = JobState::ALL.into_iter().find(|state| state.name() == line.state).map(|state| state.word().name());
    let has_ended = matches!(word, Some("completed" | "failed"));
    json!({
        "id": line.job_id,
        "name": line.kind,
        "queue": line.queue,
        "status": word,
        "attemptsMade": line.attempts,
        "failedReason": line.reason.as_ref().filter(|_| word == Some("failed")),
        "timestamp": line.created_at.timestamp_millis(),
        "finishedOn": millis(has_ended.then_some(line.updated_at)),
        "delayedUntil": millis(line.due_at.filter(|_| !has_ended)),
    })
}

/// A job that a worker runs.
pub fn running(line: &RunningLine) -> Value {
    json!({ "id": line.job_id, "queue": line.queue, "status": "active", "processedOn": line.since.timestamp_millis() })
}

/// Jobs of some queues, by older words. Completed and failed ones are those of the last day.
pub fn words_of(snapshot: &Snapshot, delayed: &BTreeMap<String, u64>, queues: &[&str]) -> Value {
    let streaming = snapshot.streaming.as_ref().ok();
    let loads = streaming.and_then(|streaming| {
        let of = |name: &&str| streaming.queues.iter().find(|queue| queue.name == *name)?.load;
        queues.iter().map(of).collect::<Option<Vec<_>>>()
    });
    let activity = snapshot.activity.as_ref().ok();
    let ended = activity.map(|activity| queues.iter().map(|queue| activity.ended(Some(queue))).collect::<Vec<_>>());
    json!({
        "waiting": loads.as_ref().map(|loads| loads.iter().map(|load| load.waiting).sum::<u64>()),
        "active": loads.as_ref().map(|loads| loads.iter().map(|load| load.in_flight).sum::<u64>()),
        "completed": ended.as_ref().map(|ended| ended.iter().map(|(completed, _)| completed).sum::<u64>()),
        "failed": ended.as_ref().map(|ended| ended.iter().map(|(_, failed)| failed).sum::<u64>()),
        "delayed": queues.iter().filter_map(|queue| delayed.get(*queue)).sum::<u64>(),
    })
}

/// Jobs that ended in some queues.
pub fn throughput(rates: &BTreeMap<String, QueueRate>, queues: &[&str]) -> Value {
    let of = || queues.iter().filter_map(|queue| rates.get(*queue));
    json!({
        "perMinute": of().map(|rate| rate.per_minute).sum::<u64>(),
        "perHour": of().map(|rate| rate.per_hour).sum::<u64>(),
    })
}

/// A worker. Its uptime is in seconds.
pub fn worker(line: &WorkerLine, now: DateTime<Utc>) -> Value {
    json!({
        "id": line.id,
        "status": line.status(),
        "processed": line.processed,
        "failed": line.failed,
        "uptime": (line.seen_at.max(now) - line.started_at).num_seconds().max(0),
    })
}

/// How things are.
pub const fn status(level: Level) -> &'static str {
    match level {
        Level::Well => "healthy",
        Level::Look => "degraded",
        Level::Act => "unhealthy",
    }
}

/// A schedule as it was made. Its `data` may hold texts of people, and stays in the database.
pub fn schedule(row: &ScheduleRow) -> Value {
    json!({
        "name": row.spec.name,
        "cronExpression": row.spec.expression,
        "options": { "timezone": row.spec.zone, "queue": queue_of(row) },
        "isPaused": row.spec.paused,
        "next": millis(row.next.at.filter(|_| !row.spec.paused)),
        "last": millis(row.last_at),
    })
}

/// A schedule as a queue shows it.
pub fn scheduled(row: &ScheduleRow) -> Value {
    json!({
        "key": row.spec.name,
        "pattern": row.spec.expression,
        "tz": row.spec.zone,
        "next": millis(row.next.at.filter(|_| !row.spec.paused)),
    })
}
