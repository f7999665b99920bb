//! The workers, on the first page.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    job,
    ui::{self, number, text},
    visitor::Visitor,
};
use crate::{
    admin::snapshot::in_words,
    store::lists::{RunningLine, WorkerLine},
};

/// Running jobs that are shown of a worker.
const SHOWN: usize = 5;

/// Which workers live, and what they run.
pub fn section(workers: &[WorkerLine], at: DateTime<Utc>, visitor: &Visitor) -> Markup {
    let row = |worker: &WorkerLine| {
        vec![
            html! { span.id { (worker.id) } div.soft { (worker.host) ", " (worker.version) } },
            html! {
                (ui::state(worker.status()))
                @if worker.is_lost { div.soft { "last seen " (visitor.time(worker.seen_at)) } }
                @else { div.soft { "up for " (in_words(at - worker.started_at)) } }
            },
            html! { (worker.duties.join(", ")) },
            html! { (running(worker, at)) },
            html! { (ui::count(worker.processed)) },
            html! { (ui::count(worker.failed)) },
        ]
    };
    let columns =
        [text("Worker"), text("State"), text("Duties"), text("Runs now"), number("Processed"), number("Failed")];
    html! {
        section id="workers" {
            h2 { "Workers" }
            (ui::table("Workers that live, and those lost within the last day", &columns, workers.iter().map(row).collect(),
                "No worker has been seen within the last day."))
        }
    }
}

fn running(worker: &WorkerLine, at: DateTime<Utc>) -> Markup {
    let one = |job: &RunningLine| {
        html! {
            div {
                @if job.job_id.is_empty() { "an unreadable message" } @else { (job::link(&job.job_id)) }
                span.soft { " in " (job.queue) ", for " (in_words(at - job.since)) }
            }
        }
    };
    let shown = worker.running.len().min(SHOWN);
    html! {
        @if worker.busy == 0 { "–" }
        @for job in &worker.running[..shown] { (one(job)) }
        @let more = worker.busy.saturating_sub(shown as u64);
        @if more > 0 { div { a href="/console/jobs?status=active" { (ui::count(more)) " more" } } }
    }
}
