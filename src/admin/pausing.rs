//! Pausing and resuming queues, channels and providers.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{access::Viewer, problem::Problem, state::Admin};
use crate::{
    acts::HeldUp,
    near::nearest,
    pauses::{Pause, Scope},
    plan::Channel,
    store::AuditEntry,
};

/// The most characters of a reason.
const LONGEST_REASON: usize = 200;

/// A provider is known by its deliveries since then.
const SEEN_SINCE: TimeDelta = TimeDelta::days(1);

impl Admin {
    /// Pauses a queue, channel or provider, or changes its pause. Its jobs wait, and those that run are finished.
    ///
    /// # Errors
    /// If there is none of this name, the reason is empty or too long, or the end has passed.
    pub async fn pause(
        &self,
        viewer: &Viewer,
        scope: Scope,
        name: &str,
        reason: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<Pause, Problem> {
        let name = name_of(scope, name);
        self.check_name(scope, name).await?;
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > LONGEST_REASON || reason.contains('\0') {
            let detail = format!("expected 1 to {LONGEST_REASON} characters, for the colleagues");
            return Err(Problem::field("reason", detail));
        }
        let now = self.clock.now();
        if until.is_some_and(|until| until <= now) {
            return Err(Problem::field("until", "expected an instant that is to come"));
        }
        let pause = Pause {
            scope,
            name: name.to_owned(),
            reason: reason.to_owned(),
            actor: viewer.name.clone(),
            since: now,
            until,
        };
        let detail = json!({ "name": name, "reason": reason, "until": until });
        let act = AuditEntry { detail, ..act(scope, "paused", name, viewer, now) };
        self.store.pause(&pause, &act).await?;
        Ok(pause)
    }

    /// The jobs that a pause holds up at the moment.
    pub async fn held_up(&self, pause: &Pause) -> HeldUp {
        let context = self.nats.get().ok_or_else(|| "NATS was not reached yet".to_owned());
        HeldUp::by(context, &self.streams, pause).await
    }

    /// Resumes what is paused by this name.
    ///
    /// # Errors
    /// If it is not.
    pub async fn resume(&self, viewer: &Viewer, scope: Scope, name: &str) -> Result<(), Problem> {
        let name = name_of(scope, name);
        let act = act(scope, "resumed", name, viewer, self.clock.now());
        if name.contains('\0') || !self.store.resume(scope, name, &act).await? {
            return Err(Problem::conflict(format!("the {} {name:?} is not paused by its name", scope.name())));
        }
        Ok(())
    }

    async fn check_name(&self, scope: Scope, name: &str) -> Result<(), Problem> {
        let known = match scope {
            Scope::Queue => return self.check_queue(name),
            Scope::Channel => Channel::ALL.map(|channel| channel.name().to_owned()).to_vec(),
            Scope::Provider => {
                let seen = self.store.providers_since(self.clock.now() - SEEN_SINCE).await?;
                self.providers.iter().cloned().chain(seen.into_iter().map(|line| line.provider)).collect()
            }
        };
        if known.iter().any(|known| known == name) {
            return Ok(());
        }
        let meant = nearest(name, known.iter().map(String::as_str)).map(|near| format!(": did you mean {near}?"));
        let meant = meant.unwrap_or_else(|| format!("; there are {}", known.join(", ")));
        Err(Problem::not_found(format!("there is no {} {name:?}{meant}", scope.name())))
    }
}

fn name_of(scope: Scope, name: &str) -> &str {
    match Channel::parse(name) {
        Some(channel) if scope == Scope::Channel => channel.name(),
        _ => name,
    }
}

fn act(scope: Scope, done: &str, name: &str, viewer: &Viewer, at: DateTime<Utc>) -> AuditEntry {
    AuditEntry {
        at,
        actor: viewer.name.clone(),
        action: format!("{}.{done}", scope.name()),
        job_id: None,
        root_id: None,
        detail: json!({ "name": name }),
    }
}
