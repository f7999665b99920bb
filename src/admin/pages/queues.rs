//! All queues.

use axum::{
    Form,
    extract::{Path, State},
    response::Redirect,
};
use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    chart::Bars,
    operations,
    refused::{Page, PageProblem},
    ui::{self, Column, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::{
    admin::{
        access::Role,
        problem::Problem,
        reads::QueueStats,
        snapshot::{QueueState, Snapshot, in_words},
        state::Admin,
    },
    pauses::Scope,
    store::lists::{JobState, OutcomeCount},
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
    let counted = |read: fn(&crate::streams::Load) -> u64, list: &str| {
        html! {
            @if let Some(load) = load { a href=(list) { (ui::count(read(load))) } }
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
        counted(|load| load.waiting, &format!("/console/jobs?status=waiting&queue={name}")),
        counted(|load| load.in_flight, &format!("/console/jobs?status=active&queue={name}")),
        html! { (oldest) },
        counted(|load| load.pulls, "/console#workers"),
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
    let stats = admin.queue_stats(&name).await?;
    // Each job is read: once, for whoever has just paused it.
    let held_up = match &pause {
        Some(pause) if done.words().is_some() => Some(admin.held_up(pause).await.in_words(pause.until)),
        _ => None,
    };
    let body = html! {
        h1 { "Queue " span.id { (name) } }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        @if let Some(pause) = &pause {
            (ui::note(Tone::Warn, html! {
                (pause.actor) " has paused the " (pause.scope.name()) " " (pause.name) ": " (pause.reason) ". "
                @match pause.until { Some(until) => { "It ends at " (visitor.time(until)) "." }, None => "It has to be resumed." }
                @if let Some(held_up) = &held_up { " At the moment: " (held_up) "." }
            }))
        }
        (ui::table("Its load", COLUMNS, vec![row(queue, &snapshot)], ""))
        (ended(&name, &stats, &visitor))
        @if visitor.viewer.role >= Role::Operator { (choices(&name, pause.is_some())) }
        @if visitor.viewer.role >= Role::Admin {
            p { a href={ (operations::NEW) "?act=empty&queue=" (name) } { "Empty this queue" } }
        }
    };
    Ok(visitor.page("/console/queues", "Queue", &body))
}

/// How its runs ended lately, each number with a link to what it counts.
fn ended(name: &str, stats: &QueueStats, visitor: &Visitor) -> Markup {
    let day =
        |outcome: &str| stats.last_day.iter().find(|count| count.outcome == outcome).map_or(0, |count| count.count);
    let hour =
        |outcome: &str| stats.last_hour.iter().find(|count| count.outcome == outcome).map_or(0, |count| count.count);
    // A delivery that was done is recorded as sent, and attempts have no list of their own.
    let listed = |outcome: &str| match (JobState::named(outcome), outcome) {
        (_, "done") if name.starts_with("deliver_") => Some("sent".to_owned()),
        (found, _) => found.map(|_| outcome.to_owned()),
    };
    let count = |outcome: &str, count: u64, age: &str| {
        html! {
            @match listed(outcome) {
                Some(word) => a href={ "/console/jobs?queue=" (name) "&status=" (word) "&since=" (age) } { (ui::count(count)) },
                None => (ui::count(count)),
            }
        }
    };
    let row = |line: &OutcomeCount| {
        let outcome = line.outcome.as_str();
        vec![html! { (ui::state(outcome)) }, count(outcome, hour(outcome), "1h"), count(outcome, day(outcome), "24h")]
    };
    let columns = [text("Outcome"), number("Last hour"), number("Last day")];
    let rows = stats.last_day.iter().map(row).collect();
    html! {
        section {
            h2 { "Throughput" }
            (Bars::of(&stats.throughput, "Jobs that ended in the last hour", visitor))
            (ui::table("How runs ended", &columns, rows, "None ended within the last day."))
            p {
                a href={ "/console/jobs?queue=" (name) } { "Its jobs" } ", "
                a href={ "/console/jobs?status=waiting&queue=" (name) } { "those that wait" } ", "
                a href={ "/console/jobs?status=failed&queue=" (name) } { "those that failed" }
            }
        }
    }
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
                    (hours())
                    button.danger type="submit" { "Pause this queue" }
                }
            }
        }
    }
}

/// How long a pause lasts.
pub fn hours() -> Markup {
    html! {
        label { "For how long"
            select name="hours" {
                option value="1" { "1 hour" }
                option value="8" { "8 hours" }
                option value="24" { "1 day" }
                option value="" { "until somebody resumes it" }
            }
        }
    }
}

/// Of the forms that pause something.
#[derive(Deserialize)]
pub struct Pausing {
    /// Of the channel or provider, if the path does not name it.
    pub name: Option<String>,
    /// For the colleagues.
    pub reason: String,
    hours: String,
}

impl Pausing {
    /// When it ends. `None`: when somebody resumes it.
    ///
    /// # Errors
    /// If the hours are no number from 1 to 168.
    pub fn until(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, Problem> {
        if self.hours.is_empty() {
            return Ok(None);
        }
        let hours = self.hours.parse().ok().filter(|hours| (1..=24 * 7).contains(hours));
        let hours = hours.ok_or_else(|| Problem::field("hours", "expected a number from 1 to 168, or nothing"))?;
        Ok(Some(now + TimeDelta::hours(hours)))
    }
}

pub async fn pause(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(pausing): Form<Pausing>,
) -> Result<Redirect, PageProblem> {
    let until = pausing.until(admin.clock.now())?;
    admin.pause(&visitor.viewer, Scope::Queue, &name, &pausing.reason, until).await?;
    Ok(Redirect::to(&format!("/console/queues/{name}?done=paused")))
}

pub async fn resume(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Redirect, PageProblem> {
    admin.resume(&visitor.viewer, Scope::Queue, &name).await?;
    Ok(Redirect::to(&format!("/console/queues/{name}?done=resumed")))
}
