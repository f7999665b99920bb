//! What is due in the next hour.

use axum::extract::State;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    job,
    refused::Page,
    ui::{self, text},
    visitor::Visitor,
};
use crate::{
    admin::{problem::Problem, state::Admin, zones::of_job},
    store::lists::{Due, DueLine},
};

/// Counts, each with a link to what it counts.
pub fn summary(due: &Due) -> Markup {
    html! {
        p {
            "Due in the next hour: "
            a href="/console/due#care" { (due.reminders) " reminders" } " of care records, "
            a href="/console/due" { (due.delayed) " delayed jobs" } ", "
            a href="/console/due" { (due.schedules) " schedules" } "."
        }
    }
}

pub async fn show(State(admin): State<Admin>, visitor: Visitor) -> Page {
    let snapshot = admin.snapshot().await;
    let activity = snapshot.activity.as_ref().map_err(|why| Problem::unavailable("the database", why))?;
    let record = |line: &DueLine| match line.source.as_str() {
        "care" => Some((line.kind.clone(), line.id.clone())),
        _ => of_job(&line.id),
    };
    let zones = admin.care_zones(activity.due.lines.iter().map(record)).await;
    let row = |line: &DueLine| {
        vec![
            html! { (visitor.beside(zones.of(record(line).as_ref())).time(line.at)) },
            html! { (line.kind) },
            match line.source.as_str() {
                "delayed" => job::link(&line.id),
                "schedule" => html! {
                    a.id href={ "/console/schedules/" (utf8_percent_encode(&line.id, NON_ALPHANUMERIC)) } { (line.id) }
                },
                _ => html! { span.id { (line.id) } },
            },
            html! {
                @match line.source.as_str() {
                    "delayed" => "a delayed job",
                    "schedule" => "a schedule",
                    _ => "a care record",
                }
            },
        ]
    };
    let rows = activity.due.lines.iter().map(row).collect();
    let columns = [text("Due"), text("Kind"), text("Which"), text("Because of")];
    let body = html! {
        div data-live-from="/console/live" {}
        div.titled {
            h1 { "Due in the next hour" }
            (ui::live("as-of", ui::as_of(&visitor.time(snapshot.at), "/console/due")))
        }
        (ui::live("due", html! {
            (summary(&activity.due))
            div id="care" { (ui::table("The first hundred", &columns, rows, "Nothing is due in the next hour.")) }
        }))
    };
    Ok(visitor.page("/console/delayed", "Due in the next hour", &body))
}
