-- Appointments or shifts. If a planned record moves to a future instant whose leads have all passed, its last lead is
-- due now.
wanted AS MATERIALIZED (
    SELECT DISTINCT e.id AS record_id, e.starts_at AS instant, l.lead_minutes,
           e.starts_at - make_interval(mins => l.lead_minutes) AS due_at
    FROM {event_table} e CROSS JOIN LATERAL unnest(e.reminder_minutes) AS l(lead_minutes)
    WHERE COALESCE(e.status, '') NOT IN ('CANCELLED', 'COMPLETED') AND l.lead_minutes IS NOT NULL
      AND e.starts_at > {oldest}
      AND (e.starts_at <= {known_until} OR e.starts_at - make_interval(mins => l.lead_minutes) <= {until})
),
planned AS MATERIALIZED (
    SELECT instant, record_id, lead_minutes FROM care_reminders WHERE kind = {kind}
),
unplanned AS MATERIALIZED (
    SELECT w.* FROM wanted w
    WHERE NOT EXISTS (
        SELECT FROM planned p
        WHERE p.instant = w.instant AND p.record_id = w.record_id AND p.lead_minutes = w.lead_minutes)
),
new AS (
    SELECT record_id, instant, lead_minutes, due_at FROM unplanned WHERE due_at > {since}
    UNION ALL
    SELECT u.record_id, u.instant, min(u.lead_minutes), {now} FROM unplanned u
    WHERE u.due_at <= {since} AND u.instant > {now}
      AND EXISTS (SELECT FROM planned p WHERE p.record_id = u.record_id)
      AND NOT EXISTS (SELECT FROM planned p WHERE p.record_id = u.record_id AND p.instant = u.instant)
    GROUP BY u.record_id, u.instant
)
