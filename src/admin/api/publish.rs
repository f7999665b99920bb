//! Publishing a job.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{JsonText, Path};
use crate::{
    admin::{access::Viewer, problem::Problem, state::Admin},
    gateway::key,
};

/// A job to publish, as `carebell gateway` takes it. The queue names its kind and its lane.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", example = json!({
    "job": { "recipients": [{ "userId": "ana" }], "title": "Tea" }, "jobId": "tea-1", "delay": "1h",
}))]
#[expect(dead_code, reason = "`gateway/job.rs` reads the fields one by one, to name each that is wrong")]
pub struct Publishing {
    /// The kind's message of jobs.proto, as canonical JSON.
    #[schema(value_type = Object)]
    job: serde_json::Value,
    /// 1 to 128 of A-Z a-z 0-9 _ : . -; else Idempotency-Key, else a new one.
    job_id: Option<String>,
    /// RFC 3339: when it runs.
    at: Option<String>,
    /// In place of `at`, from now, as 5m.
    delay: Option<String>,
    /// RFC 3339: when it expires.
    not_after: Option<String>,
    /// Its own number of attempts.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295u64)]
    attempts: Option<u32>,
    /// fixed 5m, or exponential 1m to 1h.
    backoff: Option<String>,
    /// As 30s.
    timeout: Option<String>,
}

/// A job that is stored.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Its id.
    pub job_id: String,
    /// Whether the same job came before under this id.
    pub duplicate: bool,
}

/// Publishes a job to a queue, as an application would. With the same id, and the same job, it is published once.
#[utoipa::path(
    post, path = "/queues/{queue}/jobs", tag = "queues", security(("bearer" = ["operator"])),
    params(
        ("queue" = String, Path, description = "Its durable, such as notification_normal", example = "notification_normal"),
        ("Idempotency-Key" = Option<String>, Header, description = "The id of a job that names none"),
    ),
    request_body = Publishing,
    responses(
        (status = 202, description = "JetStream has stored it", body = Published),
        (status = 404, description = "There is no such queue", body = Problem),
        (status = 409, description = "The id is another job's, or the queue's jobs are Carebell's own", body = Problem),
        (status = 422, description = "A field is wrong: it is named", body = Problem),
    )
)]
pub async fn publish(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    headers: HeaderMap,
    JsonText(text): JsonText,
) -> Result<(StatusCode, Json<Published>), Problem> {
    let queue = admin.open_queue(&name)?;
    // One that is no text is refused as any other that is malformed.
    let id = headers.get("Idempotency-Key").map(|value| value.to_str().map(key).unwrap_or_default());
    publish_text(&admin, &viewer, queue, &text, id).await
}

/// Publishes what a body holds.
///
/// # Errors
/// Names the field that is wrong; or if its id is another job's, or a server is away.
pub async fn publish_text(
    admin: &Admin,
    viewer: &Viewer,
    queue: crate::kind::Queue,
    text: &Bytes,
    id: Option<&str>,
) -> Result<(StatusCode, Json<Published>), Problem> {
    let job = admin.read_job(queue, text, id)?;
    let job_id = job.id.clone();
    let duplicate = admin.publish(viewer, job).await?;
    Ok((StatusCode::ACCEPTED, Json(Published { job_id, duplicate })))
}
