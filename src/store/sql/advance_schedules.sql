-- Moves schedules on to their next instants.
UPDATE schedules s SET
    next_at = advances.next_at,
    zone_next_at = advances.next_at,
    zone_data = {zone_data},
    due_at = advances.due_at,
    last_at = COALESCE(advances.last_at, s.last_at),
    last_job_id = COALESCE(advances.last_job_id, s.last_job_id),
    fired = s.fired + advances.fired,
    missed_count = s.missed_count + advances.missed,
    last_note = COALESCE(advances.note, s.last_note)
FROM {advances}
WHERE s.id = advances.id
