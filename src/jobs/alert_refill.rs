//! `alert.refill`: a medication runs low. Tells the family once per shortage.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::notification::to_users;
use crate::{
    job::{Context, Failure, Invalid, Job, Outcome, field},
    kind::{Kind, Lane},
    plan::{Plan, Reason, Shortage},
    store::SupplyRecord,
    text, wire,
};

/// An older alert is not worth sending.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// An alert about a medication that runs low. The care record decides, not the supply in the message.
#[derive(Clone, Debug, PartialEq)]
pub struct RefillAlert {
    medication_id: String,
    refill_at: i32,
}

impl Job for RefillAlert {
    const KIND: Kind = Kind::reminder("alert.refill");

    type Wire = wire::RefillAlert;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        field::doses("current_supply", wire.current_supply)?;
        Ok(Self {
            medication_id: field::id("medication_id", wire.medication_id)?,
            refill_at: field::doses("refill_at", wire.refill_at)?,
        })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let Some(medication) = cx.store.supply(&self.medication_id).await.map_err(Failure::reading)? else {
            return Ok(Outcome::Skipped(Reason::Gone));
        };
        if !medication.is_active {
            return Ok(Outcome::Skipped(Reason::Inactive));
        }
        let refill_at = medication.refill_at.unwrap_or(self.refill_at);
        let Some(left) = medication.current_supply.filter(|left| *left <= refill_at) else {
            return Ok(self.restocked(medication));
        };
        if medication.family.is_empty() {
            return Ok(Outcome::Skipped(Reason::NoRecipients));
        }
        let next = to_users(&medication.family, Lane::Normal, self.text(&medication, left, refill_at));
        let shortage = Shortage::Found { medication_id: self.medication_id, refill_at };
        Ok(Outcome::Done(Plan { shortage: Some(shortage), next: Some(next), ..Plan::default() }))
    }
}

impl RefillAlert {
    /// Closes a reported shortage, so that the next one is reported again.
    fn restocked(self, medication: SupplyRecord) -> Outcome {
        let Some(told_by) = medication.told_by else {
            return Outcome::Skipped(Reason::Restocked);
        };
        let shortage = Shortage::Over { medication_id: self.medication_id, told_by };
        Outcome::SkippedWith(Reason::Restocked, Plan { shortage: Some(shortage), ..Plan::default() })
    }

    fn text(&self, medication: &SupplyRecord, left: i32, refill_at: i32) -> wire::Notification {
        let [name, dosage, recipient] =
            [&medication.name, &medication.dosage, &medication.care_recipient_name].map(|name| text::name(name));
        let variables = json!({
            "medication": name,
            "dosage": dosage,
            "recipient": recipient,
            "doses": left,
            "refill_at": refill_at,
        });
        let data = json!({
            "medicationId": self.medication_id,
            "careRecipientId": medication.care_recipient_id,
            "currentSupply": left,
            "refillAt": refill_at,
        });
        wire::Notification {
            own_template: Self::KIND.name.into(),
            variables: wire::json_to_struct(variables),
            url: text::link("/medications", &self.medication_id),
            r#type: "REFILL_ALERT".into(),
            dedupe_key: format!("refill-{}", self.medication_id),
            data: wire::json_to_struct(data),
            ..wire::Notification::default()
        }
    }
}
