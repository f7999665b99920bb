-- Compares planned with wanted reminders of one kind: deletes the stale, inserts the new, skips those being published.
-- `wanted_and_new` defines `wanted` (record_id, instant, lead_minutes) and `new` (the same, and due_at).

WITH {wanted_and_new},
stale AS (
    SELECT c.kind, c.instant, c.record_id, c.lead_minutes FROM care_reminders c
    WHERE c.kind = {kind} AND {is_stale}
    FOR UPDATE OF c SKIP LOCKED
),
removed AS (
    DELETE FROM care_reminders c USING stale s
    WHERE c.kind = s.kind AND c.instant = s.instant AND c.record_id = s.record_id AND c.lead_minutes = s.lead_minutes
    RETURNING 1
),
added AS (
    INSERT INTO care_reminders (kind, record_id, instant, lead_minutes, due_at)
    SELECT {kind}, record_id, instant, lead_minutes, due_at FROM new
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM removed) AS removed
