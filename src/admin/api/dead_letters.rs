//! Dead letters.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    extract::{self, Path, Query},
    listing::{Paged, before, limit, page},
    schemas,
};
use crate::{
    admin::{access::Viewer, problem::Problem, state::Admin},
    show,
};

/// The most characters of a reason.
const LONGEST_REASON: usize = 200;

/// Dead letters, newest first.
#[utoipa::path(
    get, path = "/dead-letters", tag = "dead letters", security(("bearer" = ["viewer"])), params(Paged),
    responses((status = 200, description = "`items`, and `next` if there are more", body = schemas::Page<schemas::Letter>))
)]
pub async fn list(State(admin): State<Admin>, Query(paged): Query<Paged>) -> Result<Json<Value>, Problem> {
    let (limit, before) = (limit(paged.limit.as_deref())?, before(paged.cursor.as_deref())?);
    let letters = admin.newest_letters(before, usize::try_from(limit).unwrap_or(0) + 1).await?;
    let items = letters.iter().map(|letter| (i64::try_from(letter.number).unwrap_or(i64::MAX), show::letter(letter)));
    Ok(Json(page(items.collect(), limit)))
}

/// One dead letter, without its body.
#[utoipa::path(
    get, path = "/dead-letters/{number}", tag = "dead letters", security(("bearer" = ["viewer"])),
    params(("number" = u64, Path, description = "Its number in the list", example = 1)),
    responses((status = 200, description = "The letter", body = schemas::Letter), (status = 404, description = "None, or what became of it", body = Problem))
)]
pub async fn get(State(admin): State<Admin>, Path(number): Path<u64>) -> Result<Json<Value>, Problem> {
    Ok(Json(show::letter(&admin.letter(number).await?)))
}

/// Sends a dead letter back to its queue: the same job, its attempts counted afresh. Safe to repeat.
#[utoipa::path(
    post, path = "/dead-letters/{number}/redrive", tag = "dead letters", security(("bearer" = ["operator"])),
    params(("number" = u64, Path, description = "Its number in the list", example = 1)),
    responses((status = 200, description = "It is sent back", body = schemas::Redriven), (status = 404, description = "None, or what became of it", body = Problem))
)]
pub async fn redrive(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(number): Path<u64>,
) -> Result<Json<Value>, Problem> {
    admin.redrive(&viewer, number).await?;
    Ok(Json(json!({ "letter": number, "redriven": true })))
}

/// Why a letter is discarded.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "why": "published by mistake" }))]
pub struct Reason {
    /// For the audit log: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    why: String,
}

/// Deletes a dead letter for good. Its job stays recorded as dead.
#[utoipa::path(
    delete, path = "/dead-letters/{number}", tag = "dead letters", security(("bearer" = ["operator"])),
    params(("number" = u64, Path, description = "Its number in the list", example = 1)), request_body = Reason,
    responses((status = 204, description = "It is gone"), (status = 404, description = "None, or what became of it", body = Problem))
)]
pub async fn discard(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(number): Path<u64>,
    extract::Json(reason): extract::Json<Reason>,
) -> Result<StatusCode, Problem> {
    let why = reason.why.trim();
    if why.is_empty() || why.chars().count() > LONGEST_REASON {
        return Err(Problem::field("why", format!("expected 1 to {LONGEST_REASON} characters, for the audit log")));
    }
    admin.discard(&viewer, number, Some(why)).await?;
    Ok(StatusCode::NO_CONTENT)
}
