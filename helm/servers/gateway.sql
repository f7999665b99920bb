-- Postgres permissions of `carebell gateway`, and no more: tokens of applications, the jobs that they gave, and how far
-- these have come, without the texts that people read. A test runs it with exactly these.
--
--   psql "$DATABASE_URL" -v schema=carebell -v role=carebell_gateway -f helm/servers/gateway.sql

SELECT set_config('search_path', :'schema', false);
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON gateway_jobs, gateway_tokens TO :"role";
GRANT INSERT, UPDATE, DELETE ON gateway_jobs TO :"role";
GRANT UPDATE (last_used_at) ON gateway_tokens TO :"role";
GRANT SELECT ON delayed_jobs, deliveries, job_runs, job_tasks, unsent_deliveries TO :"role";
-- To cancel jobs that wait.
GRANT INSERT, UPDATE ON job_runs, unsent_deliveries TO :"role";
GRANT UPDATE (state, reason, held_until, updated_at) ON deliveries TO :"role";
GRANT INSERT ON audit_log TO :"role";
