//! Where schedules are, and how their instants are shown.

use axum::response::Redirect;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{admin::pages::visitor::Visitor, schedule};

/// Instants shown of a schedule.
pub const SHOWN: usize = 5;

/// Where one of a new name is made.
pub const NEW: &str = "/console/new-schedule";

/// An instant in the schedule's zone, and in the viewer's.
pub fn in_both(visitor: &Visitor, at: DateTime<Utc>, zone: &str) -> Markup {
    html! {
        @if let Ok(theirs) = schedule::zone(zone) { (at.with_timezone(&theirs).format("%a %Y-%m-%d %H:%M:%S %Z")) " there, " }
        (visitor.time(at))
    }
}

/// Its page.
pub fn place(name: &str) -> String {
    format!("/console/schedules/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

/// To its page, after an act.
pub fn back(name: &str, done: &str) -> Redirect {
    Redirect::to(&format!("{}?done={done}", place(name)))
}
