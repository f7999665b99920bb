//! The form of a schedule, in two steps: it is filled in, and its next instants are seen before it is saved.

use std::time::Duration;

use axum::{
    Form,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::place::{NEW, SHOWN, back, in_both, place};
use crate::{
    admin::{
        pages::{
            refused::{Page, PageProblem},
            ui::{self, Tone},
            visitor::Visitor,
        },
        problem::Problem,
        state::Admin,
    },
    drafts::{Draft, Planned, Property, Wrong},
    jobs,
    kind::{Kind, Stage},
    schedule::{self, Calendar, Expression, Fold, Gap, Rules},
    show,
    store::ScheduleRow,
};

/// The fields, as they are sent. Durations are in words, as `90m`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fields {
    name: String,
    expression: String,
    zone: String,
    kind: String,
    lane: String,
    payload: String,
    gap: String,
    fold: String,
    missed: String,
    missed_limit: String,
    missed_window: String,
    jitter: String,
    expires: String,
    start: String,
    end: String,
    owner: String,
    paused: Option<String>,
    /// Of the schedule that is changed, in microseconds.
    version: String,
    /// `preview`, `edit` or `save`.
    act: String,
}

impl Fields {
    fn new(zone: &str) -> Self {
        Self {
            zone: zone.to_owned(),
            kind: "notification".to_owned(),
            missed_limit: "10".to_owned(),
            missed_window: "1h".to_owned(),
            jitter: "0s".to_owned(),
            ..Self::default()
        }
    }

    fn of(row: &ScheduleRow) -> Self {
        let spec = &row.spec;
        let words = |seconds: i64| humantime::format_duration(Duration::from_secs(seconds.unsigned_abs())).to_string();
        let instant = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        Self {
            name: spec.name.clone(),
            expression: spec.expression.clone(),
            zone: spec.zone.clone(),
            kind: spec.kind.clone(),
            lane: spec.lane.clone().unwrap_or_default(),
            gap: spec.gap.clone(),
            fold: spec.fold.clone(),
            missed: spec.missed.clone(),
            missed_limit: spec.missed_limit.to_string(),
            missed_window: words(spec.missed_seconds),
            jitter: words(spec.jitter_seconds),
            expires: spec.expiry_seconds.map(words).unwrap_or_default(),
            // A start that is not written keeps that of before.
            end: spec.ends_at.map(instant).unwrap_or_default(),
            owner: spec.owner.clone().unwrap_or_default(),
            paused: spec.paused.then(String::new),
            version: row.changed.at.timestamp_micros().to_string(),
            ..Self::default()
        }
    }

    /// Names of the fields, with their values.
    fn all(&self) -> [(&'static str, &str); 18] {
        [
            ("name", &self.name),
            ("expression", &self.expression),
            ("zone", &self.zone),
            ("kind", &self.kind),
            ("lane", &self.lane),
            ("payload", &self.payload),
            ("gap", &self.gap),
            ("fold", &self.fold),
            ("missed", &self.missed),
            ("missed_limit", &self.missed_limit),
            ("missed_window", &self.missed_window),
            ("jitter", &self.jitter),
            ("expires", &self.expires),
            ("start", &self.start),
            ("end", &self.end),
            ("owner", &self.owner),
            ("paused", self.paused.as_deref().map_or("", |_| "on")),
            ("version", &self.version),
        ]
    }

    fn draft(&self) -> Result<Draft, Wrong> {
        let usual = Draft::default();
        let or = |text: &str, usual: String| if text.is_empty() { usual } else { text.to_owned() };
        let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let seconds = |property, text: &str| {
            let duration = humantime::parse_duration(text.trim()).ok().filter(|duration| duration.subsec_nanos() == 0);
            let seconds = duration.and_then(|duration| i64::try_from(duration.as_secs()).ok());
            seconds.ok_or_else(|| Wrong { property, why: "expected a duration such as 90m, in whole seconds".into() })
        };
        let limit = self.missed_limit.trim().parse();
        let limit = limit.map_err(|_| Wrong { property: Property::MissedLimit, why: "expected a number".into() })?;
        Ok(Draft {
            name: self.name.trim().to_owned(),
            expression: self.expression.trim().to_owned(),
            zone: self.zone.trim().to_owned(),
            kind: self.kind.clone(),
            lane: self.lane_of_kind(),
            payload: self.payload.clone(),
            gap: or(&self.gap, usual.gap),
            fold: or(&self.fold, usual.fold),
            missed: or(&self.missed, usual.missed),
            missed_limit: limit,
            missed_seconds: seconds(Property::MissedWindow, &self.missed_window)?,
            jitter_seconds: seconds(Property::Jitter, &self.jitter)?,
            expiry_seconds: some(&self.expires).map(|text| seconds(Property::Expiry, &text)).transpose()?,
            start: some(&self.start),
            end: some(&self.end),
            owner: some(&self.owner),
            paused: self.paused.is_some(),
        })
    }

    /// The form offers lanes whatever the kind is.
    fn lane_of_kind(&self) -> Option<String> {
        let kinds = jobs::registry();
        let has_lanes = kinds.kinds().iter().any(|kind| kind.name == self.kind && !kind.lanes.is_empty());
        Some(self.lane.clone()).filter(|lane| has_lanes && !lane.is_empty())
    }
}

/// The form of a new schedule.
pub async fn new(visitor: Visitor) -> Page {
    Ok(fill_in(&visitor, &Fields::new(visitor.zone.name()), NEW, None))
}

/// The form of a schedule that is there.
pub async fn edit(State(admin): State<Admin>, visitor: Visitor, Path(name): Path<String>) -> Page {
    let row = admin.schedule(&name).await?;
    Ok(fill_in(&visitor, &Fields::of(&row), &format!("{}/change", place(&name)), None))
}

/// Of a new schedule: shows its instants, or saves it.
pub async fn add(
    State(admin): State<Admin>,
    visitor: Visitor,
    Form(fields): Form<Fields>,
) -> Result<Response, PageProblem> {
    if fields.act == "edit" {
        return Ok(fill_in(&visitor, &fields, NEW, None).into_response());
    }
    let now = admin.clock.now();
    let planned = fields.draft().and_then(|draft| Ok((draft.plan(None, now)?, draft)));
    match planned {
        Err(wrong) => Ok(refuse(&visitor, &fields, NEW, &wrong)),
        Ok((_, draft)) if fields.act == "save" => {
            let row = admin.add_schedule(&visitor.viewer, &draft).await?;
            Ok(back(&row.spec.name, "saved").into_response())
        }
        Ok((planned, _)) => Ok(preview(&visitor, &fields, NEW, &planned).into_response()),
    }
}

/// Of a schedule that is there: shows its instants, or saves it.
pub async fn change(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, PageProblem> {
    let fields = Fields { name: name.clone(), ..fields };
    let to = format!("{}/change", place(&name));
    if fields.act == "edit" {
        return Ok(fill_in(&visitor, &fields, &to, None).into_response());
    }
    let before = admin.schedule(&name).await?;
    let version = fields.version.parse().ok().and_then(DateTime::from_timestamp_micros);
    let version = version.ok_or_else(|| Problem::field("version", "expected that of the form"))?;
    let now = admin.clock.now();
    let planned = fields.draft().and_then(|draft| {
        let mut whole = draft.clone();
        if whole.payload.trim().is_empty() {
            whole.payload = before.spec.payload.to_string();
        }
        Ok((whole.plan(Some(&before), now)?, draft))
    });
    match planned {
        Err(wrong) => Ok(refuse(&visitor, &fields, &to, &wrong)),
        Ok((_, draft)) if fields.act == "save" => {
            admin.change_schedule(&visitor.viewer, draft, version).await?;
            Ok(Redirect::to(&format!("{}?done=saved", place(&name))).into_response())
        }
        Ok((planned, _)) => Ok(preview(&visitor, &fields, &to, &planned).into_response()),
    }
}

fn refuse(visitor: &Visitor, fields: &Fields, to: &str, wrong: &Wrong) -> Response {
    let page = fill_in(visitor, fields, to, Some(wrong));
    (axum::http::StatusCode::UNPROCESSABLE_ENTITY, page).into_response()
}

/// The second step: nothing is saved yet.
fn preview(visitor: &Visitor, fields: &Fields, to: &str, planned: &Planned) -> Markup {
    let spec = &planned.spec;
    let body = html! {
        h1 { "Schedule " span.id { (spec.name) } }
        p { "Nothing is saved yet. Look at when it is due, then save it." }
        (ui::facts(vec![
            ("Publishes", html! { (spec.kind) @if let Some(lane) = &spec.lane { ", " (lane) } }),
            ("When", html! { code { (spec.expression) } " in " (spec.zone) }),
            ("Missed instants", html! { (spec.missed) }),
        ]))
        @if planned.drops_due {
            (ui::note(Tone::Warn, "An instant of the schedule as it was is due and not published yet: it is dropped."))
        }
        section {
            h2 { "The next instants" }
            ol { @for at in planned.timing.following(planned.next).take(SHOWN) { li { (in_both(visitor, at, &spec.zone)) } } }
        }
        @let changes = clock_changes(planned);
        @if !changes.is_empty() {
            section {
                h2 { "Where the clock changes" }
                ul { @for change in &changes { li { (change) } } }
            }
        }
        form.row method="post" action=(to) {
            @for (name, value) in fields.all() {
                @if name != "paused" || !value.is_empty() { input type="hidden" name=(name) value=(value); }
            }
            button.main type="submit" name="act" value="save" { "Save" }
            button type="submit" name="act" value="edit" { "Change it first" }
        }
    };
    visitor.page("/console/schedules", "Schedule", &body)
}

/// What the next two years' clock changes do to it, spelt out.
fn clock_changes(planned: &Planned) -> Vec<String> {
    /// Instants looked at: some for each day of two years.
    const LOOKED_AT: u32 = 3000;
    let spec = &planned.spec;
    let (Ok(expression), Ok(zone)) = (Expression::parse(&spec.expression), schedule::zone(&spec.zone)) else {
        return Vec::new();
    };
    let (Some(gap), Some(fold)) = (Gap::parse(&spec.gap), Fold::parse(&spec.fold)) else { return Vec::new() };
    let Some(from) = planned.next.at else { return Vec::new() };
    let calendar = Calendar::new(expression, zone, Rules { gap, fold }, spec.starts_at);
    let (occurrences, _) = calendar.first(from, LOOKED_AT);
    let told = occurrences.iter().filter_map(|occurrence| {
        let change = show::clock_change(occurrence)?;
        Some(occurrence.at.map_or_else(|| change.clone(), |at| format!("{}: {change}", show::local_instant(at))))
    });
    told.take(SHOWN).collect()
}

/// The first step.
fn fill_in(visitor: &Visitor, fields: &Fields, to: &str, wrong: Option<&Wrong>) -> Markup {
    let is_new = fields.version.is_empty();
    let title = if is_new { "New schedule" } else { "Change a schedule" };
    let of = |property: Property| wrong.filter(|wrong| wrong.property == property).map(|wrong| wrong.why.as_str());
    let kinds = jobs::registry();
    let kinds: Vec<&str> =
        kinds.kinds().iter().filter(|kind| kind.stage != Stage::Delivery).map(|kind: &Kind| kind.name).collect();
    let job = if is_new { "The job, as JSON" } else { "The job, as JSON; empty: as it is" };
    let body = html! {
        h1 { (title) }
        @if let Some(wrong) = wrong { div role="alert" { (ui::note(Tone::Bad, &wrong.why)) } }
        form.fields method="post" action=(to) {
            @if is_new {
                (line("Name", "name", &fields.name, "morning-tea", of(Property::Name)))
            } @else {
                p { "Its name is " span.id { (fields.name) } "." }
            }
            (line("When", "expression", &fields.expression, "0 9 * * 1-5, @daily or @every 90m", of(Property::Expression)))
            (line("In the time zone", "zone", &fields.zone, "Europe/London", of(Property::Zone)))
            (choice("Publishes a job of the kind", "kind", &fields.kind, &kinds, of(Property::Kind)))
            (choice("Lane, for kinds with lanes", "lane", &fields.lane, &["", "critical", "normal", "bulk"], of(Property::Lane)))
            label { (job)
                textarea name="payload" rows="5" spellcheck="false" aria-invalid=[of(Property::Payload).map(|_| "true")]
                    aria-describedby=[of(Property::Payload).map(|_| "payload-why")] { (fields.payload) }
            }
            (why("payload", of(Property::Payload)))
            details open[wrong.is_some()] {
                summary { "Clock changes, missed instants, limits" }
                div.more {
                    (choice("A time that the clock skips", "gap", &fields.gap, &["shift", "skip"], of(Property::Gap)))
                    (choice("A time that the clock shows twice", "fold", &fields.fold, &["first", "second", "both"], of(Property::Fold)))
                    (choice("Instants missed while no scheduler ran", "missed", &fields.missed, &["latest", "skip", "all"], of(Property::Missed)))
                    (line("The most that are made up", "missed_limit", &fields.missed_limit, "10", of(Property::MissedLimit)))
                    (line("Older ones are not", "missed_window", &fields.missed_window, "1h", of(Property::MissedWindow)))
                    (line("Each job is delayed by up to", "jitter", &fields.jitter, "0s", of(Property::Jitter)))
                    (line("A job expires after", "expires", &fields.expires, "the kind's expiry", of(Property::Expiry)))
                    (line("No instant before", "start", &fields.start, "2027-03-01", of(Property::Start)))
                    (line("No instant from", "end", &fields.end, "2027-09-01", of(Property::End)))
                    (line("Owner, a label", "owner", &fields.owner, "", of(Property::Owner)))
                    label.check { input type="checkbox" name="paused" checked[fields.paused.is_some()]; " Save it paused" }
                }
            }
            input type="hidden" name="version" value=(fields.version);
            button.main type="submit" name="act" value="preview" { "Preview" }
        }
    };
    visitor.page("/console/schedules", title, &body)
}

fn line(label: &str, name: &str, value: &str, example: &str, wrong: Option<&str>) -> Markup {
    html! {
        label { (label)
            input name=(name) value=(value) placeholder=(example) autocomplete="off"
                aria-invalid=[wrong.map(|_| "true")] aria-describedby=[wrong.map(|_| format!("{name}-why"))];
        }
        (why(name, wrong))
    }
}

fn choice(label: &str, name: &str, value: &str, options: &[&str], wrong: Option<&str>) -> Markup {
    html! {
        label { (label)
            select name=(name) aria-describedby=[wrong.map(|_| format!("{name}-why"))] {
                @for option in options {
                    option value=(option) selected[*option == value] { @if option.is_empty() { "normal, or none" } @else { (option) } }
                }
            }
        }
        (why(name, wrong))
    }
}

/// What is wrong with a field, beside it.
fn why(name: &str, wrong: Option<&str>) -> Markup {
    html! { @if let Some(wrong) = wrong { p.problem id={ (name) "-why" } { (wrong) } } }
}
