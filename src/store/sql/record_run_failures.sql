-- Records failures and releases of runs. Leaves ended runs alone, except that a dead one may run again under another
-- sequence, with its attempts reset. The same record twice counts once.
WITH asked AS (
    SELECT * FROM {failures}
),
written AS (
    INSERT INTO job_runs AS r (
        job_id, root_id, kind, lane, stream, stream_seq, recorded_delivery, attempts, state, reason, last_error,
        created_at, updated_at)
    SELECT job_id, root_id, kind, lane, stream, sequence, delivered, burnt, state, reason, error, now, now
    FROM asked
    ON CONFLICT (job_id) DO UPDATE SET
        kind = EXCLUDED.kind,
        stream = EXCLUDED.stream,
        stream_seq = EXCLUDED.stream_seq,
        recorded_delivery = EXCLUDED.recorded_delivery,
        attempts = CASE
            WHEN r.state = 'dead' THEN EXCLUDED.attempts
            WHEN (r.stream, r.stream_seq) = (EXCLUDED.stream, EXCLUDED.stream_seq)
                AND r.recorded_delivery >= EXCLUDED.recorded_delivery THEN r.attempts
            ELSE r.attempts + EXCLUDED.attempts END,
        state = EXCLUDED.state,
        reason = EXCLUDED.reason,
        last_error = COALESCE(EXCLUDED.last_error, r.last_error),
        cancel_at = CASE WHEN EXCLUDED.state = 'open' THEN r.cancel_at END,
        updated_at = EXCLUDED.updated_at
    WHERE r.state = 'open'
       OR (r.state = 'dead' AND (r.stream, r.stream_seq) <> (EXCLUDED.stream, EXCLUDED.stream_seq))
    RETURNING job_id
),
-- A failed attempt of a task is over.
closed AS (
    UPDATE job_tasks t SET open = false
    FROM asked
    WHERE t.job_id = asked.job_id AND asked.burnt > 0 AND t.open
)
SELECT job_id FROM written
