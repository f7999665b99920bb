//! People.

use axum::{Json, extract::State};

use super::extract::{Path, Query};
use crate::{
    admin::{access::Viewer, people::PersonQuery, problem::Problem, state::Admin},
    explain::Explanation,
};

/// Whether a person was told of a dose, an appointment, a shift or a job, by what, read when, and why not. On record.
#[utoipa::path(
    get, path = "/people/{id}/reminders", tag = "people", security(("bearer" = ["coordinator"])),
    params(("id" = String, Path, description = "An id of `users`", example = "ana"), PersonQuery),
    responses(
        (status = 200, description = "As `carebell explain --json`", body = serde_json::Value),
        (status = 404, description = "Nobody knows the person", body = Problem),
    )
)]
pub async fn reminders(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(id): Path<String>,
    Query(query): Query<PersonQuery>,
) -> Result<Json<Explanation>, Problem> {
    Ok(Json(admin.explain(&viewer, &id, &query).await?))
}
