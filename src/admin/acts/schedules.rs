//! Acts on saved schedules.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::act;
use crate::{
    admin::{access::Viewer, problem::Problem, state::Admin},
    clock::Random,
    drafts::{Draft, Planned, Property, Wrong},
    health::Health,
    scheduler::{Scheduler, timing::Timing},
    store::{AuditEntry, Replace, ScheduleRow},
};

/// The most characters of the key under which a schedule is run once.
const LONGEST_KEY: usize = 36;

impl Admin {
    /// One schedule.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn schedule(&self, name: &str) -> Result<ScheduleRow, Problem> {
        let found = self.store.schedule(name).await?;
        found.ok_or_else(|| Problem::not_found(format!("there is no schedule {name:?}")))
    }

    /// Pauses or resumes a schedule. Nothing happens if it is so already.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn pause_schedule(&self, viewer: &Viewer, name: &str, paused: bool) -> Result<(), Problem> {
        let row = self.schedule(name).await?;
        if row.spec.paused == paused {
            return Ok(());
        }
        let now = self.clock.now();
        // Instants during a pause were not wanted, so not missed.
        let next = match (paused, Timing::read(&row.spec)) {
            (true, _) => row.next,
            (false, Ok(timing)) => timing.next_from(now),
            (false, Err(why)) => return Err(Problem::conflict(format!("its timing cannot be read: {why}"))),
        };
        let act =
            act(if paused { "schedule.paused" } else { "schedule.resumed" }, viewer, now, json!({ "schedule": name }));
        if !self.store.pause_schedule(name, paused, next, &act).await? {
            return Err(Problem::not_found(format!("there is no schedule {name:?}")));
        }
        Ok(())
    }

    /// Deletes a schedule.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn delete_schedule(&self, viewer: &Viewer, name: &str) -> Result<(), Problem> {
        let act = act("schedule.deleted", viewer, self.clock.now(), json!({ "schedule": name }));
        if !self.store.delete_schedule(name, &act).await? {
            return Err(Problem::not_found(format!("there is no schedule {name:?}")));
        }
        Ok(())
    }

    /// Saves a schedule of a new name.
    ///
    /// # Errors
    /// If a property is wrong, or there is one of this name.
    pub async fn add_schedule(&self, viewer: &Viewer, draft: &Draft) -> Result<ScheduleRow, Problem> {
        let now = self.clock.now();
        let Planned { spec, next, .. } = draft.plan(None, now)?;
        let act = act("schedule.added", viewer, now, json!({ "schedule": spec.name }));
        let id = Random::system().uuid(now).to_string();
        if !self.store.save_schedule(&id, &spec, next, Replace::Never, &act).await? {
            return Err(Problem::conflict(format!("there already is a schedule {:?}: change it", spec.name)));
        }
        self.schedule(&spec.name).await
    }

    /// Changes a schedule whose last change was at `version`. A draft without a job keeps that.
    ///
    /// # Errors
    /// If there is none of this name, somebody has changed it meanwhile, or a property is wrong.
    pub async fn change_schedule(
        &self,
        viewer: &Viewer,
        mut draft: Draft,
        version: DateTime<Utc>,
    ) -> Result<ScheduleRow, Problem> {
        let before = self.schedule(&draft.name).await?;
        let changed = || {
            let detail = "somebody has changed it meanwhile: load it again, and change what is there now";
            Problem::precondition_failed(detail)
        };
        if before.changed.at != version {
            return Err(changed());
        }
        if draft.payload.trim().is_empty() {
            draft.payload = before.spec.payload.to_string();
        }
        let now = self.clock.now();
        let Planned { spec, next, .. } = draft.plan(Some(&before), now)?;
        let act = act("schedule.replaced", viewer, now, json!({ "schedule": spec.name }));
        if !self.store.save_schedule(&before.id, &spec, next, Replace::IfLastChanged(version), &act).await? {
            return Err(changed());
        }
        self.schedule(&spec.name).await
    }

    /// Publishes a schedule's job now, in addition to its instants. With the same `key` it is published once. Answers the
    /// job's id.
    ///
    /// # Errors
    /// If there is no such schedule, the key is malformed, or NATS is away.
    pub async fn run_schedule(&self, viewer: &Viewer, name: &str, key: Option<&str>) -> Result<String, Problem> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if key.is_some_and(|key| !(1..=LONGEST_KEY).contains(&key.len()) || !key.chars().all(allowed)) {
            let detail = format!("expected 1 to {LONGEST_KEY} of the characters A-Z a-z 0-9 _ -");
            return Err(Problem::field("Idempotency-Key", detail));
        }
        let row = self.schedule(name).await?;
        let now = self.clock.now();
        let key = key.map_or_else(|| Random::system().uuid(now).to_string(), ToOwned::to_owned);
        let job_id = Scheduler::run_now_id(&row, &key);
        let entry = AuditEntry {
            job_id: Some(job_id.clone()),
            root_id: Some(job_id.clone()),
            ..act("schedule.run_now", viewer, now, json!({ "schedule": name }))
        };
        let producer = self.jetstream()?.clone();
        // Recorded first: whoever reads the log sees also an act whose outcome is not known.
        self.store.record_audit(&[entry]).await?;
        let scheduler = Scheduler::new(self.store.clone(), producer, self.clock.clone(), Health::new());
        let published = scheduler.run_now(&row, &job_id).await;
        published.map_err(|why| Problem::unavailable("NATS", &format!("{why}; the job {job_id} may be published")))?;
        Ok(job_id)
    }
}

impl From<Wrong> for Problem {
    fn from(Wrong { property, why }: Wrong) -> Self {
        Self::field(field(property), why)
    }
}

/// Its name in requests.
const fn field(property: Property) -> &'static str {
    match property {
        Property::Name => "name",
        Property::Expression => "expression",
        Property::Zone => "zone",
        Property::Kind => "kind",
        Property::Lane => "lane",
        Property::Payload => "payload",
        Property::Gap => "gap",
        Property::Fold => "fold",
        Property::Missed => "missed",
        Property::MissedLimit => "missed_limit",
        Property::MissedWindow => "missed_window_s",
        Property::Jitter => "jitter_s",
        Property::Expiry => "expires_s",
        Property::Start => "starts_at",
        Property::End => "ends_at",
        Property::Owner => "owner",
    }
}
