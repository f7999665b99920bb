-- Upkeep: what removes old rows and dead subscriptions, and what it finds them by.

-- What the work of a job came to, where that is worth keeping: of upkeep, the rows that it removed.
ALTER TABLE job_runs ADD COLUMN result jsonb;

-- B-trees that grow at one end. (BRIN costs less to write, and is of no use once the pages of what was removed are filled
-- again: docs/DECISIONS.md.)
CREATE INDEX job_runs_created ON job_runs (created_at);
CREATE INDEX reminder_marks_instant ON reminder_marks (instant);

-- Here once, and then a person's to change, pause or delete: no later migration brings them back. The first instant is
-- tomorrow's 03:17, and the next Sunday's 03:47 from tomorrow on.
INSERT INTO schedules (id, name, kind, payload, expression, zone, missed_seconds, starts_at, next_at, due_at, created_at,
                       created_by, changed_at, changed_by)
SELECT gen_random_uuid()::text, name, kind, payload, expression, 'UTC', missed_seconds, first, first, first, now(),
       'carebell', now(), 'carebell'
FROM (VALUES
    ('carebell.prune', 'maintenance.prune', '{"keepDays": 90}'::jsonb, '17 3 * * *', 43200,
     (date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day 3 hours 17 minutes') AT TIME ZONE 'UTC'),
    ('carebell.subscriptions', 'maintenance.subscriptions', '{}', '47 3 * * 0', 259200,
     (date_trunc('week', now() AT TIME ZONE 'UTC' + interval '1 day') + interval '6 days 3 hours 47 minutes')
         AT TIME ZONE 'UTC')
) AS built_in(name, kind, payload, expression, missed_seconds, first)
ON CONFLICT (name) DO NOTHING;
