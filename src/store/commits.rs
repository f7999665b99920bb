//! Commits of stages 1 and 2: many jobs in one statement.
//!
//! One commit holds a run, its stream sequence, marks, rows and planned children, and a notification planned with it.
//! It is one statement because round trips cost more than most of the work in it.

mod rows;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, Row};

use self::rows::{ChildRow, ContentRow, InboxRow, LedgerRow, NextRunRow, RunRow};
use super::{
    asks::first_of_each,
    commit::{Commit, CommitOutcome, Committed, EarlierCommit},
    database::Store,
    error::StoreError,
    keyed::Statement,
    named_sql::NamedSql,
    runs::{RunAsk, RunRecord},
    shortages::record_shortages,
};
use crate::{meta::Meta, plan::Reason};

const TEMPLATE: &str = include_str!("sql/commit.sql");
const REPLACE_UNFINISHED: &str = include_str!("sql/replace_unfinished.sql");

/// The usual form. It does not look for existing texts, inbox and ledger rows: a new run hardly ever has any.
static COMMIT: NamedSql =
    NamedSql::with(TEMPLATE, &[("replace_unfinished", REPLACE_UNFINISHED), ("if_there_already", "")]);

/// The form for a second job of a root with the same recipients. Keeps existing rows.
static COMMIT_BESIDE: NamedSql = NamedSql::with(
    TEMPLATE,
    &[("replace_unfinished", REPLACE_UNFINISHED), ("if_there_already", "ON CONFLICT DO NOTHING")],
);

impl Store {
    /// Writes runs with their effects. Answers in the order asked.
    ///
    /// # Errors
    /// After any error, the same group may be committed again: written rows come out as duplicates. After
    /// [`StoreError::Data`], split the group: a single commit may be at fault.
    pub async fn commit(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        let mut outcomes: Vec<Option<CommitOutcome>> = commits.iter().map(|_| None).collect();
        let mut left = in_order(commits);
        while !left.is_empty() {
            let mut batch = Batch::default();
            let (of_batch, later): (Vec<usize>, Vec<usize>) = left.into_iter().partition(|at| batch.add(&commits[*at]));
            left = later;
            let asked: Vec<&Commit> = of_batch.iter().map(|at| &commits[*at]).collect();
            let written = self.commit_batch(&asked).await?;
            for (at, commit) in of_batch.into_iter().zip(asked) {
                outcomes[at] = Some(written.outcome(commit));
            }
        }
        // Of two commits of one job, only the first was written.
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(CommitOutcome::duplicate)).collect())
    }

    /// As [`Self::commit`], and tells of duplicates whether they are their own.
    pub async fn commit_or_find(&self, commits: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        let mut outcomes = self.commit(commits).await?;
        let duplicates: Vec<usize> =
            (0..commits.len()).filter(|at| outcomes[*at].committed == Committed::Duplicate).collect();
        if duplicates.is_empty() {
            return Ok(outcomes);
        }
        let ask = |meta: &Meta| RunAsk { job_id: meta.job_id.clone() };
        let with_next = |at: &usize| {
            let commit = &commits[*at];
            // Without one, its own record is asked for twice.
            [ask(&commit.meta), ask(&commit.next.as_deref().unwrap_or(commit).meta)]
        };
        let asks: Vec<RunAsk> = duplicates.iter().flat_map(with_next).collect();
        let records = self.look_up_runs(&asks).await?;
        for (at, records) in duplicates.into_iter().zip(records.chunks(2)) {
            outcomes[at].earlier = earlier(&commits[at], records);
        }
        Ok(outcomes)
    }

    /// One statement; a transaction if shortages are opened or closed.
    async fn commit_batch(&self, commits: &[&Commit]) -> Result<WrittenRows, StoreError> {
        let mut connection = self.keyed.take().await?;
        if commits.iter().all(|commit| commit.plan.shortage.is_none()) {
            let written = match WrittenRows::by(connection.get(), statement(&COMMIT, commits)?).await {
                Err(error) if is_there_already(&error) => {
                    WrittenRows::by(connection.get(), statement(&COMMIT_BESIDE, commits)?).await
                }
                written => written,
            }?;
            connection.keep();
            return Ok(written);
        }
        let mut transaction = connection.get().begin().await?;
        let mut written = WrittenRows::by(&mut transaction, statement(&COMMIT_BESIDE, commits)?).await?;
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

/// First commit of each job, ordered by key: two workers' groups lock rows in the same order and cannot deadlock.
fn in_order(commits: &[Commit]) -> Vec<usize> {
    let mut order = first_of_each(commits, |commit| &commit.meta.job_id);
    order.sort_by(|a, b| commits[*a].meta.job_id.cmp(&commits[*b].meta.job_id));
    order
}

/// Commits of one statement. It does not see its own writes, so a batch has no two commits of one mark, and not both a
/// notification and the reminder that plans it.
#[derive(Default)]
struct Batch<'a> {
    marks: HashSet<(&'static str, &'a str, DateTime<Utc>, i32)>,
    jobs: HashSet<&'a str>,
}

impl<'a> Batch<'a> {
    /// False if the commit needs the next batch.
    fn add(&mut self, commit: &'a Commit) -> bool {
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

/// Ids of written rows.
struct WrittenRows {
    runs: HashSet<String>,
    /// Runs with effects.
    effective: HashSet<String>,
    /// Runs of notifications planned with those.
    followed: HashSet<String>,
    claimed: HashSet<String>,
}

impl WrittenRows {
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

    fn outcome(&self, commit: &Commit) -> CommitOutcome {
        let Commit { meta, next, .. } = commit;
        let committed = match (self.runs.contains(&meta.job_id), self.effective.contains(&meta.job_id)) {
            (true, true) => Committed::Fresh,
            (true, false) => Committed::MarkTaken,
            (false, _) => Committed::Duplicate,
        };
        let sends = next.as_deref().unwrap_or(commit);
        let wanted = sends.direct.iter().flat_map(|direct| &direct.ids);
        CommitOutcome {
            committed,
            followed: next.as_ref().is_some_and(|next| self.followed.contains(&next.meta.job_id)),
            claimed: wanted.filter(|id| self.claimed.contains(*id)).cloned().collect(),
            earlier: None,
        }
    }
}

/// `records`: of its run, and of the run that is planned with it.
fn earlier(commit: &Commit, records: &[Option<RunRecord>]) -> Option<EarlierCommit> {
    let is_of = |record: &RunRecord, meta: &Meta| {
        record.stream == meta.position.stream && record.sequence == meta.position.sequence
    };
    let record = records[0].as_ref().filter(|record| is_of(record, &commit.meta))?;
    let ended = (record.state.as_str(), record.reason.as_deref());
    if ended == (commit.state.name(), commit.reason) {
        let next = commit.next.as_deref().zip(records[1].as_ref());
        let followed = next.is_some_and(|(next, record)| record.state == "done" && is_of(record, &next.meta));
        return Some(EarlierCommit { is_mark_taken: false, followed });
    }
    let is_mark_taken = ended == ("skipped", Some(Reason::AlreadySent.name()));
    is_mark_taken.then_some(EarlierCommit { is_mark_taken, followed: false })
}

/// Whether a text, inbox row or ledger row exists already. For an existing mark the error is [`StoreError::Busy`].
fn is_there_already(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error().filter(|error| error.is_unique_violation()) else { return false };
    matches!(error.table(), Some("contents" | "notifications" | "deliveries"))
}

fn statement<'q>(sql: &'static NamedSql, commits: &[&'q Commit]) -> Result<Statement<'q>, StoreError> {
    // The runs with texts and deliveries: a planned notification replaces its reminder.
    let plans: Vec<&'q Commit> = commits.iter().map(|commit| commit.next.as_deref().unwrap_or(commit)).collect();
    let commits = || commits.iter().copied();
    let plans_of = || plans.iter().copied();
    sql.bind()
        .rows("runs", commits().map(RunRow::of))
        .rows("children", commits().flat_map(|run| run.children.iter().map(|child| ChildRow::of(run, child))))
        .rows("next_runs", commits().filter_map(|run| Some(NextRunRow::of(run, run.next.as_deref()?))))
        .rows("contents", plans_of().flat_map(|run| run.plan.contents.iter().map(|text| ContentRow::of(run, text))))
        .rows("inbox", InboxRow::all(&plans))
        .rows("ledger", plans_of().flat_map(|run| run.plan.deliveries.iter().map(|row| LedgerRow::of(run, row))))
        .statement()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_name_what_is_bound() {
        for sql in [&COMMIT, &COMMIT_BESIDE] {
            assert!(statement(sql, &[]).is_ok());
        }
    }
}
