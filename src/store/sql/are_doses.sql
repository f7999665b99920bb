-- For each ask whose day is within the dates of an active schedule, whether it is for a dose of one.
SELECT asked.position, bool_or(asked.is_dose) AS is_dose
FROM (
    SELECT t.position,
           EXISTS (SELECT FROM medication_schedules s {doses_of_day} AND s.medication_id = t.medication_id) AS is_dose
    FROM {t}
    WHERE EXISTS (
        SELECT FROM medication_schedules s
        WHERE s.medication_id = t.medication_id AND s.status = 'ACTIVE' AND COALESCE(cardinality(s.times), 0) > 0
          AND (s.start_date <= t.day) IS NOT FALSE
          -- A dose at 24:00 of the last day is of the next.
          AND (t.day - ('24:00' = ANY (s.times))::int <= s.end_date) IS NOT FALSE
    )
) AS asked
GROUP BY asked.position
