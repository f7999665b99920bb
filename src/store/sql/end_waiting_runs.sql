-- Ends runs that have not been committed, before they are: the run's key decides between this and a commit. Leaves ended
-- ones alone. A dead one is ended only if it is to run again, under another sequence.
INSERT INTO job_runs AS r (job_id, root_id, kind, stream, stream_seq, state, reason, created_at, updated_at)
SELECT job_id, root_id, kind, stream, sequence, 'skipped', {reason}, {now}, {now}
FROM {runs}
ORDER BY job_id
ON CONFLICT (job_id) DO UPDATE SET
    state = EXCLUDED.state, reason = EXCLUDED.reason, updated_at = EXCLUDED.updated_at
WHERE r.state = 'open'
   OR ({revived} AND r.state = 'dead' AND (r.stream, r.stream_seq) <> (EXCLUDED.stream, EXCLUDED.stream_seq))
RETURNING job_id
