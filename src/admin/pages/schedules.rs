//! Saved schedules.

pub mod form;
pub mod place;

use axum::{
    Form,
    extract::{Path, State},
    response::Redirect,
};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use self::place::{SHOWN, back, place};
use super::{
    job,
    refused::{Page, PageProblem},
    ui::{self, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::{
    admin::{access::Role, state::Admin},
    clock::Random,
    scheduler::timing::Timing,
    store::ScheduleRow,
};

pub async fn list(State(admin): State<Admin>, visitor: Visitor, done: Done) -> Page {
    let schedules = admin.store.schedules(None).await?;
    let row = |row: &ScheduleRow| {
        vec![
            html! { a.id href=(place(&row.spec.name)) { (row.spec.name) } },
            html! { (row.spec.kind) },
            html! { code { (row.spec.expression) } " " (row.spec.zone) },
            state(row, &visitor),
            html! { (ui::count(row.fired)) },
            html! { (ui::count(row.missed_count)) },
        ]
    };
    let columns = [text("Name"), text("Publishes"), text("When"), text("Next"), number("Fired"), number("Missed")];
    let body = html! {
        h1 { "Schedules" }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        @if visitor.viewer.role >= Role::Operator { p { a.button href=(place::NEW) { "New schedule" } } }
        (ui::table("Saved schedules, by name", &columns, schedules.iter().map(row).collect(), "There are no schedules."))
    };
    Ok(visitor.page("/console/schedules", "Schedules", &body))
}

fn state(row: &ScheduleRow, visitor: &Visitor) -> Markup {
    html! {
        @if row.spec.paused { (ui::state("paused")) }
        @else if let Some(at) = row.next.at { (visitor.time(at)) }
        @else { "no instants left" }
    }
}

pub async fn one(State(admin): State<Admin>, visitor: Visitor, done: Done, Path(name): Path<String>) -> Page {
    let row = admin.schedule(&name).await?;
    let timing = Timing::read(&row.spec).ok().filter(|_| !row.spec.paused);
    let upcoming: Vec<_> = timing.iter().flat_map(|timing| timing.following(row.next)).take(SHOWN).collect();
    let spec = &row.spec;
    let body = html! {
        h1 { "Schedule " span.id { (spec.name) } }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        (ui::facts(vec![
            ("Publishes", html! { (spec.kind) @if let Some(lane) = &spec.lane { ", " (lane) } }),
            ("When", html! { code { (spec.expression) } " in " (spec.zone) }),
            ("Next", state(&row, &visitor)),
            ("Last", html! {
                @match row.last_at { Some(at) => (visitor.time(at)), None => "never" }
                @if let Some(id) = &row.last_job_id { ", job " (job::link(id)) }
            }),
            ("Fired", html! { (ui::count(row.fired)) " times, " (ui::count(row.missed_count)) " missed" }),
            ("Last decision", html! { (row.last_note.as_deref().unwrap_or("–")) }),
            ("Changed", html! { (visitor.time(row.changed.at)) " by " (row.changed.by) }),
        ]))
        @if !upcoming.is_empty() {
            section {
                h2 { "The next instants" }
                ol { @for at in &upcoming { li { (place::in_both(&visitor, *at, &spec.zone)) } } }
            }
        }
        @if visitor.viewer.role >= Role::Operator { (choices(&row, &Random::system().uuid(admin.clock.now()).to_string())) }
    };
    Ok(visitor.page("/console/schedules", "Schedule", &body))
}

/// `once`: pressed twice, its job is published once.
fn choices(row: &ScheduleRow, once: &str) -> Markup {
    let place = place(&row.spec.name);
    html! {
        section.card {
            h2 { "Change" }
            div.acts {
                a.button href={ (place) "/change" } { "Change it" }
                form method="post" action={ (place) "/run" } {
                    input type="hidden" name="once" value=(once);
                    button type="submit" { "Run it now, once more" }
                }
                @if row.spec.paused {
                    form method="post" action={ (place) "/resume" } { button.main type="submit" { "Resume" } }
                } @else {
                    form method="post" action={ (place) "/pause" } { button type="submit" { "Pause" } }
                }
                form method="post" action={ (place) "/delete" } { button.danger type="submit" { "Delete for good" } }
            }
        }
    }
}

/// Of the form that runs one.
#[derive(Deserialize)]
pub struct Running {
    once: String,
}

pub async fn run(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(running): Form<Running>,
) -> Result<Redirect, PageProblem> {
    let job_id = admin.run_schedule(&visitor.viewer, &name, Some(&running.once)).await?;
    Ok(Redirect::to(&format!("/console/jobs/{}?done=published", utf8_percent_encode(&job_id, NON_ALPHANUMERIC))))
}

pub async fn pause(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.pause_schedule(&visitor.viewer, &name, true).await?;
    Ok(back(&name, "paused"))
}

pub async fn resume(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.pause_schedule(&visitor.viewer, &name, false).await?;
    Ok(back(&name, "resumed"))
}

pub async fn delete(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.delete_schedule(&visitor.viewer, &name).await?;
    Ok(Redirect::to("/console/schedules?done=deleted"))
}
