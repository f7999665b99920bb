//! `job_runs`: failures, releases and deaths.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row};

use super::{
    asks::first_of_each,
    database::Store,
    deliveries::LIST_AS_UNSENT,
    error::StoreError,
    keyed::Statement,
    named_sql::{NamedSql, rows},
    runs::{RunAsk, RunRecord},
    verdict::Verdict,
};
use crate::{
    meta::Meta,
    plan::{DeadReason, Reason},
};

static RECORD_RUN_FAILURES: NamedSql = NamedSql::new(include_str!("sql/record_run_failures.sql"));

/// A failure, or a release at shutdown.
#[derive(Clone, Debug)]
pub struct FailedRun {
    /// Job.
    pub meta: Meta,
    /// Verdict.
    pub verdict: Verdict,
    /// Time.
    pub now: DateTime<Utc>,
}

rows! {
    struct FailureRow<'q> {
        job_id: &'q str,
        root_id: &'q str,
        kind: &'static str,
        lane: Option<&'static str>,
        stream: &'q str,
        sequence: i64,
        delivered: i64,
        burnt: i32,
        state: &'static str,
        reason: Option<&'static str>,
        error: Option<&'q str>,
        now: DateTime<Utc>,
    }
}

impl<'q> FailureRow<'q> {
    fn of(failed: &'q FailedRun) -> Self {
        let meta = &failed.meta;
        let (burnt, state, reason, error) = match &failed.verdict {
            Verdict::Attempt { error, until: _ } => (1, "open", None, Some(error.as_str())),
            Verdict::Dead { error, reason } => (1, "dead", Some(reason.name()), Some(error.as_str())),
            Verdict::Released(reason) => (0, "open", reason.map(Reason::name), None),
        };
        Self {
            job_id: &meta.job_id,
            root_id: &meta.root_id,
            kind: meta.kind.name,
            lane: meta.recorded_lane(),
            stream: &meta.position.stream,
            sequence: meta.position.sequence,
            delivered: meta.position.delivered,
            burnt,
            state,
            reason,
            error,
            now: failed.now,
        }
    }
}

impl Store {
    /// Records failures and releases. Answers in the order asked whether each is on record: false if the job has ended
    /// meanwhile. The same record twice counts once.
    pub async fn record_run_failures(&self, failed: &[FailedRun]) -> Result<Vec<bool>, StoreError> {
        let mut order = first_of_each(failed, |failed| &failed.meta.job_id);
        order.sort_by(|a, b| failed[*a].meta.job_id.cmp(&failed[*b].meta.job_id));
        let rows = self.keyed.fetch_all(record(order.iter().map(|index| &failed[*index]))?).await?;
        let mut written: HashSet<String> = rows.iter().map(|row| row.try_get("job_id")).collect::<Result<_, _>>()?;
        // A death recorded under this message is this worker's own, whose answer was lost.
        let unsure = failed.iter().filter(|failed| !written.contains(&failed.meta.job_id));
        let unsure: Vec<RunAsk> = unsure.map(|failed| RunAsk { job_id: failed.meta.job_id.clone() }).collect();
        if !unsure.is_empty() {
            let records = self.look_up_runs(&unsure).await?;
            let dead = |record: &RunRecord| record.state == "dead";
            let own = unsure.into_iter().zip(records).filter(|(_, record)| record.as_ref().is_some_and(dead));
            written.extend(own.map(|(ask, _)| ask.job_id));
        }
        Ok(failed.iter().map(|failed| written.contains(&failed.meta.job_id)).collect())
    }

    /// Records as dead a run or delivery that the server no longer delivers. False if it had ended otherwise.
    pub async fn give_up(
        &self,
        job_id: &str,
        reason: DeadReason,
        error: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let ended: Option<bool> = sqlx::query_scalar(AssertSqlSafe(format!(
            "WITH run AS (SELECT job_id, state FROM job_runs WHERE job_id = $1 FOR UPDATE), \
             delivery AS (SELECT id, state FROM deliveries WHERE id = $1 FOR UPDATE), \
             dead_run AS (UPDATE job_runs r SET state = 'dead', reason = $2, last_error = COALESCE(last_error, $3), \
                                 updated_at = $4 FROM run WHERE r.job_id = run.job_id AND run.state = 'open'), \
             written AS (UPDATE deliveries d SET state = 'dead', reason = $2, answer = COALESCE(answer, $3), \
                                 updated_at = $4 FROM delivery \
                               WHERE d.id = delivery.id AND delivery.state IN ('pending', 'held', 'sending') \
                         RETURNING d.*), \
             listed AS ({LIST_AS_UNSENT}) \
             SELECT state NOT IN ('open', 'dead') FROM run \
             UNION ALL SELECT state NOT IN ('pending', 'held', 'sending', 'dead') FROM delivery LIMIT 1",
        )))
        .bind(job_id)
        .bind(reason.name())
        .bind(error)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        Ok(ended != Some(true))
    }
}

fn record<'q>(failed: impl Iterator<Item = &'q FailedRun>) -> Result<Statement<'q>, StoreError> {
    RECORD_RUN_FAILURES.bind().rows("failures", failed.map(FailureRow::of)).statement()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_statement_names_what_is_bound() {
        assert!(super::record(std::iter::empty()).is_ok());
    }
}
