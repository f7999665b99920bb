//! JSON of what people are shown, by commands and by the API. Ids only: texts and addresses stay in the database.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset, SecondsFormat};
use serde_json::{Value, json};

use crate::{
    dead_letter::Letter,
    schedule::{Note, Occurrence, Zone},
    store::lists::{JobLine, OutcomeCount, RunningLine, Throughput, WorkerLine},
    store::{AttemptLine, AuditEntry, DelayedLine, InboxLine, LedgerLine, RunLine, ScheduleRow, TaskLine, Trail},
};

/// The history of a job.
#[must_use]
pub fn trail(way: &Trail, delayed: Option<&DelayedLine>) -> Value {
    let task = |task: &TaskLine| json!({ "state": task.state, "percent": task.percent, "note": task.note, "deadline": task.deadline });
    let run = |run: &RunLine| {
        json!({
            "job_id": run.job_id,
            "kind": run.kind,
            "state": run.state,
            "reason": run.reason,
            "attempts": run.attempts,
            "last_error": run.last_error,
            "result": run.result,
            "stream": run.stream,
            "stream_seq": run.stream_seq,
            "created_at": run.created_at,
            "updated_at": run.updated_at,
            "cancel_asked_at": run.cancel_at,
            "task": run.task.as_ref().map(task),
        })
    };
    let inbox = |row: &InboxLine| {
        json!({
            "user_id": row.user_id,
            "created_at": row.created_at,
            "seen_at": row.seen_at,
            "read_at": row.read_at,
            "archived_at": row.archived_at,
        })
    };
    let failure = |failure: &AttemptLine| json!({ "at": failure.at, "answer": failure.answer });
    let delivery = |delivery: &LedgerLine| {
        json!({
            "id": delivery.id,
            "run_id": delivery.run_id,
            "user_id": if delivery.user_id.is_empty() { Value::Null } else { json!(delivery.user_id) },
            "channel": delivery.channel,
            "state": delivery.state,
            "reason": delivery.reason,
            "overrode_quiet_hours": delivery.overrode_quiet_hours,
            "attempts": delivery.attempts,
            "claims": delivery.claims,
            "failures": delivery.failures.iter().map(failure).collect::<Value>(),
            "provider": delivery.provider,
            "provider_id": delivery.provider_id,
            "answer": delivery.answer,
            "sent_at": delivery.sent_at,
            "delivered_at": delivery.delivered_at,
            "held_until": delivery.held_until,
            "not_after": delivery.not_after,
            "created_at": delivery.created_at,
            "updated_at": delivery.updated_at,
        })
    };
    let act = |act: &AuditEntry| json!({ "at": act.at, "actor": act.actor, "action": act.action, "job_id": act.job_id, "detail": act.detail });
    json!({
        "root_id": way.root_id,
        "runs": way.runs.iter().map(run).collect::<Value>(),
        "unpublished": way.planned.iter().map(|planned| &planned.job_id).collect::<Vec<_>>(),
        "inbox": way.inbox.iter().map(inbox).collect::<Value>(),
        "deliveries": way.deliveries.iter().map(delivery).collect::<Value>(),
        "delayed": delayed.map(self::delayed),
        "audit": way.audit.iter().map(act).collect::<Value>(),
    })
}

/// A job of a list.
#[must_use]
pub fn job(line: &JobLine) -> Value {
    json!({
        "job_id": line.job_id,
        "root_id": line.root_id,
        "kind": line.kind,
        "queue": line.queue,
        "state": line.state,
        "reason": line.reason,
        "user_id": line.user_id,
        "attempts": line.attempts,
        "created_at": line.created_at,
        "updated_at": line.updated_at,
        "due_at": line.due_at,
    })
}

/// A worker.
#[must_use]
pub fn worker(worker: &WorkerLine) -> Value {
    let job = |job: &RunningLine| json!({ "job_id": job.job_id, "queue": job.queue, "since": job.since });
    json!({
        "id": worker.id,
        "host": worker.host,
        "version": worker.version,
        "duties": worker.duties,
        "status": worker.status(),
        "started_at": worker.started_at,
        "seen_at": worker.seen_at,
        "busy": worker.busy,
        "processed": worker.processed,
        "failed": worker.failed,
        "running": worker.running.iter().map(job).collect::<Value>(),
    })
}

/// Jobs that ended in the last hour.
#[must_use]
pub fn throughput(throughput: &Throughput) -> Value {
    let minutes = throughput.minutes.iter().map(|minute| {
        json!({
            "minute": minute.at,
            "ended": minute.ended(),
            "completed": minute.completed,
            "failed": minute.failed,
        })
    });
    json!({
        "per_minute": throughput.per_minute,
        "per_hour": throughput.per_hour,
        "minutes": minutes.collect::<Value>(),
        "as_of": throughput.as_of,
    })
}

/// Counts of one queue.
#[must_use]
pub fn by_outcome(counts: &[OutcomeCount]) -> Value {
    counts.iter().map(|count| (count.outcome.clone(), json!(count.count))).collect::<serde_json::Map<_, _>>().into()
}

/// A delayed job.
#[must_use]
pub fn delayed(row: &DelayedLine) -> Value {
    json!({
        "job_id": row.job_id,
        "application": row.application,
        "kind": row.kind,
        "lane": row.lane,
        "state": row.state,
        "due": row.due,
        "updated_at": row.updated_at,
    })
}

/// A dead letter without its body.
#[must_use]
pub fn letter(letter: &Letter) -> Value {
    json!({
        "letter": letter.number,
        "kind": letter.kind,
        "job_id": letter.job_id,
        "root_id": letter.root_id,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "first": letter.first,
        "last": letter.last,
        "stream": letter.stream,
        "stream_seq": letter.sequence,
        "subject": letter.original_subject,
        "redrives": letter.redrives,
        "bytes": letter.bytes,
    })
}

/// A saved schedule.
#[must_use]
pub fn schedule(row: &ScheduleRow) -> Value {
    let spec = &row.spec;
    json!({
        "name": spec.name, "kind": spec.kind, "lane": spec.lane, "payload": spec.payload,
        "expression": spec.expression, "zone": spec.zone, "gap": spec.gap, "fold": spec.fold,
        "missed": spec.missed, "missed_limit": spec.missed_limit, "missed_window_s": spec.missed_seconds,
        "jitter_s": spec.jitter_seconds, "expires_s": spec.expiry_seconds,
        "starts_at": spec.starts_at, "ends_at": spec.ends_at, "paused": spec.paused, "owner": spec.owner,
        "next_at": row.next.at, "due_at": row.next.due, "last_at": row.last_at, "last_job_id": row.last_job_id,
        "fired": row.fired, "missed_count": row.missed_count, "last_note": row.last_note,
        "created_at": row.created.at, "created_by": row.created.by,
        "changed_at": row.changed.at, "changed_by": row.changed.by,
    })
}

/// An instant of a schedule, before it is saved.
#[must_use]
pub fn occurrence(occurrence: &Occurrence) -> Value {
    json!({
        "at": occurrence.at.map(local_instant),
        "local": civil(occurrence.local),
        "note": occurrence.note.map(Note::name),
    })
}

/// The effect of a clock change on it: `(moved) 2026-03-08T02:30:00 is skipped by the clock`.
#[must_use]
pub fn clock_change(occurrence: &Occurrence) -> Option<String> {
    let note = occurrence.note?;
    let why = match note {
        Note::Moved | Note::Dropped => "is skipped by the clock",
        Note::Repeated => "for the second time",
    };
    Some(format!("({}) {} {why}", note.name(), civil(occurrence.local)))
}

/// RFC 3339 in its zone. Its offsets have no seconds, but Liberia's had until 1972: truncates the offset, keeps the
/// instant.
#[must_use]
pub fn local_instant(at: DateTime<Zone>) -> String {
    let offset = at.offset().fix();
    let minutes = FixedOffset::east_opt(offset.local_minus_utc() / 60 * 60).unwrap_or(offset);
    at.with_timezone(&minutes).to_rfc3339_opts(SecondsFormat::AutoSi, false)
}

fn civil(at: NaiveDateTime) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

/// A manual act.
#[must_use]
pub fn act(act: &AuditEntry) -> Value {
    json!({
        "at": act.at,
        "actor": act.actor,
        "action": act.action,
        "job_id": act.job_id,
        "root_id": act.root_id,
        "detail": act.detail,
    })
}
