//! All kinds of jobs. To add one, see `docs/ADDING_A_JOB.md`.

pub mod alert_refill;
pub mod deliver;
pub mod document_cleanup;
pub mod document_upload;
pub mod maintenance_prune;
pub mod maintenance_subscriptions;
pub mod notification;
pub mod reminder_appointment;
pub mod reminder_medication;
pub mod reminder_shift;
pub mod report_ledger;

use self::deliver::Deliver;
use crate::{pipeline::Registry, plan::by};

/// All kinds that this program runs.
#[must_use]
pub fn registry() -> Registry {
    Registry::default()
        .with::<reminder_medication::MedicationReminder>()
        .with::<reminder_appointment::AppointmentReminder>()
        .with::<reminder_shift::ShiftReminder>()
        .with::<alert_refill::RefillAlert>()
        .with::<notification::Notification>()
        .with::<Deliver<by::WebPush>>()
        .with::<Deliver<by::Email>>()
        .with::<Deliver<by::Sms>>()
        .with::<Deliver<by::WhatsApp>>()
        .with::<Deliver<by::Voice>>()
        .with::<Deliver<by::Webhook>>()
        .with::<maintenance_prune::Prune>()
        .with::<maintenance_subscriptions::CleanSubscriptions>()
        .with::<document_upload::UploadDocument>()
        .with::<document_cleanup::CleanDocuments>()
        .with::<report_ledger::LedgerReport>()
}
