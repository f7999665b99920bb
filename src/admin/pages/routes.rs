//! The routes of the API, for people.

use maud::html;

use super::{
    refused::Page,
    ui::{self, text},
    visitor::Visitor,
};
use crate::admin::{aliases::aliases, api, places::API};

pub async fn show(visitor: Visitor) -> Page {
    let rows = api::summaries().into_iter().map(|route| {
        vec![
            html! { code { (route.method) " " (route.path.strip_prefix(API).unwrap_or(&route.path)) } },
            html! { (route.role.name()) },
            html! { (route.meaning) },
        ]
    });
    let older = aliases().into_iter().map(|alias| {
        vec![
            html! { code { (alias.method.as_str()) " " (alias.path) } },
            html! { (alias.role.name()) },
            html! { code { (alias.of) } },
        ]
    });
    let body = html! {
        h1 { "API" }
        p {
            "JSON below " code { (API) } ", for programs with a token: "
            code { "Authorization: Bearer …" } ". Yours is the role " strong { (visitor.viewer.role.name()) } "; each role "
            "includes those before it: viewer, coordinator, operator, admin."
        }
        p { a href={ (API) "/openapi.json" } { "The OpenAPI document" } }
        (ui::table("All routes, by path", &[text("Route"), text("Role"), text("Meaning")], rows.collect(), ""))
        section {
            h2 { "Paths of older systems" }
            (ui::table("They take and return the JSON that their users know", &[text("Path"), text("Role"), text("Stands for")],
                older.collect(), ""))
        }
    };
    Ok(visitor.page("/console/api", "API", &body))
}
