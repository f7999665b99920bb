//! Queues, and how things are.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::extract::Path;
use crate::{
    admin::{
        problem::Problem,
        snapshot::{Level, QueueState, Streaming},
        state::Admin,
    },
    near::nearest,
};

/// All queues with their load, a few seconds old at most.
#[utoipa::path(
    get, path = "/queues", tag = "queues", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "`queues`, and `as_of`", body = Value), (status = 503, description = "NATS is away", body = Problem))
)]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let snapshot = admin.snapshot().await;
    let streaming = seen(&snapshot.streaming)?;
    let queues: Vec<Value> = streaming.queues.iter().map(|queue| to_json(queue, snapshot.at)).collect();
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
    params(("queue" = String, Path, description = "Its durable, such as notification_normal")),
    responses((status = 200, description = "The queue", body = Value), (status = 404, description = "There is none", body = Problem))
)]
pub async fn get(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let snapshot = admin.snapshot().await;
    let queues = &seen(&snapshot.streaming)?.queues;
    let found = queues.iter().find(|queue| queue.name == name);
    found.map(|queue| Json(to_json(queue, snapshot.at))).ok_or_else(|| {
        let near = nearest(&name, queues.iter().map(|queue| queue.name.as_str()));
        let meant = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
        Problem::not_found(format!("there is no queue {name:?}{meant}"))
    })
}

/// How things are: one sentence and its parts. 503 if somebody must act.
#[utoipa::path(
    get, path = "/health", tag = "queues", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "Well, or worth a look", body = Value), (status = 503, description = "Somebody must act", body = Value))
)]
pub async fn health(State(admin): State<Admin>) -> Response {
    let snapshot = admin.snapshot().await;
    let (level, verdict) = snapshot.verdict();
    let word = match level {
        Level::Well => "well",
        Level::Look => "look",
        Level::Act => "act",
    };
    let part = |why: Option<&String>| json!({ "state": if why.is_none() { "up" } else { "down" }, "why": why });
    let body = json!({
        "as_of": snapshot.at,
        "status": word,
        "verdict": verdict,
        "parts": { "nats": part(snapshot.streaming.as_ref().err()), "postgres": part(snapshot.delayed.as_ref().err()) },
    });
    let status = if level == Level::Act { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(body)).into_response()
}

fn seen(streaming: &Result<Streaming, String>) -> Result<&Streaming, Problem> {
    streaming.as_ref().map_err(|why| Problem::unavailable("NATS", why))
}

fn to_json(queue: &QueueState, at: DateTime<Utc>) -> Value {
    let QueueState { name, streams, policy, load } = queue;
    let oldest = load.and_then(|load| load.oldest).map(|oldest| (at - oldest).num_seconds().max(0));
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
        "rate": policy.rate.map(|rate| rate.to_string()),
    })
}
