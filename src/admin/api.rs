//! The JSON API. Its `OpenAPI` document and the needs of its routes come from the same annotations.

mod activity;
mod audit;
mod channels;
mod dead_letters;
mod document;
mod extract;
mod jobs;
mod listing;
mod operations;
mod people;
mod publish;
mod queues;
mod schedules;
mod schemas;

use axum::{Json, Router, http::Method, routing::get};
use utoipa::{
    OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{
    extract::{Json as Body, JsonText, Path, body_if_any, parse, query},
    jobs::{cancel as cancel_job, retry as retry_job, show as show_job},
    listing::limit,
    publish::{Published, publish_text},
    queues::empty as empty_queue,
};
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

/// A route in one line.
pub struct Summary {
    /// In capitals.
    pub method: String,
    /// With its parameters in braces.
    pub path: String,
    /// The least that it needs.
    pub role: Role,
    /// Its meaning.
    pub meaning: String,
}

/// All routes, as the document has them.
pub fn summaries() -> Vec<Summary> {
    let (_, document) = described();
    let json = serde_json::to_value(&document).unwrap_or_default();
    let summary = |(method, path, role): (Method, String, Role)| {
        let operation = &json["paths"][&path][method.as_str().to_lowercase()];
        let meaning = operation["summary"].as_str().unwrap_or_default().trim_end_matches('.').to_owned();
        Summary { method: method.to_string(), path, role, meaning }
    };
    needs(&document).into_iter().map(summary).collect()
}

fn described() -> (Router<Admin>, utoipa::openapi::OpenApi) {
    let (router, mut document) =
        OpenApiRouter::with_openapi(Document::openapi()).nest(API, operations()).split_for_parts();
    document::complete(&mut document);
    (router, document)
}

pub(super) fn routes(access: &mut Access) -> Router<Admin> {
    let (router, mut document) = described();
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

fn operations() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show, jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(activity::counts))
        .routes(routes!(activity::workers))
        .routes(routes!(activity::health))
        .routes(routes!(queues::list))
        .routes(routes!(queues::get))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::stats))
        .routes(routes!(queues::empty))
        .routes(routes!(publish::publish))
        .routes(routes!(operations::preview))
        .routes(routes!(operations::list, operations::begin))
        .routes(routes!(operations::get, operations::cancel))
        .routes(routes!(channels::list))
        .routes(routes!(channels::pause))
        .routes(routes!(channels::resume))
        .routes(routes!(channels::pause_provider))
        .routes(routes!(channels::resume_provider))
        .routes(routes!(people::reminders))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::get, dead_letters::discard))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(schedules::list, schedules::add))
        .routes(routes!(schedules::preview))
        .routes(routes!(schedules::get, schedules::change, schedules::delete))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(audit::list))
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
    use std::{collections::BTreeSet, fs};

    use super::*;

    fn in_document() -> BTreeSet<(String, String, String)> {
        let (_, document) = described();
        let json = serde_json::to_value(&document).unwrap();
        let operations: usize =
            json["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        let needs = needs(&document);
        assert_eq!(needs.len(), operations, "each operation names the role that it needs");
        needs.into_iter().map(|(method, path, role)| (method.to_string(), path, role.name().to_owned())).collect()
    }

    #[test]
    fn the_page_of_the_api_has_each_route_with_its_role() {
        let page = fs::read_to_string("docs/ADMIN.md").unwrap();
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let (method, path) = cells.first()?.trim_matches('`').split_once(' ')?;
            let role = Role::parse(cells.get(1)?)?;
            Some((method.to_owned(), format!("{API}{path}"), role.name().to_owned()))
        });
        let methods = ["GET", "POST", "PUT", "DELETE"];
        let written: BTreeSet<_> = rows.filter(|(method, ..)| methods.contains(&method.as_str())).collect();
        assert_eq!(written, in_document());
    }
}
