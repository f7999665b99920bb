//! Lists of jobs, newest first: runs, deliveries, and delayed jobs that wait.
//!
//! Each table is read in the list's order, by an index that fits the filter, and the results are merged. What no index
//! finds is passed over, up to a bound: then the page ends there.

use std::cmp::Reverse;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};

use super::{
    super::{database::Store, error::StoreError},
    Counted, EXACT_UP_TO, LARGEST_PAGE, ListError, Page,
    cursor::{Place, Table, first_id_of},
    number,
    states::JobState,
};
use crate::kind::{Kind, Lane, Stage};

/// The most rows that one query looks at, some 20 ms.
const SCAN: i64 = 20_000;

/// The most of `unsent_deliveries`, each with a look at its delivery.
const SCAN_UNSENT: i64 = 5_000;

/// The kinds that `job_runs_rare_kind` leaves out.
const USUAL_KINDS: [&str; 2] = ["reminder.medication", "notification"];

/// Which jobs a list has. An absent field lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In one of these states ([`JobState::named`]).
    pub states: Option<Vec<JobState>>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this lane of the kind. Notifications that ran before their lane was on record have none.
    pub lane: Option<Lane>,
    /// That concern this user: those of whose root the user has an inbox row.
    pub user: Option<String>,
    /// Of this application.
    pub application: Option<String>,
    /// First recorded since.
    pub since: Option<DateTime<Utc>>,
    /// First recorded before.
    pub until: Option<DateTime<Utc>>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLine {
    /// Its id.
    pub job_id: String,
    /// The job that an application published.
    pub root_id: String,
    /// Its kind.
    pub kind: String,
    /// Its queue. None of a notification that ran before its lane was on record.
    pub queue: Option<String>,
    /// A state of [`JobState`].
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// The recipient of a delivery.
    pub user_id: Option<String>,
    /// Recorded failures.
    pub attempts: i32,
    /// First record; of a delayed job, its last message.
    pub created_at: DateTime<Utc>,
    /// Last write.
    pub updated_at: DateTime<Utc>,
    /// When a job that waits goes on, if that is on record.
    pub due_at: Option<DateTime<Utc>>,
}

/// Columns of a run, as [`read_line`] has them.
pub(super) const OF_RUNS: &str = "job_id, root_id, kind, lane, state, reason, NULL AS user_id, attempts, \
    created_at, updated_at, NULL::timestamptz AS due_at";
/// Of a delivery.
pub(super) const OF_DELIVERIES: &str = "id AS job_id, job_id AS root_id, 'deliver.' || channel AS kind, lane, state, \
    reason, nullif(user_id, '') AS user_id, attempts, created_at, updated_at, held_until AS due_at";
const OF_DELAYED_JOBS: &str = "job_id, job_id AS root_id, kind, lane, 'delayed' AS state, NULL AS reason, \
    NULL AS user_id, 0 AS attempts, updated_at AS created_at, updated_at, due_at";

/// A table read in the list's order by one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// All runs, or by kind or application.
    Runs,
    /// Runs that are not done.
    RunsIn(JobState),
    DelayedJobs,
    /// All deliveries.
    Deliveries,
    /// Those that a provider reported as delivered.
    Delivered,
    Unsent(JobState),
}

/// Items of a scan, and where it stopped if there may be more.
type Found = (Vec<(Place, JobLine)>, Option<Place>);

impl JobFilter {
    /// Written into cursors: one of another list is refused.
    pub(super) fn in_words(&self) -> String {
        let states = self.states.as_ref().map(|states| states.iter().map(|state| state.name()).collect::<Vec<_>>());
        let kind = self.kind.map(|kind| kind.name);
        let lane = self.lane.map(Lane::name);
        serde_json::json!([states, kind, lane, self.user, self.application, self.since, self.until]).to_string()
    }

    /// Before its first item.
    fn start(&self) -> Place {
        self.until.map_or_else(Place::start, Place::before)
    }

    pub(super) fn wants(&self, state: JobState) -> bool {
        self.states.as_ref().is_none_or(|states| states.contains(&state))
    }

    pub(super) fn names(&self, which: fn(JobState) -> bool) -> Vec<&'static str> {
        let wanted = JobState::ALL.into_iter().filter(|state| which(*state) && self.wants(*state));
        wanted.map(JobState::name).collect()
    }

    pub(super) fn has_runs(&self) -> bool {
        self.kind.is_none_or(|kind| kind.stage != Stage::Delivery) && !self.names(JobState::is_of_runs).is_empty()
    }

    pub(super) fn has_deliveries(&self) -> bool {
        self.kind.is_none_or(|kind| kind.stage == Stage::Delivery) && !self.names(JobState::is_of_deliveries).is_empty()
    }

    fn scans(&self) -> Vec<Scan> {
        let mut scans = Vec::new();
        let wanted = || JobState::ALL.into_iter().filter(|state| self.wants(*state));
        if self.has_runs() {
            // The usual state has no index of its own: most runs are in it.
            if self.wants(JobState::Done) {
                scans.push(Scan::Runs);
            } else {
                scans.extend(wanted().filter(|state| state.is_of_runs()).map(Scan::RunsIn));
            }
        }
        if self.wants(JobState::Delayed) && self.kind.is_none_or(|kind| kind.is_published()) {
            scans.push(Scan::DelayedJobs);
        }
        if self.has_deliveries() {
            if [JobState::Pending, JobState::Sending, JobState::Sent].into_iter().any(|state| self.wants(state)) {
                scans.push(Scan::Deliveries);
            } else {
                scans.extend(wanted().filter(|state| state.is_unsent()).map(Scan::Unsent));
                if self.wants(JobState::Delivered) {
                    scans.push(Scan::Delivered);
                }
            }
        }
        scans
    }
}

impl Store {
    /// A page of jobs, newest first. Rows that are added meanwhile move none to another page.
    ///
    /// # Errors
    /// If limit or cursor is not valid, or the database does not answer.
    pub async fn jobs(
        &self,
        filter: &JobFilter,
        limit: u32,
        cursor: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Page<JobLine>, ListError> {
        if !(1..=LARGEST_PAGE).contains(&limit) {
            return Err(ListError::Limit(limit));
        }
        let words = filter.in_words();
        let from = if cursor.is_none() { filter.start() } else { Place::read(cursor, &words)? };
        let limit = limit as usize;
        let (mut items, end) = self.merged(filter, &from, limit + 1).await?;
        let next = if items.len() > limit { items.get(limit - 1).map(|(place, _)| place.clone()) } else { end };
        items.truncate(limit);
        let items = items.into_iter().map(|(_, line)| line).collect();
        Ok(Page { items, next: next.map(|place| place.to_cursor(&words)), as_of: now })
    }

    /// The number of jobs of a list. Not exact above [`EXACT_UP_TO`], and where it would take long.
    pub async fn count_jobs(&self, filter: &JobFilter) -> Result<Counted, StoreError> {
        let most = i64::try_from(EXACT_UP_TO).unwrap_or(i64::MAX);
        let (from, mut seen, mut is_exact) = (filter.start(), 0, true);
        if let Some(user) = &filter.user {
            let (items, end) = self.jobs_of_user(filter, user, &from, most + 1).await?;
            (seen, is_exact) = (items.len() as u64, end.is_none());
        } else {
            for scan in filter.scans() {
                let mut sql = QueryBuilder::new("SELECT count(*) FROM (SELECT 1");
                scan.items(filter, &from, most + 1, &mut sql);
                let found: i64 = sql.push(") AS found").build_query_scalar().fetch_one(&self.pool).await?;
                seen += number(found);
                is_exact = is_exact && found <= most && self.last_of(filter, scan, &from).await?.is_none();
            }
        }
        Ok(Counted { number: seen.min(EXACT_UP_TO), is_exact: is_exact && seen <= EXACT_UP_TO })
    }

    /// The first `most` items after a place or more, or those up to where the scans stopped.
    async fn merged(&self, filter: &JobFilter, from: &Place, most: usize) -> Result<Found, StoreError> {
        let most_rows = i64::try_from(most).unwrap_or(i64::MAX);
        if let Some(user) = &filter.user {
            return self.jobs_of_user(filter, user, from, most_rows).await;
        }
        let (mut items, mut end) = (Vec::new(), None);
        for scan in filter.scans() {
            let (found, stop) = self.scan(filter, scan, from, most_rows).await?;
            items.extend(found);
            end = end.max(stop);
        }
        items.sort_unstable_by_key(|(place, _)| Reverse(place.clone()));
        // Beyond the first stop, that scan may have more.
        if let Some(end) = &end {
            items.retain(|(place, _)| place >= end);
        }
        Ok((items, end))
    }

    async fn scan(&self, filter: &JobFilter, scan: Scan, from: &Place, most: i64) -> Result<Found, StoreError> {
        let mut sql = QueryBuilder::new("SELECT line.*");
        scan.items(filter, from, most, &mut sql);
        let rows = sql.build().fetch_all(&self.pool).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            let line = read_line(row)?;
            let place = match scan.table() {
                Table::Deliveries => Place::of_delivery(line.job_id.clone(), line.created_at),
                table => Place::of(table, line.created_at, line.job_id.clone()),
            };
            items.push((place, line));
        }
        if items.len() as u64 >= most.unsigned_abs() {
            let stop = items.last().map(|(place, _)| place.clone());
            return Ok((items, stop));
        }
        let stop = self.last_of(filter, scan, from).await?;
        Ok((items, stop))
    }

    /// Place of the last row that a scan looks at, if it stops there.
    async fn last_of(&self, filter: &JobFilter, scan: Scan, from: &Place) -> Result<Option<Place>, StoreError> {
        let last = scan.last(filter, from).build().fetch_optional(&self.pool).await?;
        let Some(last) = last else { return Ok(None) };
        let (id, at) = (last.try_get("id")?, last.try_get("at")?);
        Ok(Some(match scan.table() {
            Table::Deliveries => Place::of_delivery(id, at),
            table => Place::of(table, at, id),
        }))
    }
}

impl Scan {
    const fn table(self) -> Table {
        match self {
            Self::Runs | Self::RunsIn(_) => Table::Runs,
            Self::DelayedJobs => Table::DelayedJobs,
            Self::Deliveries | Self::Delivered | Self::Unsent(_) => Table::Deliveries,
        }
    }

    /// Rows in the list's order, by an index: `at` and `id` are their places. Only literals choose between partial
    /// indexes, so that a prepared statement's plan can use them.
    fn rows(self, filter: &JobFilter, from: &Place, columns: &str, sql: &mut QueryBuilder<Postgres>) {
        let (name, at, id) = match self {
            Self::Runs | Self::RunsIn(_) => ("job_runs", "created_at", "job_id COLLATE \"C\""),
            Self::DelayedJobs => ("delayed_jobs", "updated_at", "job_id COLLATE \"C\""),
            Self::Deliveries | Self::Delivered => ("deliveries", "created_at", "id"),
            Self::Unsent(_) => ("unsent_deliveries", "at", "delivery_id"),
        };
        sql.push(format!("SELECT {at} AS at, {id} AS id{columns} FROM {name} WHERE "));
        match self {
            Self::Runs => {
                if let Some(kind) = filter.kind.filter(|kind| !USUAL_KINDS.contains(&kind.name)) {
                    sql.push(format!("kind = '{}' AND ", kind.name));
                } else if let Some(application) = &filter.application {
                    sql.push("job_id LIKE '~%' AND split_part(job_id, '~', 2) = ").push_bind(application.clone());
                    sql.push(" AND ");
                }
            }
            Self::RunsIn(state) | Self::Unsent(state) => {
                sql.push(format!("state = '{}' AND ", state.name()));
            }
            Self::DelayedJobs => {
                sql.push("state = 'waiting' AND ");
            }
            Self::Deliveries => {}
            Self::Delivered => {
                sql.push("delivered_at IS NOT NULL AND ");
            }
        }
        if self.table() == Table::Deliveries {
            sql.push(format!("{id} < ")).push_bind(from.delivery_bound());
            if let Some(since) = filter.since {
                sql.push(format!(" AND {id} >= ")).push_bind(first_id_of(since));
            }
            sql.push(format!(" ORDER BY {id} DESC "));
            return;
        }
        sql.push(format!("{at} <= ")).push_bind(from.at);
        if from.table <= self.table() {
            sql.push(format!(" AND ({at} < ")).push_bind(from.at);
            if from.table == self.table() {
                sql.push(format!(" OR {id} < ")).push_bind(from.id.clone());
            }
            sql.push(")");
        }
        if let Some(since) = filter.since {
            sql.push(format!(" AND {at} >= ")).push_bind(since);
        }
        sql.push(format!(" ORDER BY {at} DESC, {id} DESC "));
    }

    /// The items among the rows, after what is selected of each.
    fn items(self, filter: &JobFilter, from: &Place, most: i64, sql: &mut QueryBuilder<Postgres>) {
        let columns = match self.table() {
            Table::Runs => OF_RUNS,
            Table::DelayedJobs => OF_DELAYED_JOBS,
            Table::Deliveries => OF_DELIVERIES,
        };
        sql.push(" FROM (");
        if let Self::Unsent(_) = self {
            self.rows(filter, from, ", channel", sql);
            // A look at each, in their order: a join by hash would read them all.
            sql.push(format!(
                "LIMIT {SCAN_UNSENT}) AS seen CROSS JOIN LATERAL (SELECT created_at AS at, id, {columns} \
                 FROM deliveries WHERE deliveries.id = seen.id LIMIT 1) AS line WHERE true"
            ));
        } else {
            self.rows(filter, from, &format!(", {columns}"), sql);
            sql.push(format!("LIMIT {SCAN}) AS line WHERE true"));
        }
        if let (Self::Unsent(_), Some(channel)) =
            (self, filter.kind.and_then(|kind| kind.name.strip_prefix("deliver.")))
        {
            sql.push(" AND seen.channel = ").push_bind(channel);
        }
        filter.conditions(if let Self::Unsent(state) = self { Some(state) } else { None }, sql);
        let seen = if matches!(self, Self::Unsent(_)) { "seen" } else { "line" };
        let order = if self.table() == Table::Deliveries { "" } else { "line.at DESC, " };
        sql.push(format!(" ORDER BY {order}{seen}.id DESC LIMIT ")).push_bind(most);
    }

    /// Place of the last row that [`Self::items`] looks at, if it stops there.
    fn last(self, filter: &JobFilter, from: &Place) -> QueryBuilder<Postgres> {
        let mut sql = QueryBuilder::new("");
        self.rows(filter, from, "", &mut sql);
        let bound = if matches!(self, Self::Unsent(_)) { SCAN_UNSENT } else { SCAN };
        sql.push(format!("OFFSET {} LIMIT 1", bound - 1));
        sql
    }
}

impl JobFilter {
    /// Conditions on the columns of `line`, of one state or of all that are wanted.
    pub(super) fn conditions(&self, state: Option<JobState>, sql: &mut QueryBuilder<Postgres>) {
        if let Some(state) = state {
            sql.push(" AND line.state = ").push_bind(state.name());
        } else if self.states.is_some() {
            sql.push(" AND line.state = ANY(").push_bind(self.names(|_| true)).push(")");
        }
        if let Some(kind) = self.kind {
            sql.push(" AND line.kind = ").push_bind(kind.name);
            if let Some(wanted) = self.lane {
                // A delivery of an announcement keeps its lane, and has no queue of that lane.
                let lanes = [Lane::Critical, Lane::Normal, Lane::Bulk].into_iter();
                let lanes = lanes.filter(|lane| kind.lane_for(*lane) == Some(wanted)).map(Lane::name);
                sql.push(" AND line.lane = ANY(").push_bind(lanes.collect::<Vec<_>>()).push(")");
            }
        }
        if let Some(application) = &self.application {
            sql.push(" AND line.root_id LIKE '~%' AND split_part(line.root_id, '~', 2) = ");
            sql.push_bind(application.clone());
        }
    }
}

pub(super) fn read_line(row: &PgRow) -> Result<JobLine, StoreError> {
    let (kind, lane): (String, Option<String>) = (row.try_get("kind")?, row.try_get("lane")?);
    Ok(JobLine {
        queue: queue_of(&kind, lane.as_deref()),
        job_id: row.try_get("job_id")?,
        root_id: row.try_get("root_id")?,
        kind,
        state: row.try_get("state")?,
        reason: row.try_get("reason")?,
        user_id: row.try_get("user_id")?,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        due_at: row.try_get("due_at")?,
    })
}

/// The durable name, if it can be told.
pub(super) fn queue_of(kind: &str, lane: Option<&str>) -> Option<String> {
    let name = kind.replace('.', "_");
    match lane.and_then(Lane::parse) {
        Some(Lane::Bulk) if name.starts_with("deliver_") => Some(format!("{name}_{}", Lane::Normal)),
        Some(lane) => Some(format!("{name}_{lane}")),
        None if kind == "notification" => None,
        None => Some(name),
    }
}
