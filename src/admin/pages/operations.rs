//! Operations: chosen, looked at, confirmed by the count, and followed.

use axum::{
    Form,
    extract::{Path, State},
    http::Uri,
    response::Redirect,
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    job,
    refused::{Page, PageProblem},
    ui::{self, Tone, number, text},
    visitor::{Done, Visitor},
};
use crate::{
    acts::{Act, LONGEST_REASON, Preview, Sampled},
    admin::{access::Role, api::query, operations::Which, problem::Problem, query::given, state::Admin},
    jobs,
    kind::Kind,
    plan::DeadReason,
    store::OperationRow,
};

/// The path of the list.
pub const PATH: &str = "/console/operations";

/// The path of the form for another one.
pub const NEW: &str = "/console/new-operation";

/// The most that the list shows.
const MOST: i64 = 100;

/// States that a form offers.
const STATES: [&str; 5] = ["dead", "held", "open", "pending", "delayed"];

/// An operation as forms and links name it: also what a list of jobs has in its address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fields {
    act: Option<String>,
    status: Option<String>,
    kind: Option<String>,
    queue: Option<String>,
    user: Option<String>,
    application: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// Of dead letters.
    died_of: Option<String>,
    /// What was shown.
    count: Option<String>,
    /// For the colleagues.
    reason: Option<String>,
}

impl Fields {
    fn which(&self) -> Which {
        let Self { status, kind, queue, user, application, since, until, died_of, .. } = self.clone();
        Which { status, kind, queue, user, application, since, until, reason: died_of }
    }

    fn act(&self) -> Option<&str> {
        given(self.act.as_ref())
    }

    /// Its filter, for the form that confirms it.
    fn all(&self) -> [(&'static str, Option<&str>); 9] {
        [
            ("act", self.act()),
            ("status", given(self.status.as_ref())),
            ("kind", given(self.kind.as_ref())),
            ("queue", given(self.queue.as_ref())),
            ("user", given(self.user.as_ref())),
            ("application", given(self.application.as_ref())),
            ("since", given(self.since.as_ref())),
            ("until", given(self.until.as_ref())),
            ("died_of", given(self.died_of.as_ref())),
        ]
    }
}

pub async fn list(State(admin): State<Admin>, visitor: Visitor) -> Page {
    let rows = admin.store.operations(i64::MAX, MOST).await?;
    let row = |row: &OperationRow| {
        vec![
            html! { a href={ (PATH) "/" (row.id) } { (row.id) } },
            html! { (in_words(row)) },
            html! { (ui::state(&row.state)) },
            html! { (progress(row)) },
            html! { (row.actor) },
            html! { (visitor.time(row.started_at)) },
        ]
    };
    let columns = [text("Operation"), text("Act"), text("State"), text("Progress"), text("By"), text("Begun")];
    let body = html! {
        div data-live-from="/console/live" {}
        h1 { "Operations" }
        p.soft {
            "Acts on all that a filter finds. Each is looked at before it begins, goes on when its console is lost, and can be "
            "cancelled in the middle."
        }
        p { a.button href=(NEW) { "New operation" } }
        (ui::live("operations",
            ui::table("The newest first", &columns, rows.iter().map(row).collect(), "There were none yet.")))
    };
    Ok(visitor.page(PATH, "Operations", &body))
}

pub async fn show(State(admin): State<Admin>, visitor: Visitor, done: Done, Path(id): Path<i64>) -> Page {
    let row = admin.acting(&visitor.viewer.name).operation(id).await?;
    let counted = |counts: &std::collections::BTreeMap<String, i64>| {
        counts.iter().map(|(why, count)| vec![html! { (why) }, html! { (ui::count(*count)) }]).collect::<Vec<_>>()
    };
    let body = html! {
        div data-live-from="/console/live" {}
        h1 { "Operation " (row.id) }
        @if let Some(done) = done.words() { (ui::note(Tone::Good, done)) }
        (ui::live("operation", html! {
            (ui::facts(vec![
                ("Act", html! { (in_words(&row)) }),
                ("State", ui::state(&row.state)),
                ("Progress", progress(&row)),
                ("Why", html! { (row.reason) }),
                ("By", html! { (row.actor) }),
                ("Begun", visitor.time(row.started_at)),
                ("Ended", html! { @match row.ended_at { Some(at) => (visitor.time(at)), None => "–" } }),
            ]))
            @if let Some(note) = &row.progress.note { (ui::note(Tone::Warn, note)) }
            @if !row.progress.skipped.is_empty() {
                (ui::table("Passed over", &[text("Because"), number("Jobs")], counted(&row.progress.skipped), ""))
            }
            @if !row.progress.failed.is_empty() {
                (ui::table("Failed", &[text("Error"), number("Jobs")], counted(&row.progress.failed), ""))
            }
            @if row.is_running() {
                form.row method="post" action={ (PATH) "/" (row.id) "/cancel" } {
                    button.danger type="submit" { "Cancel this operation" }
                }
            }
        }))
    };
    Ok(visitor.page(PATH, "Operation", &body))
}

pub async fn new(State(admin): State<Admin>, visitor: Visitor, uri: Uri) -> Page {
    let fields: Fields = query(&uri)?;
    let (preview, refused) = match fields.act() {
        None => (None, None),
        Some(act) => match admin.preview_operation(&visitor.viewer, act, &fields.which()).await {
            Ok(preview) => (Some(preview), None),
            Err(problem) => (None, Some(problem)),
        },
    };
    let body = html! {
        h1 { "New operation" }
        (form(&fields, &visitor))
        @if let Some(problem) = &refused { (ui::note(Tone::Bad, problem.detail())) }
        @if let Some(preview) = &preview { (confirm(&fields, preview, &visitor)) }
    };
    Ok(visitor.page(PATH, "New operation", &body))
}

pub async fn begin(
    State(admin): State<Admin>,
    visitor: Visitor,
    Form(fields): Form<Fields>,
) -> Result<Redirect, PageProblem> {
    let count = fields.count.as_deref().and_then(|count| count.parse().ok());
    let count = count.ok_or_else(|| Problem::field("count", "expected the number that was shown"))?;
    let reason = fields.reason.as_deref().unwrap_or_default();
    let act = fields.act().unwrap_or_default();
    let row = admin.begin_operation(&visitor.viewer, act, &fields.which(), count, reason).await?;
    Ok(Redirect::to(&format!("{PATH}/{}?done=begun", row.id)))
}

pub async fn cancel(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<i64>,
) -> Result<Redirect, PageProblem> {
    admin.acting(&visitor.viewer.name).stop_operation(id).await.map_err(Problem::from)?;
    Ok(Redirect::to(&format!("{PATH}/{id}?done=stopped")))
}

/// `retry: status dead, queue notification_normal`
fn in_words(row: &OperationRow) -> String {
    let fields = row.filter.as_object().into_iter().flatten().map(|(name, value)| {
        let value = match value {
            serde_json::Value::Array(all) => {
                all.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(" or ")
            }
            other => other.as_str().map_or_else(|| other.to_string(), str::to_owned),
        };
        format!("{name} {value}")
    });
    format!("{}: {}", row.act, fields.collect::<Vec<_>>().join(", "))
}

fn progress(row: &OperationRow) -> Markup {
    let sum = |counts: &std::collections::BTreeMap<String, i64>| counts.values().sum::<i64>();
    let (done, skipped, failed) = (row.progress.done, sum(&row.progress.skipped), sum(&row.progress.failed));
    html! {
        @if row.is_running() {
            progress max=(row.counted) value=(done + skipped + failed) aria-label={ "Progress of operation " (row.id) } {} " "
        }
        (ui::count(done)) " of " (ui::count(row.counted)) " done"
        @if skipped > 0 { ", " (ui::count(skipped)) " passed over" }
        @if failed > 0 { ", " (ui::count(failed)) " failed" }
    }
}

fn form(fields: &Fields, visitor: &Visitor) -> Markup {
    let option = |value: &str, chosen: Option<&str>| {
        html! { option value=(value) selected[chosen == Some(value)] { (value) } }
    };
    let queues: Vec<String> =
        jobs::registry().kinds().iter().flat_map(Kind::queues).map(|queue| queue.durable()).collect();
    let reasons = DeadReason::ALL.map(DeadReason::name);
    html! {
        form.filters method="get" action=(NEW) {
            label { "Act"
                select name="act" {
                    @for act in Act::ALL {
                        @if act != Act::Empty || visitor.viewer.role >= Role::Admin { (option(act.name(), fields.act())) }
                    }
                }
            }
            label { "State"
                select name="status" {
                    option value="" { "any" }
                    @if let Some(other) = given(fields.status.as_ref()).filter(|state| !STATES.contains(state)) {
                        (option(other, Some(other)))
                    }
                    @for state in STATES { (option(state, given(fields.status.as_ref()))) }
                }
            }
            label { "Queue"
                select name="queue" {
                    option value="" { "any" }
                    @for queue in &queues { (option(queue, given(fields.queue.as_ref()))) }
                }
            }
            @if let Some(kind) = given(fields.kind.as_ref()) { input type="hidden" name="kind" value=(kind); }
            @if let Some(of) = given(fields.application.as_ref()) { input type="hidden" name="application" value=(of); }
            label { "Died of"
                select name="died_of" {
                    option value="" { "any" }
                    @for reason in reasons { (option(reason, given(fields.died_of.as_ref()))) }
                }
            }
            label { "About the user" input name="user" value=[fields.user.as_deref()] size="14"; }
            label { "Since" input name="since" value=[fields.since.as_deref()] size="14" placeholder="2h, or an instant"; }
            label { "Before" input name="until" value=[fields.until.as_deref()] size="14"; }
            button.main type="submit" { "Look" }
        }
        p.soft {
            "Retry takes dead, held (parked deliveries) or open (parked runs) jobs; cancel those that are pending, delayed, "
            "held or open; discard dead ones."
            @if visitor.viewer.role >= Role::Admin { " Empty takes a queue alone." }
        }
    }
}

fn confirm(fields: &Fields, preview: &Preview, visitor: &Visitor) -> Markup {
    let act = preview.spec.act();
    let row = |line: &Sampled| {
        vec![
            job::link(&line.job_id),
            html! { (line.kind) },
            html! { (ui::state(&line.state)) @if let Some(reason) = &line.reason { " " code { (reason) } } },
            html! { (visitor.time(line.at)) },
            html! { @match line.prediction { Some(prediction) => (prediction.sentence()), None => "–" } },
        ]
    };
    let columns = [text("Job"), text("Kind"), text("State"), text("Since"), text("What would follow")];
    let follows = match act {
        Act::Retry => "They run again under their ids: nobody is told twice.",
        Act::Cancel => "They do not run. What is being sent by then goes on.",
        Act::Discard => "Their dead letters go for good. They stay recorded as dead.",
        Act::Empty => {
            "They are cancelled, and their messages taken out of the queue. Those that run go on. What is published meanwhile \
             stays."
        }
    };
    html! {
        section.card {
            h2 { (ui::count(i128::from(preview.count))) @if preview.count == 1 { " job" } @else { " jobs" } }
            @if preview.count == 0 {
                p { "There is nothing to " (act.name()) "." }
            } @else {
                p { (follows) }
                (ui::table("The first of them", &columns, preview.sample.iter().map(row).collect(), ""))
                form.row method="post" action=(PATH) {
                    @for (name, value) in fields.all() {
                        @if let Some(value) = value { input type="hidden" name=(name) value=(value); }
                    }
                    input type="hidden" name="count" value=(preview.count);
                    label { "Why, for the colleagues"
                        input name="reason" required maxlength=(LONGEST_REASON) size="40";
                    }
                    button.danger type="submit" { "Confirm: " (act.name()) " " (ui::count(i128::from(preview.count))) }
                }
            }
        }
    }
}
