-- Doses. One at 24:00 is one at 00:00 of the next day.
times AS (SELECT * FROM {dose_times}),
wanted AS MATERIALIZED (
    SELECT DISTINCT s.medication_id AS record_id, l.lead_minutes,
           GREATEST((t.day + d.time) AT TIME ZONE 'UTC' - make_interval(secs => t.utc_offset), t.not_before) AS instant
    FROM medication_schedules s
    JOIN medications m ON m.id = s.medication_id
    JOIN care_recipients r ON r.id = m.care_recipient_id
    CROSS JOIN LATERAL unnest(s.reminder_minutes) AS l(lead_minutes)
    JOIN times t ON t.zone = COALESCE(r.timezone, '') AND t.lead_minutes = l.lead_minutes
    CROSS JOIN LATERAL (
        SELECT CASE o.time WHEN '24:00' THEN '00:00' ELSE o.time END AS time, t.day - (o.time = '24:00')::int AS day
        FROM unnest(s.times) AS o(time)
    ) AS d
    WHERE s.status = 'ACTIVE' AND m.is_active
      AND d.time BETWEEN t.first_time AND t.last_time
      AND (s.start_date <= d.day) IS NOT FALSE
      AND (d.day <= s.end_date) IS NOT FALSE
      AND (COALESCE(cardinality(s.weekdays), 0) = 0 OR EXTRACT(isodow FROM d.day)::int = ANY (s.weekdays))
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
