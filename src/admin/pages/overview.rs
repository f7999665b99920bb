//! The first page.

use axum::extract::State;
use maud::html;

use super::{layout, refused::Page, ui};
use crate::admin::{access::Viewer, state::Admin};

pub async fn show(State(admin): State<Admin>, viewer: Viewer) -> Page {
    let counts = admin.store.count_delayed().await?;
    let delayed: u64 = counts.values().map(|count| count.jobs).sum();
    let tiles = [ui::Tile { name: "Delayed jobs", value: ui::count(delayed), note: None, href: None }];
    let body = html! {
        h1 { "Overview" }
        (ui::live("tiles", ui::tiles(&tiles)))
    };
    Ok(layout::page(&viewer, "/console", "Overview", &body))
}
