//! Reminders planned from the care tables: doses, appointments, shifts and shortages.
//!
//! One scheduler at a time looks at the care tables, each minute or after a change, and plans what is due soon.
//! Whichever locks a due reminder first publishes it.

use std::collections::HashMap;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::future::join_all;
use prost::Message;
use tokio::time::Instant;

use super::state::{Scheduler, Tally};
use crate::{
    checkpoint::{self, Step},
    effects::submit::Submission,
    kind::{Kind, Lane},
    meta::{CARE, LONGEST_JOB_ID, is_any_id},
    schedule::day_parts,
    store::{CareKind, CareReminder, DoseTimes, Horizon, PlanChanges, Supply},
    text, wire,
};

/// Between two looks if no change is announced.
pub(super) const LOOK_EVERY: TimeDelta = TimeDelta::minutes(1);

/// How far ahead reminders are planned: covers an outage of the care tables this long.
const AHEAD: TimeDelta = TimeDelta::minutes(15);

/// For appointments and shifts: one moved to within its lead has been planned before, or is new.
const EVENTS_AHEAD: TimeDelta = TimeDelta::days(7);

/// Jobs for older doses and starts have expired. Bounds the work after a long downtime.
const OF_USE: TimeDelta = TimeDelta::days(1);

/// How long published reminders are remembered after their dose or start.
const KEPT: TimeDelta = TimeDelta::days(2);

impl Scheduler {
    /// Brings the plan in line with the care tables. `None` while another scheduler does. Public for tests.
    ///
    /// # Errors
    /// The database does not answer, or a care table is unreadable. The plan is unchanged.
    pub async fn plan_care(&self) -> Result<Option<PlanChanges>, String> {
        let began = Instant::now();
        let Some(mut plan) = self.store.plan_care().await.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let now = self.clock.now();
        let horizon = horizon(now, plan.looked_at);
        let planned = async {
            let pairs = plan.zones_and_leads().await?;
            // Also covers reminders planned but unpublished because the server is away.
            let before = plan.oldest_due.map(|due| due - TimeDelta::microseconds(1));
            let from = before.unwrap_or(horizon.since).min(horizon.since);
            let doses = plan.plan_doses(&horizon, &dose_times(&pairs, from, &horizon)).await?;
            let events = plan.plan_events(&horizon).await?;
            let refills = plan.plan_refills(now).await?;
            plan.finish(now, now - KEPT).await?;
            Ok::<_, crate::store::StoreError>(doses.and(events).and(refills))
        };
        let planned = planned.await.map_err(|error| error.to_string())?;
        let took_ms = began.elapsed().as_millis();
        tracing::debug!(added = planned.added, removed = planned.removed, took_ms, "care tables looked at");
        Ok(Some(planned))
    }

    /// Publishes at most `limit` due reminders of each kind and marks them. Public for tests.
    ///
    /// # Errors
    /// The database does not answer. Unmarked reminders stay due.
    pub async fn care_pass(&self, limit: usize) -> Result<Tally, String> {
        let mut all = Tally::default();
        // Separate passes: one kind's full queue does not hold up the others.
        for kind in CareKind::ALL {
            let pass = self.care_pass_of(kind, limit).await?;
            all = Tally {
                seen: all.seen + pass.seen,
                moved: all.moved + pass.moved,
                stuck: all.stuck + pass.stuck,
                published: all.published + pass.published,
                lag: all.lag.max(pass.lag),
            };
        }
        // Stuck reminders are the latest of all.
        if all.moved + all.stuck > 0 {
            self.health.scheduled(all.lag, self.clock.now());
        }
        Ok(all)
    }

    async fn care_pass_of(&self, kind: CareKind, limit: usize) -> Result<Tally, String> {
        let now = self.clock.now();
        let mut due = self.store.due_reminders(kind, now, limit).await.map_err(|error| error.to_string())?;
        if due.rows.is_empty() {
            return Ok(Tally::default());
        }
        let supplies = due.supplies().await.map_err(|error| error.to_string())?;
        checkpoint::reached(Step::Due);
        let published = join_all(due.rows.iter().map(|reminder| self.remind(reminder, &supplies))).await;
        checkpoint::reached(Step::Fired);
        let mut pass = Tally::default();
        let mut marked = Vec::with_capacity(published.len());
        let mut refusal = None;
        for (reminder, published) in due.rows.iter().zip(published) {
            pass.lag = pass.lag.max(now - reminder.due_at);
            match published {
                Ok(published) => {
                    pass.published += usize::from(published);
                    marked.push(reminder.clone());
                }
                Err(why) => {
                    pass.stuck += 1;
                    refusal = Some(why);
                }
            }
        }
        let kind = kind.name();
        if let Some(why) = refusal {
            tracing::error!(kind, stuck = pass.stuck, "care reminders cannot be published, trying again soon: {why}");
        }
        pass.moved = marked.len();
        due.publish(&marked, now).await.map_err(|error| error.to_string())?;
        if pass.moved > 0 {
            let (published, lag_ms) = (pass.published, pass.lag.num_milliseconds());
            tracing::info!(
                due = kind,
                published,
                passed_over = pass.moved - published,
                lag_ms,
                "care reminders were due"
            );
        }
        Ok(pass)
    }

    /// False if it was not published.
    async fn remind(&self, reminder: &CareReminder, supplies: &HashMap<String, Supply>) -> Result<bool, String> {
        // A late "in an hour" is pointless once the dose itself is announced.
        if reminder.overtaken {
            return Ok(false);
        }
        let Some(body) = body(reminder, supplies) else { return Ok(false) };
        let job = Submission {
            subject: Kind::reminder(reminder.kind.name()).subject(Lane::Normal),
            job_id: care_job_id(reminder),
            body,
            content_type: "application/x-protobuf",
            not_after: None,
            at: None,
            due: Some(reminder.due_at),
        };
        tracing::debug!(job = job.job_id, "due");
        self.publish(job).await?;
        Ok(true)
    }
}

/// The first look only looks forward. If the clock was set back, earlier times are not repeated.
fn horizon(now: DateTime<Utc>, looked_at: Option<DateTime<Utc>>) -> Horizon {
    Horizon {
        now,
        since: looked_at.map_or(now, |looked_at| looked_at.min(now)),
        oldest: now - OF_USE,
        until: now + AHEAD,
        known_until: now + EVENTS_AHEAD,
    }
}

/// Times of day with reminders due after `from` and within the horizon, by zone and lead.
fn dose_times(pairs: &[(String, i32)], from: DateTime<Utc>, horizon: &Horizon) -> Vec<DoseTimes> {
    let mut times = Vec::new();
    for (zone, lead_minutes) in pairs {
        let lead = TimeDelta::minutes(i64::from(*lead_minutes));
        let after = (from + lead).max(horizon.oldest);
        let parts = day_parts(text::zone(zone), after, horizon.until + lead);
        times.extend(parts.into_iter().map(|part| DoseTimes {
            zone: zone.clone(),
            lead_minutes: *lead_minutes,
            day: part.day,
            first: part.first,
            last: part.last,
            offset: i32::try_from(part.offset.num_seconds()).unwrap_or(0),
            not_before: part.not_before,
        }));
    }
    times
}

/// `None` for a medication refilled just now.
fn body(reminder: &CareReminder, supplies: &HashMap<String, Supply>) -> Option<Bytes> {
    let instant = Some(prost_types::Timestamp {
        seconds: reminder.instant.timestamp(),
        nanos: i32::try_from(reminder.instant.timestamp_subsec_nanos()).unwrap_or(0),
    });
    let (id, reminder_minutes) = (reminder.record_id.clone(), reminder.lead_minutes);
    let body = match reminder.kind {
        CareKind::Medication => {
            wire::MedicationReminder { medication_id: id, scheduled_time: instant, reminder_minutes }.encode_to_vec()
        }
        CareKind::Appointment => {
            let (appointment_id, date_time) = (id, instant);
            wire::AppointmentReminder { appointment_id, date_time, reminder_minutes, ..Default::default() }
                .encode_to_vec()
        }
        CareKind::Shift => wire::ShiftReminder { shift_id: id, start_time: instant, reminder_minutes }.encode_to_vec(),
        CareKind::Refill => {
            let Supply { left, refill_at } = supplies.get(&id)?;
            // The message has no negative numbers; some tables do.
            let [current_supply, refill_at] = [*left, *refill_at].map(|doses| doses.max(0));
            wire::RefillAlert { medication_id: id, current_supply, refill_at }.encode_to_vec()
        }
    };
    Some(body.into())
}

/// Job id of a reminder, the same for every publisher. A refill's contains the time the shortage was seen, since a
/// medication may run out twice a day. A hash replaces invalid ids.
#[must_use]
pub fn care_job_id(reminder: &CareReminder) -> String {
    let rfc3339 = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let CareReminder { kind, record_id, instant, lead_minutes, due_at, .. } = reminder;
    let name = kind.name();
    let id = match kind {
        CareKind::Refill => format!("{CARE}{name}:{record_id}:{}", rfc3339(*due_at)),
        _ => format!("{CARE}{name}:{record_id}:{}:{lead_minutes}", rfc3339(*instant)),
    };
    // The ids of its children are longer.
    if id.len() <= LONGEST_JOB_ID && is_any_id(&id) {
        return id;
    }
    format!("{CARE}{name}:{}", URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, id.as_bytes())))
}
