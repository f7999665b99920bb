//! Reports of endpoints: `POST /tasks/{job}/progress`, `/done` and `/failed` on `PUBLIC_PORT`.
//!
//! A report is authorised by the token that came with the request of its attempt, of which only the hash is kept. A
//! completion is a row first; then its parked job is woken, so that the pipeline commits it in its one way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Tasks,
    carry::{TOKEN_LENGTH, hash},
    effects,
    end::End,
    state::{Report, Verdict, verdict},
    told, watch,
};
use crate::{
    channels::endpoint::LARGEST_ANSWER,
    checkpoint::{self, Step},
    effects::Effects,
    meta::is_any_id,
    store::{StoreError, TaskChange, TaskProgress, TaskRow},
};

/// Progress is written no more often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Limit for a body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A refusal: its status, and why.
type Refusal = (StatusCode, String);

#[derive(Clone)]
struct Desk {
    tasks: Tasks,
    effects: Effects,
    /// Not written yet.
    progress: Arc<Mutex<HashMap<String, TaskProgress>>>,
}

/// The routes, for as long as `stop` allows.
pub fn routes(tasks: &Tasks, effects: &Effects, stop: CancellationToken) -> Router {
    let desk = Desk { tasks: tasks.clone(), effects: effects.clone(), progress: Arc::default() };
    tokio::spawn(write_progress(desk.clone(), stop));
    Router::new()
        .without_v07_checks()
        .route("/tasks/{job}/progress", post(progress))
        .route("/tasks/{job}/done", post(done))
        .route("/tasks/{job}/failed", post(failed))
        .layer(DefaultBodyLimit::disable())
        .with_state(desk)
}

async fn progress(State(desk): State<Desk>, Path(job): Path<String>, request: Request) -> Response {
    answered(desk.progress(&job, request).await.map(IntoResponse::into_response))
}

async fn done(State(desk): State<Desk>, Path(job): Path<String>, request: Request) -> Response {
    answered(desk.done(&job, request).await.map(IntoResponse::into_response))
}

async fn failed(State(desk): State<Desk>, Path(job): Path<String>, request: Request) -> Response {
    answered(desk.failed(&job, request).await.map(IntoResponse::into_response))
}

fn answered(answer: Result<Response, Refusal>) -> Response {
    answer.unwrap_or_else(|(status, why)| (status, Json(json!({ "error": why }))).into_response())
}

impl Desk {
    async fn progress(&self, job: &str, request: Request) -> Result<Response, Refusal> {
        let now = self.effects.now();
        let (row, _, body) = self.admit(job, request, Report::Progress, now).await?;
        let told = told::progress(&body).map_err(|why| unprocessable(&why))?;
        let heartbeat = self.tasks.task(&row.kind).map(|task| task.declaration.heartbeat);
        let heartbeat = heartbeat.and_then(|heartbeat| TimeDelta::from_std(heartbeat).ok()).unwrap_or_default();
        let new = TaskProgress {
            job_id: job.to_owned(),
            percent: told.percent.map(i16::from),
            note: told.note,
            heartbeat_at: now + heartbeat,
        };
        {
            let mut waiting = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let before = waiting.remove(job);
            waiting.insert(job.to_owned(), merged(before, new));
        }
        let deadline = row.deadline.to_rfc3339_opts(SecondsFormat::Millis, true);
        Ok(Json(json!({ "cancel": row.cancel_at.is_some(), "deadline": deadline })).into_response())
    }

    async fn done(&self, job: &str, request: Request) -> Result<Response, Refusal> {
        let now = self.effects.now();
        let (row, token, body) = match self.admit(job, request, Report::Done, now).await {
            Ok(admitted) => admitted,
            Err((StatusCode::OK, _)) => return Ok(taken(true)),
            Err(refusal) => return Err(refusal),
        };
        let told = if body.is_empty() {
            told::Told::default()
        } else {
            told::told(&body).map_err(|why| unprocessable(&why))?
        };
        let Some(task) = self.tasks.task(&row.kind) else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "this worker does not know the kind: try again".into()));
        };
        effects::read(self.tasks.registry(), &task.declaration, job, &told, now).map_err(|why| unprocessable(&why))?;
        self.end(job, token, Report::Done, TaskChange::Completed(End::Done(told).to_json()), now).await
    }

    async fn failed(&self, job: &str, request: Request) -> Result<Response, Refusal> {
        let now = self.effects.now();
        let (_, token, body) = match self.admit(job, request, Report::Failed, now).await {
            Ok(admitted) => admitted,
            Err((StatusCode::OK, _)) => return Ok(taken(true)),
            Err(refusal) => return Err(refusal),
        };
        let told = told::failure(&body).map_err(|why| unprocessable(&why))?;
        self.end(job, token, Report::Failed, TaskChange::Failed(End::failed(told).to_json()), now).await
    }

    /// Whether a report is taken, its token's hash, and its body. A refusal with 200 says that it was taken before.
    async fn admit(
        &self,
        job: &str,
        request: Request,
        report: Report,
        now: DateTime<Utc>,
    ) -> Result<(TaskRow, Vec<u8>, Bytes), Refusal> {
        let token = token(request.headers()).map(hash).filter(|_| is_any_id(job));
        let token = token.ok_or_else(|| refusal(Verdict::Unauthorised))?;
        let row = self.effects.store().task(job).await.map_err(|error| unavailable(&error))?;
        match (verdict(row.as_ref(), &token, report, now), row) {
            (Verdict::Take, Some(row)) => Ok((row, token, body(request).await?)),
            (verdict, _) => Err(refusal(verdict)),
        }
    }

    /// Notes the end of an attempt, then wakes its job.
    async fn end(
        &self,
        job: &str,
        token: Vec<u8>,
        report: Report,
        change: TaskChange,
        now: DateTime<Utc>,
    ) -> Result<Response, Refusal> {
        let store = self.effects.store();
        let decide = move |row: Option<&TaskRow>| match verdict(row, &token, report, now) {
            Verdict::Take => (Verdict::Take, Some(change)),
            other => (other, None),
        };
        match store.change_task(job, now, decide).await.map_err(|error| unavailable(&error))? {
            Verdict::Take => {}
            Verdict::Repeated => return Ok(taken(true)),
            other => return Err(refusal(other)),
        }
        checkpoint::reached(Step::Completed);
        tokio::spawn(watch::wake(self.effects.clone(), job.to_owned()));
        Ok(taken(false))
    }
}

fn taken(repeated: bool) -> Response {
    Json(json!({ "taken": true, "repeated": repeated })).into_response()
}

/// The larger percent, the last words, the later heartbeat.
fn merged(before: Option<TaskProgress>, new: TaskProgress) -> TaskProgress {
    let Some(before) = before else { return new };
    TaskProgress {
        percent: new.percent.max(before.percent),
        note: new.note.or(before.note),
        heartbeat_at: new.heartbeat_at.max(before.heartbeat_at),
        job_id: new.job_id,
    }
}

/// Writes what was reported each second. While the database is away, it is kept.
async fn write_progress(desk: Desk, stop: CancellationToken) {
    loop {
        let is_over = stop.run_until_cancelled(sleep(WRITE_EVERY)).await.is_none();
        let waiting = std::mem::take(&mut *desk.progress.lock().unwrap_or_else(PoisonError::into_inner));
        let waiting: Vec<TaskProgress> = waiting.into_values().collect();
        if !waiting.is_empty()
            && let Err(error) = desk.effects.store().record_progress(&waiting).await
        {
            tracing::warn!(tasks = waiting.len(), "progress of tasks cannot be written, again soon: {error}");
            let mut kept = desk.progress.lock().unwrap_or_else(PoisonError::into_inner);
            for before in waiting {
                let job = before.job_id.clone();
                let progress = match kept.remove(&job) {
                    Some(new) => merged(Some(before), new),
                    None => before,
                };
                kept.insert(job, progress);
            }
        }
        if is_over {
            return;
        }
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.len() == TOKEN_LENGTH).then_some(token)
}

async fn body(request: Request) -> Result<Bytes, Refusal> {
    let slow = |_| (StatusCode::REQUEST_TIMEOUT, "the body takes too long".to_owned());
    timeout(READ_TIMEOUT, to_bytes(request.into_body(), LARGEST_ANSWER)).await.map_err(slow)?.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        if cause.contains("length limit") {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body may have at most {LARGEST_ANSWER} bytes"))
        } else {
            (StatusCode::BAD_REQUEST, "the body is incomplete".to_owned())
        }
    })
}

fn refusal(verdict: Verdict) -> Refusal {
    let (status, why) = match verdict {
        Verdict::Take | Verdict::Repeated => (StatusCode::OK, "it was reported before"),
        Verdict::Unauthorised => (StatusCode::UNAUTHORIZED, "the token is not that of a task with this job id"),
        Verdict::Superseded => (StatusCode::CONFLICT, "another attempt at the job has begun: stop this one"),
        Verdict::Ended => (StatusCode::GONE, "the attempt has ended, or its deadline has passed: stop"),
    };
    (status, why.to_owned())
}

fn unprocessable(why: &str) -> Refusal {
    (StatusCode::UNPROCESSABLE_ENTITY, format!("nothing was recorded: {why}"))
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::warn!("a report of an endpoint is not taken: {error}");
    (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer: try again".into())
}
