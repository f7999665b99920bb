//! The first page: how things are, in one sentence and a few numbers.

use axum::extract::State;
use maud::{Markup, html};

use super::{
    chart::Bars,
    due, queues,
    refused::Page,
    ui::{self, Tone},
    visitor::Visitor,
    workers,
};
use crate::admin::{
    snapshot::{Level, Snapshot, Streaming},
    state::Admin,
};

pub async fn show(State(admin): State<Admin>, visitor: Visitor) -> Page {
    let snapshot = admin.snapshot().await;
    let body = html! {
        div data-live-from="/console/live" {}
        div.titled {
            h1 { "Overview" }
            (ui::live("as-of", ui::as_of(&visitor.time(snapshot.at), "/console")))
        }
        (ui::live("now", now(&snapshot, &visitor)))
    };
    Ok(visitor.page("/console", "Overview", &body))
}

fn now(snapshot: &Snapshot, visitor: &Visitor) -> Markup {
    let (level, sentence) = snapshot.verdict();
    let class = match level {
        Level::Well => "good",
        Level::Look => "warn",
        Level::Act => "bad",
    };
    html! {
        p class={ "verdict " (class) } role="status" { (sentence) }
        (tiles(snapshot))
        @match &snapshot.activity {
            Err(why) => (ui::note(Tone::Bad, html! { "Counts and workers cannot be read: " (why) })),
            Ok(activity) => {
                (due::summary(&activity.due))
                (Bars::of(&activity.throughput, "Jobs that ended in the last hour", visitor))
                (workers::section(&activity.workers, snapshot.at, visitor))
            }
        }
        @if let Ok(streaming) = &snapshot.streaming { (busiest(streaming, snapshot)) }
    }
}

fn tiles(snapshot: &Snapshot) -> Markup {
    let unknown = || "?".to_owned();
    let streaming = snapshot.streaming.as_ref().ok();
    let sum = |read: fn(&crate::streams::Load) -> u64| {
        let loads =
            streaming.map(|streaming| streaming.queues.iter().filter_map(|queue| queue.load.as_ref()).map(read));
        loads.map_or_else(unknown, |loads| ui::count(loads.sum::<u64>()))
    };
    let tile = |name, value, note: &str, href: &str| ui::Tile {
        name,
        value,
        note: Some(note.to_owned()),
        href: Some(href.to_owned()),
    };
    let known = |count: Option<u64>| count.map_or_else(unknown, ui::count);
    let activity = snapshot.activity.as_ref().ok();
    let ended = |which: fn((u64, u64)) -> u64| known(activity.map(|activity| which(activity.ended(None))));
    ui::tiles(&[
        tile("Waiting", sum(|load| load.waiting), "in all queues", "/console/jobs?status=waiting"),
        tile("Running", sum(|load| load.in_flight), "or about to run again", "/console/jobs?status=active"),
        tile(
            "Completed",
            ended(|(completed, _)| completed),
            "in the last day",
            "/console/jobs?status=completed&since=24h",
        ),
        tile("Failed", ended(|(_, failed)| failed), "in the last day", "/console/jobs?status=failed&since=24h"),
        tile("Delayed", known(snapshot.delayed.clone().ok()), "for a later instant", "/console/delayed"),
        tile(
            "Parked",
            known(streaming.and_then(|streaming| streaming.parked)),
            "delayed ones included",
            "/console/jobs?status=delayed",
        ),
        tile(
            "Dead letters",
            known(streaming.and_then(|streaming| streaming.dead_letters)),
            "need a decision",
            "/console/dead-letters",
        ),
    ])
}

/// Only those that have something to do.
fn busiest(streaming: &Streaming, snapshot: &Snapshot) -> Markup {
    let busy = streaming.queues.iter().filter(|queue| queue.load.is_none_or(|load| load.waiting + load.in_flight > 0));
    let rows: Vec<_> = busy.map(|queue| queues::row(queue, snapshot)).collect();
    html! {
        section {
            div.titled { h2 { "Busy queues" } a href="/console/queues" { "All queues" } }
            (ui::table("Queues with jobs that wait or run", queues::COLUMNS, rows, "No queue has anything to do."))
        }
    }
}
