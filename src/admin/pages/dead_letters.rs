//! Jobs that failed for good.

use std::collections::BTreeMap;

use axum::{
    Form,
    extract::{Path, Query, State},
    response::Redirect,
};
use maud::{Markup, html};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::{
    job, operations,
    refused::{Page, PageProblem},
    ui::{self, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::{
    admin::{access::Role, problem::Problem, state::Admin, zones::of_letter},
    dead_letter::Letter,
    text::shorten,
};

/// The newest that are shown.
const MOST: usize = 100;

/// Which of the newest are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    reason: String,
    error: String,
}

pub async fn list(
    State(admin): State<Admin>,
    visitor: Visitor,
    done: Done,
    Query(Wanted { reason, error }): Query<Wanted>,
) -> Page {
    let mut letters = admin.newest_letters(i64::MAX, MOST).await?;
    let is_part = !reason.is_empty();
    letters.retain(|letter| !is_part || (letter.reason == reason && letter.error == error));
    let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for letter in &letters {
        *groups.entry((&letter.reason, &letter.error)).or_default() += 1;
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let grouped = groups
        .iter()
        .map(|((reason, error), count)| {
            let query =
                Serializer::new(String::new()).append_pair("reason", reason).append_pair("error", error).finish();
            let list = format!("/console/dead-letters?{query}");
            vec![html! { code { (reason) } }, html! { a href=(list) { (ui::count(*count as u64)) } }, html! { (error) }]
        })
        .collect();
    let zones = admin.care_zones(letters.iter().map(of_letter)).await;
    let row = |letter: &Letter| {
        let visitor = visitor.beside(zones.of(of_letter(letter).as_ref()));
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
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        p.soft { "Jobs that failed for good. Each waits for somebody's decision: sent back to its queue, or discarded." }
        @if !letters.is_empty() && visitor.viewer.role >= Role::Operator {
            p { a href={ (operations::NEW) "?act=retry&status=dead" } { "Act on many of them" } }
        }
        @if is_part {
            p { "Those of the newest that died of " code { (reason) } ". " a href="/console/dead-letters" { "All of them" } }
        }
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

pub async fn show(State(admin): State<Admin>, visitor: Visitor, done: Done, Path(number): Path<u64>) -> Page {
    let letter = admin.letter(number).await?;
    let record = of_letter(&letter);
    let visitor = visitor.beside(admin.care_zones([record.clone()]).await.of(record.as_ref()));
    let body = html! {
        h1 { "Dead letter " (number) }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        (facts(&letter, &visitor))
        @if visitor.viewer.role >= Role::Operator { (choices(number)) }
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

fn choices(number: u64) -> Markup {
    html! {
        section.card {
            h2 { "Decide" }
            p { "Sent back, the job runs again under the same id, with its attempts counted afresh: nobody is told twice." }
            form.row method="post" action={ "/console/dead-letters/" (number) "/redrive" } {
                button.main type="submit" { "Send back to its queue" }
            }
            form.row method="post" action={ "/console/dead-letters/" (number) "/discard" } {
                label { "Why it is discarded" input name="why" required maxlength="200" size="40"; }
                button.danger type="submit" { "Discard for good" }
            }
        }
    }
}

pub async fn redrive(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(number): Path<u64>,
) -> Result<Redirect, PageProblem> {
    admin.redrive(&visitor.viewer, number).await?;
    Ok(Redirect::to("/console/dead-letters?done=redriven"))
}

/// Of the form that discards a letter.
#[derive(Deserialize)]
pub struct Reason {
    why: String,
}

pub async fn discard(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(number): Path<u64>,
    Form(reason): Form<Reason>,
) -> Result<Redirect, PageProblem> {
    let why = shorten(reason.why.trim(), 200);
    if why.is_empty() {
        return Err(Problem::field("why", "a reason is needed, for the audit log").into());
    }
    admin.discard(&visitor.viewer, number, Some(&why)).await?;
    Ok(Redirect::to("/console/dead-letters?done=discarded"))
}
