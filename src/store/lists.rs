//! Lists and counts for people. No function here counts or scans a large table: each reads a bounded number of rows from
//! an index, or the small tables that workers keep for it.

mod counts;
mod cursor;
mod due;
mod jobs;
mod providers;
mod states;
mod users;
mod workers;

use std::fmt;

use chrono::{DateTime, Utc};

pub use self::{
    counts::{FailureCount, Minute, OutcomeCount, QueueRate, Throughput},
    due::{Due, DueLine},
    jobs::{JobFilter, JobLine},
    providers::{Holding, ProviderLine},
    states::{JobState, OldWord},
    workers::{RunningLine, WorkerLine},
};
use super::error::StoreError;

/// The most that a page holds.
pub const LARGEST_PAGE: u32 = 100;

/// Counts of jobs are exact up to here.
pub const EXACT_UP_TO: u64 = 10_000;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In the list's order. They may be fewer than asked for, and even none, though more follow: a page looks at a bounded
    /// number of rows.
    pub items: Vec<T>,
    /// Begin of the next page; none after the last.
    pub next: Option<String>,
    /// When it was read.
    pub as_of: DateTime<Utc>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The cursor is not one.
    #[error("the cursor is malformed: pass the `next` of the page before as it is, or none for the first page")]
    MalformedCursor,
    /// The cursor is of a list with other filters.
    #[error("the cursor belongs to a list with other filters: repeat those of the page that gave it, or leave it out")]
    ForeignCursor,
    /// The limit is out of range.
    #[error("the limit is {0}: it must be 1 to {LARGEST_PAGE}")]
    Limit(u32),
    /// The database does not answer.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ListError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A number that is exact up to [`EXACT_UP_TO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The number, or as far as was counted.
    pub number: u64,
    /// Whether there are no more.
    pub is_exact: bool,
}

/// `17`, or `10,000+`.
impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.is_exact { "" } else { "+" };
        match (self.number / 1000, self.number % 1000) {
            (0, rest) => write!(f, "{rest}{more}"),
            (thousands, rest) => write!(f, "{thousands},{rest:03}{more}"),
        }
    }
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
