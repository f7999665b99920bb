use sqlx::PgConnection;

use super::super::{database::Store, error::StoreError};

impl Store {
    /// Closes the shortages of medications that are no longer short or no longer exist, and counts them. Skips those
    /// that a job is about to write.
    pub async fn close_ended_shortages(&self) -> Result<u64, StoreError> {
        close_ended_shortages(&mut *self.pool.acquire().await?).await
    }
}

pub(super) async fn close_ended_shortages(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let closed = sqlx::query(
        "WITH ended AS (SELECT s.medication_id FROM refill_shortages s \
             WHERE NOT EXISTS (SELECT FROM medications m WHERE m.id = s.medication_id \
                                 AND m.current_supply <= COALESCE(m.refill_at, s.refill_at)) \
             ORDER BY s.medication_id FOR UPDATE OF s SKIP LOCKED) \
         DELETE FROM refill_shortages s USING ended WHERE s.medication_id = ended.medication_id",
    )
    .execute(connection)
    .await?;
    Ok(closed.rows_affected())
}
