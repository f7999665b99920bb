//! Errors as problem documents (RFC 9457).

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{effects::submit::NotSubmitted, store::StoreError};

/// How long to wait for a server that is away, or for room.
const AWAY: u64 = 5;

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A name of the kind of problem, as a URN.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The kind in words.
    title: &'static str,
    /// As in the status line.
    status: u16,
    /// This case: what was wrong, what was expected, what to do.
    detail: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Seconds, as in the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its path.
    pub path: String,
    /// The problem, and what was expected.
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, title, status: status.as_u16(), detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    fn again_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let detail = "this needs a token that is known, not revoked and not expired: Authorization: Bearer …. \
                      `carebell gateway tokens add` makes tokens";
        Self::new(StatusCode::UNAUTHORIZED, "urn:carebell:problem:unauthorized", "No valid token", detail)
    }

    /// 403.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "urn:carebell:problem:forbidden", "Not allowed", detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "urn:carebell:problem:not-found", "Not found", detail)
    }

    /// 405.
    pub fn method() -> Self {
        let detail = "there is no such method here: see docs/GATEWAY.md";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "urn:carebell:problem:method", "Method not allowed", detail)
    }

    /// 408.
    pub fn too_slow(seconds: u64) -> Self {
        let detail = format!("the body has not arrived within {seconds} s");
        Self::new(StatusCode::REQUEST_TIMEOUT, "urn:carebell:problem:too-slow", "Too slow", detail)
    }

    /// 409.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "urn:carebell:problem:conflict", "Conflict", detail)
    }

    /// 413.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "urn:carebell:problem:too-large", "Too large", detail)
    }

    /// 415.
    pub fn media_type() -> Self {
        let detail = "the body must be one job as application/json, or a job on each line as application/x-ndjson or \
                      application/jsonl: set Content-Type";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "urn:carebell:problem:media-type", "Unexpected content type", detail)
    }

    /// 422, with the field that is wrong. An empty path stands for the whole.
    pub fn field(path: impl Into<String>, detail: impl Into<String>) -> Self {
        let error = FieldError { path: path.into(), detail: detail.into() };
        let text =
            if error.path.is_empty() { error.detail.clone() } else { format!("`{}` {}", error.path, error.detail) };
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let problem = Self::new(status, "urn:carebell:problem:invalid", "Invalid job", text);
        Self { errors: vec![error], ..problem }
    }

    /// 429.
    pub fn too_many(rate: i32, seconds: u64) -> Self {
        let detail = format!("this token may publish {rate} jobs a second");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "urn:carebell:problem:too-many", "Too many jobs", detail).again_after(seconds)
    }

    /// 503.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "urn:carebell:problem:unavailable", "Not available now", detail).again_after(AWAY)
    }

    /// 503 for a bound of the gateway itself.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::unavailable(detail).again_after(1)
    }

    /// The fields that are wrong, each with what was expected.
    pub fn into_errors(self) -> Vec<(String, String)> {
        self.errors.into_iter().map(|error| (error.path, error.detail)).collect()
    }

    /// This case in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the same request may succeed later.
    pub fn is_unavailable(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) | StoreError::Busy(why) => Self::unavailable(format!("the database: {why}")),
            StoreError::Data(why) => Self::field("", why),
            StoreError::Fault(why) => {
                tracing::error!("the database gave an unexpected answer to the gateway: {why}");
                let detail = "the database gave an unexpected answer, which the log of the gateway has";
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, "urn:carebell:problem:fault", "Not answered", detail)
            }
        }
    }
}

impl From<NotSubmitted> for Problem {
    fn from(why: NotSubmitted) -> Self {
        match why {
            NotSubmitted::QueueFull { .. } => {
                Self::unavailable("the queue is full, because workers are behind or stopped: nothing was published")
            }
            NotSubmitted::NoStorage { .. } => {
                Self::unavailable("NATS has no storage left: nothing was published, and other jobs may find room")
            }
            NotSubmitted::InProcess { .. } => {
                Self::unavailable("too few nodes of the NATS cluster answer: the job may be stored or lost")
            }
            NotSubmitted::Other(why) => {
                Self::unavailable(format!("NATS has not acknowledged the job, which may be stored or lost: {why}"))
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status(), [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"carebell\""));
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            // The rest of the body would be taken for the next request.
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
