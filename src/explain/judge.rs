//! Which causes hold, the one that decided first.
//!
//! Each function below finds the causes of one source. One of another source is a function more, and a rank in
//! `cause.rs`.

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use super::{
    cause::{Cause, NoDose},
    look::{Care, Known, KnownJob, Reminder},
};
use crate::{
    pauses::{ALL, Pause, Scope},
    schedule::{Zone, clock_readings},
    store::{CareKind, DoseSchedule, DoseState, EventStatus, Liveness},
    text,
};

/// A scheduler looks at the care tables each minute.
const LOOKS_WITHIN: TimeDelta = TimeDelta::minutes(3);

/// A worker commits a sign of life every five seconds.
const LIVES_WITHIN: TimeDelta = TimeDelta::minutes(1);

/// Published reminders are remembered for two days after their instant.
const REMEMBERED: TimeDelta = TimeDelta::days(2);

/// All causes and facts. The first decided.
pub(super) fn causes(known: &Known, now: DateTime<Utc>) -> Vec<Cause> {
    let mut found: Vec<Cause> = Vec::new();
    for job in &known.jobs {
        of_job(job, known.life, now, &mut found);
    }
    if known.zone.is_none() {
        found.push(Cause::UnknownUser);
    }
    of_care(known, &mut found);
    // Where there is no dose, no scheduler is late with it.
    let is_dose = !found.iter().any(|cause| matches!(cause, Cause::NoDose(_)));
    for reminder in known.reminders.iter().filter(|reminder| is_dose || reminder.planned.is_some()) {
        found.extend(of_reminder(reminder, known, now));
    }
    if !found.iter().any(Cause::decides) {
        found.push(Cause::Nothing);
    }
    let pauses = known.pauses.iter().filter(|pause| found.iter().any(|cause| waits_for(cause, pause)));
    let pauses: Vec<Cause> = pauses.cloned().map(Cause::Paused).collect();
    found.extend(pauses);
    facts(known, &mut found);
    // Stable: of equals, the shortest lead or the newest comes first.
    found.sort_by_key(Cause::rank);
    found
}

fn of_job(job: &KnownJob, life: Option<Liveness>, now: DateTime<Utc>, found: &mut Vec<Cause>) {
    let mut ledger: Vec<_> = job.ledger.iter().collect();
    ledger.sort_by_key(|line| std::cmp::Reverse(line.updated_at));
    found.extend(ledger.into_iter().map(|line| Cause::Delivery(Box::new(line.clone()))));
    let notification = job.runs.iter().rfind(|run| run.kind == "notification");
    // A run that came to nothing, or has not yet.
    found.extend(job.runs.iter().filter(|run| run.state != "done").map(|run| Cause::Run(Box::new(run.clone()))));
    for child in &job.unpublished {
        found.push(Cause::Unpublished { job_id: child.job_id.clone() });
    }
    if job.ledger.is_empty() && job.unpublished.is_empty() {
        match (notification, &job.inbox) {
            (Some(run), None) if run.state == "done" => {
                found.push(Cause::NotARecipient { job_id: run.job_id.clone(), at: run.updated_at });
            }
            (_, Some(row)) => {
                found.push(Cause::Unrecorded { job_id: job.root_id.clone(), at: row.created_at });
            }
            (None, None) => {
                if let Some(run) = job.runs.iter().find(|run| run.state == "done") {
                    let job_id = format!("{}~notification", job.root_id);
                    let is_worker_up = is_worker_up(life, now);
                    found.push(Cause::NotRun { job_id, published_at: run.updated_at, is_worker_up });
                }
            }
            (Some(_), None) => {}
        }
    }
    // Once it has run, its run says more.
    if let Some(delayed) = job.delayed.as_ref().filter(|_| job.runs.is_empty()) {
        found.push(Cause::Delayed(Box::new(delayed.clone())));
    }
}

/// Whether a worker gave a sign of life lately. Unknown counts as yes: nothing is blamed on a guess.
fn is_worker_up(life: Option<Liveness>, now: DateTime<Utc>) -> bool {
    life.is_none_or(|life| life.sign_of_life.is_some_and(|at| now - at <= LIVES_WITHIN))
}

/// Whatever the care tables say now. It may have been otherwise when the reminder was due.
fn of_care(known: &Known, found: &mut Vec<Cause>) {
    match &known.care {
        Care::Unread => {}
        Care::Gone => found.push(Cause::Gone),
        Care::Medication { record, dose, schedules, is_dose } => {
            if !record.is_member {
                found.push(Cause::NoMember);
            }
            if !record.is_active {
                found.push(Cause::Inactive);
            }
            match dose {
                Some(DoseState::Given) => found.push(Cause::Given),
                Some(DoseState::Skipped) => found.push(Cause::SkippedDose),
                Some(DoseState::Open) | None => {}
            }
            if let (Some(schedules), Some(at)) = (schedules, known.instant)
                && *is_dose != Some(true)
            {
                found.push(Cause::NoDose(no_dose(schedules, text::zone(&record.zone), at)));
            }
        }
        Care::Event(kind, event) => {
            match (kind, event.concerns) {
                (_, true) => {}
                (CareKind::Shift, false) => found.push(Cause::NotTheirShift { is_assigned: event.is_assigned }),
                (_, false) => found.push(Cause::NoMember),
            }
            match event.status {
                EventStatus::Cancelled => found.push(Cause::Cancelled),
                EventStatus::Completed => found.push(Cause::Over),
                EventStatus::Ahead => {}
            }
        }
    }
}

/// Why there is no dose at `at`, if there is none.
fn no_dose(schedules: &[DoseSchedule], zone: Zone, at: DateTime<Utc>) -> NoDose {
    let with_times: Vec<&DoseSchedule> = schedules.iter().filter(|schedule| !schedule.times.is_empty()).collect();
    if with_times.is_empty() {
        return NoDose::NoSchedule;
    }
    let active: Vec<&DoseSchedule> = with_times.into_iter().filter(|schedule| schedule.is_active).collect();
    if active.is_empty() {
        return NoDose::Rests;
    }
    // There is always one: the clock shows something.
    let day = clock_readings(zone, at).first().map_or(at.date_naive(), chrono::NaiveDateTime::date);
    let begun: Vec<&DoseSchedule> =
        active.iter().copied().filter(|schedule| schedule.start.is_none_or(|start| start <= day)).collect();
    if begun.is_empty() {
        return NoDose::NotBegun(active.iter().filter_map(|schedule| schedule.start).min().unwrap_or(day));
    }
    let current: Vec<&DoseSchedule> =
        begun.iter().copied().filter(|schedule| schedule.end.is_none_or(|end| day <= end)).collect();
    if current.is_empty() {
        return NoDose::Ended(begun.iter().filter_map(|schedule| schedule.end).max().unwrap_or(day));
    }
    let weekday = i32::try_from(day.weekday().number_from_monday()).unwrap_or(0);
    let today = current.iter().filter(|schedule| schedule.weekdays.is_empty() || schedule.weekdays.contains(&weekday));
    let mut times: Vec<String> = today.flat_map(|schedule| schedule.times.iter().cloned()).collect();
    if times.is_empty() {
        return NoDose::Weekday(day);
    }
    times.sort_unstable();
    times.dedup();
    NoDose::OtherTimes(times)
}

/// How far a reminder without a record has come.
fn of_reminder(reminder: &Reminder, known: &Known, now: DateTime<Utc>) -> Option<Cause> {
    let Reminder { due, planned, job_id } = reminder;
    if known.jobs.iter().any(|job| job.root_id == *job_id) {
        return None;
    }
    let due = *due;
    if let Some(published_at) = planned.as_ref().and_then(|line| line.published_at) {
        // One that is late is passed over for the next reminder of the same instant.
        let is_overtaken = known.reminders.iter().any(|other| due < other.due && other.due <= published_at);
        let is_worker_up = is_worker_up(known.life, now);
        return (!is_overtaken).then(|| Cause::NotRun { job_id: job_id.clone(), published_at, is_worker_up });
    }
    if due > now {
        return Some(Cause::NotDue { due, is_planned: planned.is_some() });
    }
    // Another job owns the mark, or an application published it.
    if !known.jobs.is_empty() {
        return None;
    }
    let life = known.life?;
    match life.care_looked_at {
        looked_at if looked_at.is_none_or(|at| at < due) => Some(Cause::SchedulerDown { due, looked_at }),
        Some(at) if planned.is_some() && now - at > LOOKS_WITHIN => {
            Some(Cause::SchedulerDown { due, looked_at: Some(at) })
        }
        _ if planned.is_some() => Some(Cause::SchedulerBehind { due, overdue: life.overdue }),
        Some(looked_at) if now - due <= REMEMBERED => Some(Cause::NotPlanned { due, looked_at }),
        _ => None,
    }
}

/// Whether something waits for the end of a pause.
fn waits_for(cause: &Cause, pause: &Pause) -> bool {
    match cause {
        Cause::Delivery(line) if ["pending", "held"].contains(&&*line.state) => match pause.scope {
            Scope::Channel => pause.name == line.channel,
            // A delivery that waits for its provider says so, and not always for which.
            Scope::Provider => line.reason.as_deref() == Some("paused"),
            Scope::Queue => is_queue_of(&pause.name, &format!("deliver.{}", line.channel)),
        },
        Cause::Run(run) if run.state == "open" => pause.scope == Scope::Queue && is_queue_of(&pause.name, &run.kind),
        Cause::Delayed(delayed) if delayed.state == "fired" => {
            pause.scope == Scope::Queue && is_queue_of(&pause.name, &delayed.kind)
        }
        // Its queue is not on record.
        Cause::NotRun { .. } | Cause::Unpublished { .. } => pause.scope == Scope::Queue,
        _ => false,
    }
}

/// Whether a name stands for a queue of this kind: the kind, one of its lanes, or all queues.
fn is_queue_of(name: &str, kind: &str) -> bool {
    name == ALL || name == kind || name.starts_with(&kind.replace('.', "_"))
}

fn facts(known: &Known, found: &mut Vec<Cause>) {
    found.extend(known.jobs.iter().filter_map(|job| job.inbox.clone()).map(Cause::Inbox));
    found.extend(known.hour.map(Cause::Hour));
    found.extend(known.subscriptions.clone().map(Cause::Subscriptions));
    if !known.addresses.is_empty() {
        found.push(Cause::Addresses(known.addresses.clone()));
    }
    let chosen = known.preferences.clone().filter(|chosen| chosen.channels.is_some() || chosen.quiet.is_some());
    found.extend(chosen.map(Cause::Preferences));
    found.extend(known.life.map(Cause::Life));
}
