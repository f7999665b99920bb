-- Notes delayed jobs that wait or are due. Each row is the last message of its id. Returns whether it counts, and what the
-- table held before.

-- Each row is looked up by itself: planned on an empty table, a join would scan the whole of it later on. The rows are
-- sorted, so that no two workers lock them in different orders.
WITH before AS (
    SELECT b.*
    FROM {asks}
    CROSS JOIN LATERAL (
        SELECT d.job_id, d.state, d.stream, d.stream_created, d.stream_seq
        FROM delayed_jobs d
        WHERE d.job_id = asks.job_id
        FOR UPDATE
    ) AS b
),

written AS (
    INSERT INTO delayed_jobs AS d (
        job_id, application, kind, lane, state, due_at, size, stream, stream_created, stream_seq, barrier_created,
        barrier_seq, updated_at, keep_until)
    SELECT asks.job_id, application, kind, lane, asks.state, due_at, size, asks.stream, created, sequence, created,
           sequence, now, greatest(due_at, now)
    FROM {asks} LEFT JOIN before b USING (job_id)        -- which locks first
    ORDER BY asks.job_id
    ON CONFLICT (job_id) DO UPDATE SET
        kind = EXCLUDED.kind,
        lane = EXCLUDED.lane,
        state = EXCLUDED.state,
        due_at = EXCLUDED.due_at,
        size = EXCLUDED.size,
        stream = EXCLUDED.stream,
        stream_created = EXCLUDED.stream_created,
        stream_seq = EXCLUDED.stream_seq,
        barrier_created = greatest(d.barrier_created, EXCLUDED.barrier_created),
        barrier_seq = CASE
            WHEN (d.barrier_created, d.barrier_seq) < (EXCLUDED.barrier_created, EXCLUDED.barrier_seq)
            THEN EXCLUDED.barrier_seq
            ELSE d.barrier_seq END,
        updated_at = EXCLUDED.updated_at,
        keep_until = greatest(d.keep_until, EXCLUDED.keep_until)
    WHERE (d.barrier_created, d.barrier_seq) < (EXCLUDED.barrier_created, EXCLUDED.barrier_seq)
       -- The same message again, or the run that it led to.
       OR ((d.stream_created, d.stream_seq) = (EXCLUDED.stream_created, EXCLUDED.stream_seq)
           AND (d.state, EXCLUDED.state) IN (('waiting', 'waiting'), ('waiting', 'fired'), ('fired', 'fired')))
    RETURNING d.job_id
)

SELECT asks.job_id, w.job_id IS NOT NULL AS is_taken, b.state, b.stream, b.stream_created, b.stream_seq
FROM {asks}
LEFT JOIN written w USING (job_id)
LEFT JOIN before b USING (job_id)
