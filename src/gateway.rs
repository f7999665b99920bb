//! `carebell gateway`: a door for producers without a NATS client.
//!
//! What comes in by it is published as its application would publish it over NATS, and trusted no more. `docs/GATEWAY.md`
//! has the contract.

mod access;
mod batch;
mod body;
mod document;
mod job;
mod problem;
mod publish;
mod requests;
mod schemas;
mod show;
mod state;
mod waits;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, Uri},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    batch::MOST_LINES,
    job::{Job, LARGEST_JOB, Reader, Refused, key},
    requests::{LARGEST_BATCH, LARGEST_BODY, LONGEST_WAIT},
    show::{has_ended, view},
    state::Parts,
};
use self::{problem::Problem, state::Gateway};
use crate::{
    config::NatsConfig,
    health::{Health, Phase},
    http::{
        self,
        listener::{self, Limits},
    },
    nats::{self, JetStream},
    store::Store,
};

/// Clients keep connections open between their jobs, and some requests wait for jobs.
const LIMITS: Limits = Limits {
    connections: 2048,
    head: Duration::from_secs(30),
    longest: Duration::from_mins(5),
    // For the longest wait.
    grace: Duration::from_secs(65),
    closes_refused: false,
};

/// Interval of attempts to reach NATS, and of looks at the database.
const AGAIN: Duration = Duration::from_secs(1);

/// Between rounds of pruning.
const PRUNE_EVERY: Duration = Duration::from_mins(10);

/// The path of requests that match no route, in metrics.
const NO_ROUTE: &str = "none";

/// Serves on the port of its settings (0 for any free one) until `stop`, on the current runtime. The task ends
/// after the last request.
///
/// # Errors
/// If the port cannot be bound.
pub fn serve(parts: Parts, stop: CancellationToken) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = http::listen(parts.config.port)?;
    let address = listener.local_addr()?;
    tokio::spawn(prune(parts.store.clone(), parts.clock.clone(), stop.clone()));
    let routes = routes(Gateway::new(parts, stop.clone()));
    Ok((address, tokio::spawn(listener::serve_within(LIMITS, listener, routes, stop))))
}

/// Reaches NATS, however long that takes, until `stop`.
pub fn reach_nats(config: NatsConfig, health: Arc<Health>, stop: CancellationToken) -> Arc<OnceLock<JetStream>> {
    let reached = Arc::new(OnceLock::new());
    let place = Arc::clone(&reached);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut told = false;
        loop {
            match nats::connect(&config, &health).await {
                Ok(client) => {
                    let _ = place.set(nats::jetstream(&client));
                    health.enter(Phase::Running);
                    return;
                }
                Err(why) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("{why}; trying again");
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    }));
    reached
}

/// Shows in `health` whether the database answers, until `stop`.
pub async fn watch_database(store: Store, health: Arc<Health>, stop: CancellationToken) {
    let mut look = interval(AGAIN);
    while stop.run_until_cancelled(look.tick()).await.is_some() {
        match store.ping().await {
            Ok(()) => health.database_answers(),
            Err(why) => health.database_fails(&why.to_string()),
        }
    }
}

async fn prune(store: Store, clock: crate::clock::Clock, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(clock.paced(PRUNE_EVERY))).await.is_some() {
        while matches!(store.prune_gateway_jobs(clock.now()).await, Ok(true)) && !stop.is_cancelled() {}
    }
}

fn routes(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/jobs", post(requests::publish))
        .route("/v1/jobs/{id}", get(requests::show).delete(requests::cancel))
        .method_not_allowed_fallback(async || Problem::method())
        .route_layer(from_fn_with_state(gateway.clone(), measured))
        .route("/v1/openapi.json", get(async || Json(document::document())))
        .route("/livez", get(async || "alive\n"))
        .route("/ready", get(ready))
        .fallback(missing)
        // Bodies have bounds of their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(gateway)
}

/// Whoever sends traffic here looks whether it is served; a server that is away is told by each answer.
async fn ready(State(gateway): State<Gateway>) -> (StatusCode, String) {
    let phase = if gateway.stop.is_cancelled() { Phase::Draining } else { gateway.health.phase() };
    let status = if phase == Phase::Running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", phase.name()))
}

async fn missing(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn measured(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str);
    let route = format!("{} {path}", method(&request));
    let mut response = next.run(request).await;
    gateway.health.metrics().gateway_request(&route, response.status().as_u16(), since.elapsed());
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// Of a bounded set.
fn method(request: &Request) -> &'static str {
    match request.method().as_str() {
        "POST" => "POST",
        "GET" | "HEAD" => "GET",
        "DELETE" => "DELETE",
        _ => "other",
    }
}
