//! How things are, in numbers: counts, workers, health.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::schemas;
use crate::{
    admin::{
        problem::Problem,
        reads::Counts,
        snapshot::{Level, Snapshot},
        state::Admin,
    },
    show,
    store::lists::WorkerLine,
};

/// How many jobs there are, by the words of older systems. Completed and failed ones are those of the last day.
#[utoipa::path(
    get, path = "/counts", tag = "jobs", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "waiting, active, completed, failed, delayed, total; null and not `exact` if a \
        server cannot be seen", body = schemas::Counts))
)]
pub async fn counts(State(admin): State<Admin>) -> Json<Value> {
    let snapshot = admin.snapshot().await;
    Json(Counts::of(&snapshot).to_json(snapshot.at))
}

/// Workers that live, and those lost within the last day, each with the jobs that it runs.
#[utoipa::path(
    get, path = "/workers", tag = "workers", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "`items`, and `as_of`", body = schemas::Workers), (status = 503, description = "The database is away", body = Problem))
)]
pub async fn workers(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let now = admin.clock.now();
    let workers = admin.store.workers(now).await?;
    Ok(Json(json!({ "items": workers.iter().map(show::worker).collect::<Vec<_>>(), "as_of": now })))
}

/// How things are: one sentence, its parts, queues and workers. 503 if somebody must act.
#[utoipa::path(
    get, path = "/health", tag = "workers", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "Well, or worth a look", body = schemas::Health), (status = 503, description = "Somebody must act", body = schemas::Health))
)]
pub async fn health(State(admin): State<Admin>) -> Response {
    let snapshot = admin.snapshot().await;
    let (level, verdict) = snapshot.verdict();
    let activity = snapshot.activity.as_ref().ok();
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
        "queues": queues(&snapshot),
        "workers": activity.map(|activity| activity.workers.iter().map(|line| worker(line, &snapshot)).collect::<Vec<_>>()),
        "parts": { "nats": part(snapshot.streaming.as_ref().err()), "postgres": part(snapshot.delayed.as_ref().err()) },
    });
    let status = if level == Level::Act { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(body)).into_response()
}

fn queues(snapshot: &Snapshot) -> Option<Map<String, Value>> {
    let streaming = snapshot.streaming.as_ref().ok()?;
    let queue = |queue: &crate::admin::snapshot::QueueState| {
        let load = queue.load;
        let state = json!({
            "waiting": load.map(|load| load.waiting),
            "in_flight": load.map(|load| load.in_flight),
            "is_paused": snapshot.pause_of(&queue.name).is_some(),
        });
        (queue.name.clone(), state)
    };
    Some(streaming.queues.iter().map(queue).collect())
}

fn worker(line: &WorkerLine, snapshot: &Snapshot) -> Value {
    json!({
        "id": line.id,
        "status": line.status(),
        "busy": line.busy,
        "processed": line.processed,
        "failed": line.failed,
        "uptime_s": (line.seen_at.max(snapshot.at) - line.started_at).num_seconds().max(0),
    })
}
