//! Paths and JSON that users of older systems know: `/admin/jobs/…` and `/api/admin/jobs/<queue>`.
//!
//! Each asks what its route of `/admin/api/v1` asks, by the same functions; only the words differ.

mod jobs;
mod older;
mod schedules;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, Uri},
    routing::{MethodRouter, delete, get, post, put},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use self::older::{Meant, words_of};
use super::{
    access::{Access, Need, Role, Viewer},
    api::{self, Path, limit, query},
    problem::Problem,
    query::JobQuery,
    reads::Counts,
    snapshot::Snapshot,
    state::Admin,
};
use crate::{
    pauses::Scope,
    store::lists::{JobFilter, JobState, OldWord, WorkerLine},
};

/// Recent jobs of each sort.
const RECENT: u32 = 10;

/// Why a queue is paused, if nobody says: older systems do not ask.
const NO_REASON: &str = "paused by an older path, which asks for no reason";

/// An alias: its method and path, the path below `/admin/api/v1` that it stands for, the role.
pub struct Alias {
    /// The method.
    pub method: Method,
    /// The older path.
    pub path: &'static str,
    /// The path that it stands for.
    pub of: &'static str,
    /// The least that it needs.
    pub role: Role,
}

fn all() -> Vec<(Alias, MethodRouter<Admin>)> {
    let get_of = |path, of, handler| (Alias { method: Method::GET, path, of, role: Role::Viewer }, handler);
    let operator = |method, path, of, handler| (Alias { method, path, of, role: Role::Operator }, handler);
    let post_of = |path, of, handler| operator(Method::POST, path, of, handler);
    let delete_of = |path, of, handler| operator(Method::DELETE, path, of, handler);
    vec![
        get_of("/admin/jobs", "/jobs", get(list)),
        get_of("/admin/jobs/{id}", "/jobs/{id}", get(api::show_job)),
        delete_of("/admin/jobs/{id}", "/jobs/{id}", delete(api::cancel_job)),
        post_of("/admin/jobs/{id}/retry", "/jobs/{id}/retry", post(api::retry_job)),
        get_of("/admin/jobs/counts", "/counts", get(counts)),
        get_of("/admin/jobs/health", "/health", get(health)),
        get_of("/admin/jobs/queues/{queue}/stats", "/queues/{queue}/stats", get(stats)),
        post_of("/admin/jobs/queues/{queue}/pause", "/queues/{queue}/pause", post(pause)),
        post_of("/admin/jobs/queues/{queue}/resume", "/queues/{queue}/resume", post(resume)),
        (
            Alias {
                method: Method::POST,
                path: "/admin/jobs/queues/{queue}/empty",
                of: "/queues/{queue}/empty",
                role: Role::Admin,
            },
            post(api::empty_queue),
        ),
        get_of("/admin/jobs/schedules", "/schedules", get(schedules::list)),
        post_of("/admin/jobs/schedules", "/schedules", post(schedules::add)),
        (
            Alias {
                method: Method::POST,
                path: "/admin/jobs/schedules/preview",
                of: "/schedules/preview",
                role: Role::Viewer,
            },
            post(schedules::preview),
        ),
        get_of("/admin/jobs/schedules/{name}", "/schedules/{name}", get(schedules::get)),
        operator(Method::PUT, "/admin/jobs/schedules/{name}", "/schedules/{name}", put(schedules::change)),
        delete_of("/admin/jobs/schedules/{name}", "/schedules/{name}", delete(schedules::delete)),
        post_of("/admin/jobs/schedules/{name}/pause", "/schedules/{name}/pause", post(schedules::pause)),
        post_of("/admin/jobs/schedules/{name}/resume", "/schedules/{name}/resume", post(schedules::resume)),
        post_of("/admin/jobs/schedules/{name}/run", "/schedules/{name}/run", post(schedules::run)),
        get_of("/api/admin/jobs/{queue}", "/queues/{queue}", get(queue)),
        post_of("/api/admin/jobs/{queue}", "/queues/{queue}/jobs", post(jobs::publish)),
    ]
}

/// All of them, by path.
pub fn aliases() -> Vec<Alias> {
    all().into_iter().map(|(alias, _)| alias).collect()
}

pub(super) fn routes(access: &mut Access) -> Router<Admin> {
    all().into_iter().fold(Router::new(), |router, (alias, handler)| {
        access.add(alias.method, alias.path, Need::Role(alias.role));
        router.route(alias.path, handler)
    })
}

/// `{"jobs": […], "next": …}`
async fn list(State(admin): State<Admin>, viewer: Viewer, uri: Uri) -> Result<Json<Value>, Problem> {
    let asked: JobQuery = query(&uri)?;
    let limit = limit(asked.limit.as_deref())?;
    let listed = admin.jobs(&viewer, &asked, limit).await?;
    let jobs: Vec<Value> = listed.page.items.iter().map(older::job).collect();
    Ok(Json(json!({ "jobs": jobs, "next": listed.page.next })))
}

async fn counts(State(admin): State<Admin>) -> Json<Value> {
    let snapshot = admin.snapshot().await;
    let Counts { waiting, active, completed, failed, delayed } = Counts::of(&snapshot);
    let total: u64 = [waiting, active, completed, failed, delayed].into_iter().flatten().sum();
    Json(json!({
        "waiting": waiting, "active": active, "completed": completed, "failed": failed, "delayed": delayed,
        "total": total,
    }))
}

async fn health(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let snapshot = admin.snapshot().await;
    let delayed = admin.store.delayed_by_queue().await?;
    let rates = admin.store.ended_by_queue(admin.clock.now()).await?;
    let queues = snapshot.streaming.as_ref().map_err(|why| Problem::unavailable("NATS", why))?.queues.iter();
    let queues = queues.map(|queue| {
        let stats = json!({
            "jobs": words_of(&snapshot, &delayed, &[queue.name.as_str()]),
            "throughput": older::throughput(&rates, &[queue.name.as_str()]),
        });
        (queue.name.clone(), json!({ "isPaused": snapshot.pause_of(&queue.name).is_some(), "stats": stats }))
    });
    let workers = snapshot.activity.as_ref().map_err(|why| Problem::unavailable("the database", why))?.workers.iter();
    let workers = workers.map(|worker| older::worker(worker, snapshot.at));
    let (level, verdict) = snapshot.verdict();
    Ok(Json(json!({
        "status": older::status(level),
        "message": verdict,
        "queues": queues.collect::<serde_json::Map<_, _>>(),
        "workers": workers.collect::<Vec<_>>(),
    })))
}

async fn stats(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let meant = Meant::named(&admin, &name)?;
    let snapshot = admin.snapshot().await;
    let (delayed, rates) =
        (admin.store.delayed_by_queue().await?, admin.store.ended_by_queue(admin.clock.now()).await?);
    Ok(Json(json!({
        "queue": name,
        "isPaused": meant.is_paused(&snapshot),
        "jobs": words_of(&snapshot, &delayed, &meant.names()),
        "throughput": older::throughput(&rates, &meant.names()),
    })))
}

/// Of a pause. Older systems send nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pausing {
    reason: Option<String>,
    #[serde(default, deserialize_with = "crate::when::instant")]
    until: Option<DateTime<Utc>>,
}

async fn pause(
    State(admin): State<Admin>,
    viewer: Viewer,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let Pausing { reason, until } = api::body_if_any(request).await?.unwrap_or_default();
    let reason = reason.as_deref().unwrap_or(NO_REASON);
    for queue in Meant::named(&admin, &name)?.names() {
        admin.pause(&viewer, Scope::Queue, queue, reason, until).await?;
    }
    Ok(Json(json!({ "queue": name, "isPaused": true })))
}

async fn resume(State(admin): State<Admin>, viewer: Viewer, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    for queue in Meant::named(&admin, &name)?.names() {
        admin.resume(&viewer, Scope::Queue, queue).await?;
    }
    Ok(Json(json!({ "queue": name, "isPaused": false })))
}

/// `{"counts": …, "recent": {"completed": […], "failed": […], "active": […]}, "scheduled": […]}`
async fn queue(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let meant = Meant::named(&admin, &name)?;
    let snapshot = admin.snapshot().await;
    let (completed, failed) =
        (recent(&admin, &meant, OldWord::Completed).await?, recent(&admin, &meant, OldWord::Failed).await?);
    let schedules = admin.store.schedules(None).await?;
    let due = schedules.iter().filter(|row| meant.publishes(row)).map(older::scheduled);
    let delayed = admin.store.delayed_by_queue().await?;
    Ok(Json(json!({
        "queue": name,
        "isPaused": meant.is_paused(&snapshot),
        "counts": words_of(&snapshot, &delayed, &meant.names()),
        "recent": { "completed": completed, "failed": failed, "active": running(&snapshot, &meant) },
        "scheduled": due.collect::<Vec<_>>(),
    })))
}

/// The newest jobs that ended so in the last day.
async fn recent(admin: &Admin, meant: &Meant, word: OldWord) -> Result<Vec<Value>, Problem> {
    let now = admin.clock.now();
    let filter = JobFilter {
        states: JobState::named(word.name()),
        kind: Some(meant.kind),
        lane: meant.lane,
        since: Some(now - TimeDelta::days(1)),
        ..JobFilter::default()
    };
    Ok(admin.store.jobs(&filter, RECENT, None, now).await?.items.iter().map(older::job).collect())
}

/// What workers run of it.
fn running(snapshot: &Snapshot, meant: &Meant) -> Vec<Value> {
    let workers: &[WorkerLine] = snapshot.activity.as_ref().map_or(&[], |activity| &activity.workers);
    let running = workers.iter().filter(|worker| !worker.is_lost).flat_map(|worker| &worker.running);
    let of_queue = running.filter(|job| meant.names().contains(&job.queue.as_str()));
    of_queue.take(RECENT as usize).map(older::running).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_of_the_api_has_each_alias_with_its_route_and_role() {
        let page = std::fs::read_to_string("docs/ADMIN.md").unwrap();
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<&str> =
                line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let (method, path) = cells.first()?.split_once(' ')?;
            let is_alias = path.starts_with("/admin/jobs") || path.starts_with("/api/");
            is_alias.then(|| (method.to_owned(), path.to_owned(), cells[1].to_owned(), cells[2].to_owned()))
        });
        let written: BTreeSet<_> = rows.collect();
        let served = aliases().into_iter().map(|alias| {
            (alias.method.to_string(), alias.path.to_owned(), alias.of.to_owned(), alias.role.name().to_owned())
        });
        assert_eq!(written, served.collect());
    }

    #[test]
    fn an_alias_needs_the_role_of_its_route() {
        let routes = api::summaries();
        for alias in aliases() {
            let path = format!("{}{}", super::super::places::API, alias.of);
            let route = routes.iter().find(|route| route.method == alias.method.as_str() && route.path == path);
            let role = route.unwrap_or_else(|| panic!("{path} is no route")).role;
            assert_eq!(role, alias.role, "{} {}", alias.method, alias.path);
        }
    }
}
