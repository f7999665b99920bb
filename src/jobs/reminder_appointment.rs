//! `reminder.appointment`: an appointment begins soon. Tells the family, unless it was called off or moved.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::notification::{check_channels, to_users};
use crate::{
    job::{Context, Failure, Invalid, Job, Outcome, field, guard},
    kind::{Kind, Lane},
    plan::{Mark, Plan, Reason},
    store::AppointmentRecord,
    text, wire,
};

/// A reminder of one appointment.
#[derive(Clone, Debug, PartialEq)]
pub struct AppointmentReminder {
    appointment_id: String,
    date_time: DateTime<Utc>,
    reminder_minutes: i32,
    channels: Vec<i32>,
    /// Empty for the template's text.
    custom_message: String,
}

/// Characters of a message of the application's own. A reminder is small, since it may wait for years.
const LONGEST_MESSAGE: usize = 480;

/// The template for it.
const CUSTOM: &str = "reminder.appointment.custom";

impl Job for AppointmentReminder {
    const KIND: Kind = Kind::reminder("reminder.appointment");

    type Wire = wire::AppointmentReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        check_channels(&wire.channels)?;
        Ok(Self {
            channels: wire.channels,
            custom_message: field::text("custom_message", &wire.custom_message, LONGEST_MESSAGE)?,
            appointment_id: field::id("appointment_id", wire.appointment_id)?,
            date_time: field::instant("date_time", wire.date_time)?,
            reminder_minutes: field::lead_minutes("reminder_minutes", wire.reminder_minutes)?,
        })
    }

    /// Useless once the appointment has begun.
    fn default_expiry(&self, _published: DateTime<Utc>) -> DateTime<Utc> {
        self.date_time
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let Some(appointment) = cx.store.appointment(&self.appointment_id).await.map_err(Failure::reading)? else {
            return Ok(Outcome::Skipped(Reason::Gone));
        };
        if let Some(reason) = guard::called_off(&appointment.event, self.date_time) {
            return Ok(Outcome::Skipped(reason));
        }
        if let Some(waits) = guard::not_due(cx, appointment.event.starts_at, self.reminder_minutes)? {
            return Ok(waits);
        }
        if appointment.family.is_empty() {
            return Ok(Outcome::Skipped(Reason::NoRecipients));
        }
        let next = to_users(&appointment.family, Lane::Normal, self.text(&appointment));
        let instant = appointment.event.starts_at;
        let mark = Mark { record_id: self.appointment_id, instant, lead_minutes: self.reminder_minutes };
        Ok(Outcome::Done(Plan::next(mark, next)))
    }
}

impl AppointmentReminder {
    fn text(&self, appointment: &AppointmentRecord) -> wire::Notification {
        let event = &appointment.event;
        let is_custom = !self.custom_message.is_empty();
        let usual = || {
            json!({
                "appointment": text::name(&appointment.title),
                "recipient": text::name(&event.care_recipient_name),
                "place": appointment.location.as_deref().map(text::name).unwrap_or_default(),
                "starts_at": text::instant(event.starts_at),
                "zone": text::name(&event.timezone),
            })
        };
        let variables = if is_custom { json!({ "message": self.custom_message }) } else { usual() };
        let data = json!({
            "appointmentId": self.appointment_id,
            "careRecipientId": event.care_recipient_id,
            "dateTime": text::instant(event.starts_at),
        });
        wire::Notification {
            own_template: if is_custom { CUSTOM } else { Self::KIND.name }.into(),
            variables: wire::json_to_struct(variables),
            channels: self.channels.clone(),
            url: text::link("/appointments", &self.appointment_id),
            r#type: "APPOINTMENT_REMINDER".into(),
            dedupe_key: format!("appointment-{}", self.appointment_id),
            data: wire::json_to_struct(data),
            ..wire::Notification::default()
        }
    }
}
