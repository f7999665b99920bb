//! Places in a list. Whoever pages passes them back as they are.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::ListError;

/// None that is made here is longer.
const LONGEST: usize = 2048;

/// The table of an item. Of items with one instant, those of a later table come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Table {
    Runs,
    DelayedJobs,
    Deliveries,
}

/// An item's place: the latest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub at: DateTime<Utc>,
    pub table: Table,
    pub id: String,
    /// Of a list of a user, within the inbox row `id`.
    pub item: String,
}

#[derive(Serialize, Deserialize)]
struct Cursor {
    filter: String,
    place: Place,
}

impl Place {
    /// Before all items.
    pub fn start() -> Self {
        // Text that Postgres reads and that comes after all ids.
        let at = DateTime::from_timestamp(253_370_764_800, 0).unwrap_or(DateTime::UNIX_EPOCH);
        Self { at, table: Table::Deliveries, id: "~".into(), item: "~".into() }
    }

    /// Before all items that are older than an instant.
    pub fn before(at: DateTime<Utc>) -> Self {
        Self::of(Table::Runs, at.min(Self::start().at), String::new())
    }

    /// Of a run or a delayed job.
    pub fn of(table: Table, at: DateTime<Utc>, id: String) -> Self {
        Self { at, table, id, item: String::new() }
    }

    /// Of a delivery: its id begins with its instant.
    pub fn of_delivery(id: String, created_at: DateTime<Utc>) -> Self {
        let millis = id.parse::<uuid::Uuid>().ok().map(|id| i64::try_from(id.as_u128() >> 80).unwrap_or(0));
        let at = millis.and_then(DateTime::from_timestamp_millis).unwrap_or(created_at);
        Self::of(Table::Deliveries, at, id)
    }

    /// Deliveries after this place have ids below it.
    pub fn delivery_bound(&self) -> String {
        if self.table == Table::Deliveries { self.id.clone() } else { first_id_of(self.at) }
    }

    pub fn to_cursor(&self, filter: &str) -> String {
        let cursor = Cursor { filter: filter.to_owned(), place: self.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
    }

    /// The place of a cursor of the same list.
    pub fn read(cursor: Option<&str>, filter: &str) -> Result<Self, ListError> {
        let Some(text) = cursor else { return Ok(Self::start()) };
        let bytes = (text.len() <= LONGEST).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten();
        let cursor: Option<Cursor> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Cursor { filter: theirs, place } = cursor.ok_or(ListError::MalformedCursor)?;
        if theirs != filter {
            return Err(ListError::ForeignCursor);
        }
        let is_text = |text: &str| !text.chars().any(char::is_control);
        let is_instant = (DateTime::UNIX_EPOCH..=Self::start().at).contains(&place.at);
        if is_instant && is_text(&place.id) && is_text(&place.item) {
            Ok(place)
        } else {
            Err(ListError::MalformedCursor)
        }
    }
}

/// Ids of deliveries made at an instant or later are not below it: they are UUIDs of version 7, which begin with the
/// millisecond.
pub(super) fn first_id_of(instant: DateTime<Utc>) -> String {
    let whole = instant + TimeDelta::microseconds(999);
    let millis = format!("{:012x}", whole.timestamp_millis().max(0));
    let (high, low) = millis.split_at(millis.len() - 4);
    format!("{high}-{low}-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Random;

    #[test]
    fn a_cursor_is_read_by_its_own_list_only() {
        let place = Place::of(Table::Runs, DateTime::UNIX_EPOCH, "dose-1".into());
        let cursor = place.to_cursor("state=dead");
        assert_eq!(Place::read(Some(&cursor), "state=dead").unwrap(), place);
        assert!(matches!(Place::read(Some(&cursor), "state=done"), Err(ListError::ForeignCursor)));
        assert_eq!(Place::read(None, "").unwrap(), Place::start());
        let odd = Place { id: "\0".into(), ..place }.to_cursor("");
        for text in ["", "!", "e30", &cursor[..20], &"A".repeat(10_000), &odd] {
            assert!(matches!(Place::read(Some(text), ""), Err(ListError::MalformedCursor)), "{text}");
        }
    }

    #[test]
    fn a_delivery_has_its_place_by_its_id() {
        let at = DateTime::from_timestamp_millis(1_796_112_000_123).unwrap();
        let id = Random::system().uuid(at).to_string();
        assert_eq!(Place::of_delivery(id.clone(), DateTime::UNIX_EPOCH).at, at);
        assert!(first_id_of(at) < id && first_id_of(at + TimeDelta::microseconds(1)) > id);
        assert!(Place::start().delivery_bound() > id);
    }
}
