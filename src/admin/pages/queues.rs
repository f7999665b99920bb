//! All queues.

use axum::{
    Form,
    extract::{Path, State},
    response::Redirect,
};
use chrono::TimeDelta;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    refused::{Page, PageProblem},
    ui::{self, Column, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::admin::{
    access::Role,
    problem::Problem,
    snapshot::{QueueState, Snapshot, in_words},
    state::Admin,
};

/// Of a table of queues.
pub const COLUMNS: &[Column] = &[
    text("Queue"),
    number("Waiting"),
    number("Running"),
    text("Oldest"),
    number("Pulls"),
    text("Retries"),
    number("At once"),
];

pub async fn show(State(admin): State<Admin>, visitor: Visitor, done: Done) -> Page {
    let snapshot = admin.snapshot().await;
    let table = match &snapshot.streaming {
        Err(why) => ui::note(Tone::Bad, html! { "NATS cannot be seen from here: " (why) }),
        Ok(streaming) => {
            let rows = streaming.queues.iter().map(|queue| row(queue, &snapshot)).collect();
            ui::table("All queues, by name", COLUMNS, rows, "There are no queues.")
        }
    };
    let body = html! {
        div data-live-from="/console/live" {}
        div.titled {
            h1 { "Queues" }
            (ui::live("as-of", ui::as_of(&visitor.time(snapshot.at), "/console/queues")))
        }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        p.soft {
            "A queue is a kind of job, or one "
            (ui::term("lane", "How urgent a job is: critical, normal or bulk. Each lane is served apart."))
            " of it. "
            (ui::term("Pulls", "Open requests for jobs by workers. None means that all are busy, or that there are no workers."))
            " are workers that ask for jobs."
        }
        (ui::live("queues", table))
    };
    Ok(visitor.page("/console/queues", "Queues", &body))
}

/// A queue's row.
pub fn row(queue: &QueueState, snapshot: &Snapshot) -> Vec<Markup> {
    let QueueState { name, policy, load, .. } = queue;
    let counted = |read: fn(&crate::streams::Load) -> u64| {
        html! {
            @if let Some(load) = load { (ui::count(read(load))) }
            @else { span title="It is not on the server: run carebell streams apply" { "?" } }
        }
    };
    let oldest =
        load.and_then(|load| load.oldest).map_or_else(|| "–".to_owned(), |oldest| in_words(snapshot.at - oldest));
    vec![
        html! {
            a.id href={ "/console/queues/" (name) } { (name) }
            @if snapshot.pause_of(name).is_some() { " " (ui::state("paused")) }
        },
        counted(|load| load.waiting),
        counted(|load| load.in_flight),
        html! { (oldest) },
        counted(|load| load.pulls),
        html! { (policy.attempts) " attempts, " (policy.backoff) },
        html! { (policy.concurrency) },
    ]
}

/// One queue, and what may be done to it.
pub async fn one(State(admin): State<Admin>, visitor: Visitor, done: Done, Path(name): Path<String>) -> Page {
    let snapshot = admin.snapshot().await;
    let streaming = snapshot.streaming.as_ref().map_err(|why| Problem::unavailable("NATS", why))?;
    let Some(queue) = streaming.queues.iter().find(|queue| queue.name == name) else {
        return Err(Problem::not_found(format!("there is no queue {name:?}")).into());
    };
    let pause = admin.store.pauses(admin.clock.now()).await?;
    let pause = Snapshot { pauses: pause, ..(*snapshot).clone() }.pause_of(&name).cloned();
    let body = html! {
        h1 { "Queue " span.id { (name) } }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        @if let Some(pause) = &pause {
            (ui::note(Tone::Warn, html! {
                (pause.actor) " has paused the " (pause.scope.name()) " " (pause.name) ": " (pause.reason) ". "
                @match pause.until { Some(until) => { "It ends at " (visitor.time(until)) "." }, None => "It has to be resumed." }
            }))
        }
        (ui::table("Its load", COLUMNS, vec![row(queue, &snapshot)], ""))
        @if visitor.viewer.role >= Role::Operator { (choices(&name, pause.is_some())) }
    };
    Ok(visitor.page("/console/queues", "Queue", &body))
}

fn choices(name: &str, is_paused: bool) -> Markup {
    html! {
        section.card {
            @if is_paused {
                h2 { "Resume" }
                form.row method="post" action={ "/console/queues/" (name) "/resume" } {
                    button.main type="submit" { "Resume this queue" }
                }
            } @else {
                h2 { "Pause" }
                p { "Its jobs wait, and burn no attempt. Those that run are finished. Jobs may expire meanwhile." }
                form.row method="post" action={ "/console/queues/" (name) "/pause" } {
                    label { "Why, for the colleagues" input name="reason" required maxlength="200" size="40"; }
                    label { "For how long"
                        select name="hours" {
                            option value="1" { "1 hour" }
                            option value="8" { "8 hours" }
                            option value="24" { "1 day" }
                            option value="" { "until somebody resumes it" }
                        }
                    }
                    button.danger type="submit" { "Pause this queue" }
                }
            }
        }
    }
}

/// Of the form that pauses a queue.
#[derive(Deserialize)]
pub struct Pausing {
    reason: String,
    hours: String,
}

pub async fn pause(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(pausing): Form<Pausing>,
) -> Result<Redirect, PageProblem> {
    let until = match pausing.hours.as_str() {
        "" => None,
        hours => {
            let hours = hours.parse().ok().filter(|hours| (1..=24 * 7).contains(hours));
            let hours = hours.ok_or_else(|| Problem::field("hours", "expected a number from 1 to 168, or nothing"))?;
            Some(admin.clock.now() + TimeDelta::hours(hours))
        }
    };
    admin.pause_queue(&visitor.viewer, &name, &pausing.reason, until).await?;
    Ok(Redirect::to(&format!("/console/queues/{name}?done=paused")))
}

pub async fn resume(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.resume_queue(&visitor.viewer, &name).await?;
    Ok(Redirect::to(&format!("/console/queues/{name}?done=resumed")))
}
