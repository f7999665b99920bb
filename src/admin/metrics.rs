//! Metrics of the console, on a port of their own: the console's may be open to browsers.

use std::{io, sync::atomic::Ordering};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::header::CONTENT_TYPE,
    middleware::Next,
    response::Response,
    routing::get,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::state::Admin;
use crate::http;

/// Counts an answer. A layer of all routes, and of none if no metrics are served.
pub async fn count(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let since = Instant::now();
    let response = next.run(request).await;
    if let Some(metrics) = &admin.metrics {
        let route = route.as_ref().map(MatchedPath::as_str);
        metrics.answered(route, method.as_str(), response.status().as_u16(), since.elapsed());
    }
    response
}

/// Serves `/metrics` on `port` (0 for any free one) until `stop`.
///
/// # Errors
/// If the port cannot be bound.
pub fn serve(port: u16, admin: Admin, stop: CancellationToken) -> io::Result<()> {
    let listener = http::listen(port)?;
    tracing::info!(port = listener.local_addr()?.port(), "the console's metrics are served");
    let show = async |State(admin): State<Admin>| {
        let streams = admin.listeners.load(Ordering::Relaxed);
        let text = admin.metrics.as_ref().map(|metrics| metrics.text(streams)).unwrap_or_default();
        ([(CONTENT_TYPE, http::METRICS_TEXT)], text)
    };
    let router = Router::new().route("/metrics", get(show)).with_state(admin);
    tokio::spawn(http::listener::serve(listener, router, stop));
    Ok(())
}
