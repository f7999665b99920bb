//! Grouped reads: concurrent jobs share a statement. Reads do not wait for a lost database: the job is held.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{
    group::{Group, JOBS, Refused, batch},
    health::Health,
    person::People,
    store::{DoseAsk, MedicationAsk, MedicationRecord, PeopleAsk, Store, TimesOfDay},
};

/// The reads of a worker. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    medications: Group<Medications>,
    doses: Group<Doses>,
    people: Group<PeopleReads>,
}

batch!(Medications("medications", WAITS = false, WRITES = false): MedicationAsk => Option<MedicationRecord>, medications);
batch!(Doses("doses", WAITS = false, WRITES = false): DoseAsk => Option<bool>, are_doses);
batch!(PeopleReads("people", WAITS = false, WRITES = false): PeopleAsk => People, people);

impl Reads {
    /// Starts the groups.
    #[must_use]
    pub fn start(store: &Store, health: &Arc<Health>) -> Self {
        Self {
            medications: Group::start(Medications(store.clone()), JOBS, Arc::clone(health)),
            doses: Group::start(Doses(store.clone()), JOBS, Arc::clone(health)),
            people: Group::start(PeopleReads(store.clone()), JOBS, Arc::clone(health)),
        }
    }

    /// A medication, its dose at `scheduled_time`, and the family to notify of `kind`. `None` if it is gone. Whether it has
    /// a schedule is looked up only if asked.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn medication(
        &self,
        id: &str,
        scheduled_time: DateTime<Utc>,
        kind: &'static str,
        looks_at_schedule: bool,
    ) -> Result<Option<MedicationRecord>, Refused> {
        self.medications.ask(MedicationAsk { kind, id: id.to_owned(), scheduled_time, looks_at_schedule }).await
    }

    /// Whether an instant is that of a dose of an active schedule: of the microsecond, or if it has only milliseconds, of
    /// the millisecond. `None` if nobody can tell: the day is within the dates of no schedule, or the
    /// zone is unknown.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn is_dose(&self, medication_id: &str, zone: &str, at: DateTime<Utc>) -> Result<Option<bool>, Refused> {
        let Ok(zone) = zone.trim().parse() else { return Ok(None) };
        let times = TimesOfDay::of(zone, at);
        self.doses.ask(DoseAsk { medication_id: medication_id.to_owned(), times }).await
    }

    /// The existing users, and how to notify them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn people(&self, user_ids: Vec<String>, kind: &str) -> Result<People, Refused> {
        self.people.ask(PeopleAsk { user_ids, kind: kind.to_owned() }).await
    }
}
