//! The request of a task: the job's bytes, and headers that say all else.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::{
    channels::endpoint::Request,
    declared::{BodyForm, Declaration, Mode},
    header,
    job::Context,
    telemetry::traces::context,
};

/// `webhook-id` of a job: the same for each attempt. The specification allows no dot, so it is a hash.
#[must_use]
pub fn webhook_id(job_id: &str) -> String {
    format!("job_{}", URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, job_id.as_bytes())))
}

/// The request of an attempt that ends at `deadline`. `token` if its endpoint may answer later.
#[must_use]
pub fn request(
    declaration: &Declaration,
    mode: Mode,
    body: Bytes,
    cx: &Context,
    deadline: DateTime<Utc>,
    token: Option<&str>,
) -> Request {
    let now = cx.clock.now();
    let meta = &cx.meta;
    let id = webhook_id(&meta.job_id);
    let limit = cx.attempt.timeout;
    // To the nearest second: some milliseconds have passed since it was set.
    let left = ((deadline - now).num_milliseconds() + 500) / 1000;
    let mut headers = vec![
        ("idempotency-key", id.clone()),
        (header::KIND, declaration.kind.name.to_owned()),
        (header::KIND_VERSION, declaration.version.to_string()),
        (header::JOB_ID, meta.job_id.clone()),
        (header::ATTEMPT, cx.attempt.number.to_string()),
        (header::DEADLINE, rfc3339(deadline)),
        (header::TIMEOUT, left.max(1).to_string()),
        (header::SCHEDULED_FOR, rfc3339(scheduled_for(cx))),
    ];
    if mode != Mode::Sync {
        headers.push(("prefer", format!("respond-async, wait={}", limit.as_secs().max(1))));
    }
    if let Some(token) = token {
        headers.push((header::TASK_TOKEN, token.to_owned()));
    }
    if let Some((parent, state)) = meta.trace.as_deref().map(context::headers) {
        headers.push((header::TRACEPARENT, parent.to_owned()));
        headers.extend(state.map(|state| (header::TRACESTATE, state.to_owned())));
    }
    Request { id, headers, content_type: content_type(declaration.form), body, limit }
}

/// The request that tells an endpoint of a cancellation.
#[must_use]
pub fn cancel(declaration: &Declaration, job_id: &str, limit: Duration) -> Request {
    let headers = vec![
        (header::KIND, declaration.kind.name.to_owned()),
        (header::KIND_VERSION, declaration.version.to_string()),
        (header::JOB_ID, job_id.to_owned()),
    ];
    // Another id than the job's: an endpoint that knows that one would take it for a repetition.
    let id = webhook_id(&format!("{job_id} cancel"));
    Request { id, headers, content_type: "application/json", body: Bytes::from_static(b"{}"), limit }
}

/// The instant that the job is about, the same at each attempt: its own, or that of its publication.
fn scheduled_for(cx: &Context) -> DateTime<Utc> {
    let delayed = cx.meta.delay.as_ref().map(|delay| delay.due);
    delayed.or(cx.meta.due).unwrap_or(cx.meta.position.published)
}

fn content_type(form: BodyForm) -> &'static str {
    match form {
        BodyForm::Json => "application/json",
        BodyForm::Protobuf => "application/x-protobuf",
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_request_is_that_of_its_job_without_a_dot() {
        let id = webhook_id("lab.7~critical");
        assert_eq!(id, webhook_id("lab.7~critical"));
        assert_ne!(id, webhook_id("lab.7"));
        assert!(id.len() == 47 && !id.contains('.'), "{id}");
    }
}
