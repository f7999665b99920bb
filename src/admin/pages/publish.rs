//! Publishing a job, in two steps: it is filled in from an example, and seen as it was understood before it goes out.

mod examples;

use std::time::Duration;

use axum::{
    Form,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use self::examples::example;
use super::{
    job as job_page,
    refused::{Page, PageProblem},
    ui::{self, Tone},
    visitor::Visitor,
};
use crate::{
    admin::{problem::Problem, state::Admin},
    gateway::Job,
    jobs,
    kind::{Kind, Lane, Queue},
    meta::LONGEST_JOB_ID,
};

/// The path of the page.
pub const PATH: &str = "/console/publish";

const LANES: [Lane; 3] = [Lane::Critical, Lane::Normal, Lane::Bulk];

/// The fields, as they are sent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fields {
    kind: String,
    lane: String,
    job: String,
    id: String,
    /// In words, as `5m`.
    delay: String,
    /// An instant, or a duration from now.
    not_after: String,
    /// Of the preview: when it is due.
    at: String,
    /// `preview`, `edit` or `publish`.
    act: String,
}

impl Fields {
    fn queue(&self) -> Result<Queue, Problem> {
        let kinds = open_kinds();
        let kind = kinds.iter().find(|kind| kind.name == self.kind);
        let kind = kind.ok_or_else(|| Problem::field("kind", "choose one of the list"))?;
        let lane = Some(self.lane.as_str()).filter(|lane| !lane.is_empty()).map_or(Some(Lane::Normal), Lane::parse);
        let lane = lane.ok_or_else(|| Problem::field("lane", "expected critical, normal or bulk"))?;
        Ok(Queue { kind: *kind, lane: kind.lane_for(lane) })
    }

    /// The job, checked as whatever comes in by the API.
    fn read(&self, admin: &Admin, queue: Queue) -> Result<Job, Problem> {
        let now = admin.clock.now();
        let job: Box<RawValue> = serde_json::from_str(&self.job).map_err(|error| {
            Problem::field("job", format!("this is not JSON, at line {} column {}", error.line(), error.column()))
        })?;
        let mut fields = Map::new();
        let mut give = |name: &str, value: &str| fields.insert(name.to_owned(), Value::from(value));
        if !self.id.trim().is_empty() {
            give("jobId", self.id.trim());
        }
        match (self.at.trim(), self.delay.trim()) {
            ("", "") => {}
            ("", delay) => {
                give("delay", delay);
            }
            (at, _) => {
                give("at", at);
            }
        }
        if !self.not_after.trim().is_empty() {
            give("notAfter", &instant(self.not_after.trim(), now));
        }
        let text = serde_json::to_string(&fields).unwrap_or_default();
        let comma = if fields.is_empty() { "" } else { "," };
        let text = format!("{}{comma}\"job\":{}}}", text.trim_end_matches('}'), job.get());
        admin.read_job(queue, text.as_bytes(), None).map_err(|why| why.with_names(&[("notAfter", "not_after")]))
    }
}

/// A duration becomes an instant; all else stays, to be refused where instants are read.
fn instant(text: &str, now: DateTime<Utc>) -> String {
    let span: Option<Duration> = humantime::parse_duration(text).ok();
    let at = span.and_then(|span| now.checked_add_signed(TimeDelta::from_std(span).ok()?));
    at.map_or_else(|| text.to_owned(), rfc3339)
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn open_kinds() -> Vec<Kind> {
    jobs::registry().kinds().iter().filter(|kind| kind.is_published()).copied().collect()
}

/// The form, with the example of a kind.
pub async fn new(State(admin): State<Admin>, visitor: Visitor, Query(fields): Query<Fields>) -> Page {
    let kind = if fields.kind.is_empty() { "notification".to_owned() } else { fields.kind };
    let fields = Fields { job: example(&kind, admin.clock.now()), kind, lane: fields.lane, ..Fields::default() };
    fields.queue()?;
    Ok(fill_in(&visitor, &fields, None))
}

/// Shows what would be published, or publishes it.
pub async fn publish(
    State(admin): State<Admin>,
    visitor: Visitor,
    Form(fields): Form<Fields>,
) -> Result<Response, PageProblem> {
    if fields.act == "edit" {
        return Ok(fill_in(&visitor, &fields, None).into_response());
    }
    let read = fields.queue().and_then(|queue| Ok((queue, fields.read(&admin, queue)?)));
    let (queue, job) = match read {
        Ok(read) => read,
        Err(problem) => {
            let page = fill_in(&visitor, &fields, Some(&problem));
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
        }
    };
    if fields.act != "publish" {
        return Ok(preview(&admin, &visitor, &fields, queue, &job).await?.into_response());
    }
    let place = format!("/console/jobs/{}?done=published", utf8_percent_encode(&job.id, NON_ALPHANUMERIC));
    admin.publish(&visitor.viewer, job).await?;
    Ok(Redirect::to(&place).into_response())
}

/// The second step: nothing is published yet.
async fn preview(admin: &Admin, visitor: &Visitor, fields: &Fields, queue: Queue, job: &Job) -> Page {
    let snapshot = admin.snapshot().await;
    let durable = queue.durable();
    let is_known = admin.store.trail_of(&job.id).await?.is_some() || admin.store.delayed_job(&job.id).await?.is_some();
    let now = admin.clock.now();
    let due = job.at.unwrap_or(now).max(now);
    let pretty: Value = serde_json::from_slice(&job.body).unwrap_or_default();
    let pretty = serde_json::to_string_pretty(&pretty).unwrap_or_default();
    let at = job.at.map(rfc3339).unwrap_or_default();
    let not_after = job.not_after.map(rfc3339).unwrap_or_default();
    let sent: [(&str, &str); 7] = [
        ("kind", &fields.kind),
        ("lane", &fields.lane),
        ("job", &fields.job),
        ("delay", &fields.delay),
        ("not_after", &not_after),
        ("id", &job.id),
        ("at", &at),
    ];
    let body = html! {
        h1 { "Publish a job" }
        p { "Nothing is published yet. Look at what would run, then publish it." }
        @if job.expiry <= due {
            (ui::note(Tone::Warn, "It expires before it is due: it will end as expired, and nobody is told."))
        }
        @if let Some(pause) = snapshot.pause_of(&durable) {
            (ui::note(Tone::Warn, html! { "Its queue is paused by " (pause.actor) ": " (pause.reason) ". It waits until that ends." }))
        }
        @if is_known {
            (ui::note(Tone::Warn, html! {
                "There is a record of a job " (job_page::link(&job.id)) " already: the same job runs once, and another one is refused."
            }))
        }
        (ui::facts(vec![
            ("Queue", html! { a.id href={ "/console/queues/" (durable) } { (durable) } }),
            ("Its id", html! { span.id { (job.id) } }),
            ("Runs", html! { @match job.at { Some(at) if at > now => (visitor.time(at)), _ => "as soon as a worker is free" } }),
            ("Expires", html! { (visitor.time(job.expiry)) }),
        ]))
        section { h2 { "The job" } pre tabindex="0" { (pretty) } }
        form.row method="post" action=(PATH) {
            @for (name, value) in sent { input type="hidden" name=(name) value=(value); }
            button.main type="submit" name="act" value="publish" { "Publish it" }
            button type="submit" name="act" value="edit" { "Change it first" }
        }
    };
    Ok(visitor.page(PATH, "Publish a job", &body))
}

/// The first step.
fn fill_in(visitor: &Visitor, fields: &Fields, wrong: Option<&Problem>) -> Markup {
    let of = |field: &str| wrong.and_then(|wrong| wrong.of_field(field));
    let kinds: Vec<&str> = open_kinds().iter().map(|kind| kind.name).collect();
    let body = html! {
        h1 { "Publish a job" }
        p.soft { "A job is published as an application would do it: the same checks, and the same job under the same id runs once." }
        @if let Some(wrong) = wrong { div role="alert" { (ui::note(Tone::Bad, wrong.detail())) } }
        form.filters method="get" action=(PATH) {
            label { "Kind"
                select name="kind" { @for kind in &kinds { option value=(kind) selected[*kind == fields.kind] { (kind) } } }
            }
            label { "Lane, for kinds with lanes"
                select name="lane" {
                    option value="" { "normal, or none" }
                    @for lane in LANES.map(Lane::name) { option value=(lane) selected[lane == fields.lane] { (lane) } }
                }
            }
            button type="submit" { "Begin with its example" }
        }
        form.fields method="post" action=(PATH) {
            input type="hidden" name="kind" value=(fields.kind);
            input type="hidden" name="lane" value=(fields.lane);
            label { "The job of the kind " (fields.kind) ", as JSON"
                textarea name="job" rows="10" spellcheck="false" required aria-invalid=[of("job").map(|_| "true")]
                    aria-describedby=[of("job").map(|_| "job-why")] { (fields.job) }
            }
            (why("job", of("job")))
            (line("Its id; empty: a new one", "id", &fields.id, "", of("jobId"), Some(LONGEST_JOB_ID)))
            (line("Runs after", "delay", &fields.delay, "5m; empty: now", of("delay"), None))
            (line("Expires", "not_after", &fields.not_after, "2h, or an instant; empty: as its kind", of("not_after"), None))
            button.main type="submit" name="act" value="preview" { "Preview" }
        }
    };
    visitor.page(PATH, "Publish a job", &body)
}

fn line(label: &str, name: &str, value: &str, example: &str, wrong: Option<&str>, most: Option<usize>) -> Markup {
    html! {
        label { (label)
            input name=(name) value=(value) placeholder=(example) autocomplete="off" maxlength=[most]
                aria-invalid=[wrong.map(|_| "true")] aria-describedby=[wrong.map(|_| format!("{name}-why"))];
        }
        (why(name, wrong))
    }
}

/// What is wrong with a field, beside it.
fn why(name: &str, wrong: Option<&str>) -> Markup {
    html! { @if let Some(wrong) = wrong { p.problem id={ (name) "-why" } { (wrong) } } }
}
