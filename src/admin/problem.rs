//! Errors of the API as problem documents (RFC 9457).

use axum::{
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Role;
use crate::store::StoreError;

/// A problem document.
#[derive(Clone, Debug, Serialize, ToSchema)]
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
    #[serde(skip)]
    retry_after: Option<u64>,
    #[serde(skip)]
    allow: Option<Box<str>>,
}

/// One field that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// Its name, or the path to it.
    pub path: String,
    /// What was expected.
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            allow: None,
        }
    }

    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail = "this needs a token that is known, not revoked and not expired: Authorization: Bearer …, or a \
                      session of the console. `carebell tokens add` makes tokens";
        Self::new(StatusCode::UNAUTHORIZED, "urn:carebell:problem:unauthorized", "Not signed in", detail)
    }

    /// 403 for a right that is missing.
    #[must_use]
    pub fn forbidden(is: Role, least: Role) -> Self {
        let detail = format!("this needs the role {}, and yours is {}", least.name(), is.name());
        Self::new(StatusCode::FORBIDDEN, "urn:carebell:problem:forbidden", "Not allowed", detail)
    }

    /// 401 for a sign-in that proves nothing.
    #[must_use]
    pub fn not_signed_in(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "urn:carebell:problem:unauthorized", "Not signed in", detail)
    }

    /// 403 for somebody who is known and has no role.
    #[must_use]
    pub fn no_role(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "urn:carebell:problem:forbidden", "Not allowed", detail)
    }

    /// 403 for a form of another site.
    #[must_use]
    pub fn cross_site() -> Self {
        let detail = "the request comes from another site, or its browser does not say from where. Behind a proxy, the \
                      header Host must arrive as the browser sent it";
        Self::new(StatusCode::FORBIDDEN, "urn:carebell:problem:cross-site", "From another site", detail)
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "urn:carebell:problem:not-found", "Not found", detail)
    }

    /// 405.
    #[must_use]
    pub fn method(method: &Method, known: &[Method]) -> Self {
        let known = known.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!("there is no {method} here, only {known}");
        let problem =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, "urn:carebell:problem:method", "Method not allowed", detail);
        Self { allow: Some(known.into()), ..problem }
    }

    /// 409.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "urn:carebell:problem:conflict", "Not possible now", detail)
    }

    /// 412.
    #[must_use]
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        let status = StatusCode::PRECONDITION_FAILED;
        Self::new(status, "urn:carebell:problem:precondition-failed", "Changed meanwhile", detail)
    }

    /// 428.
    #[must_use]
    pub fn precondition_required(detail: impl Into<String>) -> Self {
        let status = StatusCode::PRECONDITION_REQUIRED;
        Self::new(status, "urn:carebell:problem:precondition-required", "Which version?", detail)
    }

    /// 413.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "urn:carebell:problem:too-large", "Too large", detail)
    }

    /// 415.
    #[must_use]
    pub fn media_type(expected: &str) -> Self {
        let detail = format!("the body must be {expected}: set Content-Type");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "urn:carebell:problem:media-type",
            "Unexpected content type",
            detail,
        )
    }

    /// 422, with the field that is wrong.
    #[must_use]
    pub fn field(path: impl Into<String>, detail: impl Into<String>) -> Self {
        let error = FieldError { path: path.into(), detail: detail.into() };
        Self::fields(vec![error])
    }

    /// 422, with the fields that are wrong.
    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let all: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.path, error.detail)).collect();
        let problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "urn:carebell:problem:invalid",
            "Invalid request",
            all.join("; "),
        );
        Self { errors, ..problem }
    }

    /// What is wrong with a field, or with a part of it.
    #[must_use]
    pub fn of_field(&self, name: &str) -> Option<&str> {
        let is_of =
            |path: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.errors.iter().find(|error| is_of(&error.path)).map(|error| error.detail.as_str())
    }

    /// The same, with the names that fields have in other JSON: pairs of ours and theirs.
    #[must_use]
    pub fn with_names(self, names: &[(&str, &str)]) -> Self {
        if self.errors.is_empty() {
            return self;
        }
        let renamed = |path: String| {
            let other = names.iter().find_map(|(ours, theirs)| {
                let rest = path.strip_prefix(ours)?;
                (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{theirs}{rest}"))
            });
            other.unwrap_or(path)
        };
        let errors = self.errors.into_iter();
        Self::fields(errors.map(|error| FieldError { path: renamed(error.path), ..error }).collect())
    }

    /// 429.
    #[must_use]
    pub fn too_many(detail: impl Into<String>, retry_after: u64) -> Self {
        let problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "urn:carebell:problem:too-many", "Too many requests", detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    /// 503 for a server that is away.
    #[must_use]
    pub fn unavailable(server: &str, why: &str) -> Self {
        let problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "urn:carebell:problem:unavailable",
            "Not available now",
            format!("{server}: {why}"),
        );
        Self { retry_after: Some(2), ..problem }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether signing in would help.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.status() == StatusCode::UNAUTHORIZED
    }

    /// The kind in words.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// This case.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Puts the headers of its status on an answer.
    pub fn mark(&self, response: &mut Response) {
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow.as_ref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if self.is_unauthorized() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"carebell\""));
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) | StoreError::Busy(why) => Self::unavailable("the database", &why),
            StoreError::Data(why) => Self::field("body", why),
            StoreError::Fault(why) => {
                tracing::error!("the database gave an unexpected answer to the console: {why}");
                let detail = "the database gave an unexpected answer, which the log of `carebell admin` has";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "urn:carebell:problem:fault", "Not answered", detail)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = ([(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        self.mark(&mut response);
        response
    }
}
