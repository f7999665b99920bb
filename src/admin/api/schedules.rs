//! Saved schedules.

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ETAG, IF_MATCH},
    },
    response::{AppendHeaders, IntoResponse},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use utoipa::ToSchema;

use super::{
    extract::{self, Path},
    schemas,
};
use crate::{
    admin::{access::Viewer, problem::Problem, state::Admin},
    drafts::{Draft, instant},
    schedule::{self, Calendar, Expression, Fold, Gap, Rules},
    scheduler::timing::Timing,
    show,
    store::ScheduleRow,
};

/// The next instants that are told of a schedule.
const TOLD: usize = 5;

/// The most instants of a preview.
const MOST: u32 = 100;

/// A schedule as it is written. What is left out has its default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "name": "tea", "expression": "0 9 * * 1-5", "zone": "Europe/London", "kind": "notification",
    "payload": { "recipients": [{ "userId": "ana" }], "title": "Tea" },
}))]
pub struct Written {
    /// Its name: 1 to 64 of the characters A-Z a-z 0-9 _ . -. Not in a change.
    name: Option<String>,
    /// `0 9 * * 1-5`, six fields with seconds in front, `@daily` and the like, or `@every 90m`.
    expression: String,
    /// IANA time zone.
    zone: String,
    /// Kind of its jobs.
    kind: String,
    /// `critical`, `normal` or `bulk`, for kinds with lanes.
    lane: Option<String>,
    /// The job. A change without it keeps the job.
    #[schema(value_type = Option<Object>)]
    payload: Option<Box<RawValue>>,
    /// For times that the clock skips: `shift` or `skip`.
    gap: Option<String>,
    /// For times that the clock shows twice: `first`, `second` or `both`.
    fold: Option<String>,
    /// Instants missed during downtime: `skip`, `latest` or `all`.
    missed: Option<String>,
    /// The most that `all` makes up, 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    missed_limit: Option<i32>,
    /// The age of the oldest that is made up, in seconds.
    missed_window_s: Option<i64>,
    /// The longest delay of a job, in seconds.
    jitter_s: Option<i64>,
    /// The expiry of a job after its instant, in seconds.
    expires_s: Option<i64>,
    /// A date, or an RFC 3339 instant.
    starts_at: Option<String>,
    /// A date, or an RFC 3339 instant.
    ends_at: Option<String>,
    /// A label.
    owner: Option<String>,
    /// Saved paused.
    paused: Option<bool>,
}

impl Written {
    fn draft(self, name: String) -> Draft {
        let usual = Draft::default();
        Draft {
            name,
            expression: self.expression,
            zone: self.zone,
            kind: self.kind,
            lane: self.lane,
            payload: self.payload.map(|payload| payload.get().to_owned()).unwrap_or_default(),
            gap: self.gap.unwrap_or(usual.gap),
            fold: self.fold.unwrap_or(usual.fold),
            missed: self.missed.unwrap_or(usual.missed),
            missed_limit: self.missed_limit.unwrap_or(usual.missed_limit),
            missed_seconds: self.missed_window_s.unwrap_or(usual.missed_seconds),
            jitter_seconds: self.jitter_s.unwrap_or(usual.jitter_seconds),
            expiry_seconds: self.expires_s,
            start: self.starts_at,
            end: self.ends_at,
            owner: self.owner,
            paused: self.paused.unwrap_or(false),
        }
    }
}

/// A recurrence to look at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "expression": "30 2 * * *", "zone": "Europe/London" }))]
pub struct Recurrence {
    /// As of a schedule.
    expression: String,
    /// IANA time zone.
    zone: String,
    /// `shift` or `skip`.
    gap: Option<String>,
    /// `first`, `second` or `both`.
    fold: Option<String>,
    /// A date, or an RFC 3339 instant; now if it is not named.
    starts_at: Option<String>,
    /// Instants, 1 to 100; five if it is not named.
    #[schema(minimum = 1, maximum = 100)]
    count: Option<u32>,
}

/// All schedules, by name.
#[utoipa::path(
    get, path = "/schedules", tag = "schedules", security(("bearer" = ["viewer"])),
    responses((status = 200, description = "`items`", body = schemas::Schedules))
)]
pub async fn list(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let rows = admin.store.schedules(None).await?;
    Ok(Json(json!({ "items": rows.iter().map(without_payload).collect::<Vec<_>>() })))
}

/// One schedule.
#[utoipa::path(
    get, path = "/schedules/{name}", tag = "schedules", security(("bearer" = ["viewer"])),
    params(("name" = String, Path, description = "Its name", example = "carebell.prune")),
    responses(
        (status = 200, description = "The schedule with its next instants (`upcoming`); the ETag is its version", body = schemas::Schedule),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub async fn get(State(admin): State<Admin>, Path(name): Path<String>) -> Result<impl IntoResponse, Problem> {
    Ok(versioned(&admin.schedule(&name).await?))
}

/// Saves a schedule.
#[utoipa::path(
    post, path = "/schedules", tag = "schedules", security(("bearer" = ["operator"])),
    request_body = Written,
    responses(
        (status = 201, description = "It is saved", body = schemas::Schedule),
        (status = 409, description = "There is one of this name", body = Problem),
        (status = 422, description = "A property is wrong", body = Problem),
    )
)]
pub async fn add(
    State(admin): State<Admin>,
    viewer: Viewer,
    extract::Json(mut written): extract::Json<Written>,
) -> Result<impl IntoResponse, Problem> {
    let name = written.name.take().ok_or_else(|| Problem::field("name", "it is missing"))?;
    if written.payload.is_none() {
        return Err(Problem::field("payload", "it is missing: the job, as an object"));
    }
    let row = admin.add_schedule(&viewer, &written.draft(name)).await?;
    Ok((StatusCode::CREATED, versioned(&row)))
}

/// Changes a schedule. It stays paused, and with the same expression keeps its start and its next instant.
#[utoipa::path(
    put, path = "/schedules/{name}", tag = "schedules", security(("bearer" = ["operator"])),
    params(
        ("name" = String, Path, description = "Its name", example = "carebell.prune"),
        ("If-Match" = String, Header, description = "The ETag of the version that is changed, or *", example = "*"),
    ),
    request_body = Written,
    responses(
        (status = 200, description = "It is changed", body = schemas::Schedule),
        (status = 404, description = "There is none", body = Problem),
        (status = 412, description = "Somebody has changed it meanwhile", body = Problem),
        (status = 422, description = "A property is wrong", body = Problem),
        (status = 428, description = "If-Match is missing", body = Problem),
    )
)]
pub async fn change(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    headers: HeaderMap,
    extract::Json(mut written): extract::Json<Written>,
) -> Result<impl IntoResponse, Problem> {
    if written.name.take().is_some_and(|other| other != name) {
        return Err(Problem::field("name", "a schedule keeps its name: leave it out"));
    }
    let wanted = headers.get(IF_MATCH).and_then(|value| value.to_str().ok()).map(str::trim);
    let version = match wanted {
        None => {
            let detail = "name the version that you change: If-Match with the ETag of GET, or * for any";
            return Err(Problem::precondition_required(detail));
        }
        Some("*") => admin.schedule(&name).await?.changed.at,
        Some(tag) => {
            read_tag(tag).ok_or_else(|| Problem::field("If-Match", "expected the ETag of GET, as it was given"))?
        }
    };
    let row = admin.change_schedule(&viewer, written.draft(name), version).await?;
    Ok(versioned(&row))
}

/// The next instants of a recurrence, before it is saved, with what clock changes do to them.
#[utoipa::path(
    post, path = "/schedules/preview", tag = "schedules", security(("bearer" = ["viewer"])),
    request_body = Recurrence,
    responses(
        (status = 200, description = "`items`, each `at` in the zone, `local` as asked for, `note` if a rule applied", body = schemas::Previewed),
        (status = 422, description = "A property is wrong", body = Problem),
    )
)]
pub async fn preview(
    State(admin): State<Admin>,
    extract::Json(asked): extract::Json<Recurrence>,
) -> Result<Json<Value>, Problem> {
    let expression =
        Expression::parse(&asked.expression).map_err(|why| Problem::field("expression", why.to_string()))?;
    let zone = schedule::zone(&asked.zone).map_err(|why| Problem::field("zone", why.to_string()))?;
    let gap = asked.gap.as_deref().map_or(Some(Gap::Shift), Gap::parse);
    let gap = gap.ok_or_else(|| Problem::field("gap", "expected shift or skip"))?;
    let fold = asked.fold.as_deref().map_or(Some(Fold::First), Fold::parse);
    let fold = fold.ok_or_else(|| Problem::field("fold", "expected first, second or both"))?;
    let from = match &asked.starts_at {
        Some(text) => instant(text, zone).map_err(|why| Problem::field("starts_at", why))?,
        None => admin.clock.now(),
    };
    let count = asked.count.unwrap_or(5);
    if !(1..=MOST).contains(&count) {
        return Err(Problem::field("count", format!("expected a number from 1 to {MOST}")));
    }
    let written = expression.to_string();
    let (items, _) = Calendar::new(expression, zone, Rules { gap, fold }, from).first(from, count);
    let items: Vec<Value> = items.iter().map(show::occurrence).collect();
    Ok(Json(json!({ "expression": written, "zone": zone.name(), "items": items })))
}

/// Publishes its job now, in addition to its instants.
#[utoipa::path(
    post, path = "/schedules/{name}/run", tag = "schedules", security(("bearer" = ["operator"])),
    params(
        ("name" = String, Path, description = "Its name", example = "carebell.prune"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeated with the same key, it is published once"),
    ),
    responses(
        (status = 202, description = "`job_id` is published", body = schemas::Ran),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub async fn run(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let key = headers.get("Idempotency-Key");
    // One that is no text is refused as any other that is malformed.
    let key = key.map(|key| key.to_str().unwrap_or_default());
    let job_id = admin.run_schedule(&viewer, &name, key).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "schedule": name, "job_id": job_id }))))
}

/// Pauses a schedule.
#[utoipa::path(
    post, path = "/schedules/{name}/pause", tag = "schedules", security(("bearer" = ["operator"])),
    params(("name" = String, Path, description = "Its name", example = "carebell.prune")),
    responses((status = 200, description = "It is paused", body = schemas::Schedule), (status = 404, description = "There is none", body = Problem))
)]
pub async fn pause(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.pause_schedule(&viewer, &name, true).await?;
    Ok(Json(without_payload(&admin.schedule(&name).await?)))
}

/// Resumes a schedule, from its next instant after now.
#[utoipa::path(
    post, path = "/schedules/{name}/resume", tag = "schedules", security(("bearer" = ["operator"])),
    params(("name" = String, Path, description = "Its name", example = "carebell.prune")),
    responses((status = 200, description = "It runs", body = schemas::Schedule), (status = 404, description = "There is none", body = Problem))
)]
pub async fn resume(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    admin.pause_schedule(&viewer, &name, false).await?;
    Ok(Json(without_payload(&admin.schedule(&name).await?)))
}

/// Deletes a schedule. Jobs that it has published stay.
#[utoipa::path(
    delete, path = "/schedules/{name}", tag = "schedules", security(("bearer" = ["operator"])),
    params(("name" = String, Path, description = "Its name", example = "carebell.prune")),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is none", body = Problem))
)]
pub async fn delete(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    admin.delete_schedule(&viewer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// With its version and its next instants.
fn versioned(row: &ScheduleRow) -> impl IntoResponse + use<> {
    let mut json = without_payload(row);
    let timing = Timing::read(&row.spec).ok().filter(|_| !row.spec.paused);
    let upcoming = timing.iter().flat_map(|timing| timing.following(row.next)).take(TOLD);
    let zone = schedule::zone(&row.spec.zone).ok();
    let local = |at: DateTime<Utc>| match zone {
        Some(zone) => show::local_instant(at.with_timezone(&zone)),
        None => at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    };
    json["upcoming"] = upcoming.map(local).collect();
    (AppendHeaders([(ETAG, tag(row.changed.at))]), Json(json))
}

/// The version of a schedule as an `ETag`.
fn tag(changed: DateTime<Utc>) -> String {
    format!("\"{}\"", changed.timestamp_micros())
}

fn read_tag(tag: &str) -> Option<DateTime<Utc>> {
    let micros = tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    DateTime::from_timestamp_micros(micros)
}

/// Its job may hold texts of people.
fn without_payload(row: &ScheduleRow) -> Value {
    let mut json = show::schedule(row);
    if let Some(fields) = json.as_object_mut() {
        fields.remove("payload");
    }
    json
}
