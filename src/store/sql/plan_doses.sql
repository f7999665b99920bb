-- Doses.
times AS (SELECT * FROM {dose_times}),
wanted AS MATERIALIZED (
    SELECT DISTINCT s.medication_id AS record_id, l.lead_minutes,
           GREATEST((t.day + d.time) AT TIME ZONE 'UTC' - make_interval(secs => t.utc_offset), t.not_before) AS instant
    FROM medication_schedules s
    JOIN medications m ON m.id = s.medication_id
    JOIN care_recipients r ON r.id = m.care_recipient_id
    CROSS JOIN LATERAL unnest(s.reminder_minutes) AS l(lead_minutes)
    JOIN times t ON t.zone = COALESCE(r.timezone, '') AND t.lead_minutes = l.lead_minutes
    {doses_of_day} AND m.is_active
),
planned AS (
    SELECT instant, record_id, lead_minutes FROM care_reminders WHERE kind = {kind} AND instant > {oldest}
),
new AS (
    SELECT w.*, w.instant - make_interval(mins => w.lead_minutes) AS due_at FROM wanted w
    WHERE w.instant - make_interval(mins => w.lead_minutes) > {since}
      AND NOT EXISTS (
        SELECT FROM planned p
        WHERE p.instant = w.instant AND p.record_id = w.record_id AND p.lead_minutes = w.lead_minutes)
)
