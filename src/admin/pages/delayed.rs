//! Delayed jobs, the next one due first.

use axum::extract::State;
use maud::html;

use super::{
    job,
    refused::Page,
    ui::{self, text},
    visitor::Visitor,
};
use crate::admin::{state::Admin, zones::of_job};

/// Shown at once.
const MOST: i64 = 100;

pub async fn show(State(admin): State<Admin>, visitor: Visitor) -> Page {
    let mut jobs = admin.store.delayed_jobs(None, MOST + 1).await?;
    let all: u64 = admin.store.count_delayed().await?.values().map(|count| count.jobs).sum();
    jobs.truncate(100);
    let zones = admin.care_zones(jobs.iter().map(|row| of_job(&row.job_id))).await;
    let rows = jobs
        .iter()
        .map(|row| {
            vec![
                job::link(&row.job_id),
                html! { (row.kind) },
                html! { @match row.due { Some(due) => (visitor.beside(zones.of(of_job(&row.job_id).as_ref())).time(due)), None => "–" } },
                html! { @if row.application.is_empty() { "–" } @else { (row.application) } },
            ]
        })
        .collect();
    let body = html! {
        h1 { "Delayed jobs" }
        p.soft { (ui::count(all)) " wait; the first " (jobs.len()) " are shown, the next one due first." }
        (ui::table("Delayed jobs", &[text("Job"), text("Kind"), text("Due"), text("Application")], rows, "No job is delayed."))
    };
    Ok(visitor.page("/console/delayed", "Delayed jobs", &body))
}
