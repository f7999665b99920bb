//! `refill_shortages`: medications that run low, and the job that reported each.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::{commit::Commit, error::StoreError};
use crate::plan::Shortage;

/// Opens and closes shortages. Turns runs whose shortage another job has reported into skipped ones, and answers these.
pub(super) async fn record_shortages(
    connection: &mut PgConnection,
    commits: &[&Commit],
) -> Result<HashSet<String>, StoreError> {
    let mut found = Vec::new();
    let mut over = Vec::new();
    for commit in commits {
        match &commit.plan.shortage {
            Some(Shortage::Found { medication_id, refill_at }) => found.push((*commit, medication_id, *refill_at)),
            Some(Shortage::Over { medication_id, told_by }) => over.push((medication_id.as_str(), told_by.as_str())),
            None => {}
        }
    }
    // Opened first: a job that found a shortage before it was over belongs to the old one. Groups with opposite
    // findings can deadlock; Postgres refuses one, which is tried again.
    let taken = open_shortages(connection, &found).await?;
    close_shortages(connection, &over).await?;
    Ok(taken)
}

async fn open_shortages(
    connection: &mut PgConnection,
    found: &[(&Commit, &String, i32)],
) -> Result<HashSet<String>, StoreError> {
    if found.is_empty() {
        return Ok(HashSet::new());
    }
    // One per medication, in key order.
    let mut first = BTreeMap::new();
    for (commit, medication_id, refill_at) in found {
        first.entry(medication_id.as_str()).or_insert((commit, refill_at));
    }
    // A shortage passes to the next job if its notification came to nothing. The update locks the row, so the owner
    // read is current.
    let rows = sqlx::query(
        "INSERT INTO refill_shortages AS s (medication_id, refill_at, job_id, opened_at) \
         SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::timestamptz[]) \
         ON CONFLICT (medication_id) DO UPDATE SET refill_at = EXCLUDED.refill_at, \
             job_id = CASE WHEN EXISTS (SELECT FROM job_runs n WHERE n.job_id = s.job_id || '~notification' \
                                        AND n.state IN ('expired', 'skipped', 'dead')) \
                           THEN EXCLUDED.job_id ELSE s.job_id END \
         RETURNING s.medication_id, s.job_id",
    )
    .bind(first.keys().copied().collect::<Vec<_>>())
    .bind(first.values().map(|(_, refill_at)| **refill_at).collect::<Vec<_>>())
    .bind(first.values().map(|(commit, _)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
    .bind(first.values().map(|(commit, _)| commit.now).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let mut owners = HashMap::with_capacity(rows.len());
    for row in &rows {
        owners.insert(row.try_get::<&str, _>("medication_id")?, row.try_get::<&str, _>("job_id")?);
    }
    let anothers = |(commit, medication_id, _): &&(&Commit, &String, i32)| {
        owners.get(medication_id.as_str()).is_some_and(|owner| *owner != commit.meta.job_id)
    };
    let taken: HashSet<String> = found.iter().filter(anothers).map(|(commit, ..)| commit.meta.job_id.clone()).collect();
    if !taken.is_empty() {
        sqlx::query(
            "WITH unsent AS (DELETE FROM job_children WHERE job_id = ANY($1)) \
             UPDATE job_runs SET state = 'skipped', reason = 'already_sent', children_pending = false \
             WHERE job_id = ANY($1)",
        )
        .bind(taken.iter().map(String::as_str).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    }
    Ok(taken)
}

/// Closes shortages that are still the ones that were seen.
async fn close_shortages(connection: &mut PgConnection, over: &[(&str, &str)]) -> Result<(), StoreError> {
    if over.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH over AS (SELECT medication_id, job_id FROM refill_shortages s \
             JOIN unnest($1::text[], $2::text[]) AS o(medication_id, job_id) USING (medication_id, job_id) \
             ORDER BY medication_id FOR UPDATE OF s) \
         DELETE FROM refill_shortages s USING over \
         WHERE (s.medication_id, s.job_id) = (over.medication_id, over.job_id)",
    )
    .bind(over.iter().map(|(medication_id, _)| *medication_id).collect::<Vec<_>>())
    .bind(over.iter().map(|(_, told_by)| *told_by).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
