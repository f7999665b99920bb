//! Jobs that failed for good.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use futures::{StreamExt, TryStreamExt, stream};
use maud::{Markup, html};

use super::{
    job,
    refused::Page,
    ui::{self, number, text},
    visitor::Visitor,
};
use crate::{
    admin::{problem::Problem, state::Admin},
    dead_letter::{Letter, Letters},
};

/// The newest that are shown.
const MOST: usize = 100;

/// Read together.
const TOGETHER: usize = 16;

pub async fn list(State(admin): State<Admin>, visitor: Visitor) -> Page {
    let letters = newest(&admin).await?;
    let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for letter in &letters {
        *groups.entry((&letter.reason, &letter.error)).or_default() += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let grouped = groups
        .iter()
        .map(|((reason, error), count)| {
            vec![html! { code { (reason) } }, html! { (ui::count(*count as u64)) }, html! { (error) }]
        })
        .collect();
    let row = |letter: &Letter| {
        vec![
            html! { a href={ "/console/dead-letters/" (letter.number) } { (letter.number) } },
            html! { (letter.kind) },
            job::link(&letter.job_id),
            html! { code { (letter.reason) } },
            html! { (visitor.time(letter.last)) },
            html! { (letter.attempts) },
        ]
    };
    let columns = [text("Letter"), text("Kind"), text("Job"), text("Reason"), text("Died"), number("Failures")];
    let body = html! {
        h1 { "Dead letters" }
        p.soft { "Jobs that failed for good. Each waits for somebody's decision: sent back to its queue, or discarded." }
        @if groups.len() > 1 {
            section {
                h2 { "By reason and error" }
                (ui::table("The newest dead letters, grouped", &[text("Reason"), number("Letters"), text("Last error")], grouped, ""))
            }
        }
        section {
            h2 { "The newest" }
            (ui::table("At most a hundred, newest first", &columns, letters.iter().map(row).collect(), "There are no dead letters."))
        }
    };
    Ok(visitor.page("/console/dead-letters", "Dead letters", &body))
}

async fn newest(admin: &Admin) -> Result<Vec<Letter>, Problem> {
    let letters = open(admin).await?;
    let away = |why: String| Problem::unavailable("NATS", &why);
    let (first, last) = letters.bounds().await.map_err(away)?;
    let numbers = stream::iter((first..=last).rev()).map(|number| letters.get(number)).buffered(TOGETHER);
    let found = numbers.try_filter_map(async |letter| Ok(letter)).take(MOST).try_collect().await;
    found.map_err(away)
}

async fn open(admin: &Admin) -> Result<Letters, Problem> {
    Letters::open(admin.jetstream()?).await.map_err(|why| Problem::unavailable("NATS", &why))
}

pub async fn show(State(admin): State<Admin>, visitor: Visitor, Path(number): Path<u64>) -> Page {
    let letter = open(&admin).await?.get(number).await.map_err(|why| Problem::unavailable("NATS", &why))?;
    let Some(letter) = letter else {
        let acts = admin.store.audit_of_letter(number).await?;
        let became =
            acts.map(|act| format!(": it was {} by {}", act.action.trim_start_matches("dead_letter."), act.actor));
        return Err(
            Problem::not_found(format!("there is no dead letter {number}{}", became.unwrap_or_default())).into()
        );
    };
    let body = html! {
        h1 { "Dead letter " (number) }
        (facts(&letter, &visitor))
    };
    Ok(visitor.page("/console/dead-letters", "Dead letter", &body))
}

fn facts(letter: &Letter, visitor: &Visitor) -> Markup {
    ui::facts(vec![
        ("Job", job::link(&letter.job_id)),
        ("Kind", html! { (letter.kind) }),
        ("Reason", html! { code { (letter.reason) } }),
        ("Last error", html! { (letter.error) }),
        ("Failures", html! { (letter.attempts) }),
        ("First seen", html! { @match letter.first { Some(at) => (visitor.time(at)), None => "–" } }),
        ("Died", visitor.time(letter.last)),
        ("Was in", html! { span.id { (letter.stream) " #" (letter.sequence) " " (letter.original_subject) } }),
        ("Sent back before", html! { (letter.redrives) " times" }),
        ("Size", html! { (ui::count(letter.bytes as u64)) " bytes" }),
    ])
}
