//! `reminder.medication`: a dose is due. Tells the family, unless the dose is settled or the medication is inactive.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::notification::to_users;
use crate::{
    job::{Context, Failure, Invalid, Job, Outcome, field, guard},
    kind::{Kind, Lane},
    plan::{Mark, Plan, Reason},
    store::{DoseState, MedicationRecord},
    text, wire,
};

/// After its time, a dose is worth a reminder for this long.
const USEFUL_FOR: TimeDelta = TimeDelta::minutes(60);

const TYPE: &str = "MEDICATION_REMINDER";

/// A reminder of one dose.
#[derive(Clone, Debug, PartialEq)]
pub struct MedicationReminder {
    medication_id: String,
    scheduled_time: DateTime<Utc>,
    reminder_minutes: i32,
}

impl Job for MedicationReminder {
    const KIND: Kind = Kind::reminder("reminder.medication");

    type Wire = wire::MedicationReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        Ok(Self {
            medication_id: field::id("medication_id", wire.medication_id)?,
            scheduled_time: field::instant("scheduled_time", wire.scheduled_time)?,
            reminder_minutes: field::lead_minutes("reminder_minutes", wire.reminder_minutes)?,
        })
    }

    fn default_expiry(&self, _published: DateTime<Utc>) -> DateTime<Utc> {
        self.scheduled_time + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        // Carebell's own reminders are made from the schedule.
        let is_asked_for = cx.meta.is_of_application();
        let medication = cx.reads.medication(&self.medication_id, self.scheduled_time, TYPE, is_asked_for).await;
        let Some(mut medication) = medication.map_err(Failure::reading)? else {
            return Ok(Outcome::Skipped(Reason::Gone));
        };
        if !medication.is_active {
            return Ok(Outcome::Skipped(Reason::Inactive));
        }
        match medication.dose {
            DoseState::Given => return Ok(Outcome::Skipped(Reason::AlreadyGiven)),
            DoseState::Skipped => return Ok(Outcome::Skipped(Reason::AlreadySkipped)),
            DoseState::Open => {}
        }
        if let Some(waits) = guard::not_due(cx, self.scheduled_time, self.reminder_minutes)? {
            return Ok(waits);
        }
        if medication.has_schedule {
            let is_dose = cx.reads.is_dose(&self.medication_id, &medication.timezone, self.scheduled_time).await;
            if is_dose.map_err(Failure::reading)? == Some(false) {
                return no_dose(cx);
            }
        }
        if medication.family.is_empty() {
            return Ok(Outcome::Skipped(Reason::NoRecipients));
        }
        let mut next = to_users(&medication.family, Lane::Critical, self.text(&medication));
        next.recipients = Some(std::mem::take(&mut medication.people));
        let mark =
            Mark { record_id: self.medication_id, instant: self.scheduled_time, lead_minutes: self.reminder_minutes };
        Ok(Outcome::Done(Plan::next(mark, next)))
    }
}

/// The outcome of a reminder for an instant that is not on the medication's schedule.
fn no_dose(cx: &Context) -> Result<Outcome, Failure> {
    const WHY: &str = "the medication's schedule has no dose at `scheduled_time`: see `medication_schedules`";
    // It waited, and the schedule has changed since.
    if cx.meta.resumed || cx.meta.delay.is_some() {
        return Ok(Outcome::Skipped(Reason::Moved));
    }
    Err(Failure::permanent(WHY))
}

impl MedicationReminder {
    fn text(&self, medication: &MedicationRecord) -> wire::Notification {
        let [name, dosage, recipient] =
            [&medication.name, &medication.dosage, &medication.care_recipient_name].map(|name| text::name(name));
        let variables = json!({
            "medication": name,
            "dosage": dosage,
            "recipient": recipient,
            "minutes": self.reminder_minutes,
            "scheduled_time": text::instant(self.scheduled_time),
            "zone": text::name(&medication.timezone),
        });
        let data = json!({
            "medicationId": self.medication_id,
            "careRecipientId": medication.care_recipient_id,
            "scheduledTime": text::instant(self.scheduled_time),
        });
        wire::Notification {
            own_template: Self::KIND.name.into(),
            variables: wire::json_to_struct(variables),
            url: text::link("/medications", &self.medication_id),
            r#type: TYPE.into(),
            dedupe_key: format!("medication-{}-{}", self.medication_id, self.scheduled_time.timestamp()),
            data: wire::json_to_struct(data),
            ..wire::Notification::default()
        }
    }
}
