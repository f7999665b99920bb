-- Overwrites a run that is open, or dead under another sequence.
ON CONFLICT (job_id) DO UPDATE SET
    root_id = EXCLUDED.root_id, kind = EXCLUDED.kind, lane = EXCLUDED.lane, stream = EXCLUDED.stream, stream_seq = EXCLUDED.stream_seq, state = EXCLUDED.state,
    reason = EXCLUDED.reason, children_pending = EXCLUDED.children_pending, result = EXCLUDED.result,
    updated_at = EXCLUDED.updated_at
WHERE r.state = 'open'
   OR (r.state = 'dead' AND (r.stream, r.stream_seq) <> (EXCLUDED.stream, EXCLUDED.stream_seq))
