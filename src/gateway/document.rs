//! The `OpenAPI` document.

use utoipa::{
    OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::requests;

#[derive(OpenApi)]
#[openapi(
    info(title = "Carebell's gateway", description = "Jobs of producers: docs/GATEWAY.md has the contract."),
    paths(requests::publish, requests::show, requests::cancel)
)]
struct Document;

/// The document, with its security scheme.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    document
}
