use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State as Extract},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    Behaviour, Received,
    state::Shared,
    verify::{self, Violation},
};

const MAX_BODY: usize = 64 * 1024;

#[derive(Clone)]
struct HangUp(CancellationToken);

pub async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Shared, stop: CancellationToken) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        // To the client nobody is there.
        if state.may_connect() {
            let (tls, state, stop) = (tls.clone(), Arc::clone(&state), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(connection(stream, tls, state)).await });
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, state: Shared) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    let broken = CancellationToken::new();
    let router = Router::new().fallback(handle).with_state((state, HangUp(broken.clone())));
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        () = broken.cancelled() => {}
        _ = serving => {}
    }
}

async fn handle(Extract((state, hang_up)): Extract<(Shared, HangUp)>, request: Request) -> Response {
    // Some providers serve nothing at the root.
    if request.uri().path() == "/" {
        return StatusCode::NOT_IMPLEMENTED.into_response();
    }
    // A connection from before the shutdown.
    if state.is_shut() {
        hang_up.0.cancel();
        return never().await;
    }
    let (parts, body) = request.into_parts();
    if parts.method == Method::GET && parts.uri.path() == verify::account_path(state.account()) {
        return look(&state, &hang_up, &parts.headers).await;
    }
    state.requested();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return refuse(&state, &Violation::new(413, 0, "the body is too long or breaks off"));
    };
    let request = verify::Request {
        method: &parts.method,
        path: parts.uri.path(),
        headers: &parts.headers,
        body: &body,
        account: state.account(),
        token: state.token(),
    };
    let message = match verify::verify(&request) {
        Ok(message) => message,
        Err(violation) => return refuse(&state, &violation),
    };
    respond(&state, &hang_up, message).await
}

/// A reachability check, which sends nothing but meets default behaviour.
async fn look(state: &Shared, hang_up: &HangUp, headers: &HeaderMap) -> Response {
    state.looked();
    if let Err(violation) = verify::credentials(headers, state.account(), state.token()) {
        return refuse(state, &violation);
    }
    match state.planned_always() {
        Some(Behaviour::Error { status, code, retry_after }) => {
            answer(status, error(status, code, "that is all"), retry_after)
        }
        Some(Behaviour::Plain { status, body, retry_after }) => answer(status, body, retry_after),
        Some(Behaviour::Hang) => never().await,
        Some(Behaviour::Lost) => {
            hang_up.0.cancel();
            never().await
        }
        None | Some(Behaviour::Garbage | Behaviour::Slow(_)) => {
            answer(200, json!({ "sid": state.account(), "status": "active" }).to_string(), None)
        }
    }
}

async fn respond(state: &Shared, hang_up: &HangUp, message: Received) -> Response {
    let to = message.to.clone();
    match state.planned() {
        None => created(&state.accept(message)),
        Some(Behaviour::Slow(delay)) => {
            let sid = state.accept(message);
            tokio::time::sleep(delay).await;
            created(&sid)
        }
        Some(Behaviour::Garbage) => {
            state.accept(message);
            answer(201, "<html>Thank you</html>".to_owned(), None)
        }
        Some(Behaviour::Hang) => never().await,
        Some(Behaviour::Lost) => {
            state.accept(message);
            hang_up.0.cancel();
            never().await
        }
        // Like real providers, which quote numbers.
        Some(Behaviour::Error { status, code, retry_after }) => {
            answer(status, error(status, code, &format!("'{to}' and that is all")), retry_after)
        }
        Some(Behaviour::Plain { status, body, retry_after }) => answer(status, body, retry_after),
    }
}

/// Longer than any sender waits.
async fn never() -> Response {
    tokio::time::sleep(Duration::from_hours(1)).await;
    StatusCode::GATEWAY_TIMEOUT.into_response()
}

fn created(sid: &str) -> Response {
    answer(201, json!({ "sid": sid, "status": "queued", "error_code": null }).to_string(), None)
}

fn error(status: u16, code: u32, message: &str) -> String {
    json!({ "code": code, "message": message, "status": status }).to_string()
}

fn refuse(state: &Shared, violation: &Violation) -> Response {
    state.reject(violation);
    answer(violation.status, error(violation.status, violation.code, &violation.why), None)
}

fn answer(status: u16, body: String, retry_after: Option<String>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(value) = retry_after.and_then(|value| HeaderValue::from_str(&value).ok()) {
        response.headers_mut().insert("retry-after", value);
    }
    response
}
