//! Saved schedules.

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::extract::Path;
use crate::{
    admin::{access::Viewer, problem::Problem, state::Admin},
    show,
};

/// All schedules, by name.
#[utoipa::path(
    get, path = "/schedules", tag = "schedules", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "`items`", body = Value))
)]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let rows = admin.store.schedules(None).await?;
    Ok(Json(json!({ "items": rows.iter().map(without_payload).collect::<Vec<_>>() })))
}

/// One schedule.
#[utoipa::path(
    get, path = "/schedules/{name}", tag = "schedules", security(("bearer" = ["viewer"])),
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The schedule", body = Value), (status = 404, description = "There is none", body = Problem))
)]
pub async fn get(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    Ok(Json(without_payload(&admin.schedule(&name).await?)))
}

/// Pauses a schedule.
#[utoipa::path(
    post, path = "/schedules/{name}/pause", tag = "schedules", security(("bearer" = ["operator"])),
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "It is paused", body = Value), (status = 404, description = "There is none", body = Problem))
)]
pub async fn pause(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.pause_schedule(&viewer, &name, true).await?;
    Ok(Json(without_payload(&admin.schedule(&name).await?)))
}

/// Resumes a schedule, from its next instant after now.
#[utoipa::path(
    post, path = "/schedules/{name}/resume", tag = "schedules", security(("bearer" = ["operator"])),
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "It runs", body = Value), (status = 404, description = "There is none", body = Problem))
)]
pub async fn resume(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.pause_schedule(&viewer, &name, false).await?;
    Ok(Json(without_payload(&admin.schedule(&name).await?)))
}

/// Deletes a schedule. Jobs that it has published stay.
#[utoipa::path(
    delete, path = "/schedules/{name}", tag = "schedules", security(("bearer" = ["operator"])),
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is none", body = Problem))
)]
pub async fn delete(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    admin.delete_schedule(&viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Its job may hold texts of people.
fn without_payload(row: &crate::store::ScheduleRow) -> Value {
    let mut json = show::schedule(row);
    if let Some(fields) = json.as_object_mut() {
        fields.remove("payload");
    }
    json
}
