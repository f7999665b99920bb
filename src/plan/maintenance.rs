use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A task on Carebell's own tables. It may touch millions of rows, so it runs in batches before the run's commit.
/// Repeating it continues the work.
#[derive(Clone, Debug, PartialEq)]
pub enum Maintenance {
    /// Remove rows that ended before.
    Prune {
        /// Cutoff.
        before: DateTime<Utc>,
        /// Cutoff for dead jobs.
        dead_before: DateTime<Utc>,
        /// Cutoff for counts of how runs ended.
        counts_before: DateTime<Utc>,
        /// Cutoff for workers, by when they were last seen.
        workers_before: DateTime<Utc>,
        /// For kinds that the cutoffs above do not concern.
        rules: Vec<KeepRule>,
    },
    /// Remove these Web Push subscriptions if their users still do not exist.
    RemoveSubscriptions {
        /// `push_subscriptions.id`.
        ids: Vec<String>,
    },
}

/// For how long jobs of one kind are kept, with all that followed from them.
#[derive(Clone, Debug, PartialEq)]
pub struct KeepRule {
    /// The kind of the published job.
    pub kind: String,
    /// Cutoff by age.
    pub before: DateTime<Utc>,
    /// Cutoff by age for dead jobs.
    pub dead_before: DateTime<Utc>,
    /// No later cutoff, whatever the counts say.
    pub latest: DateTime<Utc>,
    /// No later cutoff for dead jobs.
    pub dead_latest: DateTime<Utc>,
    /// How many of the newest are kept.
    pub last: Option<u32>,
    /// How many of the newest dead ones are kept.
    pub dead_last: Option<u32>,
}

/// Removed rows: the result of maintenance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// By table.
    pub removed: BTreeMap<String, u64>,
    /// Runs that went by a rule of their kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_kind: BTreeMap<String, u64>,
    /// Whether time ran out; the next job does the rest.
    pub unfinished: bool,
}

impl Removed {
    /// Adds to a table's rows.
    pub fn add(&mut self, table: &str, rows: u64) {
        *self.removed.entry(table.to_owned()).or_default() += rows;
    }
}

/// `removed 8 deliveries, 3 job_runs`
impl Display for Removed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> =
            self.removed.iter().filter(|(_, rows)| **rows > 0).map(|(table, rows)| format!("{rows} {table}")).collect();
        let removed = if tables.is_empty() { "nothing".to_owned() } else { tables.join(", ") };
        let rest = if self.unfinished { ", and left the rest to the next job: its time was up" } else { "" };
        write!(f, "removed {removed}{rest}")
    }
}
