//! The audit log.

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::{
    extract::Query,
    listing::{before, limit, page},
    schemas,
};
use crate::{
    admin::{problem::Problem, state::Admin},
    show,
    store::ActFilter,
};

/// Which acts, and which page of them.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Who acted.
    actor: Option<String>,
    /// For example `dead_letter.redriven`.
    action: Option<String>,
    /// A job, or its root.
    job: Option<String>,
    /// 1 to 100; 50 if it is not named.
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// What people did, newest first.
#[utoipa::path(
    get, path = "/audit", tag = "audit", security(("bearer" = ["operator"])), params(Wanted),
    responses((status = 200, description = "`items`, and `next` if there are more", body = schemas::Page<schemas::Act>))
)]
pub async fn list(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Result<Json<Value>, Problem> {
    let Wanted { actor, action, job, limit: most, cursor } = wanted;
    let (limit, before) = (limit(most.as_deref())?, before(cursor.as_deref())?);
    let acts = admin.store.acts(&ActFilter { actor, action, job }, before, limit + 1).await?;
    Ok(Json(page(acts.iter().map(|(number, act)| (*number, show::act(act))).collect(), limit)))
}
