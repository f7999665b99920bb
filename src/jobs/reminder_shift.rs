//! `reminder.shift`: a caregiver's shift begins soon. Tells the caregiver, unless it was called off or moved.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::notification::to_users;
use crate::{
    job::{Context, Failure, Invalid, Job, Outcome, field, guard},
    kind::{Kind, Lane},
    plan::{Mark, Plan, Reason},
    store::ShiftRecord,
    text, wire,
};

/// A reminder of one shift.
#[derive(Clone, Debug, PartialEq)]
pub struct ShiftReminder {
    shift_id: String,
    start_time: DateTime<Utc>,
    reminder_minutes: i32,
}

impl Job for ShiftReminder {
    const KIND: Kind = Kind::reminder("reminder.shift");

    type Wire = wire::ShiftReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        Ok(Self {
            shift_id: field::id("shift_id", wire.shift_id)?,
            start_time: field::instant("start_time", wire.start_time)?,
            reminder_minutes: field::lead_minutes("reminder_minutes", wire.reminder_minutes)?,
        })
    }

    /// Useless once the shift has begun.
    fn default_expiry(&self, _published: DateTime<Utc>) -> DateTime<Utc> {
        self.start_time
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let Some(shift) = cx.store.shift(&self.shift_id).await.map_err(Failure::reading)? else {
            return Ok(Outcome::Skipped(Reason::Gone));
        };
        if let Some(reason) = guard::called_off(&shift.event, self.start_time) {
            return Ok(Outcome::Skipped(reason));
        }
        if let Some(waits) = guard::not_due(cx, shift.event.starts_at, self.reminder_minutes)? {
            return Ok(waits);
        }
        let Some(user) = &shift.user_id else {
            return Ok(Outcome::Skipped(Reason::NoRecipients));
        };
        let next = to_users(std::slice::from_ref(user), Lane::Normal, self.text(&shift));
        let instant = shift.event.starts_at;
        let mark = Mark { record_id: self.shift_id, instant, lead_minutes: self.reminder_minutes };
        Ok(Outcome::Done(Plan::next(mark, next)))
    }
}

impl ShiftReminder {
    fn text(&self, shift: &ShiftRecord) -> wire::Notification {
        let event = &shift.event;
        let variables = json!({
            "recipient": text::name(&event.care_recipient_name),
            "starts_at": text::instant(event.starts_at),
            "ends_at": text::instant(shift.ends_at),
            "hours": (shift.ends_at - event.starts_at).as_seconds_f64() / 3600.0,
            "zone": text::name(&event.timezone),
        });
        let data = json!({
            "shiftId": self.shift_id,
            "careRecipientId": event.care_recipient_id,
            "startTime": text::instant(event.starts_at),
        });
        wire::Notification {
            own_template: Self::KIND.name.into(),
            variables: wire::json_to_struct(variables),
            url: text::link("/shifts", &self.shift_id),
            r#type: "SHIFT_REMINDER".into(),
            dedupe_key: format!("shift-{}", self.shift_id),
            data: wire::json_to_struct(data),
            ..wire::Notification::default()
        }
    }
}
