//! `job_runs` and `job_children`: what became of each job of stages 1 and 2 and of upkeep, and what it planned.
//! `commits.rs` writes those that come to a good end.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{AT_ONCE, Store, StoreError};
use crate::{
    meta::Meta,
    plan::{DeadReason, Plan},
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its plan was committed.
    Done,
    /// There was nothing to do.
    Skipped,
    /// It came too late.
    Expired,
}

impl RunState {
    /// As stored in `job_runs.state`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
        }
    }
}

/// A run to be written, with all that follows from it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Whose run.
    pub meta: Meta,
    /// How it ended.
    pub state: RunState,
    /// Why, where it was skipped.
    pub reason: Option<&'static str>,
    /// What is to be written.
    pub plan: Plan,
    /// The job of the next stage, addressed, where it has a message.
    pub children: Vec<Child>,
    /// The job of the next stage, where it is planned already: written if this one is, and has its effect.
    pub next: Option<Box<Commit>>,
    /// Inherited by the deliveries.
    pub not_after: DateTime<Utc>,
    /// Which of the deliveries this worker sends at once, and its name for their claims.
    pub at_once: Option<ClaimedAtOnce>,
    /// The instant of the commit.
    pub now: DateTime<Utc>,
}

/// Claims that are made as the deliveries are planned.
#[derive(Clone, Debug)]
pub struct ClaimedAtOnce {
    /// Who claims.
    pub worker: Arc<str>,
    /// `deliveries.id`.
    pub ids: HashSet<String>,
}

impl Commit {
    /// Whether messages follow from it: those of children and of deliveries, however they are sent at last.
    pub(super) fn publishes(&self) -> bool {
        !self.children.is_empty() || self.plan.deliveries.iter().any(|delivery| delivery.unsent.is_none())
    }
}

/// What came of a commit and of what was asked for with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What came of the run.
    pub committed: Committed,
    /// Whether the job that was planned together with it was written. Not where that had ended before.
    pub followed: bool,
    /// The deliveries that are claimed now. One that was planned before is not.
    pub claimed: HashSet<String>,
}

impl Answer {
    pub(super) fn duplicate() -> Self {
        Self { committed: Committed::Duplicate, followed: false, claimed: HashSet::new() }
    }
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It was written: publish the children.
    Fresh,
    /// The mark belongs to another job: written as skipped, with nothing following from it.
    MarkTaken,
    /// The job id was committed before, under another sequence: nothing was written.
    Duplicate,
}

/// A message that a run planned. Kept until it is known to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its job id, which is also its `Nats-Msg-Id`.
    pub job_id: String,
    /// The root of the way it is on.
    pub root_id: String,
    /// Where it goes.
    pub subject: String,
    /// Its protobuf body.
    pub body: Vec<u8>,
    /// `Carebell-Not-After`.
    pub not_after: DateTime<Utc>,
    /// Its trace context (`telemetry::traces::context`).
    pub trace: Option<String>,
}

/// A question about one job.
#[derive(Clone, Debug)]
pub struct RunAsk {
    /// The job's id.
    pub job_id: String,
}

/// What is on record of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// `open`, `done`, `skipped`, `expired` or `dead`.
    pub state: String,
    /// Why it was skipped or is dead.
    pub reason: Option<String>,
    /// The stream of `sequence`.
    pub stream: String,
    /// The sequence under which the state was written.
    pub sequence: i64,
    /// Recorded failures.
    pub attempts: i32,
    /// The server's delivery count at the last failure or release of that sequence.
    pub recorded_delivery: i64,
    /// What the last failure said.
    pub last_error: Option<String>,
    /// Whether children may be unpublished.
    pub children_pending: bool,
    /// When the first thing about the job was recorded.
    pub created_at: DateTime<Utc>,
}

/// A failure, or a release at shutdown, to be recorded.
#[derive(Clone, Debug)]
pub struct FailedRun {
    /// Whose.
    pub meta: Meta,
    /// What it means for the job.
    pub verdict: Verdict,
    /// The instant.
    pub now: DateTime<Utc>,
}

/// What is recorded of a job that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A failed attempt; more follow.
    Attempt {
        /// What went wrong.
        error: String,
        /// Where the job is parked: when the next attempt is due. A delivery is not claimed before.
        until: Option<DateTime<Utc>>,
    },
    /// The last attempt, or a failure that none can mend.
    Dead {
        /// What went wrong.
        error: String,
        /// Why it is the end.
        reason: DeadReason,
    },
    /// Given back unfinished by a worker that stops, or parked: no attempt is burnt.
    Released,
}

impl Verdict {
    /// The columns that it sets: burnt attempts, state, reason, error.
    fn columns(&self) -> (i32, &'static str, Option<&'static str>, Option<&str>) {
        match self {
            Self::Attempt { error, until: _ } => (1, "open", None, Some(error)),
            Self::Dead { error, reason } => (1, "dead", Some(reason.name()), Some(error)),
            Self::Released => (0, "open", None, None),
        }
    }
}

impl Store {
    /// What is on record of each job, in the order asked.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn look_up_runs(&self, asks: &[RunAsk]) -> Result<Vec<Option<RunRecord>>, StoreError> {
        let ids: Vec<&str> = asks.iter().map(|ask| ask.job_id.as_str()).collect();
        let statement = sqlx::query(
            "SELECT job_id, state, reason, stream, stream_seq, attempts, recorded_delivery, last_error, \
                    children_pending, created_at \
             FROM job_runs WHERE job_id = ANY($1)",
        )
        .bind(&ids);
        let rows = self.keyed.fetch_all(statement).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in rows {
            let record = RunRecord {
                state: row.try_get("state")?,
                reason: row.try_get("reason")?,
                stream: row.try_get("stream")?,
                sequence: row.try_get("stream_seq")?,
                attempts: row.try_get("attempts")?,
                recorded_delivery: row.try_get("recorded_delivery")?,
                last_error: row.try_get("last_error")?,
                children_pending: row.try_get("children_pending")?,
                created_at: row.try_get("created_at")?,
            };
            found.insert(row.try_get::<String, _>("job_id")?, record);
        }
        Ok(asks.iter().map(|ask| found.get(&ask.job_id).cloned()).collect())
    }

    /// The messages that a committed run planned and that may not have been published. Deliveries that its worker was to
    /// send at once count where it had claimed them before `before`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pending_children(&self, job_id: &str, before: DateTime<Utc>) -> Result<Vec<Child>, StoreError> {
        let rows = sqlx::query(
            "SELECT child_id AS id, root_id, subject, body, not_after, trace FROM job_children WHERE job_id = $1",
        )
        .bind(job_id)
        .fetch_all(&self.pool)
        .await?;
        let mut children = Vec::with_capacity(rows.len());
        for row in rows {
            children.push(Child {
                job_id: row.try_get("id")?,
                root_id: row.try_get("root_id")?,
                subject: row.try_get("subject")?,
                body: row.try_get("body")?,
                not_after: row.try_get("not_after")?,
                trace: row.try_get("trace")?,
            });
        }
        children.extend(self.pending_deliveries(job_id, before).await?);
        Ok(children)
    }

    /// The run that was planned together with this root's and has messages left to publish, if there is one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn planned_together(&self, root_id: &str) -> Result<Option<String>, StoreError> {
        let found = sqlx::query_scalar(
            "SELECT job_id FROM job_runs WHERE root_id = $1 AND stream_seq = $2 AND children_pending",
        );
        Ok(found.bind(root_id).bind(AT_ONCE).fetch_optional(&self.pool).await?)
    }

    /// Notes that all children of these runs are published.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn children_published(&self, job_ids: &[String]) -> Result<Vec<()>, StoreError> {
        // Without a wait for the disk: what is lost with that is noted by whoever looks for it.
        let statement = sqlx::query(
            "WITH soon AS (SELECT set_config('synchronous_commit', 'off', true)), \
             gone AS (DELETE FROM job_children WHERE job_id = ANY($1)) \
             UPDATE job_runs SET children_pending = false FROM soon WHERE job_id = ANY($1) AND children_pending",
        );
        self.keyed.execute(statement.bind(job_ids)).await?;
        Ok(vec![(); job_ids.len()])
    }

    /// Runs whose children have been pending since before `before`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn runs_with_old_children(&self, before: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT job_id FROM job_runs WHERE children_pending AND updated_at < $1 ORDER BY updated_at LIMIT 1000",
        )
        .bind(before)
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }

    /// Records failures and releases; answers in the order asked whether each is on record. It is not where the job
    /// has ended meanwhile. The same record twice counts once.
    ///
    /// # Errors
    /// On any error nothing is written.
    pub async fn record_run_failures(&self, failed: &[FailedRun]) -> Result<Vec<bool>, StoreError> {
        let mut order = first_of_each(failed, |failed| &failed.meta.job_id);
        order.sort_by(|a, b| failed[*a].meta.job_id.cmp(&failed[*b].meta.job_id));
        let columns = |index: &usize| failed[*index].verdict.columns();
        let metas: Vec<&Meta> = order.iter().map(|index| &failed[*index].meta).collect();
        let statement = sqlx::query(
            "INSERT INTO job_runs AS r (job_id, root_id, kind, stream, stream_seq, recorded_delivery, attempts, state, \
                                        reason, last_error, created_at, updated_at) \
             SELECT job_id, root_id, kind, stream, seq, delivered, burnt, state, reason, error, now, now \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::int[], \
                         $8::text[], $9::text[], $10::text[], $11::timestamptz[]) \
                  AS f(job_id, root_id, kind, stream, seq, delivered, burnt, state, reason, error, now) \
             ON CONFLICT (job_id) DO UPDATE SET \
                 stream = EXCLUDED.stream, stream_seq = EXCLUDED.stream_seq, \
                 recorded_delivery = EXCLUDED.recorded_delivery, updated_at = EXCLUDED.updated_at, \
                 attempts = CASE WHEN r.state = 'dead' THEN EXCLUDED.attempts \
                                 WHEN (r.stream, r.stream_seq) = (EXCLUDED.stream, EXCLUDED.stream_seq) \
                                      AND r.recorded_delivery >= EXCLUDED.recorded_delivery THEN r.attempts \
                                 ELSE r.attempts + EXCLUDED.attempts END, \
                 last_error = COALESCE(EXCLUDED.last_error, r.last_error), \
                 state = EXCLUDED.state, reason = EXCLUDED.reason \
             WHERE r.state = 'open' \
                OR (r.state = 'dead' AND (r.stream, r.stream_seq) <> (EXCLUDED.stream, EXCLUDED.stream_seq)) \
             RETURNING job_id",
        )
        .bind(metas.iter().map(|meta| meta.job_id.as_str()).collect::<Vec<_>>())
        .bind(metas.iter().map(|meta| meta.root_id.as_str()).collect::<Vec<_>>())
        .bind(metas.iter().map(|meta| meta.kind.name).collect::<Vec<_>>())
        .bind(metas.iter().map(|meta| meta.position.stream.as_str()).collect::<Vec<_>>())
        .bind(metas.iter().map(|meta| meta.position.sequence).collect::<Vec<_>>())
        .bind(metas.iter().map(|meta| meta.position.delivered).collect::<Vec<_>>())
        .bind(order.iter().map(|index| columns(index).0).collect::<Vec<_>>())
        .bind(order.iter().map(|index| columns(index).1).collect::<Vec<_>>())
        .bind(order.iter().map(|index| columns(index).2).collect::<Vec<_>>())
        .bind(order.iter().map(|index| columns(index).3).collect::<Vec<_>>())
        .bind(order.iter().map(|index| failed[*index].now).collect::<Vec<_>>());
        let rows = self.keyed.fetch_all(statement).await?;
        let mut written: HashSet<String> = rows.iter().map(|row| row.try_get("job_id")).collect::<Result<_, _>>()?;
        // A death that is on record under this very message is this worker's own, written before its answer was lost.
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
}

impl Store {
    /// Records as dead a job that the server delivers no more, whether it is a run or a delivery. Answers whether it had
    /// not ended before.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn give_up(
        &self,
        job_id: &str,
        reason: DeadReason,
        error: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let ended: Option<bool> = sqlx::query_scalar(
            "WITH run AS (SELECT job_id, state FROM job_runs WHERE job_id = $1 FOR UPDATE), \
             delivery AS (SELECT id, state FROM deliveries WHERE id = $1 FOR UPDATE), \
             dead_run AS (UPDATE job_runs r SET state = 'dead', reason = $2, last_error = COALESCE(last_error, $3), \
                                 updated_at = $4 FROM run WHERE r.job_id = run.job_id AND run.state = 'open'), \
             dead_delivery AS (UPDATE deliveries d SET state = 'dead', reason = $2, answer = COALESCE(answer, $3), \
                                 updated_at = $4 FROM delivery \
                               WHERE d.id = delivery.id AND delivery.state IN ('pending', 'held', 'sending')) \
             SELECT state NOT IN ('open', 'dead') FROM run \
             UNION ALL SELECT state NOT IN ('pending', 'held', 'sending', 'dead') FROM delivery LIMIT 1",
        )
        .bind(job_id)
        .bind(reason.name())
        .bind(error)
        .bind(now)
        .fetch_optional(&self.pool)
        .await?;
        Ok(ended != Some(true))
    }
}

/// The index of the first of each key: one statement cannot touch a row twice.
pub(super) fn first_of_each<T>(items: &[T], key: impl Fn(&T) -> &String) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(items.len());
    (0..items.len()).filter(|index| seen.insert(key(&items[*index]))).collect()
}
