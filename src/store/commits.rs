//! Commits: what a job of stage 1 or 2 decided, in one statement for many jobs.
//!
//! The one rule: a run, the sequence it was done under, its marks, its rows and its planned children are one commit. Each
//! stage has a statement of its own that writes all of that, since each round trip to the database costs more than most
//! of what it asks for. What follows from a run is written only where the run itself is (`IN (…) IS TRUE`, which Postgres
//! answers from a hash table; a join with the statement's own rows would compare each with each).

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, Postgres, Row, postgres::PgArguments, query::Query};

use super::{
    Store, StoreError, deliveries,
    runs::{Commit, Committed, NotificationCommitted, first_of_each},
    shortages::record_shortages,
};
use crate::plan::{Content, InboxRow};

/// A statement with what is bound to it.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Writes the runs that are not there yet, or are open, or dead under another sequence.
macro_rules! written {
    ($state:literal, $reason:literal, $pending:literal, $from:literal) => {
        concat!(
            "written AS (INSERT INTO job_runs AS r (job_id, root_id, kind, stream, stream_seq, state, reason, \
                 children_pending, result, created_at, updated_at) \
             SELECT job_id, root_id, kind, stream, seq, ",
            $state,
            ", ",
            $reason,
            ", ",
            $pending,
            ", result, now, now FROM ",
            $from,
            " ON CONFLICT (job_id) DO UPDATE SET \
                 stream = EXCLUDED.stream, stream_seq = EXCLUDED.stream_seq, state = EXCLUDED.state, \
                 reason = EXCLUDED.reason, children_pending = EXCLUDED.children_pending, result = EXCLUDED.result, \
                 updated_at = EXCLUDED.updated_at \
             WHERE r.state = 'open' \
                OR (r.state = 'dead' AND (r.stream, r.stream_seq) <> (EXCLUDED.stream, EXCLUDED.stream_seq)) \
             RETURNING job_id)"
        )
    };
}

/// Stage 1 and upkeep: runs, marks, and the jobs of the next stage. A mark that another job owns makes its run a skipped
/// one; it is looked up for each by itself (`LIMIT 1`), whatever the planner believes of the table. Marks that are written at the same moment by two groups are refused to one of them, which is then put again and
/// finds them (`StoreError::Busy`).
const REMINDERS: &str = concat!(
    "WITH asked AS (SELECT c.*, m.job_id AS owner, m.job_id <> c.job_id AS taken \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::boolean[], \
                     $9::jsonb[], $10::timestamptz[], $11::text[], $12::timestamptz[], $13::int[]) \
              AS c(job_id, root_id, kind, stream, seq, state, reason, pending, result, now, record_id, instant, \
                   lead_minutes) \
         LEFT JOIN LATERAL (SELECT o.job_id FROM reminder_marks o \
             WHERE (o.kind, o.record_id, o.instant, o.lead_minutes) = (c.kind, c.record_id, c.instant, c.lead_minutes) \
             LIMIT 1) m ON true), ",
    written!(
        "CASE WHEN taken THEN 'skipped' ELSE state END",
        "CASE WHEN taken THEN 'already_sent' ELSE reason END",
        "pending AND taken IS NOT TRUE",
        "asked"
    ),
    ", effective AS (SELECT a.* FROM asked a \
         WHERE a.taken IS NOT TRUE AND (a.job_id IN (SELECT job_id FROM written)) IS TRUE), \
     marks AS (INSERT INTO reminder_marks (kind, record_id, instant, lead_minutes, job_id, created_at) \
         SELECT kind, record_id, instant, lead_minutes, job_id, now FROM effective \
         WHERE record_id IS NOT NULL AND owner IS NULL ORDER BY kind, record_id, instant, lead_minutes), \
     children AS (INSERT INTO job_children (job_id, child_id, root_id, subject, body, not_after, trace) \
         SELECT k.* FROM unnest($14::text[], $15::text[], $16::text[], $17::text[], $18::bytea[], $19::timestamptz[], \
                                $20::text[]) AS k(job_id, child_id, root_id, subject, body, not_after, trace) \
         WHERE (k.job_id IN (SELECT job_id FROM effective)) IS TRUE ON CONFLICT DO NOTHING) \
     SELECT job_id, (job_id IN (SELECT job_id FROM effective)) IS TRUE AS is_effective FROM written"
);

/// Stage 2: runs, texts, inbox rows and the ledger. Rows that are there already stay as they are. A text is sent once and
/// named by its number, for an inbox row holds a copy of it.
const NOTIFICATIONS: &str = concat!(
    "WITH asked AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], \
                                         $7::text[], $8::boolean[], $9::jsonb[], $10::timestamptz[]) \
              AS c(job_id, root_id, kind, stream, seq, state, reason, pending, result, now)), ",
    written!("state", "reason", "pending", "asked"),
    ", texts AS (INSERT INTO contents (job_id, type, title, body, url, data, tag, created_at, locale) \
         SELECT t.job_id, t.type, t.title, t.body, t.url, t.data, t.tag, t.now, t.locale \
         FROM unnest($11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::jsonb[], \
                     $18::text[], $19::timestamptz[], $20::text[]) \
              AS t(run_id, job_id, type, title, body, url, data, tag, now, locale) \
         WHERE (t.run_id IN (SELECT job_id FROM written)) IS TRUE ON CONFLICT DO NOTHING), \
     inbox AS (INSERT INTO notifications (id, job_id, user_id, type, title, body, url, data, created_at) \
         SELECT i.id, ($12::text[])[i.text], i.user_id, ($13::text[])[i.text], ($14::text[])[i.text], \
                ($15::text[])[i.text], ($16::text[])[i.text], ($17::jsonb[])[i.text], ($19::timestamptz[])[i.text] \
         FROM unnest($21::text[], $22::text[], $23::text[], $24::int[]) AS i(run_id, id, user_id, text) \
         WHERE (i.run_id IN (SELECT job_id FROM written)) IS TRUE ON CONFLICT (job_id, user_id) DO NOTHING), \
     ledger AS (INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, subject, not_after, trace, \
                                        created_at, updated_at, state, reason, locale, named, \
                                        claims, claim_seq, claim_delivery, claimed_by, claimed_at) \
         SELECT d.id, d.job_id, d.run_id, d.user_id, d.channel, d.address, d.lane, d.subject, d.not_after, d.trace, d.now, \
                d.now, d.state, d.reason, d.locale, d.named, (d.worker IS NOT NULL)::int, \
                CASE WHEN d.worker IS NOT NULL THEN 0 END, CASE WHEN d.worker IS NOT NULL THEN 1 END, d.worker, \
                CASE WHEN d.worker IS NOT NULL THEN d.now END \
         FROM unnest($25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::text[], $31::text[], \
                     $32::text[], $33::timestamptz[], $34::text[], $35::timestamptz[], $36::text[], $37::text[], \
                     $38::text[], $39::boolean[], $40::text[]) \
              AS d(id, job_id, run_id, user_id, channel, address, lane, subject, not_after, trace, now, state, reason, \
                   locale, named, worker) \
         WHERE (d.run_id IN (SELECT job_id FROM written)) IS TRUE \
         ON CONFLICT (job_id, user_id, channel, address) DO NOTHING RETURNING id, claimed_by) \
     SELECT (SELECT array_agg(job_id) FROM written) AS job_ids, \
            (SELECT array_agg(id) FROM ledger WHERE claimed_by IS NOT NULL) AS claimed"
);

impl Store {
    /// Writes runs of stage 1 and of upkeep with their marks and planned children; answers in the order asked.
    ///
    /// # Errors
    /// On any error the group may be put again as it is: what was written comes out as a duplicate of itself.
    /// [`StoreError::Data`] may be the fault of one of them: split the group.
    pub async fn commit_reminders(&self, commits: &[Commit]) -> Result<Vec<Committed>, StoreError> {
        let mut results = vec![Committed::Duplicate; commits.len()];
        // A statement sees no mark that it writes itself: those who ask for the same one take turns.
        let mut left = in_order(commits);
        while !left.is_empty() {
            let mut marks = HashSet::with_capacity(left.len());
            let is_first = |index: &usize| {
                let Commit { meta, plan, .. } = &commits[*index];
                let mark = plan.mark.as_ref();
                mark.is_none_or(|mark| marks.insert((meta.kind, &*mark.record_id, mark.instant, mark.lead_minutes)))
            };
            let (turn, later): (Vec<usize>, Vec<usize>) = left.into_iter().partition(is_first);
            left = later;
            let of_turn: Vec<&Commit> = turn.iter().map(|index| &commits[*index]).collect();
            let mut written = self.commit_turn(&of_turn).await?;
            for index in turn {
                if let Some(committed) = written.remove(&commits[index].meta.job_id) {
                    results[index] = committed;
                }
            }
        }
        Ok(results)
    }

    /// One statement, or, where shortages of medications are found or over, one transaction.
    async fn commit_turn(&self, commits: &[&Commit]) -> Result<HashMap<String, Committed>, StoreError> {
        if commits.iter().all(|commit| commit.plan.shortage.is_none()) {
            return write(&mut *self.keyed.acquire().await?, reminders(commits)).await;
        }
        let mut transaction = self.keyed.begin().await?;
        let mut written = write(&mut transaction, reminders(commits)).await?;
        let is_effective = |commit: &&&Commit| written.get(&commit.meta.job_id) == Some(&Committed::Fresh);
        let effective: Vec<&Commit> = commits.iter().filter(is_effective).copied().collect();
        for job_id in record_shortages(&mut transaction, &effective).await? {
            written.insert(job_id, Committed::MarkTaken);
        }
        transaction.commit().await?;
        Ok(written)
    }

    /// Writes runs of stage 2 with their texts, inbox rows and ledger rows; answers in the order asked.
    ///
    /// # Errors
    /// On any error nothing is written. [`StoreError::Data`] may be the fault of one of them: split the group.
    pub async fn commit_notifications(&self, commits: &[Commit]) -> Result<Vec<NotificationCommitted>, StoreError> {
        let ordered: Vec<&Commit> = in_order(commits).into_iter().map(|index| &commits[index]).collect();
        let row = notifications(&ordered).fetch_one(&self.keyed).await?;
        let column = |name| Ok::<_, StoreError>(row.try_get::<Option<Vec<String>>, _>(name)?.unwrap_or_default());
        let mut written: HashSet<String> = column("job_ids")?.into_iter().collect();
        let claimed: HashSet<String> = column("claimed")?.into_iter().collect();
        let of_each = commits.iter().map(|Commit { meta, at_once, .. }| {
            // Of two of one job, the first was written.
            if !written.remove(&meta.job_id) {
                return NotificationCommitted { committed: Committed::Duplicate, claimed: HashSet::new() };
            }
            let wanted = at_once.iter().flat_map(|at_once| &at_once.ids);
            let claimed = wanted.filter(|id| claimed.contains(*id)).cloned().collect();
            NotificationCommitted { committed: Committed::Fresh, claimed }
        });
        Ok(of_each.collect())
    }
}

/// The first of each job, ordered by key, so that two workers' groups lock rows in the same order and cannot deadlock.
fn in_order(commits: &[Commit]) -> Vec<usize> {
    let mut order = first_of_each(commits, |commit| &commit.meta.job_id);
    order.sort_by(|a, b| commits[*a].meta.job_id.cmp(&commits[*b].meta.job_id));
    order
}

/// Runs a statement; answers what came of each run that it wrote.
async fn write(
    connection: &mut PgConnection,
    statement: Statement<'_>,
) -> Result<HashMap<String, Committed>, StoreError> {
    let rows = statement.fetch_all(connection).await?;
    let mut written = HashMap::with_capacity(rows.len());
    for row in rows {
        let committed = if row.try_get("is_effective")? { Committed::Fresh } else { Committed::MarkTaken };
        written.insert(row.try_get("job_id")?, committed);
    }
    Ok(written)
}

/// Binds the runs themselves: the first ten parameters of both statements.
fn runs<'q>(sql: &'static str, commits: &[&'q Commit]) -> Statement<'q> {
    sqlx::query(sql)
        .bind(commits.iter().map(|commit| commit.meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.root_id.as_str()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.kind.name).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.stream.as_str()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.sequence).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.state.name()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.reason).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| !commit.children.is_empty()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.plan.result.as_ref()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.now).collect::<Vec<_>>())
}

fn reminders<'q>(commits: &[&'q Commit]) -> Statement<'q> {
    let mark = |commit: &&'q Commit| commit.plan.mark.as_ref();
    let children: Vec<_> = commits
        .iter()
        .flat_map(|commit| commit.children.iter().map(|child| (commit.meta.job_id.as_str(), child)))
        .collect();
    runs(REMINDERS, commits)
        .bind(commits.iter().map(|commit| mark(commit).map(|mark| mark.record_id.as_str())).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| mark(commit).map(|mark| mark.instant)).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| mark(commit).map(|mark| mark.lead_minutes)).collect::<Vec<_>>())
        .bind(children.iter().map(|(job_id, _)| *job_id).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, child)| child.job_id.as_str()).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, child)| child.root_id.as_str()).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, child)| child.subject.as_str()).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, child)| child.body.as_slice()).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, child)| child.not_after).collect::<Vec<_>>())
        .bind(children.iter().map(|(_, child)| child.trace.as_deref()).collect::<Vec<_>>())
}

fn notifications<'q>(commits: &[&'q Commit]) -> Statement<'q> {
    let texts: Vec<(&Commit, &Content)> =
        commits.iter().flat_map(|commit| commit.plan.contents.iter().map(|content| (*commit, content))).collect();
    let mut inbox: Vec<(&Commit, &InboxRow, i32)> = Vec::new();
    let mut before = 0;
    for commit in commits {
        for row in &commit.plan.inbox {
            // A plan has a text for each language of its rows.
            let text = commit.plan.contents.iter().position(|content| content.locale == row.locale).unwrap_or(0);
            // Postgres counts from 1.
            inbox.push((commit, row, i32::try_from(before + text + 1).unwrap_or(i32::MAX)));
        }
        before += commit.plan.contents.len();
    }
    let statement = runs(NOTIFICATIONS, commits)
        .bind(texts.iter().map(|(commit, _)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(commit, _)| commit.meta.root_id.as_str()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| content.kind.as_str()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| content.title.as_str()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| content.body.as_str()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| content.url.as_deref()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| sqlx::types::Json(&content.data)).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| content.tag.as_deref()).collect::<Vec<_>>())
        .bind(texts.iter().map(|(commit, _)| commit.now).collect::<Vec<_>>())
        .bind(texts.iter().map(|(_, content)| content.locale.as_str()).collect::<Vec<_>>())
        .bind(inbox.iter().map(|(commit, ..)| commit.meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(inbox.iter().map(|(_, row, _)| row.id.as_str()).collect::<Vec<_>>())
        .bind(inbox.iter().map(|(_, row, _)| row.user_id.as_str()).collect::<Vec<_>>())
        .bind(inbox.iter().map(|(.., text)| *text).collect::<Vec<_>>());
    deliveries::bind(statement, commits)
}
