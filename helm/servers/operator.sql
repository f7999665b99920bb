-- Postgres permissions of people on call, for `carebell jobs`, `queues`, `workers`, `dead-letters` and `schedules`,
-- and no more: jobs by their ids, counts, schedules, and the audit log. A test runs these commands with exactly these.
--
--   psql "$DATABASE_URL" -v schema=carebell -v role=carebell_operator -f helm/servers/operator.sql

SELECT set_config('search_path', :'schema', false);
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON audit_log, care_reminders, delayed_jobs, deliveries, delivery_attempts, job_children, job_runs,
    outcome_counts, schedules, unsent_deliveries, workers TO :"role";
-- Not the texts that people read.
GRANT SELECT (id, application, job_id, user_id, created_at, seen_at, read_at, archived_at) ON notifications TO :"role";
GRANT INSERT ON audit_log, schedules, unsent_deliveries TO :"role";
GRANT UPDATE ON delayed_jobs, deliveries, job_runs, schedules, unsent_deliveries TO :"role";
GRANT DELETE ON schedules TO :"role";
