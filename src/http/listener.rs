//! How Carebell listens: few connections, short, never idle for long, and closed after a refusal.
//!
//! Without a bound, whoever opens enough of them takes the descriptors that the work needs.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    http::{HeaderValue, header::CONNECTION},
    middleware::map_response,
    response::Response,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Further connections wait to be accepted.
pub const MOST_CONNECTIONS: usize = 256;

/// Limit of a request's head, and of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Then it ends after the request in flight.
const LONGEST_CONNECTION: Duration = Duration::from_mins(1);

/// Limit for requests in flight at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Pause after a failed accept, mostly for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long and how many connections are served.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Further connections wait to be accepted.
    pub connections: usize,
    /// Limit of a request's head, and of an idle connection.
    pub head: Duration,
    /// Then it ends after the request in flight.
    pub longest: Duration,
    /// Limit for requests in flight at the end.
    pub grace: Duration,
    /// Whether a refusal ends its connection.
    pub closes_refused: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: MOST_CONNECTIONS,
            head: HEAD_TIMEOUT,
            longest: LONGEST_CONNECTION,
            grace: GRACE,
            closes_refused: true,
        }
    }
}

/// The address of the other end, as an extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_within(Limits::default(), listener, router, stop).await;
}

/// As [`serve`], within other limits.
pub async fn serve_within(limits: Limits, listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = if limits.closes_refused { router.layer(map_response(closed_if_refused)) } else { router };
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some(Ok(permit)) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await {
        match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Err(_)) => sleep(ACCEPT_AGAIN).await,
            Some(Ok((stream, peer))) => {
                let peer = Peer(peer.ip().to_canonical());
                let (router, stop) = (router.clone().layer(Extension(peer)), stop.clone());
                connections.spawn(async move {
                    connection(stream, router, limits, stop).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = timeout(limits.grace, connections.wait()).await;
}

/// Whoever is refused takes a place only once.
async fn closed_if_refused(mut response: Response) -> Response {
    if response.status().is_client_error() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(limits.longest) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(limits.grace, serving).await;
}
