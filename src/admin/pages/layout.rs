//! The frame of all pages.

use maud::{DOCTYPE, Markup, html};

use super::assets;
use crate::admin::access::{Role, Viewer, Way};

/// A place in the navigation: its path, its name, and who sees it.
const PLACES: &[(&str, &str, Role)] = &[
    ("/console", "Overview", Role::Viewer),
    ("/console/jobs", "Jobs", Role::Viewer),
    ("/console/queues", "Queues", Role::Viewer),
    ("/console/delayed", "Delayed", Role::Viewer),
    ("/console/dead-letters", "Dead letters", Role::Viewer),
    ("/console/schedules", "Schedules", Role::Viewer),
    ("/console/people", "People", Role::Coordinator),
    ("/console/providers", "Providers", Role::Viewer),
    ("/console/operations", "Operations", Role::Operator),
    ("/console/publish", "Publish", Role::Operator),
    ("/console/audit", "Audit", Role::Operator),
    ("/console/api", "API", Role::Viewer),
];

/// A page for whoever is signed in. `path` is its place in the navigation.
pub fn page(viewer: &Viewer, zone: &str, path: &str, title: &str, body: &Markup) -> Markup {
    let head = html! {
        nav aria-label="Pages" {
            ul {
                @for (place, name, least) in PLACES {
                    @if viewer.role >= *least {
                        li { a href=(place) aria-current=[(*place == path).then_some("page")] { (name) } }
                    }
                }
            }
        }
        div.who {
            span { (viewer.name) ", " (viewer.role.name()) }
            // The proxy would sign them in again.
            @if viewer.way != Way::Proxy {
                form.inline method="post" action="/console/sign-out" { button type="submit" { "Sign out" } }
            }
        }
    };
    let foot = html! {
        span id="live-status" aria-live="off" {}
        form.inline.row method="post" action="/console/zone" {
            label { "Times in" input name="zone" value=(zone) size="18" spellcheck="false" autocomplete="off"; }
            input type="hidden" name="next" value=(path);
            button type="submit" { "Set" }
        }
    };
    frame(title, &head, body, &foot)
}

/// A page for anybody.
pub fn bare(title: &str, body: &Markup) -> Markup {
    frame(title, &html! {}, body, &html! {})
}

fn frame(title: &str, head: &Markup, body: &Markup, foot: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Carebell" }
                link rel="icon" href=(assets::icon()) type="image/svg+xml";
                link rel="stylesheet" href=(assets::style());
                script src=(assets::script()) defer {}
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header.top { div { a.brand href="/console" { "Carebell" } (head) } }
                main id="content" tabindex="-1" { (body) }
                footer { div { span { "Carebell " (env!("CARGO_PKG_VERSION")) } (foot) } }
            }
        }
    }
}
