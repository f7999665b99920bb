//! The way of one job.

use axum::{
    extract::{Path, State},
    response::Redirect,
};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    refused::{Page, PageProblem},
    ui::{self, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::{
    acts::{self, Ended, Prospect, Way},
    admin::{access::Role, problem::Problem, state::Admin, zones::of_job},
    meta::is_any_id,
    store::{AuditEntry, DelayedLine, InboxLine, LedgerLine, RunLine, Trail},
};

/// The most that is said of what a retry would act on.
pub const SHOWN: usize = 20;

/// A link to the page of a job.
pub fn link(id: &str) -> Markup {
    html! { a.id href={ "/console/jobs/" (utf8_percent_encode(id, NON_ALPHANUMERIC)) } { (id) } }
}

/// Refuses whatever is no id.
pub fn check(id: &str) -> Result<(), Problem> {
    if is_any_id(id) { Ok(()) } else { Err(Problem::field("id", "a job's id has only A-Z a-z 0-9 _ : . - ~")) }
}

pub async fn show(State(admin): State<Admin>, visitor: Visitor, done: Done, Path(id): Path<String>) -> Page {
    check(&id)?;
    let (way, delayed) = (admin.store.trail_of(&id).await?, admin.store.delayed_job(&id).await?);
    if way.is_none() && delayed.is_none() && !done.is_published() {
        let why = format!(
            "there is no record of a job {id:?}: the id is wrong, or it waits in a queue, or its records are pruned"
        );
        return Err(Problem::not_found(why).into());
    }
    let prospects = match visitor.viewer.role {
        Role::Viewer | Role::Coordinator => Ok(Vec::new()),
        Role::Operator | Role::Admin => {
            admin.prospects(&visitor.viewer, &id, way.as_ref(), delayed.as_ref(), SHOWN).await
        }
    };
    let way = way.unwrap_or_else(|| Trail::of(&id));
    let record = of_job(&way.root_id);
    let care = admin.care_zones([record.clone()]).await.of(record.as_ref());
    let visitor = visitor.beside(care);
    let body = html! {
        div data-live-from="/console/live" {}
        h1 { "Job " span.id { (way.root_id) } }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        @if let Some(care) = care.filter(|care| care.name() != visitor.zone.name()) {
            p.soft { "In brackets: on the care recipient's clocks, " (care.name()) "." }
        }
        (ui::live("way", html! {
            (summary(&way, delayed.as_ref(), &visitor))
            @if visitor.viewer.role >= Role::Operator { (choices(&id, &prospects, waits(&way, delayed.as_ref()), &visitor)) }
            @if !way.runs.is_empty() { (runs(&way, &visitor)) }
            @if !way.deliveries.is_empty() { (deliveries(&way.deliveries, &visitor)) }
            @if !way.inbox.is_empty() { (inbox(&way.inbox, &visitor)) }
            @if !way.audit.is_empty() { (acts(&way.audit, &visitor)) }
        }))
    };
    Ok(visitor.page("/console/jobs", "Job", &body))
}

pub async fn cancel(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Redirect, PageProblem> {
    check(&id)?;
    let done = match admin.cancel(&visitor.viewer, &id).await? {
        Ended::Discarded(_) => "discarded",
        Ended::Waiting(done) if !done.is_any() => "unstoppable",
        Ended::Asked => "asked",
        Ended::Waiting(_) | Ended::Delayed(_) => "cancelled",
    };
    Ok(Redirect::to(&format!("/console/jobs/{}?done={done}", utf8_percent_encode(&id, NON_ALPHANUMERIC))))
}

pub async fn retry(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Redirect, PageProblem> {
    check(&id)?;
    admin.retry(&visitor.viewer, &id).await?;
    Ok(Redirect::to(&format!("/console/jobs/{}?done=retried", utf8_percent_encode(&id, NON_ALPHANUMERIC))))
}

/// Whether there is something to cancel.
fn waits(way: &Trail, delayed: Option<&DelayedLine>) -> bool {
    delayed.is_some_and(|delayed| delayed.state == "waiting")
        || way.runs.iter().any(|run| run.state == "open")
        || way.deliveries.iter().any(|line| ["pending", "held"].contains(&&*line.state))
}

/// What can be done with it, and what a retry would do.
fn choices(id: &str, prospects: &Result<Vec<Prospect>, Problem>, waits: bool, visitor: &Visitor) -> Markup {
    let place = format!("/console/jobs/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    let prospects = match prospects {
        Ok(prospects) => prospects.as_slice(),
        Err(problem) => {
            return ui::note(Tone::Warn, html! { "What a retry would do is not known: " (problem.detail()) });
        }
    };
    let is_dead = prospects.iter().any(|prospect| matches!(prospect.way, Way::Redrive(_)));
    html! {
        @if waits || !prospects.is_empty() {
            section.card id="choices" {
                h2 { "Decide" }
                @if !prospects.is_empty() {
                    p { "A retry keeps the job's id, so nobody is told twice. It would act on:" }
                    ul {
                        @for Prospect { job_id, way, prediction, until } in prospects {
                            li {
                                span.id { (job_id) } ", "
                                @match way {
                                    Way::Redrive(None) => "its dead letter",
                                    Way::Redrive(Some(number)) => a href={ "/console/dead-letters/" (number) } { "dead letter " (number) },
                                    Way::Wake => { "parked" @if let Some(until) = until { " until " (visitor.time(*until)) } },
                                }
                                ": " (prediction.sentence()) "."
                            }
                        }
                    }
                    @if prospects.len() >= SHOWN { p.soft { "These are the first " (SHOWN) "; it acts on all." } }
                    form.row method="post" action={ (place) "/retry" } { button.main type="submit" { "Retry" } }
                }
                @if waits || is_dead {
                    form.row method="post" action={ (place) "/cancel" } {
                        button.danger type="submit" { @if waits { "Cancel this job" } @else { "Discard for good" } }
                    }
                }
            }
        }
    }
}

fn summary(way: &Trail, delayed: Option<&DelayedLine>, visitor: &Visitor) -> Markup {
    let sent = way.deliveries.iter().filter(|line| ["sent", "delivered"].contains(&&*line.state)).count();
    let failed = way.deliveries.iter().filter(|line| Tone::of(&line.state) == Tone::Bad).count();
    let dead = way.runs.iter().any(|run| run.state == "dead") || way.deliveries.iter().any(|line| line.state == "dead");
    let (tone, sentence) = match (dead, failed, way.deliveries.len()) {
        (true, _, _) => (Tone::Bad, "It failed for good and needs somebody's decision.".to_owned()),
        (false, 0, 0) => (
            Tone::Plain,
            way.runs.last().map_or_else(
                || "It has not run yet.".to_owned(),
                |run| {
                    format!(
                        "Its last run is {}{}.",
                        run.state,
                        run.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default()
                    )
                },
            ),
        ),
        (false, 0, all) if sent == all => (Tone::Good, format!("All {all} deliveries were accepted.")),
        (false, _, all) => (Tone::Warn, format!("{sent} of {all} deliveries were accepted, {failed} failed.")),
    };
    html! {
        (ui::note(tone, sentence))
        @if let Some(delayed) = delayed {
            (ui::facts(vec![
                ("Delayed until", html! { @match delayed.due { Some(due) => (visitor.time(due)), None => "–" } }),
                ("State", ui::state(&delayed.state)),
                ("Kind", html! { (delayed.kind) }),
            ]))
        }
    }
}

fn runs(way: &Trail, visitor: &Visitor) -> Markup {
    html! {
        section {
            h2 { "Its way" }
            ol.way {
                @for run in &way.runs { li class=(Tone::of(&run.state).class()) { (step(run, visitor)) } }
                @for planned in &way.planned { li { "Planned, not known to be published: " span.id { (planned.job_id) } } }
            }
        }
    }
}

fn step(run: &RunLine, visitor: &Visitor) -> Markup {
    html! {
        h3 { (run.kind) " " (ui::state(&run.state)) }
        @if let Some(reason) = &run.reason { p { "Because of " code { (reason) } } }
        p.soft {
            (visitor.time(run.updated_at)) ", " (run.attempts) @if run.attempts == 1 { " failure" } @else { " failures" }
            ", " span.id { (run.job_id) }
        }
        @if let Some(error) = &run.last_error { p { "Last failure: " (error) } }
        @if let Some(task) = &run.task {
            p {
                "Its endpoint: " (task.state)
                @if let Some(percent) = task.percent { ", " progress max="100" value=(percent) aria-label="Progress" {} " " (percent) " %" }
                @if let Some(note) = &task.note { ", " (note) }
                @if run.state == "open" { ", until " (visitor.time(task.deadline)) }
            }
        }
        @if run.state == "open" { @if let Some(at) = run.cancel_at { p { "Cancellation asked for " (visitor.time(at)) } } }
        @if let Some(result) = run.result.as_ref().filter(|_| is_task(run)) { p { "Result: " code { (result) } } }
    }
}

/// Whether an endpoint carries it out: no kind of this program's own.
fn is_task(run: &RunLine) -> bool {
    acts::is_task(&run.kind)
}

fn deliveries(lines: &[LedgerLine], visitor: &Visitor) -> Markup {
    let row = |line: &LedgerLine| {
        let whom = if line.user_id.is_empty() { "an address" } else { &line.user_id };
        vec![
            html! { (whom) },
            html! { (line.channel) },
            html! {
                (ui::state(&line.state))
                @if let Some(reason) = &line.reason { " " code { (reason) } }
                @if let Some(until) = line.held_until { div.soft { "until " (visitor.time(until)) } }
            },
            html! {
                @if let Some(provider) = &line.provider { (provider) }
                @if let Some(answer) = &line.answer { ": " (answer) }
                @for failure in &line.failures { div.soft { (visitor.time(failure.at)) ": " (failure.answer) } }
            },
            html! { (visitor.time(line.delivered_at.or(line.sent_at).unwrap_or(line.updated_at))) },
            html! { (line.attempts) },
        ]
    };
    let columns = [text("To"), text("By"), text("State"), text("Provider's answer"), text("At"), number("Failures")];
    html! {
        section {
            h2 { "Deliveries" }
            (ui::table("One line for each recipient, channel and address", &columns, lines.iter().map(row).collect(), ""))
        }
    }
}

fn inbox(lines: &[InboxLine], visitor: &Visitor) -> Markup {
    let row = |line: &InboxLine| {
        let steps = [("archived", line.archived_at), ("read", line.read_at), ("seen", line.seen_at)];
        let last = steps.into_iter().find_map(|(word, at)| at.map(|at| (word, at)));
        vec![
            html! { (line.user_id) },
            html! { (visitor.time(line.created_at)) },
            html! { @match last { Some((word, at)) => { (ui::state(word)) " " (visitor.time(at)) }, None => (ui::state("unread")) } },
        ]
    };
    let columns = [text("User"), text("Written"), text("Since then")];
    html! {
        section { h2 { "Inbox" } (ui::table("One row for each user", &columns, lines.iter().map(row).collect(), "")) }
    }
}

fn acts(entries: &[AuditEntry], visitor: &Visitor) -> Markup {
    let row = |act: &AuditEntry| vec![html! { (visitor.time(act.at)) }, html! { (act.actor) }, html! { (act.action) }];
    let columns = [text("At"), text("By"), text("Act")];
    html! {
        section { h2 { "By hand" } (ui::table("What people did to it", &columns, entries.iter().map(row).collect(), "")) }
    }
}
