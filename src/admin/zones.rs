//! The zones of care recipients, for instants of reminders.

use std::collections::{HashMap, HashSet};

use super::state::Admin;
use crate::{
    acts::predict::{decoder, form},
    dead_letter::Letter,
    meta::care_record,
    schedule::{self, Zone},
};

/// A care record: the kind of its reminders, and its id.
pub type Record = (String, String);

/// The record of a reminder that Carebell publishes, by its id or its root's.
pub fn of_job(id: &str) -> Option<Record> {
    care_record(id).map(|(kind, record)| (kind.to_owned(), record.to_owned()))
}

/// The record of a dead reminder, by its id or its body.
pub fn of_letter(letter: &Letter) -> Option<Record> {
    let by_body = || {
        let field = match letter.kind.as_str() {
            "reminder.medication" | "alert.refill" => "medicationId",
            "reminder.appointment" => "appointmentId",
            "reminder.shift" => "shiftId",
            _ => return None,
        };
        let job = decoder(letter).ok()?.to_json(&letter.body, form(letter)).ok()?;
        Some((letter.kind.clone(), job[field].as_str()?.to_owned()))
    };
    of_job(&letter.root_id).or_else(by_body)
}

/// Zones of some records.
#[derive(Debug, Default)]
pub struct CareZones(HashMap<Record, Zone>);

impl CareZones {
    /// The zone of a record's care recipient, if it is known.
    pub fn of(&self, record: Option<&Record>) -> Option<Zone> {
        self.0.get(record?).copied()
    }
}

impl Admin {
    /// The zones of the care recipients of these records. None of them is known while the care tables cannot be read: a
    /// page about jobs does without.
    pub async fn care_zones(&self, records: impl IntoIterator<Item = Option<Record>>) -> CareZones {
        let asked: HashSet<Record> = records.into_iter().flatten().collect();
        if asked.is_empty() {
            return CareZones::default();
        }
        let found = self.store.care_zones(&asked.into_iter().collect::<Vec<_>>()).await.unwrap_or_default();
        let known = found.into_iter().filter_map(|(record, name)| Some((record, schedule::zone(name.trim()).ok()?)));
        CareZones(known.collect())
    }
}
