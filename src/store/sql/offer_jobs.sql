-- Notes jobs that are about to be published. An id is one job's alone, unless its job is delayed and not due yet: then
-- another replaces it. Returns what became of each.

-- Each row is looked up by itself: planned on an empty table, a join would scan the whole of it later on. The rows are
-- sorted, so that no two processes lock them in different orders.
WITH before AS (
    SELECT b.*
    FROM {offers}
    CROSS JOIN LATERAL (
        SELECT g.job_id, g.digest, g.due_at
        FROM gateway_jobs g
        WHERE g.job_id = offers.job_id
        FOR UPDATE
    ) AS b
),

written AS (
    INSERT INTO gateway_jobs AS g (job_id, digest, kind, lane, due_at, accepted_at, keep_until)
    SELECT offers.job_id, offers.digest, kind, lane, offers.due_at, {now}, greatest(offers.due_at, {now}) + {keep}
    FROM {offers} LEFT JOIN before b USING (job_id)        -- which locks first
    ORDER BY offers.job_id
    ON CONFLICT (job_id) DO UPDATE SET
        digest = EXCLUDED.digest,
        kind = EXCLUDED.kind,
        lane = EXCLUDED.lane,
        due_at = CASE WHEN g.due_at > {now} THEN EXCLUDED.due_at ELSE g.due_at END,
        keep_until = greatest(g.keep_until, EXCLUDED.keep_until)
    WHERE g.due_at > {now} OR g.digest = EXCLUDED.digest
    RETURNING g.job_id
)

SELECT
    offers.job_id,
    w.job_id IS NOT NULL AS is_taken,
    coalesce(b.digest = offers.digest AND (b.due_at IS NULL OR b.due_at <= {now} OR b.due_at = offers.due_at), false)
        AS is_same
FROM {offers}
LEFT JOIN written w USING (job_id)
LEFT JOIN before b USING (job_id)
