//! Bodies as the `OpenAPI` document describes them.

use utoipa::ToSchema;

/// A job to publish.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`job.rs` reads the fields one by one, to name each that is wrong")]
pub struct JobRequest {
    /// For example notification.
    kind: String,
    /// The kind's message of jobs.proto, as canonical JSON.
    job: serde_json::Value,
    /// 1 to 128 of A-Z a-z 0-9 _ : . -; else Idempotency-Key, else a new one.
    job_id: Option<String>,
    /// critical, normal or bulk, for kinds with lanes.
    lane: Option<String>,
    /// RFC 3339: when it runs.
    at: Option<String>,
    /// In place of `at`, from now, as 5m.
    delay: Option<String>,
    /// RFC 3339: when it expires.
    not_after: Option<String>,
    /// Its own number of attempts.
    attempts: Option<u32>,
    /// fixed 5m, or exponential 1m to 1h.
    backoff: Option<String>,
    /// As 30s.
    timeout: Option<String>,
    /// Ends to be told of on NATS: done, skipped, expired, cancelled, or all.
    notify: Option<Vec<String>>,
}

/// A job that is stored.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "only described")]
pub struct JobAccepted {
    /// Its id.
    job_id: String,
    /// Whether the same job came before under this id.
    duplicate: bool,
}
