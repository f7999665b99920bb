//! All queues.

use axum::extract::State;
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{
    refused::Page,
    ui::{self, Column, number, text},
    visitor::Visitor,
};
use crate::admin::{
    snapshot::{QueueState, in_words},
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

pub async fn show(State(admin): State<Admin>, visitor: Visitor) -> Page {
    let snapshot = admin.snapshot().await;
    let table = match &snapshot.streaming {
        Err(why) => ui::note(ui::Tone::Bad, html! { "NATS cannot be seen from here: " (why) }),
        Ok(streaming) => {
            let rows = streaming.queues.iter().map(|queue| row(queue, snapshot.at)).collect();
            ui::table("All queues, by name", COLUMNS, rows, "There are no queues.")
        }
    };
    let body = html! {
        div data-live-from="/console/live" {}
        div.titled {
            h1 { "Queues" }
            (ui::live("as-of", ui::as_of(&visitor.time(snapshot.at), "/console/queues")))
        }
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
pub fn row(queue: &QueueState, at: DateTime<Utc>) -> Vec<Markup> {
    let QueueState { name, policy, load, .. } = queue;
    let counted = |read: fn(&crate::streams::Load) -> u64| {
        html! {
            @if let Some(load) = load { (ui::count(read(load))) }
            @else { span title="It is not on the server: run carebell streams apply" { "?" } }
        }
    };
    let oldest = load.and_then(|load| load.oldest).map_or_else(|| "–".to_owned(), |oldest| in_words(at - oldest));
    vec![
        html! { span.id { (name) } },
        counted(|load| load.waiting),
        counted(|load| load.in_flight),
        html! { (oldest) },
        counted(|load| load.pulls),
        html! { (policy.attempts) " attempts, " (policy.backoff) },
        html! { (policy.concurrency) },
    ]
}
