//! Time zones of care recipients.

use std::collections::HashMap;

use sqlx::Row;

use super::super::{database::Store, error::StoreError};

impl Store {
    /// The zones of the care recipients of these records, unvalidated. Each record is a kind of reminder and an id.
    pub async fn care_zones(
        &self,
        records: &[(String, String)],
    ) -> Result<HashMap<(String, String), String>, StoreError> {
        let (kinds, ids): (Vec<&str>, Vec<&str>) =
            records.iter().map(|(kind, id)| (kind.as_str(), id.as_str())).unzip();
        let rows = sqlx::query(
            "SELECT asked.kind, asked.id, r.timezone FROM unnest($1::text[], $2::text[]) AS asked(kind, id) \
             CROSS JOIN LATERAL ( \
                 SELECT m.care_recipient_id FROM medications m \
                 WHERE m.id = asked.id AND asked.kind IN ('reminder.medication', 'alert.refill') \
                 UNION ALL SELECT a.care_recipient_id FROM appointments a \
                 WHERE a.id = asked.id AND asked.kind = 'reminder.appointment' \
                 UNION ALL SELECT s.care_recipient_id FROM caregiver_shifts s \
                 WHERE s.id = asked.id AND asked.kind = 'reminder.shift') AS record \
             JOIN care_recipients r ON r.id = record.care_recipient_id WHERE r.timezone IS NOT NULL",
        )
        .bind(kinds)
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let mut zones = HashMap::with_capacity(rows.len());
        for row in rows {
            zones.insert((row.try_get("kind")?, row.try_get("id")?), row.try_get("timezone")?);
        }
        Ok(zones)
    }
}
