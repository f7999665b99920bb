use async_nats::jetstream;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;

use super::error::DemoError;
use crate::{
    effects::submit::{Submission, submit},
    scheduler::timing::Timing,
    store::{AuditEntry, Replace, ScheduleSpec, Store},
};

/// Delay of a dose.
const DUE_IN: TimeDelta = TimeDelta::seconds(2);

pub struct Dose {
    pub job_id: String,
    pub due: DateTime<Utc>,
    pub subject: String,
}

pub async fn publish_dose(context: &jetstream::Context, now: DateTime<Utc>, number: usize) -> Result<Dose, DemoError> {
    let due = now + DUE_IN;
    let job_id = format!("dose-{number}");
    let scheduled = due.to_rfc3339_opts(SecondsFormat::Millis, true);
    let body = json!({ "medicationId": "metformin", "scheduledTime": scheduled, "reminderMinutes": 0 });
    let job = Submission {
        subject: "jobs.reminder.medication".into(),
        job_id: job_id.clone(),
        body: Bytes::from(body.to_string()),
        content_type: "application/json",
        not_after: None,
        at: Some(due),
        due: None,
    };
    let done = submit(context, job).await.map_err(|error| error.to_string())?;
    Ok(Dose { job_id, due, subject: done.subject })
}

pub async fn save_schedule(store: &Store, now: DateTime<Utc>) -> Result<(), DemoError> {
    let spec = ScheduleSpec {
        name: "tea".into(),
        kind: "notification".into(),
        lane: Some("normal".into()),
        payload: json!({ "recipients": [{ "userId": "ana" }], "title": "Tea is ready" }),
        expression: "*/20 * * * * *".into(),
        zone: "UTC".into(),
        gap: "shift".into(),
        fold: "first".into(),
        missed: "skip".into(),
        missed_limit: 1,
        missed_seconds: 60,
        jitter_seconds: 0,
        expiry_seconds: Some(60),
        starts_at: now,
        ends_at: None,
        paused: false,
        owner: None,
    };
    let next = Timing::read(&spec)?.next_from(now);
    let act = AuditEntry {
        at: now,
        actor: "carebell dev".into(),
        action: "schedule.added".into(),
        job_id: None,
        root_id: None,
        detail: json!({ "schedule": spec.name }),
    };
    store.save_schedule("tea", &spec, next, Replace::Always, &act).await?;
    Ok(())
}
