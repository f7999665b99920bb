//! How far a job has come, in a producer's words: ids, states and counts, and no texts.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    jobs,
    kind::Stage,
    store::{JobRun, JobState},
    text::instant,
};

/// A job, for its producer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct View<'a> {
    job_id: &'a str,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<&'a str>,
    state: &'a str,
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    deliveries: Deliveries,
}

#[derive(Debug, Serialize, ToSchema)]
struct Deliveries {
    open: i64,
    sent: i64,
    unsent: i64,
}

/// A job as shown to its producer, under the id that it gave.
pub fn view<'a>(job_id: &'a str, job: &'a JobState) -> View<'a> {
    let (state, reason) = stage(job);
    let [open, sent, unsent] = job.deliveries;
    let last = [job.run.as_ref(), job.notification.as_ref()].into_iter().flatten().map(|run| run.at);
    View {
        job_id,
        kind: &job.kind,
        lane: job.lane.as_deref(),
        state,
        ended: has_ended(job),
        reason,
        error: job.run.as_ref().and_then(|run| run.error.as_deref()),
        failures: job.run.as_ref().map(|run| run.attempts),
        accepted_at: job.accepted_at.map(instant),
        due_at: job.due_at.map(instant),
        updated_at: last.chain(job.deliveries_at).max().map(instant),
        percent: job.progress.0,
        note: job.progress.1.as_deref(),
        result: job.result.as_ref(),
        deliveries: Deliveries { open, sent, unsent },
    }
}

/// Whether nothing more becomes of it.
pub fn has_ended(job: &JobState) -> bool {
    !matches!(stage(job).0, "accepted" | "delayed" | "running" | "sending")
}

/// Whether it waits for its instant.
pub fn is_delayed(job: &JobState) -> bool {
    stage(job).0 == "delayed"
}

/// Its state.
pub fn state(job: &JobState) -> &str {
    stage(job).0
}

/// State and reason.
fn stage(job: &JobState) -> (&str, Option<&str>) {
    let Some(run) = &job.run else {
        return match (job.delay.as_deref(), job.due_at) {
            (Some("waiting"), _) | (None, Some(_)) => ("delayed", None),
            (Some("cancelled"), _) => ("cancelled", None),
            _ => ("accepted", None),
        };
    };
    if run.state == "open" && job.delay.as_deref() == Some("waiting") {
        return ("delayed", run.reason.as_deref());
    }
    let last = match run.state.as_str() {
        "open" => return ("running", run.reason.as_deref()),
        // A reminder that is done has planned one.
        "done" if is_reminder(&job.kind) => match &job.notification {
            Some(planned) if planned.state != "open" => planned,
            planned => return ("running", planned.as_ref().and_then(|run| run.reason.as_deref())),
        },
        _ => run,
    };
    ended(last, job.deliveries[0])
}

/// Older rows have no kind.
fn is_reminder(kind: &str) -> bool {
    kind.is_empty() || jobs::registry().kinds().iter().any(|known| known.name == kind && known.stage == Stage::Reminder)
}

fn ended(run: &JobRun, open: i64) -> (&str, Option<&str>) {
    match (run.state.as_str(), run.reason.as_deref()) {
        ("done", _) if open > 0 => ("sending", None),
        ("skipped", Some("cancelled")) => ("cancelled", None),
        (state, reason) => (state, reason),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_job_has_ended_when_all_that_follows_from_it_has() {
        let run = |state: &str, reason: Option<&str>| {
            let (state, reason) = (state.to_owned(), reason.map(ToOwned::to_owned));
            Some(JobRun { state, reason, attempts: 0, error: None, at: DateTime::UNIX_EPOCH })
        };
        let job = |kind: &str, run, notification, open| JobState {
            kind: kind.to_owned(),
            run,
            notification,
            deliveries: [open, 1, 0],
            ..JobState::default()
        };
        for (job, state, is_end) in [
            (job("notification", None, None, 0), "accepted", false),
            (job("notification", run("open", None), None, 0), "running", false),
            (job("notification", run("done", None), None, 1), "sending", false),
            (job("notification", run("done", None), None, 0), "done", true),
            (job("reminder.shift", run("done", None), None, 0), "running", false),
            (job("reminder.shift", run("done", None), run("open", None), 0), "running", false),
            (job("reminder.shift", run("done", None), run("done", None), 2), "sending", false),
            (job("reminder.shift", run("done", None), run("expired", None), 0), "expired", true),
            (job("reminder.shift", run("skipped", Some("gone")), None, 0), "skipped", true),
            (job("notification", run("skipped", Some("cancelled")), None, 0), "cancelled", true),
            (job("notification", run("dead", None), None, 0), "dead", true),
            (job("document.upload", run("done", None), None, 0), "done", true),
            (job("search.index", run("done", None), None, 0), "done", true),
        ] {
            assert_eq!((stage(&job).0, has_ended(&job)), (state, is_end), "{job:?}");
        }
        let delayed = |delay: Option<&str>, run| JobState {
            delay: delay.map(ToOwned::to_owned),
            due_at: Some(DateTime::UNIX_EPOCH),
            run,
            ..JobState::default()
        };
        assert_eq!(stage(&delayed(None, None)).0, "delayed", "no worker has read it");
        assert_eq!(stage(&delayed(Some("waiting"), None)).0, "delayed");
        assert_eq!(stage(&delayed(Some("fired"), None)).0, "accepted");
        assert_eq!(stage(&delayed(Some("cancelled"), None)).0, "cancelled");
        assert_eq!(stage(&delayed(Some("cancelled"), run("done", None))).0, "running", "it ran before");
    }
}
