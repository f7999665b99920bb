//! Commits: what jobs of stages 1 and 2 decided, in one statement for many of them.
//!
//! The one rule: a run, the sequence it was done under, its marks, its rows and its planned children are one commit, and so
//! are a reminder and the notification that was planned together with it. One statement writes all of that, since each
//! round trip to the database costs more than most of what it asks for. What follows from a run is written only where the run itself is (`IN (…) IS TRUE`, which Postgres
//! answers from a hash table; a join with the statement's own rows would compare each with each).

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, Postgres, Row, postgres::PgArguments, query::Query};

use super::{
    Store, StoreError, deliveries,
    runs::{Answer, Child, Commit, Committed, first_of_each},
    shortages::record_shortages,
};
use crate::plan::{Content, InboxRow};

/// A statement with what is bound to it.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Writes the runs that are not there yet, or are open, or dead under another sequence.
macro_rules! written {
    ($state:literal, $reason:literal, $pending:literal, $result:literal, $from:literal) => {
        concat!(
            "(INSERT INTO job_runs AS r (job_id, root_id, kind, stream, stream_seq, state, reason, \
                 children_pending, result, created_at, updated_at) \
             SELECT job_id, root_id, kind, stream, seq, ",
            $state,
            ", ",
            $reason,
            ", ",
            $pending,
            ", ",
            $result,
            ", now, now FROM ",
            $from,
            " ON CONFLICT (job_id) DO UPDATE SET root_id = EXCLUDED.root_id, \
                 stream = EXCLUDED.stream, stream_seq = EXCLUDED.stream_seq, state = EXCLUDED.state, \
                 reason = EXCLUDED.reason, children_pending = EXCLUDED.children_pending, result = EXCLUDED.result, \
                 updated_at = EXCLUDED.updated_at \
             WHERE r.state = 'open' \
                OR (r.state = 'dead' AND (r.stream, r.stream_seq) <> (EXCLUDED.stream, EXCLUDED.stream_seq)) \
             RETURNING job_id)"
        )
    };
}

/// Runs, marks, and the jobs that are to be published; then the runs of those that were planned together with the one
/// before them; then texts, inbox rows and the ledger of all of them.
///
/// A mark that another job owns makes its run a skipped one; it is looked up for each by itself (`LIMIT 1`), whatever the
/// planner believes of the table. Marks that are written at the same moment by two groups are refused to one of them, which
/// is then put again and finds them (`StoreError::Busy`). A text is sent once and named by its number, for an inbox row holds
/// a copy of it.
macro_rules! commit {
    ($again:literal) => {
        concat!(
        "WITH asked AS (SELECT c.*, m.job_id AS owner, m.job_id <> c.job_id AS taken \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::boolean[], \
                         $9::jsonb[], $10::timestamptz[], $11::text[], $12::timestamptz[], $13::int[]) \
                  AS c(job_id, root_id, kind, stream, seq, state, reason, pending, result, now, record_id, instant, \
                       lead_minutes) \
             LEFT JOIN LATERAL (SELECT o.job_id FROM reminder_marks o \
                 WHERE (o.kind, o.record_id, o.instant, o.lead_minutes) = (c.kind, c.record_id, c.instant, c.lead_minutes) \
                 LIMIT 1) m ON true), \
         written AS ",
        written!(
            "CASE WHEN taken THEN 'skipped' ELSE state END",
            "CASE WHEN taken THEN 'already_sent' ELSE reason END",
            "pending AND taken IS NOT TRUE",
            "result",
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
             WHERE (k.job_id IN (SELECT job_id FROM effective)) IS TRUE ON CONFLICT DO NOTHING), \
         together AS (SELECT t.* FROM unnest($21::text[], $22::text[], $23::text[], $24::text[], $25::text[], $26::bigint[], \
                                             $27::boolean[], $28::timestamptz[]) \
                  AS t(before, job_id, root_id, kind, stream, seq, pending, now) \
             WHERE (t.before IN (SELECT job_id FROM effective)) IS TRUE), \
         followed AS ",
        written!("'done'", "NULL", "pending", "NULL", "together"),
        ", plans AS (SELECT job_id FROM effective UNION ALL SELECT job_id FROM followed), \
         texts AS (INSERT INTO contents (job_id, type, title, body, url, data, tag, created_at, locale) \
             SELECT t.job_id, t.type, t.title, t.body, t.url, t.data, t.tag, t.now, t.locale \
             FROM unnest($29::text[], $30::text[], $31::text[], $32::text[], $33::text[], $34::text[], $35::jsonb[], \
                         $36::text[], $37::timestamptz[], $38::text[]) \
                  AS t(run_id, job_id, type, title, body, url, data, tag, now, locale) \
             WHERE (t.run_id IN (SELECT job_id FROM plans)) IS TRUE",
        $again,
        "), \
         inbox AS (INSERT INTO notifications (id, job_id, user_id, type, title, body, url, data, created_at) \
             SELECT i.id, ($30::text[])[i.text], i.user_id, ($31::text[])[i.text], ($32::text[])[i.text], \
                    ($33::text[])[i.text], ($34::text[])[i.text], ($35::jsonb[])[i.text], ($37::timestamptz[])[i.text] \
             FROM unnest($39::text[], $40::text[], $41::text[], $42::int[]) AS i(run_id, id, user_id, text) \
             WHERE (i.run_id IN (SELECT job_id FROM plans)) IS TRUE",
        $again,
        "), \
         ledger AS (INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, subject, not_after, trace, \
                                            created_at, updated_at, state, reason, locale, named, \
                                            claims, claim_seq, claim_delivery, claimed_by, claimed_at) \
             SELECT d.id, d.job_id, d.run_id, d.user_id, d.channel, d.address, d.lane, d.subject, d.not_after, d.trace, d.now, \
                    d.now, d.state, d.reason, d.locale, d.named, (d.worker IS NOT NULL)::int, \
                    CASE WHEN d.worker IS NOT NULL THEN 0 END, CASE WHEN d.worker IS NOT NULL THEN 1 END, d.worker, \
                    CASE WHEN d.worker IS NOT NULL THEN d.now END \
             FROM unnest($43::text[], $44::text[], $45::text[], $46::text[], $47::text[], $48::text[], $49::text[], \
                         $50::text[], $51::timestamptz[], $52::text[], $53::timestamptz[], $54::text[], $55::text[], \
                         $56::text[], $57::boolean[], $58::text[]) \
                  AS d(id, job_id, run_id, user_id, channel, address, lane, subject, not_after, trace, now, state, reason, \
                       locale, named, worker) \
             WHERE (d.run_id IN (SELECT job_id FROM plans)) IS TRUE",
        $again,
        " RETURNING id, claimed_by) \
         SELECT (SELECT array_agg(job_id) FROM written) AS written, (SELECT array_agg(job_id) FROM effective) AS effective, \
                (SELECT array_agg(job_id) FROM followed) AS followed, \
                (SELECT array_agg(id) FROM ledger WHERE claimed_by IS NOT NULL) AS claimed"
        )
    };
}

/// Rows that are there already are looked for by nobody: a run that is written now has none, or hardly ever.
const COMMIT: &str = commit!("");

/// The same where there are: another job of the same root has told the same people something. These rows stay as they are.
const COMMIT_BESIDE: &str = commit!(" ON CONFLICT DO NOTHING");

impl Store {
    /// Writes runs with all that follows from them; answers in the order asked.
    ///
    /// # Errors
    /// On any error the group may be put again as it is: what was written comes out as a duplicate of itself.
    /// [`StoreError::Data`] may be the fault of one of them: split the group.
    pub async fn commit(&self, commits: &[Commit]) -> Result<Vec<Answer>, StoreError> {
        let mut answers: Vec<Option<Answer>> = commits.iter().map(|_| None).collect();
        let mut left = in_order(commits);
        while !left.is_empty() {
            let mut turn = Turn::default();
            let (of_turn, later): (Vec<usize>, Vec<usize>) = left.into_iter().partition(|at| turn.takes(&commits[*at]));
            left = later;
            let asked: Vec<&Commit> = of_turn.iter().map(|at| &commits[*at]).collect();
            let written = self.commit_turn(&asked).await?;
            for (at, commit) in of_turn.into_iter().zip(asked) {
                answers[at] = Some(written.answer(commit));
            }
        }
        // Of two of one job, the first was written.
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(Answer::duplicate)).collect())
    }

    /// One statement, or, where shortages of medications are found or over, one transaction.
    async fn commit_turn(&self, commits: &[&Commit]) -> Result<Written, StoreError> {
        let mut connection = self.keyed.take().await?;
        if commits.iter().all(|commit| commit.plan.shortage.is_none()) {
            let written = match Written::by(connection.get(), statement(COMMIT, commits)).await {
                Err(error) if is_there_already(&error) => {
                    Written::by(connection.get(), statement(COMMIT_BESIDE, commits)).await
                }
                written => written,
            }?;
            connection.keep();
            return Ok(written);
        }
        let mut transaction = connection.get().begin().await?;
        let mut written = Written::by(&mut transaction, statement(COMMIT_BESIDE, commits)).await?;
        let is_effective = |commit: &&&Commit| written.effective.contains(&commit.meta.job_id);
        let effective: Vec<&Commit> = commits.iter().filter(is_effective).copied().collect();
        for job_id in record_shortages(&mut transaction, &effective).await? {
            written.effective.remove(&job_id);
        }
        transaction.commit().await?;
        connection.keep();
        Ok(written)
    }
}

/// The first of each job, ordered by key, so that two workers' groups lock rows in the same order and cannot deadlock.
fn in_order(commits: &[Commit]) -> Vec<usize> {
    let mut order = first_of_each(commits, |commit| &commit.meta.job_id);
    order.sort_by(|a, b| commits[*a].meta.job_id.cmp(&commits[*b].meta.job_id));
    order
}

/// What one statement writes. It sees nothing of that itself: those who ask for the same mark take turns, and so do a job
/// and another that is planned together with one.
#[derive(Default)]
struct Turn<'a> {
    marks: HashSet<(&'static str, &'a str, DateTime<Utc>, i32)>,
    jobs: HashSet<&'a str>,
}

impl<'a> Turn<'a> {
    fn takes(&mut self, commit: &'a Commit) -> bool {
        let Commit { meta, plan, next, .. } = commit;
        let next = next.as_ref().map(|next| next.meta.job_id.as_str());
        if self.jobs.contains(meta.job_id.as_str()) || next.is_some_and(|next| self.jobs.contains(next)) {
            return false;
        }
        let mark = plan.mark.as_ref();
        let is_first =
            mark.is_none_or(|of| self.marks.insert((meta.kind.name, &of.record_id, of.instant, of.lead_minutes)));
        if is_first {
            self.jobs.extend(next.into_iter().chain([meta.job_id.as_str()]));
        }
        is_first
    }
}

/// What one statement has written.
struct Written {
    /// The runs.
    runs: HashSet<String>,
    /// Those of them from which something follows.
    effective: HashSet<String>,
    /// The runs that were planned together with one of those.
    followed: HashSet<String>,
    /// The deliveries that are claimed.
    claimed: HashSet<String>,
}

impl Written {
    async fn by(connection: &mut PgConnection, statement: Statement<'_>) -> Result<Self, sqlx::Error> {
        let row = statement.fetch_one(connection).await?;
        let column = |name| {
            Ok::<_, sqlx::Error>(row.try_get::<Option<Vec<String>>, _>(name)?.unwrap_or_default().into_iter().collect())
        };
        Ok(Self {
            runs: column("written")?,
            effective: column("effective")?,
            followed: column("followed")?,
            claimed: column("claimed")?,
        })
    }

    fn answer(&self, commit: &Commit) -> Answer {
        let Commit { meta, next, .. } = commit;
        let committed = match (self.runs.contains(&meta.job_id), self.effective.contains(&meta.job_id)) {
            (true, true) => Committed::Fresh,
            (true, false) => Committed::MarkTaken,
            (false, _) => Committed::Duplicate,
        };
        let sends = next.as_deref().unwrap_or(commit);
        let wanted = sends.at_once.iter().flat_map(|at_once| &at_once.ids);
        Answer {
            committed,
            followed: next.as_ref().is_some_and(|next| self.followed.contains(&next.meta.job_id)),
            claimed: wanted.filter(|id| self.claimed.contains(*id)).cloned().collect(),
        }
    }
}

/// Whether a row of a job's effects is there already. Of a mark that is another matter: see [`StoreError::Busy`].
fn is_there_already(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error().filter(|error| error.is_unique_violation()) else { return false };
    matches!(error.table(), Some("contents" | "notifications" | "deliveries"))
}

fn statement<'q>(sql: &'static str, commits: &[&'q Commit]) -> Statement<'q> {
    let mark = |commit: &&'q Commit| commit.plan.mark.as_ref();
    let children: Vec<(&str, &Child)> = commits
        .iter()
        .flat_map(|commit| commit.children.iter().map(|child| (commit.meta.job_id.as_str(), child)))
        .collect();
    let together: Vec<(&str, &Commit)> =
        commits.iter().filter_map(|commit| Some((commit.meta.job_id.as_str(), commit.next.as_deref()?))).collect();
    let statement = sqlx::query(sql)
        .bind(commits.iter().map(|commit| commit.meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.root_id.as_str()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.kind.name).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.position.stream.as_str()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.meta.position.sequence).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.state.name()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.reason).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.publishes()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.plan.result.as_ref()).collect::<Vec<_>>())
        .bind(commits.iter().map(|commit| commit.now).collect::<Vec<_>>())
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
        .bind(together.iter().map(|(before, _)| *before).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.meta.root_id.as_str()).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.meta.kind.name).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.meta.position.stream.as_str()).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.meta.position.sequence).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.publishes()).collect::<Vec<_>>())
        .bind(together.iter().map(|(_, next)| next.now).collect::<Vec<_>>());
    let plans: Vec<&Commit> = commits.iter().map(|commit| commit.next.as_deref().unwrap_or(commit)).collect();
    deliveries::bind(texts(statement, &plans), &plans)
}

/// Binds the texts and inbox rows that these runs plan.
fn texts<'q>(statement: Statement<'q>, plans: &[&'q Commit]) -> Statement<'q> {
    let texts: Vec<(&Commit, &Content)> =
        plans.iter().flat_map(|commit| commit.plan.contents.iter().map(|content| (*commit, content))).collect();
    let mut inbox: Vec<(&Commit, &InboxRow, i32)> = Vec::new();
    let mut before = 0;
    for commit in plans {
        for row in &commit.plan.inbox {
            // A plan has a text for each language of its rows.
            let text = commit.plan.contents.iter().position(|content| content.locale == row.locale).unwrap_or(0);
            // Postgres counts from 1.
            inbox.push((commit, row, i32::try_from(before + text + 1).unwrap_or(i32::MAX)));
        }
        before += commit.plan.contents.len();
    }
    statement
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
        .bind(inbox.iter().map(|(.., text)| *text).collect::<Vec<_>>())
}
