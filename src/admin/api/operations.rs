//! Operations.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    extract::{self, Path, Query},
    listing::{Paged, before, limit, page},
    schemas,
};
use crate::{
    acts::operation_to_json,
    admin::{access::Viewer, operations::Which, problem::Problem, state::Admin},
};

/// An operation to look at before it begins.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "act": "retry", "filter": { "reason": "exhausted", "since": "2h" } }))]
pub struct Wanted {
    /// retry, cancel, discard or empty.
    act: String,
    /// On which jobs. Of `empty`, the queue alone.
    #[serde(default)]
    filter: Which,
}

/// An operation to begin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "act": "discard", "filter": { "reason": "undecodable" }, "count": 100, "reason": "published by mistake",
}))]
pub struct Confirmed {
    /// retry, cancel, discard or empty.
    act: String,
    /// On which jobs. Of `empty`, the queue alone.
    #[serde(default)]
    filter: Which,
    /// The count that the preview showed. If there are more by now, nothing begins.
    #[serde(deserialize_with = "super::listing::count")]
    count: u64,
    /// For the colleagues: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

/// Says how many jobs an operation would act on, and shows the first of them with what would follow.
#[utoipa::path(
    post, path = "/operations/preview", tag = "operations", security(("bearer" = ["operator"])), request_body = Wanted,
    responses(
        (status = 200, description = "`count`, `sample`, and the `filter` as it is understood", body = schemas::Looked),
        (status = 409, description = "There are more than one operation takes", body = Problem),
        (status = 422, description = "The act or the filter is malformed", body = Problem),
    )
)]
pub async fn preview(
    State(admin): State<Admin>,
    viewer: Viewer,
    extract::Json(Wanted { act, filter }): extract::Json<Wanted>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(admin.preview_operation(&viewer, &act, &filter).await?.to_json()))
}

/// Begins an operation that was looked at before: `count` is what the preview showed.
#[utoipa::path(
    post, path = "/operations", tag = "operations", security(("bearer" = ["operator"])), request_body = Confirmed,
    responses(
        (status = 202, description = "It has begun, and goes on in the console", body = schemas::Operation),
        (status = 409, description = "There are more by now, or none: how many", body = Problem),
        (status = 422, description = "The act or the filter is malformed", body = Problem),
    )
)]
pub async fn begin(
    State(admin): State<Admin>,
    viewer: Viewer,
    extract::Json(Confirmed { act, filter, count, reason }): extract::Json<Confirmed>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let row = admin.begin_operation(&viewer, &act, &filter, count, &reason).await?;
    Ok((StatusCode::ACCEPTED, Json(operation_to_json(&row))))
}

/// Operations, newest first.
#[utoipa::path(
    get, path = "/operations", tag = "operations", security(("bearer" = ["operator"])), params(Paged),
    responses((status = 200, description = "`items`, and `next` if there are more", body = schemas::Page<schemas::Operation>))
)]
pub async fn list(State(admin): State<Admin>, Query(paged): Query<Paged>) -> Result<Json<Value>, Problem> {
    let (limit, before) = (limit(paged.limit.as_deref())?, before(paged.cursor.as_deref())?);
    let rows = admin.store.operations(before, limit + 1).await?;
    Ok(Json(page(rows.iter().map(|row| (row.id, operation_to_json(row))).collect(), limit)))
}

/// One operation with its progress.
#[utoipa::path(
    get, path = "/operations/{operation}", tag = "operations", security(("bearer" = ["operator"])),
    params(("operation" = i64, Path, description = "Its number", example = 1)),
    responses((status = 200, description = "The operation", body = schemas::Operation), (status = 404, description = "There is none", body = Problem))
)]
pub async fn get(State(admin): State<Admin>, viewer: Viewer, Path(id): Path<i64>) -> Result<Json<Value>, Problem> {
    Ok(Json(operation_to_json(&admin.acting(&viewer.name).operation(id).await?)))
}

/// Stops an operation. What it has done stays.
#[utoipa::path(
    delete, path = "/operations/{operation}", tag = "operations", security(("bearer" = ["operator"])),
    params(("operation" = i64, Path, description = "Its number", example = 1)),
    responses(
        (status = 200, description = "It is cancelled: how far it came", body = schemas::Operation),
        (status = 404, description = "There is none", body = Problem),
        (status = 409, description = "It has ended before", body = Problem),
    )
)]
pub async fn cancel(State(admin): State<Admin>, viewer: Viewer, Path(id): Path<i64>) -> Result<Json<Value>, Problem> {
    Ok(Json(operation_to_json(&admin.acting(&viewer.name).stop_operation(id).await?)))
}
