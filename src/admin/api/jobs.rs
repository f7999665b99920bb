//! Jobs.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{
    extract::{Path, Query},
    listing::limit,
    schemas,
};
use crate::{
    acts::{Ended, Prospect},
    admin::{access::Viewer, problem::Problem, query::JobQuery, reads::InStream, state::Admin},
    meta::is_any_id,
    show,
    store::Trail,
};

/// Jobs, newest first. Filters are combined by AND; `user` needs the role coordinator, and is on record.
#[utoipa::path(
    get, path = "/jobs", tag = "jobs", security(("bearer" = ["viewer"])), params(JobQuery),
    responses(
        (status = 200, description = "`items`, and `next` if there may be more: a page looks at a bounded number of rows, so \
            it may be short, or empty, before the last. If waiting jobs are asked for, `in_streams` has those that only wait \
            in a queue: their number, and the first hundred by sequence", body = schemas::Jobs),
        (status = 422, description = "A filter, the limit or the cursor is malformed", body = Problem),
    )
)]
pub async fn list(
    State(admin): State<Admin>,
    viewer: Viewer,
    Query(query): Query<JobQuery>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(query.limit.as_deref().filter(|limit| !limit.is_empty()))?;
    let listed = admin.jobs(&viewer, &query, limit).await?;
    let in_streams: Vec<Value> = listed.in_streams.iter().map(InStream::to_json).collect();
    let items: Vec<Value> = listed.page.items.iter().map(show::job).collect();
    Ok(Json(json!({ "items": items, "next": listed.page.next, "in_streams": in_streams, "as_of": listed.page.as_of })))
}

/// The history of a job, by its id or that of any job that followed from it.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "jobs", security(("bearer" = ["viewer"])),
    params(("id" = String, Path, description = "1 to 256 of A-Z a-z 0-9 _ : . - ~", example = "dose-17")),
    responses(
        (status = 200, description = "Runs, inbox rows, deliveries and manual actions, as `carebell jobs show --json`", body = schemas::History),
        (status = 404, description = "There is no record of it", body = Problem),
    )
)]
pub async fn show(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    check_id(&id)?;
    let (way, delayed) = (admin.store.trail_of(&id).await?, admin.store.delayed_job(&id).await?);
    match (way, delayed) {
        (None, None) => Err(Problem::not_found(format!(
            "there is no record of a job {id:?}: the id is wrong, or it waits in a stream, or its records are pruned"
        ))),
        (way, delayed) => Ok(Json(show::trail(&way.unwrap_or_else(|| Trail::of(&id)), delayed.as_ref()))),
    }
}

/// What a retry is to do.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Retrying {
    /// true, or no value: only says what would become of it.
    pub dry_run: Option<String>,
}

impl Retrying {
    fn is_dry(&self) -> Result<bool, Problem> {
        match self.dry_run.as_deref() {
            Some("" | "true") => Ok(true),
            None | Some("false") => Ok(false),
            Some(_) => Err(Problem::field("dry_run", "expected true or false")),
        }
    }
}

/// Tries a job again, and what followed from it: what is dead is redriven, what is parked goes on now.
#[utoipa::path(
    post, path = "/jobs/{id}/retry", tag = "jobs", security(("bearer" = ["operator"])),
    params(("id" = String, Path, description = "The job's id", example = "dose-17"), Retrying),
    responses(
        (status = 200, description = "`redriven`, `woken`, `refused`; of a dry run `would_retry` with predictions", body = schemas::Retried),
        (status = 404, description = "There is no such job", body = Problem),
        (status = 409, description = "It is running, waits, or has ended: there is nothing to retry", body = Problem),
    )
)]
pub async fn retry(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(id): Path<String>,
    Query(retrying): Query<Retrying>,
) -> Result<Json<Value>, Problem> {
    check_id(&id)?;
    if retrying.is_dry()? {
        let prospects = admin.foresee_retry(&viewer, &id).await?;
        let all: Vec<Value> = prospects.iter().map(Prospect::to_json).collect();
        return Ok(Json(json!({ "job_id": id, "would_retry": all })));
    }
    Ok(Json(admin.retry(&viewer, &id).await?.to_json(&id)))
}

/// Cancels a job that is delayed, waits or is parked, with what followed from it; discards a dead one.
#[utoipa::path(
    delete, path = "/jobs/{id}", tag = "jobs", security(("bearer" = ["operator"])),
    params(("id" = String, Path, description = "The job's id", example = "dose-17")),
    responses(
        (status = 204, description = "It is cancelled, or its dead letter is discarded"),
        (status = 202, description = "It is being sent, which cannot be stopped any more; what had not begun is cancelled. Or its endpoint is at work: it \
            ends before its next attempt, or when its endpoint stops", body = Value),
        (status = 404, description = "There is no such job", body = Problem),
        (status = 409, description = "It has ended: its record keeps its id from running again", body = Problem),
    )
)]
pub async fn cancel(State(admin): State<Admin>, viewer: Viewer, Path(id): Path<String>) -> Result<Response, Problem> {
    check_id(&id)?;
    let ended = admin.cancel(&viewer, &id).await?;
    Ok(match &ended {
        Ended::Asked => (StatusCode::ACCEPTED, Json(ended.to_json(&id))).into_response(),
        Ended::Waiting(done) if done.sending > 0 => (StatusCode::ACCEPTED, Json(ended.to_json(&id))).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
}

fn check_id(id: &str) -> Result<(), Problem> {
    if !is_any_id(id) {
        return Err(Problem::field("id", "a job's id has only A-Z a-z 0-9 _ : . - ~"));
    }
    Ok(())
}
