-- Saves a schedule. With `replace`, one of that name is replaced but keeps its id, counts and creation.
INSERT INTO schedules (
    id, name, kind, lane, payload, expression, zone, gap, fold, missed, missed_limit, missed_seconds, jitter_seconds,
    expiry_seconds, starts_at, ends_at, paused, owner, next_at, zone_next_at, zone_data, due_at, created_at, created_by,
    changed_at, changed_by)
VALUES (
    {id}, {name}, {kind}, {lane}, {payload}, {expression}, {zone}, {gap}, {fold}, {missed}, {missed_limit},
    {missed_seconds}, {jitter_seconds}, {expiry_seconds}, {starts_at}, {ends_at}, {paused}, {owner}, {next_at}, {next_at},
    {zone_data}, {due_at}, {now}, {actor}, {now}, {actor})
ON CONFLICT (name) DO UPDATE SET
    kind = EXCLUDED.kind, lane = EXCLUDED.lane, payload = EXCLUDED.payload, expression = EXCLUDED.expression,
    zone = EXCLUDED.zone, gap = EXCLUDED.gap, fold = EXCLUDED.fold, missed = EXCLUDED.missed,
    missed_limit = EXCLUDED.missed_limit, missed_seconds = EXCLUDED.missed_seconds,
    jitter_seconds = EXCLUDED.jitter_seconds, expiry_seconds = EXCLUDED.expiry_seconds,
    starts_at = EXCLUDED.starts_at, ends_at = EXCLUDED.ends_at, paused = EXCLUDED.paused, owner = EXCLUDED.owner,
    next_at = EXCLUDED.next_at, zone_next_at = EXCLUDED.zone_next_at, zone_data = EXCLUDED.zone_data,
    due_at = EXCLUDED.due_at, changed_at = EXCLUDED.changed_at,
    changed_by = EXCLUDED.changed_by
WHERE {replace}
