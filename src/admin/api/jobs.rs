//! Jobs.

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    extract::{Path, Query},
    listing::limit,
};
use crate::{
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
            in a queue: their number, and the first hundred by sequence", body = Value),
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
    params(("id" = String, Path, description = "1 to 256 of A-Z a-z 0-9 _ : . - ~")),
    responses(
        (status = 200, description = "Runs, inbox rows, deliveries and manual actions, as `carebell jobs show --json`", body = Value),
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

/// Takes a job back while it waits: a delayed one is cancelled.
#[utoipa::path(
    delete, path = "/jobs/{id}", tag = "jobs", security(("bearer" = ["operator"])),
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 204, description = "It is cancelled"),
        (status = 409, description = "It is not delayed", body = Problem),
    )
)]
pub async fn cancel(State(admin): State<Admin>, viewer: Viewer, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    check_id(&id)?;
    admin.cancel_delayed(&viewer, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_id(id: &str) -> Result<(), Problem> {
    if !is_any_id(id) {
        return Err(Problem::field("id", "a job's id has only A-Z a-z 0-9 _ : . - ~"));
    }
    Ok(())
}
