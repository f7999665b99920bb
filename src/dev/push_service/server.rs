//! The listener: TLS with a root of its own, HTTP/2 and 1.1, one handler.

use std::{io, sync::Arc, time::Duration};

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
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    Behaviour, Reply,
    state::State,
    verify::{self, MAX_BODY, Violation},
};

/// What `to_bytes` says of a body that is longer than it may be.
const TOO_LONG: &str = "length limit exceeded";

/// A root, and a certificate for `localhost` that it signed.
pub fn certificates() -> io::Result<(TlsAcceptor, String)> {
    let made = || -> Result<_, rcgen::Error> {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = KeyPair::generate()?;
        let root_certificate = root.self_signed(&root_key)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?
            .signed_by(&key, &Issuer::new(root, root_key))?;
        Ok((root_certificate.pem(), certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    let (ca_pem, certificate, key) = made().map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key.into()))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), ca_pem))
}

/// Accepts connections until it is told to stop.
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
    // A handshake that fails is the client's business: it tells its user.
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
    // Somebody looks whether anybody is there, as `carebell doctor` does: no push, and none that went wrong.
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
        // Else the sender is gone in the middle of it, as one that is killed: that breaks no rule.
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

/// Longer than any sender waits. Bounded, so that a forgotten request does not keep its connection for ever.
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
