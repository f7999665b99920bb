//! Paths, queries and bodies, read strictly: what is wrong is named by its field.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, Uri, header::CONTENT_TYPE, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::admin::{places::LARGEST_BODY, problem::Problem};

/// Parameters of a query. Unknown ones are refused by the type's `deny_unknown_fields`.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        query(&parts.uri).map(Self)
    }
}

/// Parameters of an address.
///
/// # Errors
/// Names what is malformed or unknown.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let read = axum::extract::Query::try_from_uri(uri);
    let axum::extract::Query(query) = read.map_err(|error| {
        let text = error.body_text();
        let why = text.split_once(": ").map_or(&*text, |(_, why)| why);
        Problem::field("query", why)
    })?;
    Ok(query)
}

/// A part of the path.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        let axum::extract::Path(path) = read.map_err(|error| Problem::field("path", error.body_text()))?;
        Ok(Self(path))
    }
}

/// A body of JSON.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(Problem::media_type("application/json"));
        }
        parse(&bytes(request, state).await?).map(Self)
    }
}

/// The text of a body of JSON, for whoever reads its fields one by one.
#[derive(Clone, Debug)]
pub struct JsonText(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonText {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(Problem::media_type("application/json"));
        }
        bytes(request, state).await.map(Self)
    }
}

/// A body of JSON, if there is a body at all.
///
/// # Errors
/// Names what is malformed.
pub async fn body_if_any<T: DeserializeOwned>(request: Request) -> Result<Option<T>, Problem> {
    let is_json = is_json(&request);
    let bytes = bytes(request, &()).await?;
    match (bytes.is_empty(), is_json) {
        (true, _) => Ok(None),
        (false, true) => parse(&bytes).map(Some),
        (false, false) => Err(Problem::media_type("application/json")),
    }
}

fn is_json(request: &Request) -> bool {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    })
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|error| {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Problem::too_large(LARGEST_BODY);
        }
        Problem::field("body", error.body_text())
    })
}

/// Reads JSON.
///
/// # Errors
/// Names what is malformed.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let body: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        Problem::field(
            if [".", "?"].contains(&&*path) { "body".to_owned() } else { path },
            error.into_inner().to_string(),
        )
    })?;
    reader.end().map_err(|error| Problem::field("body", error.to_string()))?;
    Ok(body)
}
