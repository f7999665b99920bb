//! The kinds, in one place: to add one, add its file and its lines here (`docs/ADDING_A_JOB.md`).

pub mod alert_refill;
pub mod deliver;
pub mod maintenance_prune;
pub mod maintenance_subscriptions;
pub mod notification;
pub mod reminder_appointment;
pub mod reminder_medication;
pub mod reminder_shift;

use crate::pipeline::Registry;

/// All kinds that this program can run.
#[must_use]
pub fn registry() -> Registry {
    Registry::default()
        .with::<reminder_medication::MedicationReminder>()
        .with::<reminder_appointment::AppointmentReminder>()
        .with::<reminder_shift::ShiftReminder>()
        .with::<alert_refill::RefillAlert>()
        .with::<notification::Notification>()
        .with::<deliver::Deliver<deliver::WebPush>>()
        .with::<deliver::Deliver<deliver::Email>>()
        .with::<maintenance_prune::Prune>()
        .with::<maintenance_subscriptions::CleanSubscriptions>()
}
