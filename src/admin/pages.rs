//! The console's pages: HTML from the server that works without JavaScript.

mod assets;
mod audit;
mod chart;
mod dead_letters;
mod delayed;
mod due;
mod job;
mod jobs;
mod layout;
mod live;
mod oidc;
mod operations;
mod overview;
mod people;
mod providers;
mod publish;
mod queues;
mod refused;
mod routes;
mod schedules;
mod session;
mod ui;
mod visitor;
mod workers;

use axum::{Router, http::Method, routing::MethodRouter};

pub use self::refused::refused;
use super::{
    access::{Access, Need, Role},
    state::Admin,
};
use crate::config::OIDC_CALLBACK;

/// Routes of pages, each with its need.
struct Pages<'a> {
    router: Router<Admin>,
    access: &'a mut Access,
}

impl Pages<'_> {
    fn add(mut self, path: &str, needs: &[(Method, Need)], handlers: MethodRouter<Admin>) -> Self {
        for (method, need) in needs {
            self.access.add(method.clone(), path, *need);
        }
        self.router = self.router.route(path, handlers);
        self
    }

    /// A form that acts.
    fn act(self, path: &str, least: Role, handlers: MethodRouter<Admin>) -> Self {
        self.add(path, &[(Method::POST, Need::Role(least))], handlers)
    }

    /// A page to look at.
    fn look(self, path: &str, least: Role, handlers: MethodRouter<Admin>) -> Self {
        self.add(path, &[(Method::GET, Need::Role(least))], handlers)
    }
}

pub(super) fn routes(access: &mut Access) -> Router<Admin> {
    use axum::routing::{get, post};

    let public = |method: Method| (method, Need::Public);
    Pages { router: Router::new(), access }
        .add("/", &[public(Method::GET)], get(session::home))
        .add("/console/assets/{name}", &[public(Method::GET)], get(assets::serve))
        .add(
            "/console/sign-in",
            &[public(Method::GET), public(Method::POST)],
            get(session::form).post(session::sign_in),
        )
        .add(
            "/console/enter/{ticket}",
            &[public(Method::GET), public(Method::POST)],
            get(session::offer).post(session::enter),
        )
        .add("/console/oidc", &[public(Method::GET)], get(oidc::begin))
        .add(OIDC_CALLBACK, &[public(Method::GET)], get(oidc::finish))
        .add("/console/sign-out", &[public(Method::POST)], post(session::sign_out))
        .add("/console/zone", &[public(Method::POST)], post(session::set_zone))
        .look("/console", Role::Viewer, get(overview::show))
        .look("/console/live", Role::Viewer, get(live::listen))
        .look("/console/queues", Role::Viewer, get(queues::show))
        .look("/console/queues/{name}", Role::Viewer, get(queues::one))
        .act("/console/queues/{name}/pause", Role::Operator, post(queues::pause))
        .act("/console/queues/{name}/resume", Role::Operator, post(queues::resume))
        .look("/console/schedules", Role::Viewer, get(schedules::list))
        .look("/console/schedules/{name}", Role::Viewer, get(schedules::one))
        .add(
            schedules::place::NEW,
            &[(Method::GET, Need::Role(Role::Operator)), (Method::POST, Need::Role(Role::Operator))],
            get(schedules::form::new).post(schedules::form::add),
        )
        .add(
            "/console/schedules/{name}/change",
            &[(Method::GET, Need::Role(Role::Operator)), (Method::POST, Need::Role(Role::Operator))],
            get(schedules::form::edit).post(schedules::form::change),
        )
        .act("/console/schedules/{name}/run", Role::Operator, post(schedules::run))
        .act("/console/schedules/{name}/pause", Role::Operator, post(schedules::pause))
        .act("/console/schedules/{name}/resume", Role::Operator, post(schedules::resume))
        .act("/console/schedules/{name}/delete", Role::Operator, post(schedules::delete))
        .look("/console/audit", Role::Operator, get(audit::list))
        .look("/console/jobs", Role::Viewer, get(jobs::list))
        .look("/console/jobs/{id}", Role::Viewer, get(job::show))
        .look("/console/due", Role::Viewer, get(due::show))
        .look("/console/people", Role::Coordinator, get(people::find))
        .look("/console/people/{id}", Role::Coordinator, get(people::show))
        .look("/console/providers", Role::Viewer, get(providers::show))
        .act("/console/channels/pause", Role::Operator, post(providers::pause_channel))
        .act("/console/channels/{name}/resume", Role::Operator, post(providers::resume_channel))
        .act("/console/providers/pause", Role::Operator, post(providers::pause_provider))
        .act("/console/providers/{name}/resume", Role::Operator, post(providers::resume_provider))
        .add(
            operations::PATH,
            &[(Method::GET, Need::Role(Role::Operator)), (Method::POST, Need::Role(Role::Operator))],
            get(operations::list).post(operations::begin),
        )
        .look(operations::NEW, Role::Operator, get(operations::new))
        .look("/console/operations/{id}", Role::Operator, get(operations::show))
        .act("/console/operations/{id}/cancel", Role::Operator, post(operations::cancel))
        .add(
            publish::PATH,
            &[(Method::GET, Need::Role(Role::Operator)), (Method::POST, Need::Role(Role::Operator))],
            get(publish::new).post(publish::publish),
        )
        .look("/console/api", Role::Viewer, get(routes::show))
        .look("/console/delayed", Role::Viewer, get(delayed::show))
        .look("/console/dead-letters", Role::Viewer, get(dead_letters::list))
        .look("/console/dead-letters/{number}", Role::Viewer, get(dead_letters::show))
        .act("/console/jobs/{id}/cancel", Role::Operator, post(job::cancel))
        .act("/console/jobs/{id}/retry", Role::Operator, post(job::retry))
        .act("/console/dead-letters/{number}/redrive", Role::Operator, post(dead_letters::redrive))
        .act("/console/dead-letters/{number}/discard", Role::Operator, post(dead_letters::discard))
        .router
}
