//! Jobs that concern a user, in the order of the user's inbox.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row};

use super::{
    super::{database::Store, error::StoreError},
    cursor::{Place, Table},
    jobs::{JobFilter, JobLine, OF_DELIVERIES, OF_RUNS, read_line},
};

/// The most inbox rows that one query looks at, each with its jobs.
const SCAN: i64 = 2_000;

impl Store {
    /// Items after a place, and where the scan stopped if there may be more.
    pub(super) async fn jobs_of_user(
        &self,
        filter: &JobFilter,
        user: &str,
        from: &Place,
        most: i64,
    ) -> Result<(Vec<(Place, JobLine)>, Option<Place>), StoreError> {
        let mut sql = QueryBuilder::new("SELECT seen.at, seen.id AS inbox_id, line.* FROM (");
        inbox(filter, user, from, &mut sql);
        sql.push(format!("LIMIT {SCAN}) AS seen CROSS JOIN LATERAL ("));
        let mut union = "";
        if filter.has_runs() {
            sql.push(format!("SELECT {OF_RUNS} FROM job_runs WHERE job_runs.root_id = seen.root_id"));
            union = " UNION ALL ";
        }
        if filter.has_deliveries() {
            sql.push(format!(
                "{union}SELECT {OF_DELIVERIES} FROM deliveries \
                 WHERE deliveries.job_id = seen.root_id AND deliveries.user_id = seen.user_id"
            ));
            union = " UNION ALL ";
        }
        if union.is_empty() {
            return Ok((Vec::new(), None));
        }
        sql.push(") AS line WHERE (seen.at, seen.id, line.job_id COLLATE \"C\") < (").push_bind(from.at);
        sql.push(", ").push_bind(from.id.clone()).push(", ").push_bind(from.item.clone()).push(")");
        filter.conditions(None, &mut sql);
        sql.push(" ORDER BY seen.at DESC, seen.id DESC, line.job_id COLLATE \"C\" DESC LIMIT ").push_bind(most);
        let rows = sql.build().fetch_all(&self.pool).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in &rows {
            let line = read_line(row)?;
            let (at, id): (DateTime<Utc>, String) = (row.try_get("at")?, row.try_get("inbox_id")?);
            items.push((Place { at, table: Table::Runs, id, item: line.job_id.clone() }, line));
        }
        if items.len() as u64 >= most.unsigned_abs() {
            let stop = items.last().map(|(place, _)| place.clone());
            return Ok((items, stop));
        }
        let mut sql = QueryBuilder::new("");
        inbox(filter, user, from, &mut sql);
        sql.push(format!("OFFSET {} LIMIT 1", SCAN - 1));
        let last = sql.build().fetch_optional(&self.pool).await?;
        let stop = last.map(|row| {
            // All jobs of this row were looked at.
            Ok::<_, sqlx::Error>(Place::of(Table::Runs, row.try_get("at")?, row.try_get("id")?))
        });
        Ok((items, stop.transpose()?))
    }
}

/// Inbox rows from a place on, by the index of their user.
fn inbox(filter: &JobFilter, user: &str, from: &Place, sql: &mut QueryBuilder<Postgres>) {
    sql.push(
        "SELECT created_at AS at, id, user_id, \
                CASE application WHEN '' THEN job_id ELSE '~' || application || '~' || job_id END AS root_id \
         FROM notifications WHERE user_id = ",
    );
    sql.push_bind(user.to_owned()).push(" AND (created_at, id) <= (").push_bind(from.at);
    sql.push(", ").push_bind(from.id.clone()).push(")");
    if let Some(since) = filter.since {
        sql.push(" AND created_at >= ").push_bind(since);
    }
    if let Some(application) = &filter.application {
        sql.push(" AND application = ").push_bind(application.clone());
    }
    sql.push(" ORDER BY created_at DESC, id DESC ");
}
