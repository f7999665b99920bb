//! Whether a person was told, by what, read when, and why not. Each look is on record.

use axum::{
    extract::{Path, State},
    http::Uri,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    job,
    refused::{Page, PageProblem},
    ui::{self, Tone, text},
    visitor::Visitor,
};
use crate::{
    admin::{api::query, people::PersonQuery, query::given, state::Admin},
    explain::{Explanation, Fact, Notified, Told},
    schedule::{self, Zone},
};

/// The path of the form.
const PATH: &str = "/console/people";

/// Of the form: a person, and the question.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    id: Option<String>,
}

/// The form, or the way to the person that it names.
pub async fn find(visitor: Visitor, uri: Uri) -> Result<Response, PageProblem> {
    let wanted: Wanted = query(&uri)?;
    let Some(id) = given(wanted.id.as_ref()) else {
        let body = html! {
            h1 { "People" }
            p.soft { "Whether somebody was told, by what, and why not. Each look at a person is on record." }
            (form(None, &PersonQuery::default()))
        };
        return Ok(visitor.page(PATH, "People", &body).into_response());
    };
    let rest = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let rest = rest.filter(|(name, value)| name != "id" && !value.is_empty());
    let rest = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish();
    Ok(Redirect::to(&format!("{PATH}/{}?{rest}", utf8_percent_encode(id, NON_ALPHANUMERIC))).into_response())
}

pub async fn show(State(admin): State<Admin>, visitor: Visitor, Path(id): Path<String>, uri: Uri) -> Page {
    let asked: PersonQuery = query(&uri)?;
    let told = admin.explain(&visitor.viewer, &id, &asked).await?;
    let body = html! {
        div.titled {
            h1 { "Person " span.id { (id) } }
            span.soft { "as of " (visitor.time(told.as_of)) ", on record" }
        }
        (ui::note(tone(told.told), html! { strong { (word(told.told)) ": " } (told.sentence) }))
        (facts(&told, &visitor))
        @if !told.notifications.is_empty() { (notifications(&told, &visitor)) }
        (reasons(&told, &visitor))
        section.card { h2 { "Ask again" } (form(Some(&id), &asked)) }
        p {
            a href={ "/console/jobs?user=" (utf8_percent_encode(&id, NON_ALPHANUMERIC)) } { "All jobs that concern this person" }
        }
    };
    Ok(visitor.page(PATH, "Person", &body))
}

const fn tone(told: Told) -> Tone {
    match told {
        Told::Yes => Tone::Good,
        Told::NotYet | Told::Unknown => Tone::Plain,
        Told::Partly | Told::Perhaps => Tone::Warn,
        Told::No => Tone::Bad,
    }
}

const fn word(told: Told) -> &'static str {
    match told {
        Told::Yes => "told",
        Told::Partly => "told in part",
        Told::Perhaps => "perhaps told",
        Told::NotYet => "not yet told",
        Told::No => "not told",
        Told::Unknown => "not known",
    }
}

fn zone(name: &str) -> Zone {
    schedule::zone(name).unwrap_or_else(|_| Zone::utc())
}

fn facts(told: &Explanation, visitor: &Visitor) -> Markup {
    let care = told.care_zone.as_deref().map(zone);
    let mut facts = vec![("Why", html! { code { (told.reason) } })];
    if let Some(at) = told.instant {
        facts.push(("When", ui::time_in_both(at, visitor.zone, care.unwrap_or_else(|| zone(&told.zone)))));
    }
    facts.push(("Their zone", html! { (told.zone) }));
    if let Some(care) = care {
        facts.push(("The care recipient's zone", html! { (care.name()) }));
    }
    if !told.unread.is_empty() {
        facts.push(("Could not be read", html! { (told.unread.join(", ")) }));
    }
    ui::facts(facts)
}

fn notifications(told: &Explanation, visitor: &Visitor) -> Markup {
    let theirs = zone(&told.zone);
    let row = |one: &Notified| {
        vec![
            job::link(&one.job_id),
            html! { (ui::time_in_both(one.at, visitor.zone, theirs)) },
            html! { (ui::state(word(one.told))) },
            html! { (one.channel.as_deref().unwrap_or("–")) },
            html! { @match one.read_at { Some(at) => (visitor.time(at)), None => "unread" } },
            html! { (one.sentence) },
        ]
    };
    let columns = [text("Notification"), text("At"), text("Told"), text("By"), text("Read"), text("In words")];
    let rows = told.notifications.iter().map(row).collect();
    html! { section { h2 { "Notifications" } (ui::table("Newest first, at most fifty", &columns, rows, "")) } }
}

fn reasons(told: &Explanation, visitor: &Visitor) -> Markup {
    let row = |fact: &Fact| {
        vec![
            html! { code { (fact.reason) } },
            html! { (fact.text) },
            html! { @match fact.at { Some(at) => (visitor.time(at)), None => "–" } },
            html! { @match &fact.job_id { Some(id) => (job::link(id)), None => "–" } },
        ]
    };
    let columns = [text("Reason"), text("In words"), text("At"), text("Job")];
    html! {
        section {
            h2 { "Causes and facts" }
            (ui::table("The first decided", &columns, told.facts.iter().map(row).collect(), "Nothing is on record."))
        }
    }
}

/// Asks about a person, or about the one of the page.
fn form(id: Option<&str>, asked: &PersonQuery) -> Markup {
    let field = |label: &str, name: &str, value: Option<&String>| {
        html! { label { (label) input name=(name) value=[value] size="22"; } }
    };
    html! {
        form.filters method="get" action=(PATH) role="search" {
            label { "Id of the person" input name="id" value=[id] required size="22"; }
            (field("A dose of this medication", "medication", asked.medication.as_ref()))
            label { "to be taken at, on the care recipient's clocks"
                input name="at" value=[asked.at.as_ref()] size="22" placeholder="2026-12-01T09:00";
            }
            (field("or an appointment", "appointment", asked.appointment.as_ref()))
            (field("or a shift", "shift", asked.shift.as_ref()))
            (field("or a job", "job", asked.job.as_ref()))
            (field("or all in a time, such as 24h", "since", asked.since.as_ref()))
            button.main type="submit" { "Was this person told?" }
        }
    }
}
