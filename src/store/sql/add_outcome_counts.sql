-- Adds a worker's counts, and notes that it lives. A batch that is on record is not added again; its number is the
-- worker's own.
WITH alive AS (
    INSERT INTO workers AS w (id, host, version, duties, started_at, seen_at, busy, processed, failed, running, batch)
    VALUES ({id}, {host}, {version}, {duties}, {started_at}, {seen_at}, {busy}, {processed}, {failed}, {running}, {batch})
    ON CONFLICT (id) DO UPDATE SET
        seen_at = EXCLUDED.seen_at, busy = EXCLUDED.busy, processed = EXCLUDED.processed, failed = EXCLUDED.failed,
        running = EXCLUDED.running, batch = EXCLUDED.batch
    WHERE w.batch < EXCLUDED.batch
    RETURNING batch
)
-- In key order: workers that add to the same rows wait for each other, and cannot deadlock.
INSERT INTO outcome_counts AS o (minute, queue, outcome, reason, count)
SELECT minute, queue, outcome, reason, count FROM {counts}
WHERE EXISTS (SELECT FROM alive)
ORDER BY minute, queue, outcome, reason
ON CONFLICT (minute, queue, outcome, reason) DO UPDATE SET count = o.count + EXCLUDED.count
