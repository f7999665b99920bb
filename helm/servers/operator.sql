-- What people on call have to be allowed in Postgres for `carebell jobs`, `dead-letters` and `schedules`, and no more: the
-- ways of jobs by their ids, schedules, and the log of what they do. A test runs these commands with exactly this.
--
--   psql "$DATABASE_URL" -v role=carebell_operator -f helm/servers/operator.sql

GRANT SELECT ON audit_log, deliveries, delivery_attempts, job_children, job_runs, schedules TO :"role";
-- Not what people are told.
GRANT SELECT (job_id, user_id, created_at, seen_at, read_at, archived_at) ON notifications TO :"role";
GRANT INSERT ON audit_log, schedules TO :"role";
GRANT UPDATE ON deliveries, job_runs, schedules TO :"role";
GRANT DELETE ON schedules TO :"role";
