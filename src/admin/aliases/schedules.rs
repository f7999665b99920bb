//! Schedules as older systems write them: `{name, cronExpression, data, options: {timezone, queue}}`, or `type: daily` and
//! `type: range` of jobs that run at one in the morning.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use chrono::NaiveDate;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::older::{self, Meant};
use crate::{
    admin::{
        access::Viewer,
        api::{Body, Path},
        problem::Problem,
        state::Admin,
    },
    drafts::Draft,
    kind::Lane,
    schedule::{self, Calendar, Expression, Fold, Gap, Rules},
    store::ScheduleRow,
};

/// Older systems run daily jobs at this time of the schedule's zone.
const DAILY: &str = "0 1 * * *";

/// Of a schedule that names no zone.
const ZONE: &str = "UTC";

/// Instants of a preview.
const PREVIEWED: u32 = 5;

/// Names of our fields, and theirs.
const NAMES: [(&str, &str); 7] = [
    ("expression", "cronExpression"),
    ("zone", "options.timezone"),
    ("kind", "options.queue"),
    ("lane", "options.queue"),
    ("payload", "data"),
    ("starts_at", "startDate"),
    ("ends_at", "endDate"),
];

/// A schedule.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Written {
    name: Option<String>,
    cron_expression: Option<String>,
    r#type: Option<String>,
    start_date: Option<String>,
    end_date: Option<String>,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    timezone: Option<String>,
    queue: Option<String>,
}

impl Written {
    /// Puts what it names into a draft.
    fn fill(self, admin: &Admin, draft: &mut Draft) -> Result<(), Problem> {
        if let Some(expression) = recurrence(self.cron_expression, self.r#type.as_deref())? {
            draft.expression = expression;
        }
        if self.r#type.as_deref() == Some("range") {
            for (name, date) in [("startDate", &self.start_date), ("endDate", &self.end_date)] {
                if date.is_none() {
                    return Err(Problem::field(name, "a range needs it: a date such as 2026-12-01"));
                }
            }
        }
        if let Some(zone) = self.options.timezone {
            draft.zone = zone;
        }
        if let Some(queue) = self.options.queue {
            let meant = Meant::named(admin, &queue).map_err(|why| Problem::field("options.queue", why.detail()))?;
            (draft.kind, draft.lane) = (meant.kind.name.to_owned(), meant.lane.map(|lane| lane.name().to_owned()));
        }
        if let Some(data) = self.data {
            data.get().clone_into(&mut draft.payload);
        }
        if self.start_date.is_some() {
            draft.start = self.start_date;
        }
        if let Some(end) = self.end_date {
            draft.end = Some(after(&end)?);
        }
        Ok(())
    }
}

/// The expression of a schedule, if it names one.
fn recurrence(expression: Option<String>, of: Option<&str>) -> Result<Option<String>, Problem> {
    match (expression, of) {
        (Some(_), Some(_)) => Err(Problem::field("type", "expected a type or a cronExpression, not both")),
        (expression, None) => Ok(expression),
        (None, Some("daily" | "range")) => Ok(Some(DAILY.to_owned())),
        (None, Some(_)) => Err(Problem::field("type", "expected daily or range")),
    }
}

/// The last day counts too: the end of a schedule is the midnight after it.
fn after(end: &str) -> Result<String, Problem> {
    let Ok(date) = end.parse::<NaiveDate>() else { return Ok(end.to_owned()) };
    let next = date.succ_opt().ok_or_else(|| Problem::field("endDate", "expected a date in the years 1970 to 2099"))?;
    Ok(next.to_string())
}

pub async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let rows = admin.store.schedules(None).await?;
    Ok(Json(json!({ "schedules": rows.iter().map(older::schedule).collect::<Vec<_>>() })))
}

pub async fn get(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    Ok(Json(older::schedule(&admin.schedule(&name).await?)))
}

pub async fn add(
    State(admin): State<Admin>,
    viewer: Viewer,
    Body(mut written): Body<Written>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let missing = |field, what: &str| Problem::field(field, format!("it is missing: {what}"));
    let name = written.name.take().ok_or_else(|| missing("name", "that of the schedule"))?;
    if written.options.queue.is_none() {
        return Err(missing("options.queue", "a durable such as notification_normal, or a kind"));
    }
    let row = new(&admin, &viewer, name, written).await?;
    Ok((StatusCode::CREATED, Json(older::schedule(&row))))
}

async fn new(admin: &Admin, viewer: &Viewer, name: String, written: Written) -> Result<ScheduleRow, Problem> {
    let missing = |field, what: &str| Problem::field(field, format!("it is missing: {what}"));
    if written.cron_expression.is_none() && written.r#type.is_none() {
        return Err(missing("cronExpression", "a recurrence such as 0 9 * * 1-5"));
    }
    if written.data.is_none() {
        return Err(missing("data", "the job, as an object"));
    }
    let mut draft = Draft { name, zone: ZONE.to_owned(), ..Draft::default() };
    written.fill(admin, &mut draft)?;
    admin.add_schedule(viewer, &draft).await.map_err(|why| why.with_names(&NAMES))
}

/// What is left out stays as it is.
pub async fn change(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    Body(mut written): Body<Written>,
) -> Result<Json<Value>, Problem> {
    if written.name.take().is_some_and(|other| other != name) {
        return Err(Problem::field("name", "a schedule keeps its name: leave it out"));
    }
    let before = admin.schedule(&name).await?;
    Ok(Json(older::schedule(&replace(&admin, &viewer, &before, written).await?)))
}

async fn replace(
    admin: &Admin,
    viewer: &Viewer,
    before: &ScheduleRow,
    written: Written,
) -> Result<ScheduleRow, Problem> {
    let mut draft = Draft::of(before);
    written.fill(admin, &mut draft)?;
    let changed = admin.change_schedule(viewer, draft, before.changed.at).await;
    changed.map_err(|why| why.with_names(&NAMES))
}

pub async fn delete(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.delete_schedule(&viewer, &name).await?;
    Ok(Json(json!({ "name": name, "removed": true })))
}

pub async fn pause(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.pause_schedule(&viewer, &name, true).await?;
    Ok(Json(older::schedule(&admin.schedule(&name).await?)))
}

pub async fn resume(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.pause_schedule(&viewer, &name, false).await?;
    Ok(Json(older::schedule(&admin.schedule(&name).await?)))
}

pub async fn run(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let key = headers.get("Idempotency-Key").map(|key| key.to_str().unwrap_or_default());
    let job_id = admin.run_schedule(&viewer, &name, key).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "name": name, "jobId": job_id }))))
}

/// A recurrence to look at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Previewed {
    cron_expression: Option<String>,
    r#type: Option<String>,
    #[serde(default)]
    options: Options,
}

pub async fn preview(State(admin): State<Admin>, Body(asked): Body<Previewed>) -> Result<Json<Value>, Problem> {
    let text = recurrence(asked.cron_expression, asked.r#type.as_deref())?;
    let text =
        text.ok_or_else(|| Problem::field("cronExpression", "it is missing: a recurrence such as 0 9 * * 1-5"))?;
    let expression = Expression::parse(&text).map_err(|why| Problem::field("cronExpression", why.to_string()))?;
    let zone = schedule::zone(asked.options.timezone.as_deref().unwrap_or(ZONE));
    let zone = zone.map_err(|why| Problem::field("options.timezone", why.to_string()))?;
    let now = admin.clock.now();
    let pattern = expression.to_string();
    let (items, _) =
        Calendar::new(expression, zone, Rules { gap: Gap::Shift, fold: Fold::First }, now).first(now, PREVIEWED);
    let next: Vec<i64> = items.iter().filter_map(|item| Some(item.at?.timestamp_millis())).collect();
    Ok(Json(json!({ "cronExpression": pattern, "options": { "timezone": zone.name() }, "next": next })))
}

/// A daily job of a queue, or that of a range of days. Sent again, it is changed.
///
/// # Errors
/// Names the field that is wrong.
pub async fn of_queue(
    admin: &Admin,
    viewer: &Viewer,
    meant: &Meant,
    mut written: Written,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if written.options.queue.is_some() {
        return Err(Problem::field("options.queue", "must be left out: the path names it"));
    }
    let sort = written.r#type.clone().unwrap_or_default();
    let lane = meant.lane.map(|lane: Lane| format!(".{lane}")).unwrap_or_default();
    let name = written.name.take().unwrap_or_else(|| format!("{}{lane}.{sort}", meant.kind.name));
    written.options.queue = Some(meant.name());
    let (status, row) = match admin.store.schedule(&name).await? {
        Some(before) => (StatusCode::OK, replace(admin, viewer, &before, written).await?),
        None => (StatusCode::CREATED, new(admin, viewer, name, written).await?),
    };
    Ok((status, Json(older::scheduled(&row))))
}
