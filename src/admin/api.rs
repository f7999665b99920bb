//! The JSON API. Its `OpenAPI` document and the needs of its routes come from the same annotations.

mod extract;
mod jobs;

use axum::{Json, Router, http::Method, routing::get};
use utoipa::{
    OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    access::{Access, Need, Role},
    places::API,
    state::Admin,
};

/// The document without its paths.
#[derive(OpenApi)]
#[openapi(info(
    title = "Carebell",
    description = "Jobs, queues, schedules and people, for people on call. Each route names the least role that it needs \
                   (viewer, coordinator, operator, admin) as the scope of its bearer token."
))]
struct Document;

pub(super) fn routes(access: &mut Access) -> Router<Admin> {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .nest(API, OpenApiRouter::new().routes(routes!(jobs::show)))
        .split_for_parts();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    for (method, path, role) in needs(&document) {
        access.add(method, &path, Need::Role(role));
    }
    let place = format!("{API}/openapi.json");
    access.add(Method::GET, &place, Need::Public);
    access.add(Method::GET, "/livez", Need::Public);
    router.route(&place, get(async move || Json(document.clone()))).route("/livez", get(async || "alive\n"))
}

/// Method, path and role of each operation. One without a role is in no table, and thus refused.
fn needs(document: &utoipa::openapi::OpenApi) -> Vec<(Method, String, Role)> {
    // The document's own types hide the scopes.
    let json = serde_json::to_value(document).unwrap_or_default();
    let mut needs = Vec::new();
    for (path, operations) in json["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let scopes = operation["security"][0]["bearer"].as_array();
            let role = scopes.and_then(|scopes| Role::parse(scopes.first()?.as_str()?));
            let method = method.to_uppercase().parse();
            if let (Some(role), Ok(method)) = (role, method) {
                needs.push((method, path.clone(), role));
            }
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_names_the_role_that_it_needs() {
        let mut access = Access::default();
        let _ = routes(&mut access);
        let known =
            access.routes().filter(|(path, _, need)| path.starts_with(API) && matches!(need, Need::Role(_))).count();
        assert!(known >= 1);
    }
}
