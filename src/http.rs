//! HTTP endpoints of the worker, for internal networks: `/livez`, `/ready`, `/health`, `/healthz` and `/metrics`.

pub mod listener;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use axum::{
    Json, Router, extract,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    channels::Channels,
    health::{Health, Part, Phase},
    pauses::Pause,
    schedule::ZoneData,
    store::Store,
    telemetry::metrics::Present,
};

/// State that the endpoints show.
#[derive(Clone)]
pub struct State {
    /// The worker's health.
    pub health: Arc<Health>,
    /// The worker's channels.
    pub channels: Channels,
    /// The worker's database, once connected.
    pub store: Arc<OnceLock<Store>>,
}

/// Serves on `port` (0 for any free one) until `stop`, on the current runtime.
///
/// # Errors
/// If the port cannot be bound.
pub fn serve(port: u16, state: State, stop: CancellationToken) -> io::Result<SocketAddr> {
    let listener = listen(port)?;
    let address = listener.local_addr()?;
    tokio::spawn(listener::serve(listener, routes(state), stop));
    Ok(address)
}

/// The content type of Prometheus' text format.
pub const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// As in the standard library.
const BACKLOG: i32 = 128;

/// Listens on a port (0 for any free one), for IPv6 and IPv4, or IPv4 alone if there is no IPv6. Needs a runtime.
///
/// # Errors
/// If the port cannot be bound.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => bind((Ipv4Addr::UNSPECIFIED, port).into()),
        done => done,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Overrides the system's default.
        socket.set_only_v6(false)?;
    }
    // Connections of a predecessor must not block the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn routes(state: State) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/health", get(show))
        .route("/healthz", get(show))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// 503 while starting and draining, to receive no traffic.
async fn ready(extract::State(State { health, .. }): extract::State<State>) -> (StatusCode, String) {
    let phase = health.phase();
    let status = if phase == Phase::Running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", phase.name()))
}

/// 503 while a part is down.
async fn show(extract::State(State { health, channels, .. }): extract::State<State>) -> (StatusCode, Json<Value>) {
    let well = health.is_well() && health.phase() != Phase::Starting;
    let parts: serde_json::Map<String, Value> = health
        .parts()
        .into_iter()
        .map(|(name, part)| {
            let state = match part {
                Part::Up => json!({ "state": "up" }),
                Part::Down(why) => json!({ "state": "down", "why": why }),
            };
            (name.to_owned(), state)
        })
        .collect();
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if well { "up" } else { "down" };
    let lag = health.schedule_lag().map(|lag| lag.num_milliseconds());
    // Only shown: a provider's outage does not make the worker unhealthy.
    let breakers: serde_json::Map<String, Value> = channels
        .breakers()
        .into_iter()
        .map(|((channel, provider), state)| (format!("{} {provider}", channel.name()), state.name().into()))
        .collect();
    // Only shown: they are the application's.
    let odd_rows: Vec<Value> = health
        .odd_rows()
        .into_iter()
        .map(|odd| json!({ "what": odd.what, "rows": odd.count, "first": odd.first }))
        .collect();
    // Only shown: people wish it.
    let paused: Vec<Value> = health
        .pauses()
        .all()
        .into_iter()
        .map(|Pause { scope, name, reason, actor, since, until }| {
            json!({ "scope": scope.name(), "name": name, "reason": reason, "by": actor, "since": since, "until": until })
        })
        .collect();
    let body = json!({
        "status": word,
        "phase": health.phase().name(),
        "parts": parts,
        "schedule_lag_ms": lag,
        "breakers": breakers,
        "paused": paused,
        "odd_care_rows": odd_rows,
        "zones": ZoneData::in_use().to_string(),
    });
    (status, Json(body))
}

/// Prometheus metrics, from memory.
async fn metrics(extract::State(State { health, channels, store }): extract::State<State>) -> impl IntoResponse {
    let parts = health.parts().into_iter().map(|(name, part)| (name, part == Part::Up)).collect();
    let lag = health.schedule_lag().and_then(|lag| lag.to_std().ok());
    let present = Present {
        breakers: channels.levels(),
        paused: health.pauses().all().into_iter().map(|pause| (pause.scope.name(), pause.name)).collect(),
        parts,
        schedule: lag.zip(health.schedule_due()),
        connections: store.get().map(Store::connections),
    };
    ([(CONTENT_TYPE, METRICS_TEXT)], health.metrics().text(&present))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn both_protocols_reach_a_port_that_is_one_programs_alone() {
        let listener = listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await.unwrap();
        let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
        assert_eq!(TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).await.is_ok(), has_ipv6);
        assert_eq!(listen(address.port()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
