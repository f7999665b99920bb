//! `PUBLIC_PORT`, the only public endpoint: status callbacks of providers, `POST /callbacks/<channel>/<delivery id>`, and
//! reports of endpoints (`tasks/desk.rs`).
//!
//! An unsigned callback is rejected before anything is looked up or written. `store/callbacks.rs` writes the report to
//! the ledger.

mod counts;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    routing::post,
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

pub use self::counts::{CallbackOutcome, Counts};
use crate::{
    channels::gateway::{Callback, Receiver},
    clock::Clock,
    http,
    plan::Channel,
    store::{Noted, Reported, Store, StoreError},
    telemetry::metrics::Metrics,
};

/// Bytes of a body. Providers send about 1 KiB.
const MAX_BODY: usize = 16 * 1024;

const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the database. Providers wait 15 s for a response, and most never retry.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);

const WRITE_AGAIN: Duration = Duration::from_millis(250);

const MOST_AT_ONCE: usize = 64;

const ROUTE: &str = "/callbacks/{channel}/{delivery}";

const SIGNATURE: &str = "x-twilio-signature";

type Said = (StatusCode, &'static str);

const NOTED: Said = (StatusCode::NO_CONTENT, "");
const NO_CHANNEL: Said = (StatusCode::NOT_FOUND, "this channel is not configured\n");
const NO_DELIVERY: Said = (StatusCode::NOT_FOUND, "unknown delivery\n");
const NO_FORM: Said = (StatusCode::BAD_REQUEST, "the body must be application/x-www-form-urlencoded\n");
const BROKEN: Said = (StatusCode::BAD_REQUEST, "the body is incomplete\n");
const TOO_LONG: Said = (StatusCode::PAYLOAD_TOO_LARGE, "the body must have at most 16 KiB\n");
const TOO_SLOW: Said = (StatusCode::REQUEST_TIMEOUT, "the body takes too long\n");
const FORGED: Said = (StatusCode::FORBIDDEN, "the signature matches no account of this channel\n");
const BUSY: Said = (StatusCode::SERVICE_UNAVAILABLE, "too many requests, try again\n");
const NO_DATABASE: Said = (StatusCode::SERVICE_UNAVAILABLE, "the database is down, try again\n");

/// A running listener.
#[derive(Debug)]
pub struct Listening {
    /// Its address.
    pub address: SocketAddr,
    /// Outcomes of callbacks so far.
    pub counts: Arc<Counts>,
    /// Completes once the requests in flight at the stop are done, within seconds.
    pub ended: JoinHandle<()>,
}

struct Desk {
    receiver: Receiver,
    store: Store,
    clock: Clock,
    counts: Arc<Counts>,
    permits: Semaphore,
}

/// Listens on `port` (0 = any free one) of all addresses until `stop`, in the current runtime: for callbacks, if there is
/// a receiver, and for `more` routes. Fails if the port is taken.
pub fn serve(
    port: u16,
    receiver: Option<Receiver>,
    more: Router,
    store: Store,
    clock: Clock,
    metrics: &Metrics,
    stop: CancellationToken,
) -> io::Result<Listening> {
    let listener = http::listen(port)?;
    let address = listener.local_addr()?;
    let counts = Arc::new(Counts::new(metrics));
    let mut router = more;
    if let Some(receiver) = receiver {
        let permits = Semaphore::new(MOST_AT_ONCE);
        // A proxy may strip the path of the public URL, or leave it.
        let outside = format!("{}{ROUTE}", receiver.public_url().path());
        let desk = Arc::new(Desk { receiver, store, clock, counts: Arc::clone(&counts), permits });
        let mut callbacks = Router::new().without_v07_checks().route(ROUTE, post(receive));
        if outside != ROUTE {
            callbacks = callbacks.route(&outside, post(receive));
        }
        router = router.merge(callbacks.with_state(desk));
    }
    let ended = tokio::spawn(http::listener::serve(listener, router, stop));
    Ok(Listening { address, counts, ended })
}

async fn receive(
    State(desk): State<Arc<Desk>>,
    Path((channel, delivery)): Path<(String, String)>,
    request: Request,
) -> (StatusCode, String) {
    let Some(channel) = Channel::parse(&channel).filter(|channel| desk.receiver.has(*channel)) else {
        return said(NO_CHANNEL);
    };
    let (parts, body) = request.into_parts();
    if !is_form(&parts.headers) {
        desk.counts.add(CallbackOutcome::Malformed);
        return said(NO_FORM);
    }
    let body = match timeout(READ_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            desk.counts.add(CallbackOutcome::Malformed);
            let too_long =
                std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("length limit"));
            return said(if too_long { TOO_LONG } else { BROKEN });
        }
        Err(_) => {
            desk.counts.add(CallbackOutcome::Malformed);
            return said(TOO_SLOW);
        }
    };
    let parameters: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
    let signature = parts.headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(provider) = desk.receiver.signer(channel, &delivery, &parameters, signature) else {
        if let Some(forged) = desk.counts.forged() {
            let channel = channel.name();
            tracing::warn!(channel, forged, "a callback was not signed by an account of its channel; nothing written");
        }
        return said(FORGED);
    };
    let callback = match Callback::read(channel, &parameters) {
        Ok(callback) => callback,
        Err(malformed) => {
            desk.counts.add(CallbackOutcome::Malformed);
            tracing::warn!(channel = channel.name(), provider, "unreadable signed callback: {malformed}");
            return (StatusCode::BAD_REQUEST, format!("{malformed}\n"));
        }
    };
    // After authentication, so that forgeries take no permits.
    let Ok(_permit) = desk.permits.try_acquire() else { return said(BUSY) };
    let reported = Reported {
        id: delivery,
        channel,
        report: callback.report,
        provider: provider.to_owned(),
        provider_id: callback.provider_id,
        words: callback.words,
        now: desk.clock.now(),
    };
    said(desk.write(&reported).await)
}

impl Desk {
    async fn write(&self, reported: &Reported) -> Said {
        let (delivery, channel) = (reported.id.as_str(), reported.channel.name());
        match self.write_in_time(reported).await {
            Ok(Noted::Changed(state)) => {
                self.counts.add(CallbackOutcome::Noted);
                tracing::info!(delivery, channel, state, said = reported.words, "reported by its provider: {state}");
                NOTED
            }
            Ok(Noted::Known) => {
                self.counts.add(CallbackOutcome::Known);
                NOTED
            }
            Ok(Noted::Missing) => {
                self.counts.add(CallbackOutcome::Missing);
                NO_DELIVERY
            }
            Err(error) => {
                self.counts.add(CallbackOutcome::Lost);
                tracing::error!(delivery, channel, said = reported.words, "callback could not be written: {error}");
                NO_DATABASE
            }
        }
    }

    /// Retries while the database is down.
    async fn write_in_time(&self, reported: &Reported) -> Result<Noted, StoreError> {
        let deadline = Instant::now() + WRITE_TIMEOUT;
        loop {
            match self.store.record_report(reported).await {
                Err(StoreError::Unavailable(_) | StoreError::Busy(_)) if Instant::now() < deadline => {
                    sleep(WRITE_AGAIN).await;
                }
                done => return done,
            }
        }
    }
}

fn said((status, text): Said) -> (StatusCode, String) {
    (status, text.to_owned())
}

fn is_form(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}
