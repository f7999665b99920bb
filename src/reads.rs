//! Grouped reads: concurrent jobs share a statement. Reads do not wait for a lost database: the job is held.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{
    group::{Group, JOBS, Refused, batch},
    health::Health,
    person::People,
    store::{MedicationAsk, MedicationRecord, PeopleAsk, Store},
};

/// The reads of a worker. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    medications: Group<Medications>,
    people: Group<PeopleReads>,
}

batch!(Medications("medications", WAITS = false): MedicationAsk => Option<MedicationRecord>, medications);
batch!(PeopleReads("people", WAITS = false): PeopleAsk => People, people);

impl Reads {
    /// Starts the groups.
    #[must_use]
    pub fn start(store: &Store, health: &Arc<Health>) -> Self {
        Self {
            medications: Group::start(Medications(store.clone()), JOBS, Arc::clone(health)),
            people: Group::start(PeopleReads(store.clone()), JOBS, Arc::clone(health)),
        }
    }

    /// A medication, its dose at `scheduled_time`, and the family to notify of `kind`. `None` if it is gone.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn medication(
        &self,
        id: &str,
        scheduled_time: DateTime<Utc>,
        kind: &'static str,
    ) -> Result<Option<MedicationRecord>, Refused> {
        self.medications.ask(MedicationAsk { kind, id: id.to_owned(), scheduled_time }).await
    }

    /// The existing users, and how to notify them.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn people(&self, user_ids: Vec<String>, kind: &str) -> Result<People, Refused> {
        self.people.ask(PeopleAsk { user_ids, kind: kind.to_owned() }).await
    }
}
