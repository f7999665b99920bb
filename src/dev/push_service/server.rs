use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State as Extract},
    http::{HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    Behaviour, Reply,
    state::State,
    verify::{self, MAX_BODY, Violation},
};

/// Error of `to_bytes` over the limit.
const TOO_LONG: &str = "length limit exceeded";

pub async fn serve(listener: TcpListener, tls: TlsAcceptor, state: Arc<State>, stop: CancellationToken) {
    let router = Router::new().fallback(handle).with_state(Arc::clone(&state));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (tls, state, router, stop) = (tls.clone(), Arc::clone(&state), router.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, tls, &state, router) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, state: &State, router: Router) {
    let _ = stream.set_nodelay(true);
    // The client reports failed handshakes.
    let Ok(stream) = tls.accept(stream).await else { return };
    let dropped = state.connected();
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        () = dropped.cancelled() => {}
        _ = serving => {}
    }
}

async fn handle(Extract(state): Extract<Arc<State>>, request: Request) -> Response {
    // A reachability check, as by `carebell doctor`.
    if request.method() == Method::HEAD && request.uri().path() == "/" {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let _under_way = state.requested();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await;
    let request = verify::Request {
        method: &parts.method,
        path: parts.uri.path(),
        headers: &parts.headers,
        body: body.as_deref().unwrap_or_default(),
    };
    if let Err(error) = &body {
        let violation = Violation::new(413, format!("the body is longer than {MAX_BODY} bytes"));
        // Otherwise the sender is gone, which breaks no rule.
        if error.to_string() == TOO_LONG {
            state.reject(None, &violation);
        }
        return refusal(&violation);
    }
    let passed = match state.judge(&request) {
        Ok(passed) => passed,
        Err(violation) => return refusal(&violation),
    };
    match passed.behaviour.clone() {
        None => state.accept(passed),
        Some(Behaviour::Answer(reply)) => {
            if (200..300).contains(&reply.status) {
                state.accept(passed);
            }
            return answer(reply);
        }
        Some(Behaviour::Slow(delay)) => {
            state.accept(passed);
            tokio::time::sleep(delay).await;
        }
        Some(Behaviour::Hang) => never().await,
        Some(Behaviour::Swallow) => {
            state.accept(passed);
            never().await;
        }
    }
    StatusCode::CREATED.into_response()
}

/// Longer than any sender waits.
async fn never() {
    tokio::time::sleep(Duration::from_hours(1)).await;
}

fn refusal(violation: &Violation) -> Response {
    answer(Reply { status: violation.status, headers: Vec::new(), body: violation.why.clone() })
}

fn answer(reply: Reply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in reply.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
