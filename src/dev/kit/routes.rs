//! The kit's own HTTP interface.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    select,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Kit, KitError, moves};
use crate::{gateway, http::listener, show};

/// The longest wait for the end of a job.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(10);

type Shared = Arc<Kit>;

/// Serves until `stop`, or until the worker ends by itself.
///
/// # Errors
/// If the worker ended.
pub async fn serve(kit: Kit, listener: TcpListener, stop: CancellationToken) -> Result<(), KitError> {
    let kit = Arc::new(kit);
    select! {
        () = listener::serve(listener, routes(Arc::clone(&kit)), stop) => {}
        why = kit.lost() => return Err(why),
    }
    kit.stop().await;
    Ok(())
}

fn routes(kit: Shared) -> Router {
    Router::new()
        .route("/sent", get(sent))
        .route("/jobs/{id}", get(job))
        .route("/clock", get(clock).post(advance))
        .route("/providers/{channel}", put(behave))
        .route("/reset", post(reset))
        .with_state(kit)
}

/// An answer that says what was wrong.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn wrong(why: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, why.into())
}

impl From<KitError> for Refused {
    fn from(error: KitError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

async fn sent(State(kit): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Result<Json<Value>, Refused> {
    known(&query, &["user", "channel"])?;
    let of = |name: &str| query.get(name).map(String::as_str);
    let sent = kit.sent(of("user"), of("channel"));
    Ok(Json(json!({ "sent": sent, "refused": kit.receivers.complaints() })))
}

/// A job and what followed from it; with `wait`, once that has ended.
async fn job(
    State(kit): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refused> {
    known(&query, &["wait"])?;
    let wait = match query.get("wait").map(|wait| humantime::parse_duration(wait)) {
        None => Duration::ZERO,
        Some(Ok(wait)) if wait <= LONGEST_WAIT => wait,
        Some(_) => return Err(wrong("wait: expected a duration of at most 1m, for example 10s")),
    };
    let since = Instant::now();
    loop {
        let is_last = since.elapsed() >= wait;
        let states = kit.store.job_states(std::slice::from_ref(&id)).await.map_err(KitError::from)?;
        if let Some(state) = states.get(&id)
            && (is_last || gateway::has_ended(state))
        {
            let mut answer = serde_json::to_value(gateway::view(&id, state)).unwrap_or_default();
            let trail = kit.store.trail_of(&id).await.map_err(KitError::from)?;
            answer["trail"] = trail.map_or(Value::Null, |trail| show::trail(&trail, None));
            return Ok(Json(answer));
        }
        if is_last {
            return Err(Refused(
                StatusCode::NOT_FOUND,
                format!("there is no job {id:?}, or no worker has read it yet"),
            ));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn clock(State(kit): State<Shared>) -> Json<Value> {
    Json(json!({ "now": kit.clock.now() }))
}

async fn advance(State(kit): State<Shared>, body: Result<Json<Value>, JsonRejection>) -> Result<Json<Value>, Refused> {
    let Json(body) = body.map_err(|error| wrong(error.body_text()))?;
    let by = moves::read(&body, kit.clock.now()).map_err(wrong)?;
    Ok(Json(json!({ "now": kit.advance(by).await? })))
}

/// `{"status": 503, "retryAfter": "60", "times": 2}`, `{"hang": true}`, or `{}` for the usual.
async fn behave(
    State(kit): State<Shared>,
    Path(channel): Path<String>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(body) = body.map_err(|error| wrong(error.body_text()))?;
    kit.receivers.behave(&channel, &body).map_err(wrong)?;
    Ok(Json(json!({ "channel": channel, "behaviour": body })))
}

async fn reset(State(kit): State<Shared>) -> Result<Json<Value>, Refused> {
    let since = Instant::now();
    kit.reset().await?;
    let took = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(json!({ "now": kit.clock.now(), "tookMs": took })))
}

fn known(query: &HashMap<String, String>, names: &[&str]) -> Result<(), Refused> {
    match query.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(other) => Err(wrong(format!("{other}: expected {}", names.join(" or ")))),
    }
}
