-- For each ask, whether its medication has a schedule with doses on its day, and whether one of them is that of the ask.
SELECT asked.position, bool_or(asked.is_dose) AS is_dose
FROM (
    SELECT t.position,
           EXISTS (SELECT FROM medication_schedules s {doses_of_day} AND s.medication_id = t.medication_id) AS is_dose
    FROM {t}
    WHERE EXISTS (
        SELECT FROM medication_schedules s
        WHERE s.medication_id = t.medication_id AND s.status = 'ACTIVE' AND COALESCE(cardinality(s.times), 0) > 0
          AND (s.start_date <= t.day) IS NOT FALSE
          AND (t.day - 1 <= s.end_date) IS NOT FALSE          -- a dose at 24:00 of the last day is of the next
    )
) AS asked
GROUP BY asked.position
