//! `reminder_marks` and `refill_shortages`: what must not be told twice, whichever job asks for it.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::{StoreError, runs::Commit};
use crate::plan::{Mark, Shortage};

/// Writes the marks; answers the jobs whose mark belongs to another, after turning their runs into skipped ones.
pub(super) async fn insert(connection: &mut PgConnection, commits: &[&Commit]) -> Result<HashSet<String>, StoreError> {
    let mut marked: Vec<_> =
        commits.iter().filter_map(|commit| commit.plan.mark.as_ref().map(|mark| (*commit, mark))).collect();
    if marked.is_empty() {
        return Ok(HashSet::new());
    }
    marked.sort_by(|(a_commit, a), (b_commit, b)| {
        let key = |commit: &Commit, mark: &Mark| (commit.meta.kind.name, mark.instant, mark.lead_minutes);
        key(a_commit, a).cmp(&key(b_commit, b)).then_with(|| a.record_id.cmp(&b.record_id))
    });
    let owned: Vec<String> = sqlx::query_scalar(
        "INSERT INTO reminder_marks (kind, record_id, instant, lead_minutes, job_id, created_at) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::text[], $6::timestamptz[]) \
         ON CONFLICT DO NOTHING RETURNING job_id",
    )
    .bind(marked.iter().map(|(commit, _)| commit.meta.kind.name).collect::<Vec<_>>())
    .bind(marked.iter().map(|(_, mark)| mark.record_id.as_str()).collect::<Vec<_>>())
    .bind(marked.iter().map(|(_, mark)| mark.instant).collect::<Vec<_>>())
    .bind(marked.iter().map(|(_, mark)| mark.lead_minutes).collect::<Vec<_>>())
    .bind(marked.iter().map(|(commit, _)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
    .bind(marked.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let owned: HashSet<String> = owned.into_iter().collect();
    let rest: Vec<_> = marked.into_iter().filter(|(commit, _)| !owned.contains(&commit.meta.job_id)).collect();
    if rest.is_empty() {
        return Ok(HashSet::new());
    }
    // A mark of one's own is no obstacle: a job that died after its commit may be sent again by an operator.
    let taken: Vec<String> = sqlx::query_scalar(
        "WITH lost AS (SELECT a.job_id \
             FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::text[]) \
                  AS a(kind, record_id, instant, lead_minutes, job_id) \
             JOIN reminder_marks m USING (kind, record_id, instant, lead_minutes) WHERE m.job_id <> a.job_id) \
         UPDATE job_runs r SET state = 'skipped', reason = 'already_sent', children_pending = false \
         FROM lost WHERE r.job_id = lost.job_id RETURNING r.job_id",
    )
    .bind(rest.iter().map(|(commit, _)| commit.meta.kind.name).collect::<Vec<_>>())
    .bind(rest.iter().map(|(_, mark)| mark.record_id.as_str()).collect::<Vec<_>>())
    .bind(rest.iter().map(|(_, mark)| mark.instant).collect::<Vec<_>>())
    .bind(rest.iter().map(|(_, mark)| mark.lead_minutes).collect::<Vec<_>>())
    .bind(rest.iter().map(|(commit, _)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(taken.into_iter().collect())
}

/// Writes what was found out about shortages; answers the jobs whose shortage another has told of, after turning their
/// runs into skipped ones.
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
    // In this order: whoever found a shortage before it was over belongs to the old one. Groups that find opposite
    // things of the same medications can so deadlock; Postgres then refuses one of them, and it is put again.
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
    // One of each medication, in the order of their keys.
    let mut first = BTreeMap::new();
    for (commit, medication_id, refill_at) in found {
        first.entry(medication_id.as_str()).or_insert((commit, refill_at));
    }
    // A shortage of which nobody was told after all, because the notification came too late or died, is the next job's.
    // The update locks the row that is there, so that it is this one whose owner is told, and not one that is over.
    let rows = sqlx::query(
        "INSERT INTO refill_shortages AS s (medication_id, refill_at, job_id, opened_at) \
         SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::timestamptz[]) \
         ON CONFLICT (medication_id) DO UPDATE SET refill_at = EXCLUDED.refill_at, \
             job_id = CASE WHEN EXISTS (SELECT FROM job_runs n WHERE n.job_id = s.job_id || ':notification' \
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
            "UPDATE job_runs SET state = 'skipped', reason = 'already_sent', children_pending = false \
             WHERE job_id = ANY($1)",
        )
        .bind(taken.iter().map(String::as_str).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    }
    Ok(taken)
}

/// Ends shortages, each only while it is the one that was seen.
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
