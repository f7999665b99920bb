-- The doses of a schedule `s` in a part `t` of a day. One at 24:00 is one at 00:00 of the next day.
CROSS JOIN LATERAL (
    SELECT CASE o.time WHEN '24:00' THEN '00:00' ELSE o.time END AS time, t.day - (o.time = '24:00')::int AS day
    FROM unnest(s.times) AS o(time)
) AS d
WHERE s.status = 'ACTIVE'
  AND d.time BETWEEN t.first_time AND t.last_time
  AND (s.start_date <= d.day) IS NOT FALSE
  AND (d.day <= s.end_date) IS NOT FALSE
  AND (COALESCE(cardinality(s.weekdays), 0) = 0 OR EXTRACT(isodow FROM d.day)::int = ANY (s.weekdays))
