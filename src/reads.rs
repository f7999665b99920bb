//! What many jobs read at once: one statement for all that ask in the same moment.
//!
//! A job reads in its own time, which its timeout bounds. So a database that is away is not waited for here: the job is
//! told, and held without burning an attempt.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{
    group::{Group, JOBS, Refused, batch},
    health::Health,
    store::{MedicationAsk, MedicationRecord, PeopleAsk, Person, Store},
};

/// The recipients of the notification that a reminder asks for, where it has read them together with its care record: they
/// need not be read again when both are planned by one worker.
#[derive(Clone, Debug, Default)]
pub struct Recipients(Arc<Mutex<Option<BTreeMap<String, Person>>>>);

impl Recipients {
    /// Says which of them exist. All to whom the notification goes have to have been looked for.
    pub fn are(&self, people: BTreeMap<String, Person>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(people);
    }

    /// Those who exist, where they are known.
    #[must_use]
    pub fn take(&self) -> Option<BTreeMap<String, Person>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The reads of one worker. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    medications: Group<Medications>,
    people: Group<People>,
}

batch!(Medications("medications", WAITS = false): MedicationAsk => Option<MedicationRecord>, medications);
batch!(People("people", WAITS = false): PeopleAsk => BTreeMap<String, Person>, people);

impl Reads {
    /// Starts the groups.
    #[must_use]
    pub fn start(store: &Store, health: &Arc<Health>) -> Self {
        Self {
            medications: Group::start(Medications(store.clone()), JOBS, Arc::clone(health)),
            people: Group::start(People(store.clone()), JOBS, Arc::clone(health)),
        }
    }

    /// A medication with the state of the dose at `scheduled_time`, with its family, and how to reach that with a
    /// notification of the type `kind`. None where it does not exist.
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

    /// Which of these users exist, and how to reach them with notifications of this type.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn people(&self, user_ids: Vec<String>, kind: &str) -> Result<BTreeMap<String, Person>, Refused> {
        self.people.ask(PeopleAsk { user_ids, kind: kind.to_owned() }).await
    }
}
