//! Lists of jobs, with their filters in the address.

use axum::{
    extract::State,
    http::Uri,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    job, operations,
    refused::PageProblem,
    ui::{self, number, text},
    visitor::Visitor,
};
use crate::{
    admin::{
        access::Role,
        api::{limit, query},
        query::{JobQuery, given},
        reads::{Counts, InStream, Listed},
        snapshot::Snapshot,
        state::Admin,
        zones::{CareZones, of_job},
    },
    jobs,
    kind::Kind,
    store::lists::{Counted, JobLine, JobState, OldWord, WorkerLine},
};

/// The path of the page.
const PATH: &str = "/console/jobs";

/// Of the page: a job to go to, or a list.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    id: Option<String>,
}

pub async fn list(State(admin): State<Admin>, visitor: Visitor, uri: Uri) -> Result<Response, PageProblem> {
    let wanted = axum::extract::Query::<Wanted>::try_from_uri(&uri).ok().and_then(|query| query.0.id);
    if let Some(id) = given(wanted.as_ref()) {
        job::check(id)?;
        let place = format!("{PATH}/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
        return Ok(Redirect::to(&place).into_response());
    }
    let asked: JobQuery = query(&uri)?;
    let most = limit(asked.limit.as_deref().filter(|limit| !limit.is_empty()))?;
    let listed = admin.jobs(&visitor.viewer, &asked, most).await?;
    // What concerns one person is few, and looked at already.
    let count = if listed.filter.user.is_none() { Some(admin.store.count_jobs(&listed.filter).await?) } else { None };
    let snapshot = admin.snapshot().await;
    let zones = admin.care_zones(listed.page.items.iter().map(|line| of_job(&line.root_id))).await;
    let body = html! {
        div.titled {
            h1 { "Jobs" }
            (ui::as_of(&visitor.time(listed.page.as_of), &format!("{PATH}?{}", asked.in_link(&listed.filter))))
        }
        (words(&Counts::of(&snapshot), asked.status.as_deref()))
        (filters(&asked, &visitor))
        (table(&listed, &asked, count, &zones, &visitor))
        @if listed.filter.states.as_ref().is_some_and(|states| states.contains(&JobState::Sending)) {
            (running(&snapshot, given(asked.queue.as_ref()), &visitor))
        }
        @if visitor.viewer.role >= Role::Operator {
            p { a href={ (operations::NEW) "?" (asked.in_link(&listed.filter)) } { "Act on all of these" } }
        }
        @for in_stream in &listed.in_streams { (queued(in_stream, &visitor)) }
        (find())
    };
    Ok(visitor.page(PATH, "Jobs", &body).into_response())
}

/// The counts of older words, each with a link to what it counts.
fn words(counts: &Counts, chosen: Option<&str>) -> Markup {
    html! {
        nav aria-label="By state" {
            ul.words {
                @for (word, count) in counts.words() {
                    li {
                        a href={ (PATH) "?status=" (word) } aria-current=[(chosen == Some(word)).then_some("true")] {
                            (word) " " @match count { Some(count) => (ui::count(count)), None => "?" }
                        }
                    }
                }
            }
        }
        p.soft {
            "Completed and failed ones are those of the last day. Waiting jobs have no record before they run: "
            a href="/console/queues" { "queues" } " count them."
        }
    }
}

fn filters(query: &JobQuery, visitor: &Visitor) -> Markup {
    let queues: Vec<String> =
        jobs::registry().kinds().iter().flat_map(Kind::queues).map(|queue| queue.durable()).collect();
    let state = query.status.as_deref().unwrap_or_default();
    let option = |value: &str, chosen: &str| html! { option value=(value) selected[value == chosen] { (value) } };
    html! {
        form.filters method="get" action=(PATH) role="search" {
            label { "State"
                select name="status" {
                    option value="" { "any" }
                    optgroup label="Words of older systems" { @for word in OldWord::ALL { (option(word.name(), state)) } }
                    optgroup label="States" {
                        @for name in JobState::ALL.into_iter().map(JobState::name).filter(|name| !is_word(name)) {
                            (option(name, state))
                        }
                    }
                }
            }
            label { "Queue"
                select name="queue" {
                    option value="" { "any" }
                    @for queue in &queues { (option(queue, query.queue.as_deref().unwrap_or_default())) }
                }
            }
            @if let Some(kind) = given(query.kind.as_ref()) { input type="hidden" name="kind" value=(kind); }
            @if visitor.viewer.role >= Role::Coordinator {
                label { "About the user" input name="user" value=[query.user.as_deref()] size="14"; }
            }
            label { "Since" input name="since" value=[query.since.as_deref()] size="14" placeholder="2h, or an instant"; }
            label { "Before" input name="until" value=[query.until.as_deref()] size="14"; }
            button.main type="submit" { "Show" }
        }
    }
}

fn is_word(name: &str) -> bool {
    OldWord::ALL.into_iter().any(|word| word.name() == name)
}

fn table(listed: &Listed, query: &JobQuery, count: Option<Counted>, zones: &CareZones, visitor: &Visitor) -> Markup {
    let row = |line: &JobLine| {
        let visitor = visitor.beside(zones.of(of_job(&line.root_id).as_ref()));
        vec![
            job::link(&line.job_id),
            html! { (line.queue.as_deref().unwrap_or(&line.kind)) },
            html! {
                (ui::state(&line.state))
                @if let Some(reason) = &line.reason { " " code { (reason) } }
                @if let Some(due) = line.due_at { div.soft { "until " (visitor.time(due)) } }
            },
            html! { (line.user_id.as_deref().unwrap_or("–")) },
            html! { (visitor.time(line.created_at)) },
            html! { (line.attempts) },
        ]
    };
    let columns = [text("Job"), text("Queue"), text("State"), text("To"), text("First recorded"), number("Failures")];
    let next = listed.page.next.as_deref();
    let empty = match next {
        Some(_) => "None so far: the next page looks further.",
        None => "No such jobs are on record.",
    };
    let caption = match count {
        Some(count) => format!("Newest first; {count} are on record"),
        None => "Newest first".to_owned(),
    };
    let is_first = given(query.cursor.as_ref()).is_none();
    html! {
        (ui::table(&caption, &columns, listed.page.items.iter().map(row).collect(), empty))
        (ui::pages(PATH, &query.in_link(&listed.filter), is_first, next))
    }
}

/// Those that workers run: they have a record once they end.
fn running(snapshot: &Snapshot, queue: Option<&str>, visitor: &Visitor) -> Markup {
    let workers: &[WorkerLine] = snapshot.activity.as_ref().map_or(&[], |activity| &activity.workers);
    let living = workers.iter().filter(|worker| !worker.is_lost);
    let all = living.flat_map(|worker| worker.running.iter().map(move |job| (worker, job)));
    let meant = all.filter(|(_, job)| queue.is_none_or(|queue| job.queue == queue));
    let rows = meant.map(|(worker, job)| {
        vec![
            html! { @if job.job_id.is_empty() { "an unreadable message" } @else { (job::link(&job.job_id)) } },
            html! { (job.queue) },
            html! { (visitor.time(job.since)) },
            html! { span.id { (worker.id) } },
        ]
    });
    let columns = [text("Job"), text("Queue"), text("Since"), text("Worker")];
    html! {
        section {
            h2 { "Running now" }
            (ui::table("By worker, the first fifty of each", &columns, rows.collect(), "No worker runs any."))
        }
    }
}

/// Those that only wait in a stream.
fn queued(in_stream: &InStream, visitor: &Visitor) -> Markup {
    let rows = in_stream.first.iter().map(|message| {
        vec![
            html! { span.id { (message.job_id) } },
            html! { (message.stream) " #" (message.sequence) },
            html! { (visitor.time(message.published)) },
            html! { @match message.not_after { Some(at) => (visitor.time(at)), None => "–" } },
        ]
    });
    let columns = [text("Job"), text("Message"), text("Published"), text("Expires")];
    let caption = format!("The first {} of {}, by sequence", in_stream.first.len(), ui::count(in_stream.messages));
    html! {
        section {
            h2 { "Waiting or running in " span.id { (in_stream.queue) } }
            (ui::table(&caption, &columns, rows.collect(), "Those of other queues fill the page."))
        }
    }
}

fn find() -> Markup {
    html! {
        form.row method="get" action=(PATH) role="search" aria-label="By id" {
            label { "Id of a job, or of one that followed from it" input id="id" name="id" required size="40"; }
            button type="submit" { "Show this job" }
        }
    }
}
