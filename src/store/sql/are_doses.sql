-- The asks that are for a dose of an active schedule of their medication.
SELECT DISTINCT t.position
FROM {t}
WHERE EXISTS (SELECT FROM medication_schedules s {doses_of_day} AND s.medication_id = t.medication_id)
