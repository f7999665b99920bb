//! Whether a medication's schedule has a dose at an instant.

use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound, TimeDelta, Utc};
use sqlx::Row;

use super::{
    super::{
        Store,
        error::StoreError,
        keyed::Statement,
        named_sql::{NamedSql, rows},
    },
    plan::DOSES_OF_DAY,
};
use crate::schedule::{Zone, clock_readings, day_parts};

static ARE_DOSES: NamedSql = NamedSql::with(include_str!("../sql/are_doses.sql"), &[("doses_of_day", DOSES_OF_DAY)]);

/// A question about one instant.
#[derive(Clone, Debug)]
pub struct DoseAsk {
    /// `medications.id`.
    pub medication_id: String,
    /// The times of day that the instant has in the care recipient's zone, usually one.
    pub times: Vec<TimesOfDay>,
}

/// Times of one local day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimesOfDay {
    /// The day.
    pub day: NaiveDate,
    /// The first.
    pub first: NaiveTime,
    /// The last, inclusive.
    pub last: NaiveTime,
}

const MICROSECOND: TimeDelta = TimeDelta::microseconds(1);
const MILLISECOND: TimeDelta = TimeDelta::milliseconds(1);

impl TimesOfDay {
    /// The times that an instant has in a zone: of its microsecond, or if it has only milliseconds, of its millisecond.
    #[must_use]
    pub fn of(zone: Zone, at: DateTime<Utc>) -> Vec<Self> {
        let at = at.trunc_subsecs(6);
        let unit = if at == at.trunc_subsecs(3) { MILLISECOND } else { MICROSECOND };
        let (first, last) = (at, at + unit - MICROSECOND);
        let parts = day_parts(zone, first - MICROSECOND, last);
        let parts = parts.into_iter().map(|part| Self { day: part.day, first: part.first, last: part.last });
        // Others place skipped and repeated times elsewhere than the scheduler.
        let others = clock_readings(zone, first).into_iter().map(|first| Self {
            day: first.date(),
            first: first.time(),
            last: first.time() + (last - at),
        });
        parts.chain(others).collect()
    }
}

rows! {
    struct DoseRow<'q> {
        position: i64,
        medication_id: &'q str,
        day: NaiveDate,
        first_time: NaiveTime,
        last_time: NaiveTime,
    }
}

impl Store {
    /// Whether each instant is that of a dose of an active schedule, in the order asked. `None` if the day is within
    /// the dates of no schedule.
    pub async fn are_doses(&self, asks: &[DoseAsk]) -> Result<Vec<Option<bool>>, StoreError> {
        let mut found = vec![None; asks.len()];
        for row in self.keyed.fetch_all(statement(asks)?).await? {
            let position: i64 = row.try_get("position")?;
            if let Some(found) = usize::try_from(position).ok().and_then(|position| found.get_mut(position)) {
                *found = Some(row.try_get("is_dose")?);
            }
        }
        Ok(found)
    }
}

fn statement(asks: &[DoseAsk]) -> Result<Statement<'_>, StoreError> {
    let rows = (0..).zip(asks).flat_map(|(position, ask)| {
        ask.times.iter().map(move |times| DoseRow {
            position,
            medication_id: &ask.medication_id,
            day: times.day,
            first_time: times.first,
            last_time: times.last,
        })
    });
    ARE_DOSES.bind().rows("t", rows).statement()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(super::statement(&[]).is_ok());
    }
}
