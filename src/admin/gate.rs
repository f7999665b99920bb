//! The gate that each request passes.

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    access::{Need, Viewer, Way},
    pages::refused,
    places::CONSOLE,
    problem::Problem,
    state::Admin,
};
use crate::http::listener::Peer;

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// Lets a request through if its sender may. A layer of all routes.
pub async fn pass(State(admin): State<Admin>, matched: MatchedPath, mut request: Request, next: Next) -> Response {
    let path = matched.as_str();
    let is_page = path.starts_with(CONSOLE);
    match check(&admin, path, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) if is_page && problem.is_unauthorized() && request.method() == Method::GET => {
            let wanted = request.uri().path_and_query().map_or(CONSOLE, |path| path.as_str());
            let wanted = utf8_percent_encode(wanted, NON_ALPHANUMERIC);
            Redirect::to(&format!("{CONSOLE}/sign-in?next={wanted}")).into_response()
        }
        Err(problem) if is_page => refused(&problem),
        Err(problem) => problem.into_response(),
    }
}

async fn check(admin: &Admin, path: &str, request: &mut Request) -> Result<(), Problem> {
    let need =
        admin.access.need(request.method(), path).map_err(|methods| Problem::method(request.method(), &methods))?;
    let peer = request.extensions().get::<Peer>().copied();
    let viewer = admin.viewer(request.headers(), peer).await;
    let viewer = match need {
        // A page for everybody must not fail for a bad cookie.
        Need::Public => viewer.unwrap_or_default(),
        Need::Role(least) => {
            let viewer = viewer?.ok_or_else(Problem::unauthorized)?;
            if viewer.role < least {
                return Err(Problem::forbidden(viewer.role, least));
            }
            Some(viewer)
        }
    };
    let by_cookie = viewer.as_ref().is_none_or(|viewer| viewer.way != Way::Token);
    if by_cookie && !request.method().is_safe() && !is_same_origin(request.headers()) {
        return Err(Problem::cross_site());
    }
    if let Some(viewer) = viewer {
        request.extensions_mut().insert(viewer);
    }
    Ok(())
}

/// Whether a browser sent it from one of our own pages. Old browsers name only the origin.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn forms_of_other_sites_are_told_apart() {
        let same = [
            headers(&[("sec-fetch-site", "same-origin")]),
            headers(&[("origin", "https://console.example"), ("host", "console.example")]),
            headers(&[("origin", "http://127.0.0.1:3004"), ("host", "127.0.0.1:3004")]),
        ];
        let others = [
            headers(&[]),
            headers(&[("sec-fetch-site", "cross-site")]),
            headers(&[("sec-fetch-site", "same-site")]),
            headers(&[("sec-fetch-site", "none"), ("origin", "https://console.example"), ("host", "console.example")]),
            headers(&[("origin", "https://evil.example"), ("host", "console.example")]),
            headers(&[("origin", "null"), ("host", "console.example")]),
        ];
        assert!(same.iter().all(is_same_origin));
        assert!(!others.iter().any(is_same_origin));
    }
}
