//! `carebell admin`: the console and its API, for people on call and coordinators.
//!
//! A process and a port of its own, with a small pool: no page can slow a worker. Each request passes one gate
//! ([`access`] says who may do what); what it may need is said where its route is declared.

pub mod access;
mod acts;
mod aliases;
mod api;
mod channels;
mod failures;
mod gate;
mod metrics;
mod oidc;
mod operations;
mod pages;
mod pausing;
mod people;
mod places;
mod problem;
mod proxy;
mod publishing;
mod query;
mod reads;
mod secret;
mod sign_in;
mod snapshot;
mod state;
mod zones;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue},
    middleware::{from_fn_with_state, map_response},
    response::Response,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    access::Access,
    places::{CONSOLE, LARGEST_BODY},
};
pub use self::{
    problem::Problem,
    secret::{draw as draw_secret, hash as hash_secret},
    state::{Admin, Parts},
};
use crate::{
    channels::SettingsError,
    config::NatsConfig,
    health::Health,
    http,
    nats::{self, JetStream},
    store::{Database, Store},
};

/// A page is a few short statements.
const CONNECTIONS: u32 = 6;

/// No page may slow a worker for longer.
const LONGEST_STATEMENT: Duration = Duration::from_secs(2);

/// Interval of attempts to reach NATS.
const AGAIN: Duration = Duration::from_secs(1);

/// Nothing but our own files, and no other page around ours.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The console's own connections to a database.
#[must_use]
pub fn store(database: &Database) -> Store {
    Store::impatient(database, CONNECTIONS, LONGEST_STATEMENT)
}

/// The path of a way in that is good once.
#[must_use]
pub fn ticket_path(ticket: &str) -> String {
    format!("{CONSOLE}/enter/{ticket}")
}

/// Serves on `port` (0 for any free one) until `stop`, on the current runtime.
///
/// # Errors
/// If a port cannot be bound, or a file of certificates cannot be read.
pub fn serve(parts: Parts, stop: CancellationToken) -> Result<SocketAddr, ServeError> {
    let listener = http::listen(parts.config.port)?;
    let address = listener.local_addr()?;
    let metrics_port = parts.config.metrics_port;
    let (router, admin) = routes(parts)?;
    tokio::spawn(admin.carrier().run(stop.clone()));
    if let Some(port) = metrics_port {
        metrics::serve(port, admin, stop.clone())?;
    }
    tokio::spawn(http::listener::serve(listener, router, stop));
    Ok(address)
}

/// Why the console cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is not available.
    #[error("ADMIN_PORT cannot be served: {0}")]
    Port(#[from] io::Error),
    /// A setting is wrong.
    #[error("{0}")]
    Settings(#[from] SettingsError),
}

/// Reaches NATS, however long that takes, until `stop`.
pub fn reach_nats(config: NatsConfig, stop: CancellationToken) -> Arc<OnceLock<JetStream>> {
    let reached = Arc::new(OnceLock::new());
    let place = Arc::clone(&reached);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut told = false;
        loop {
            match nats::connect(&config, &Health::new()).await {
                Ok(client) => {
                    let _ = place.set(nats::jetstream(&client));
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

fn routes(parts: Parts) -> Result<(Router, Admin), SettingsError> {
    let mut access = Access::default();
    let router = Router::new()
        .merge(api::routes(&mut access))
        .merge(aliases::routes(&mut access))
        .merge(pages::routes(&mut access));
    let admin = Admin::new(parts, access)?;
    let mut router = router
        .route_layer(from_fn_with_state(admin.clone(), gate::pass))
        .fallback(missing)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(map_response(guarded));
    if admin.metrics.is_some() {
        router = router.layer(from_fn_with_state(admin.clone(), metrics::count));
    }
    Ok((router.with_state(admin.clone()), admin))
}

async fn missing(uri: axum::http::Uri) -> Response {
    use axum::response::IntoResponse;

    let problem = Problem::not_found(format!("there is nothing at {}", uri.path()));
    if uri.path().starts_with(CONSOLE) { pages::refused(&problem) } else { problem.into_response() }
}

async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
    response
}
