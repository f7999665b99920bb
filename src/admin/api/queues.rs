//! Queues, and how things are.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    extract::{self, Path},
    schemas,
};
use crate::{
    acts::operation_to_json,
    admin::{
        access::Viewer,
        operations::Which,
        problem::Problem,
        snapshot::{QueueState, Snapshot, Streaming},
        state::Admin,
    },
    near::nearest,
    pauses::{Pause, Scope},
};

/// All queues with their load, a few seconds old at most.
#[utoipa::path(
    get, path = "/queues", tag = "queues", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "`queues`, and `as_of`", body = schemas::Queues), (status = 503, description = "NATS is away", body = Problem))
)]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let snapshot = admin.snapshot().await;
    let streaming = seen(&snapshot.streaming)?;
    let queues: Vec<Value> = streaming.queues.iter().map(|queue| to_json(queue, &snapshot)).collect();
    Ok(Json(json!({
        "as_of": snapshot.at,
        "queues": queues,
        "parked": streaming.parked,
        "dead_letters": streaming.dead_letters,
        "delayed": snapshot.delayed.as_ref().ok(),
    })))
}

/// One queue.
#[utoipa::path(
    get, path = "/queues/{queue}", tag = "queues", security(("bearer" = ["viewer"])),
    params(("queue" = String, Path, description = "Its durable, such as notification_normal", example = "notification_normal")),
    responses((status = 200, description = "The queue", body = schemas::Queue), (status = 404, description = "There is none", body = Problem))
)]
pub async fn get(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let snapshot = admin.snapshot().await;
    let queues = &seen(&snapshot.streaming)?.queues;
    let found = queues.iter().find(|queue| queue.name == name);
    found.map(|queue| Json(to_json(queue, &snapshot))).ok_or_else(|| {
        let near = nearest(&name, queues.iter().map(|queue| queue.name.as_str()));
        let meant = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
        Problem::not_found(format!("there is no queue {name:?}{meant}"))
    })
}

/// Why a queue is paused, and for how long.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "reason": "wrong text" }))]
pub struct Pausing {
    /// For the colleagues: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
    /// When it ends by itself, as RFC 3339. Otherwise it has to be resumed.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, deserialize_with = "crate::when::instant")]
    pub until: Option<DateTime<Utc>>,
}

/// Pauses a queue: its jobs wait, and burn no attempt. Those that run are finished.
#[utoipa::path(
    post, path = "/queues/{queue}/pause", tag = "queues", security(("bearer" = ["operator"])),
    params(("queue" = String, Path, description = "Its durable", example = "notification_normal")), request_body = Pausing,
    responses((status = 200, description = "It is paused", body = schemas::Paused), (status = 404, description = "There is none", body = Problem))
)]
pub async fn pause(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    extract::Json(pausing): extract::Json<Pausing>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(pause_of(&admin, &viewer, Scope::Queue, &name, &pausing).await?))
}

/// Pauses something: its name, the end, and what is held up.
///
/// # Errors
/// If there is none of this name, or a field is wrong.
pub async fn pause_of(
    admin: &Admin,
    viewer: &Viewer,
    scope: Scope,
    name: &str,
    pausing: &Pausing,
) -> Result<Value, Problem> {
    let pause = admin.pause(viewer, scope, name, &pausing.reason, pausing.until).await?;
    let held_up = admin.held_up(&pause).await.to_json(pausing.until);
    Ok(json!({ scope.name(): name, "paused": true, "until": pausing.until, "held_up": held_up }))
}

/// How a queue's runs ended: in the last hour and day by outcome, and each minute of the last hour.
#[utoipa::path(
    get, path = "/queues/{queue}/stats", tag = "queues", security(("bearer" = ["viewer"])),
    params(("queue" = String, Path, description = "Its durable", example = "notification_normal")),
    responses(
        (status = 200, description = "`counts`, `throughput` and its load; workers count every five seconds", body = schemas::Stats),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub async fn stats(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let stats = admin.queue_stats(&name).await?.to_json();
    let snapshot = admin.snapshot().await;
    let found = snapshot.streaming.as_ref().ok().and_then(|all| all.queues.iter().find(|queue| queue.name == name));
    let load = found.and_then(|queue| queue.load);
    Ok(Json(json!({
        "queue": name,
        "waiting": load.map(|load| load.waiting),
        "in_flight": load.map(|load| load.in_flight),
        "counts": stats["counts"],
        "throughput": stats["throughput"],
        "as_of": snapshot.at,
    })))
}

/// Resumes a queue.
#[utoipa::path(
    post, path = "/queues/{queue}/resume", tag = "queues", security(("bearer" = ["operator"])),
    params(("queue" = String, Path, description = "Its durable", example = "notification_normal")),
    responses((status = 200, description = "It runs", body = schemas::Resumed), (status = 409, description = "It is not paused", body = Problem))
)]
pub async fn resume(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.resume(&viewer, Scope::Queue, &name).await?;
    Ok(Json(json!({ "queue": name, "paused": false })))
}

/// What is confirmed before a queue is emptied.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "count": 17, "reason": "wrong text" }))]
pub struct Emptying {
    /// The count that was shown (`waiting` and `in_flight`, or that of the operation's preview).
    #[serde(deserialize_with = "super::listing::count")]
    pub count: u64,
    /// For the colleagues: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
}

/// Empties a queue: jobs that wait in it are cancelled, and their messages taken out. What is published meanwhile stays.
#[utoipa::path(
    post, path = "/queues/{queue}/empty", tag = "queues", security(("bearer" = ["admin"])),
    params(("queue" = String, Path, description = "Its durable", example = "notification_normal")), request_body = Emptying,
    responses(
        (status = 202, description = "The operation that does it", body = schemas::Operation),
        (status = 404, description = "There is none", body = Problem),
        (status = 409, description = "More jobs wait by now than were confirmed, or none: how many", body = Problem),
    )
)]
pub async fn empty(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    extract::Json(Emptying { count, reason }): extract::Json<Emptying>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let which = Which { queue: Some(name), ..Which::default() };
    let row = admin.begin_operation(&viewer, "empty", &which, count, &reason).await?;
    Ok((StatusCode::ACCEPTED, Json(operation_to_json(&row))))
}

fn seen(streaming: &Result<Streaming, String>) -> Result<&Streaming, Problem> {
    streaming.as_ref().map_err(|why| Problem::unavailable("NATS", why))
}

fn to_json(queue: &QueueState, snapshot: &Snapshot) -> Value {
    let QueueState { name, streams, policy, load } = queue;
    let oldest = load.and_then(|load| load.oldest).map(|oldest| (snapshot.at - oldest).num_seconds().max(0));
    json!({
        "queue": name,
        "streams": streams,
        "on_server": load.is_some(),
        "waiting": load.map(|load| load.waiting),
        "in_flight": load.map(|load| load.in_flight),
        "oldest_waiting_s": oldest,
        "pulls": load.map(|load| load.pulls),
        "attempts": policy.attempts,
        "backoff": policy.backoff.to_string(),
        "timeout_s": policy.timeout.as_secs_f64(),
        "concurrency": policy.concurrency,
        "paused": snapshot.pause_of(name).map(pause_to_json),
        "rate": policy.rate.map(|rate| rate.to_string()),
    })
}

/// A pause that holds.
pub fn pause_to_json(pause: &Pause) -> Value {
    json!({
        "scope": pause.scope.name(),
        "name": pause.name,
        "reason": pause.reason,
        "by": pause.actor,
        "since": pause.since,
        "until": pause.until,
    })
}
