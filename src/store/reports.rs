//! What a report says of published jobs and the ledger.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Row, postgres::types::PgInterval};

use super::{database::Store, error::StoreError};

const LEDGER_PAGE: &str = include_str!("sql/ledger_page.sql");

/// Published jobs of one statement, which takes some ten milliseconds. Its text has the number too: with a parameter, a
/// general plan would not know that a page is small, and might sort the whole period for each.
const PAGE: i64 = 2000;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerKey {
    /// Kind of the published job.
    pub kind: String,
    /// Channel; empty of a job.
    pub channel: String,
    /// Lane; empty if the kind has none.
    pub lane: String,
}

/// Numbers by what became of jobs or deliveries.
pub type Outcomes = BTreeMap<String, u64>;

/// Published jobs of a span of time, and the deliveries that followed from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// `told`, `late`, `missed`, `quiet`, `open`, `skipped`, `expired`, `dead`.
    pub jobs: BTreeMap<LedgerKey, Outcomes>,
    /// `sent`, `late`, `open`, and the other states of the ledger.
    pub deliveries: BTreeMap<LedgerKey, Outcomes>,
}

/// Position among published jobs, in the order of their creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerCursor {
    created_at: DateTime<Utc>,
    job_id: String,
}

impl LedgerCursor {
    /// Before the first job of this instant.
    #[must_use]
    pub fn from(created_at: DateTime<Utc>) -> Self {
        Self { created_at, job_id: String::new() }
    }
}

impl Store {
    /// Adds a page of the jobs created before `until` to the counts. Late is what was accepted more than `late` after its
    /// job was first on record. Answers where the next page begins; none after the last.
    pub async fn count_ledger(
        &self,
        from: &LedgerCursor,
        until: DateTime<Utc>,
        late: TimeDelta,
        counts: &mut LedgerCounts,
    ) -> Result<Option<LedgerCursor>, StoreError> {
        let late = PgInterval { months: 0, days: 0, microseconds: late.num_microseconds().unwrap_or(i64::MAX) };
        let query = sqlx::query(LEDGER_PAGE).bind(from.created_at).bind(until).bind(&from.job_id).bind(late);
        let mut next = None;
        for row in query.fetch_all(&self.pool).await? {
            let number: i64 = row.try_get("number")?;
            let outcome: String = row.try_get("outcome")?;
            let what: &str = row.try_get("what")?;
            if what == "end" {
                let created_at = row.try_get("created_at")?;
                next = (number == PAGE).then_some(LedgerCursor { created_at, job_id: outcome });
                continue;
            }
            let key =
                LedgerKey { kind: row.try_get("kind")?, channel: row.try_get("channel")?, lane: row.try_get("lane")? };
            let table = if what == "job" { &mut counts.jobs } else { &mut counts.deliveries };
            *table.entry(key).or_default().entry(outcome).or_default() += number.unsigned_abs();
        }
        Ok(next)
    }
}
