//! The routes: `POST /v1/jobs`, and `GET` and `DELETE /v1/jobs/{id}`.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use serde_json::json;
use url::form_urlencoded;

use super::{
    access::Caller,
    batch, body,
    job::{self, LARGEST_JOB, key},
    problem::Problem,
    publish::{Accepted, Answer},
    schemas::{JobAccepted, JobRequest},
    show,
    state::Gateway,
};
use crate::{
    acts,
    dead_letter::wake::parked_run,
    effects::submit,
    header, intake,
    meta::is_job_id,
    near::nearest,
    store::{AuditEntry, Cancellation, JobState, TaskCancel, WaitingRun},
    telemetry::traces::{self, context},
};

/// The largest body with one job, whose text may have escapes and blanks.
pub const LARGEST_BODY: usize = 2 * LARGEST_JOB;

/// The largest batch.
pub const LARGEST_BATCH: usize = 10 * 1024 * 1024;

/// The longest `?wait`.
pub const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// How long a cancellation of a delayed job may take until a worker has read it.
const CANCELLED_WITHIN: Duration = Duration::from_secs(5);

/// The header with the id of a job that names none.
const KEY: &str = "Idempotency-Key";

/// The form of a body.
enum Form {
    One,
    Lines,
}

/// Publishes a job, or one for each line.
#[utoipa::path(
    post, path = "/v1/jobs", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "The id of a job that names none")),
    request_body(content(
        (JobRequest = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "A batch: an answer a line", body = String, content_type = "application/x-ndjson"),
        (status = 202, description = "JetStream has stored it", body = JobAccepted),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn publish(State(gateway): State<Gateway>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let caller = gateway.access.caller(&headers).await?;
    no_job_headers(&headers)?;
    let form = form(&headers)?;
    let largest = match form {
        Form::One => LARGEST_BODY,
        Form::Lines => LARGEST_BATCH,
    };
    let length = text(&headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > largest) {
        return Err(Problem::too_large(format!("the body is larger than {largest} bytes")));
    }
    let body = body::read(body, largest, &gateway.bodies).await?;
    let trace = trace(&headers);
    let id = headers.get(KEY).map(|value| value.to_str().map(key).unwrap_or_default());
    match form {
        Form::One => {
            caller.take(1)?;
            let answer = match gateway.reader.read(&caller, &body.bytes, id) {
                Err(refused) => Err(refused),
                Ok(job) => {
                    let mut answers = gateway.publish(&caller, vec![job], trace.as_deref()).await;
                    answers.pop().ok_or_else(|| Problem::busy("the job was not answered"))?
                }
            };
            gateway.count(&answer);
            let Accepted { id, duplicate } = answer.map_err(|refused| *refused.problem)?;
            Ok((StatusCode::ACCEPTED, Json(json!({ "jobId": id, "duplicate": duplicate }))).into_response())
        }
        Form::Lines if id.is_some() => {
            Err(Problem::field(KEY, "must be left out: each line of a batch has an id of its own, `jobId`"))
        }
        Form::Lines => {
            let lines = batch::lines(&body.bytes)?;
            caller.take(lines.len())?;
            Ok(gateway.batch(&caller, &lines, trace.as_deref()).await)
        }
    }
}

/// Shows how far a job has come.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", security(("bearer" = [])),
    params(
        ("id" = String, Path, description = "The job's id"),
        ("wait" = Option<String>, Query, description = "How long to wait for its end, as 30s; at most a minute"),
    ),
    responses(
        (status = 200, description = "Its state", body = show::View),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn show(
    State(gateway): State<Gateway>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = gateway.access.caller(&headers).await?;
    let id = id(path)?;
    let wait = wait(query.as_deref().unwrap_or_default())?;
    let mut job = gateway.job(&caller, &id).await?;
    if let Some(wait) = wait.filter(|_| !show::has_ended(&job)) {
        let _place = gateway.waits.place()?;
        let scoped = caller.scoped(&id);
        let ended = gateway.stop.run_until_cancelled(gateway.waits.end_of(&scoped, wait)).await.flatten();
        job = match ended {
            Some(job) => job,
            None => gateway.job(&caller, &id).await?,
        };
    }
    Ok(Json(show::view(&id, &job)).into_response())
}

/// Cancels what has not begun.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", security(("bearer" = [])),
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, description = "It is cancelled", body = serde_json::Value),
        (status = 202, description = "A worker will cancel it", body = serde_json::Value),
        (status = "default", description = "A problem", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn cancel(
    State(gateway): State<Gateway>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = gateway.access.caller(&headers).await?;
    let id = id(path)?;
    let job = gateway.job(&caller, &id).await?;
    if show::is_delayed(&job) {
        return gateway.cancel_delayed(&caller, &id).await;
    }
    if acts::is_task(&job.kind) {
        return gateway.cancel_task(&caller, &id, &job).await;
    }
    let done = gateway.cancel_waiting(&caller, &id, &job).await?;
    if !done.is_any() {
        let job = gateway.job(&caller, &id).await?;
        let sent = if done.sending > 0 { ": its deliveries are being sent" } else { "" };
        return Err(Problem::conflict(format!("nothing of the job waits: it is {}{sent}", show::state(&job))));
    }
    let Cancellation { deliveries, sending, sent, .. } = done;
    let text = json!({
        "jobId": id, "cancelled": true, "deliveries": deliveries, "beingSent": sending, "sentBefore": sent,
    });
    Ok(Json(text).into_response())
}

impl Gateway {
    /// Counts an answer.
    pub fn count(&self, answer: &Answer) {
        let label = match answer {
            Ok(accepted) if accepted.duplicate => "duplicate",
            Ok(_) => "accepted",
            Err(refused) => match refused.problem.status() {
                StatusCode::CONFLICT => "conflict",
                status if status.is_server_error() => "unavailable",
                _ => "refused",
            },
        };
        self.health.metrics().gateway_job(label);
    }

    /// A job of a caller.
    async fn job(&self, caller: &Caller, id: &str) -> Result<JobState, Problem> {
        if !is_job_id(id) {
            return Err(no_job());
        }
        let scoped = caller.scoped(id);
        let job = self.store.job_states(std::slice::from_ref(&scoped)).await?.remove(&scoped);
        job.filter(|job| job.kind.is_empty() || caller.may_publish(&job.kind)).ok_or_else(no_job)
    }

    /// As its application does over NATS: a worker takes it back, after all that was published before.
    async fn cancel_delayed(&self, caller: &Caller, id: &str) -> Result<Response, Problem> {
        submit::cancel(self.jetstream()?, &caller.cancel_subject(), id).await?;
        let ended = self.waits.end_of(&caller.scoped(id), CANCELLED_WITHIN).await;
        let status = match ended.as_ref().map(show::state) {
            Some("cancelled") => StatusCode::OK,
            Some(state) => return Err(Problem::conflict(format!("the job was due before: it is {state}"))),
            None => StatusCode::ACCEPTED,
        };
        let text = json!({ "jobId": id, "cancelled": status == StatusCode::OK });
        Ok((status, Json(text)).into_response())
    }

    /// A task may be under way: its endpoint decides whether it ends before it is done.
    async fn cancel_task(&self, caller: &Caller, id: &str, job: &JobState) -> Result<Response, Problem> {
        let scoped = caller.scoped(id);
        let act = self.cancellation(caller, &scoped);
        let parked = match self.store.parked_task(&scoped).await? {
            Some(run) => {
                parked_run(self.jetstream()?, &run.stream, run.sequence).await.map_err(Problem::unavailable)?
            }
            None => None,
        };
        let root = WaitingRun { kind: job.kind.clone(), ..WaitingRun::root(&scoped) };
        let status = match self.store.cancel_task(&root, parked.is_some(), false, &act).await? {
            TaskCancel::Ended => StatusCode::OK,
            TaskCancel::Asked => StatusCode::ACCEPTED,
            TaskCancel::Over(state, _) => return Err(Problem::conflict(format!("the job has ended: it is {state}"))),
        };
        Ok((status, Json(json!({ "jobId": id, "cancelled": status == StatusCode::OK }))).into_response())
    }

    fn cancellation(&self, caller: &Caller, scoped: &str) -> AuditEntry {
        AuditEntry {
            at: self.clock.now(),
            actor: format!("{} (gateway)", caller.name),
            action: "job.cancelled".into(),
            job_id: Some(scoped.to_owned()),
            root_id: Some(scoped.to_owned()),
            detail: json!({}),
        }
    }

    async fn cancel_waiting(&self, caller: &Caller, id: &str, job: &JobState) -> Result<Cancellation, Problem> {
        let scoped = caller.scoped(id);
        let act = self.cancellation(caller, &scoped);
        let root = WaitingRun { kind: job.kind.clone(), ..WaitingRun::root(&scoped) };
        // One that was accepted and has no run is in its stream.
        let waits = job.run.is_none();
        let done = self.store.cancel_waiting(&root, waits, false, &act).await?;
        if !waits && done.runs.contains(&scoped) {
            // A worker tells of it now, if it is parked. Otherwise it is told of when its message comes back.
            if let Ok(context) = self.jetstream() {
                let _ = submit::cancel(context, &caller.cancel_subject(), id).await;
            }
        }
        Ok(done)
    }
}

fn no_job() -> Problem {
    Problem::not_found("there is no job of this id on record")
}

/// What is no text is no id.
fn id(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(id)| id).map_err(|_| no_job())
}

/// Headers of NATS say nothing here: a producer that sets one, or means to, would lose its wish.
fn no_job_headers(headers: &HeaderMap) -> Result<(), Problem> {
    let meant = |name: &HeaderName| {
        let name = name.as_str();
        let known = nearest(name, intake::ALLOWED).filter(|_| name.starts_with("carebell"))?;
        let detail = format!("is no header of this door: set the job's field `{}`", job::field_of(known));
        Some(Problem::field(name, detail))
    };
    headers.keys().find_map(meant).map_or(Ok(()), Err)
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let media = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/json" => Ok(Form::One),
        "application/x-ndjson" | "application/jsonl" | "application/json-lines" => Ok(Form::Lines),
        _ => Err(Problem::media_type()),
    }
}

fn wait(query: &str) -> Result<Option<Duration>, Problem> {
    let mut wait = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "wait" {
            return Err(Problem::field(name, "is no parameter here; there is `wait`"));
        }
        let parsed = humantime::parse_duration(&value);
        wait = Some(parsed.map_err(|_| Problem::field("wait", "must be a duration such as 30s"))?.min(LONGEST_WAIT));
    }
    Ok(wait)
}

fn trace(headers: &HeaderMap) -> Option<String> {
    if !traces::propagates() {
        return None;
    }
    context::of_headers(text(headers, header::TRACEPARENT), text(headers, header::TRACESTATE))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
