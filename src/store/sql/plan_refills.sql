-- Medications that run low. A shortage whose notification came to nothing is found again.
wanted AS MATERIALIZED (
    SELECT m.id AS record_id, {day} AS instant, 0 AS lead_minutes FROM medications m
    WHERE m.is_active AND m.current_supply <= m.refill_at
),
new AS (
    SELECT w.*, {now} AS due_at FROM wanted w
    WHERE NOT EXISTS (
        SELECT FROM refill_shortages s
        WHERE s.medication_id = w.record_id
          AND NOT EXISTS (
            SELECT FROM job_runs n
            WHERE n.job_id = s.job_id || '~notification' AND n.state IN ('expired', 'skipped', 'dead')))
)
