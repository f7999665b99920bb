-- Postgres permissions of `carebell admin`, and no more: those of people on call, without the texts that people read, and
-- tokens and sessions, of which it makes and revokes only sessions. A test runs it with exactly these.
--
--   psql "$DATABASE_URL" -v schema=carebell -v role=carebell_admin -f helm/servers/admin.sql

SELECT set_config('search_path', :'schema', false);
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON admin_sessions, admin_tokens, audit_log, delayed_jobs, deliveries, delivery_attempts, job_children,
    job_runs, outcome_counts, pauses, schedules, unsent_deliveries, workers TO :"role";
-- Not the texts that people read.
GRANT SELECT (application, job_id, user_id, created_at, seen_at, read_at, archived_at) ON notifications TO :"role";
GRANT INSERT ON admin_sessions, audit_log, pauses, schedules, unsent_deliveries TO :"role";
GRANT UPDATE (seen_at) ON admin_sessions TO :"role";
GRANT UPDATE (last_used_at) ON admin_tokens TO :"role";
GRANT UPDATE ON delayed_jobs, deliveries, job_runs, pauses, schedules, unsent_deliveries TO :"role";
GRANT DELETE ON admin_sessions, pauses, schedules TO :"role";
