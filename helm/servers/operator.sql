-- Postgres permissions of people on call, for `carebell jobs`, `dead-letters` and `schedules`, and no more: jobs by
-- their ids, schedules, and the audit log. A test runs these commands with exactly these.
--
--   psql "$DATABASE_URL" -v schema=carebell -v role=carebell_operator -f helm/servers/operator.sql

SELECT set_config('search_path', :'schema', false);
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON audit_log, delayed_jobs, deliveries, delivery_attempts, job_children, job_runs, pauses,
    schedules TO :"role";
-- Not the texts that people read.
GRANT SELECT (application, job_id, user_id, created_at, seen_at, read_at, archived_at) ON notifications TO :"role";
GRANT INSERT ON audit_log, job_runs, pauses, schedules TO :"role";
GRANT UPDATE ON delayed_jobs, deliveries, job_runs, pauses, schedules TO :"role";
GRANT DELETE ON pauses, schedules TO :"role";
