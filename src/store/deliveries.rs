//! `deliveries`: changes of state by others than the sender, and messages left to publish.

use chrono::{DateTime, Utc};
use prost::Message;
use sqlx::{AssertSqlSafe, Row};

use super::{claims::ClaimAsk, commit::Child, database::Store, error::StoreError};
use crate::{meta::NO_MESSAGE, wire};

/// Lists the deliveries of `written` as not sent.
pub(super) const LIST_AS_UNSENT: &str = "INSERT INTO unsent_deliveries (delivery_id, state, reason, channel, queue, at) \
    SELECT id, state, reason, channel, \
           'deliver_' || channel || CASE lane WHEN 'critical' THEN '_critical' ELSE '_normal' END, updated_at \
    FROM written \
    ON CONFLICT (delivery_id) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason, at = EXCLUDED.at";

impl Store {
    /// Records an unclaimed delivery as dead because its message kills its workers.
    pub async fn record_crashed_delivery(&self, ask: &ClaimAsk, error: &str) -> Result<(), StoreError> {
        sqlx::query(AssertSqlSafe(format!(
            "WITH written AS (UPDATE deliveries SET state = 'dead', reason = 'crashed', answer = $2, claim_seq = $3, \
                    claim_delivery = $4, claimed_by = $6, recorded_delivery = $4, updated_at = $5 \
             WHERE id = $1 AND state IN ('pending', 'held', 'sending') RETURNING *) {LIST_AS_UNSENT}",
        )))
        .bind(&ask.id)
        .bind(error)
        .bind(ask.sequence)
        .bind(ask.delivered)
        .bind(ask.now)
        .bind(&*ask.worker)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes dead deliveries claimable again, without their failures.
    pub async fn revive_deliveries(
        &self,
        ids: &[&str],
        not_after: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "WITH locked AS (SELECT id FROM deliveries WHERE id = ANY($1) AND state = 'dead' ORDER BY id FOR UPDATE) \
             UPDATE deliveries d SET state = 'pending', reason = NULL, attempts = 0, held_until = NULL, \
                    recorded_delivery = 0, claim_seq = NULL, claim_delivery = NULL, claimed_by = NULL, claimed_at = NULL, \
                    not_after = COALESCE($2, d.not_after), updated_at = $3 \
             FROM locked WHERE d.id = locked.id",
        )
        .bind(ids)
        .bind(not_after)
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Lets a delivery that waits until `until` for the end of quiet hours be looked at anew, from `now` on.
    pub async fn doubt_quiet_hours(
        &self,
        id: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET held_until = $2, updated_at = $2 \
             WHERE id = $1 AND state = 'held' AND reason = 'quiet_hours' AND held_until > $2 \
               AND held_until BETWEEN $3 - interval '1 ms' AND $3 + interval '1 ms'",
        )
        .bind(id)
        .bind(now)
        .bind(until)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives up this worker's claims on a run's direct sends. If that fails, others wait for the end of the lease.
    pub async fn release_direct(&self, run_id: &str, worker: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET recorded_delivery = claim_delivery \
             WHERE job_id = (SELECT root_id FROM job_runs WHERE job_id = $1) AND run_id = $1 \
               AND state = 'sending' AND claim_seq = $3 AND claimed_by = $2",
        )
        .bind(run_id)
        .bind(worker)
        .bind(NO_MESSAGE)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Adds messages of a run's unclaimed deliveries and direct sends. Releases direct sends claimed before
    /// `claimed_before`, whose worker counts as dead. Answers the last claim of those that are left out.
    pub(super) async fn pending_deliveries(
        &self,
        run_id: &str,
        claimed_before: DateTime<Utc>,
        children: &mut Vec<Child>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let rows = sqlx::query(
            "WITH run AS (SELECT root_id FROM job_runs WHERE job_id = $1), \
             released AS (UPDATE deliveries SET recorded_delivery = claim_delivery \
                 WHERE job_id = (SELECT root_id FROM run) AND run_id = $1 \
                   AND state = 'sending' AND claim_seq = $3 AND claimed_at < $2) \
             SELECT id, job_id, subject, not_after, trace, created_at, \
                    CASE WHEN state = 'sending' AND recorded_delivery < claim_delivery AND claimed_at >= $2 \
                         THEN claimed_at END AS claimed_at \
             FROM deliveries \
             WHERE job_id = (SELECT root_id FROM run) AND run_id = $1 AND subject IS NOT NULL \
               AND ((state = 'pending' AND claims = 0) \
                    OR (claim_seq = $3 AND state IN ('pending', 'held', 'sending', 'dead'))) ORDER BY id",
        )
        .bind(run_id)
        .bind(claimed_before)
        .bind(NO_MESSAGE)
        .fetch_all(&self.pool)
        .await?;
        let mut last = None;
        for row in rows {
            let claimed_at: Option<DateTime<Utc>> = row.try_get("claimed_at")?;
            if claimed_at.is_some() {
                last = last.max(claimed_at);
                continue;
            }
            let id: String = row.try_get("id")?;
            children.push(Child {
                body: wire::Delivery { delivery_id: id.clone() }.encode_to_vec(),
                job_id: id,
                root_id: row.try_get("job_id")?,
                subject: row.try_get("subject")?,
                not_after: row.try_get("not_after")?,
                trace: row.try_get("trace")?,
                due: row.try_get("created_at")?,
                at: None,
                is_json: false,
            });
        }
        Ok(last)
    }
}
