//! The audit log.

use axum::extract::{Query, State};
use maud::html;
use serde::Deserialize;

use super::{
    job,
    refused::Page,
    ui::{self, text},
    visitor::Visitor,
};
use crate::{
    admin::{problem::Problem, state::Admin},
    store::ActFilter,
};

/// Acts of a page.
const MOST: i64 = 50;

/// Which page.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    before: Option<String>,
    actor: Option<String>,
}

pub async fn list(State(admin): State<Admin>, visitor: Visitor, Query(wanted): Query<Wanted>) -> Page {
    let before = match wanted.before.as_deref() {
        None => i64::MAX,
        Some(text) => text.parse().map_err(|_| Problem::field("before", "expected a number of an act"))?,
    };
    let actor = wanted.actor.filter(|actor| !actor.is_empty());
    let filter = ActFilter { actor: actor.clone(), ..ActFilter::default() };
    let mut acts = admin.store.acts(&filter, before, MOST + 1).await?;
    let has_more = acts.len() > 50;
    acts.truncate(50);
    let rows = acts
        .iter()
        .map(|(_, act)| {
            vec![
                html! { (visitor.time(act.at)) },
                html! { (act.actor) },
                html! { code { (act.action) } },
                html! { @match &act.job_id { Some(id) => (job::link(id)), None => "–" } },
                html! { code { (act.detail) } },
            ]
        })
        .collect();
    let columns = [text("At"), text("By"), text("Act"), text("Job"), text("Details")];
    let next = acts.last().filter(|_| has_more).map(|(number, _)| *number);
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(actor.as_ref().map(|actor| ("actor", actor)))
        .finish();
    let body = html! {
        h1 { "Audit" }
        form.row method="get" action="/console/audit" {
            label { "Who" input name="actor" value=[actor.as_deref()]; }
            button type="submit" { "Show" }
        }
        (ui::table("What people did, newest first", &columns, rows, "Nobody did anything."))
        @if let Some(next) = next {
            nav.pages aria-label="Pages" { a rel="next" href={ "/console/audit?before=" (next) "&" (query) } { "Older" } }
        }
    };
    Ok(visitor.page("/console/audit", "Audit", &body))
}
